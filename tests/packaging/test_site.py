"""The pages of the documentation site do what they say, in an empty folder."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import servers
import yaml
from pydantic import BaseModel

from prefect_optuna import optimize

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "deployments" / "site"
FLOORS = ("blocks", "tasks", "flows", "deployments")
BLOCK = re.compile(
    r"^```(?P<kind>python|shell)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<code>.*?)^```$"
    r"(?:\n+```\n(?P<output>.*?)^```$)?",
    re.M | re.S,
)
PAGES = sorted(path for path in SITE.rglob("*.md") if BLOCK.search(path.read_text("utf-8")))


def name_of(path: Path) -> str:
    return path.relative_to(SITE).as_posix()


def environment(folder: Path) -> dict[str, str]:
    """What a newcomer's terminal has, with the commands of this environment."""
    return {
        "HOME": str(folder),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "TERM": "xterm",
        "DO_NOT_TRACK": "1",
    }


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_does_what_it_says(page: Path, tmp_path: Path) -> None:
    left: list[subprocess.Popen[Any]] = []
    try:
        for block in BLOCK.finditer(page.read_text("utf-8")):
            if block["kind"] == "python" and block["title"]:
                (tmp_path / block["title"]).write_text(block["code"], encoding="utf-8")
                continue
            command = [sys.executable, "-c"] if block["kind"] == "python" else ["bash", "-ec"]
            if block["title"]:  # another terminal
                with (tmp_path / "other.log").open("wb") as log:
                    left.append(
                        subprocess.Popen(
                            [*command, f"exec {block['code']}"],
                            cwd=tmp_path,
                            env=environment(tmp_path),
                            stdout=log,
                            stderr=log,
                            start_new_session=True,
                        )
                    )
                servers.wait_until(
                    lambda: "Ctrl-C ends it" in (tmp_path / "other.log").read_text("utf-8"),
                    what="the other terminal is ready",
                    timeout=600,
                    every=0.5,
                )
                continue
            said = run_until_done([*command, block["code"]], tmp_path)
            expected = re.escape((block["output"] or "").strip()).replace(r"\.\.\.", ".*")
            assert re.search(expected, said, re.S), f"{block['code']}\n{said}"
    finally:
        for process in left:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def run_until_done(command: list[str], folder: Path) -> str:
    """What a command says; it has to do what it is for."""
    ended = subprocess.run(
        command,
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert ended.returncode == 0, f"{command[-1]}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout + ended.stderr


def entries(nav: Any) -> Iterator[str]:
    """The pages that a navigation names."""
    if isinstance(nav, str):
        yield nav
    for value in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from entries(value)


def test_every_link_of_a_readme_leads_to_a_file() -> None:
    readmes = [*ROOT.glob("*.md"), *(p for f in FLOORS for p in (ROOT / f).glob("*.md"))]
    assert len(readmes) >= 8
    for readme in readmes:
        for link in re.findall(r"\]\((?!\w+:|#)([^)#]+)", readme.read_text("utf-8")):
            assert (readme.parent / link).exists(), f"{readme}: {link}"


def test_every_page_is_in_the_navigation() -> None:
    settings = yaml.safe_load((SITE / "mkdocs.yml").read_text("utf-8"))
    pages = {path.relative_to(SITE).as_posix() for path in SITE.rglob("*.md")}
    assert {*entries(settings["nav"])} == pages


def builder() -> Any:
    """The module that builds the site, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("site_build", SITE / "build.py")
    assert spec is not None
    assert spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    return build


def test_a_public_name_without_a_docstring_stops_the_build() -> None:
    class Documented(BaseModel):
        """It is."""

        def silent(self) -> None: ...

    class Silent(BaseModel): ...

    check = builder().check_documented
    with pytest.raises(SystemExit, match=r"Documented\.silent is public and has no docstring"):
        check("Documented", Documented)
    with pytest.raises(SystemExit, match="Silent is public"):
        check("Silent", Silent)
    check("optimize", optimize)


def test_every_section_that_a_page_takes_from_a_readme_is_there() -> None:
    build = builder()
    for page in SITE.rglob("*.md"):
        text = page.read_text("utf-8")
        made = build.with_sections(text)
        assert "--8<--" not in made
        assert len(made) > 250, page
    with pytest.raises(LookupError, match="no section 'nowhere'"):
        build.with_sections('--8<-- "README.md:nowhere"')
