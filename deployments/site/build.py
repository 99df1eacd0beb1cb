"""The documentation site: `make docs` builds it into `.cache/site/html`.

Pages are in this folder; those that a README has already are taken from it, where their code is
tested. The reference is made of what each floor promises, of the command line's help, and of the
settings.
"""

from __future__ import annotations

import importlib
import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SITE = ROOT / ".cache" / "site"
DESCRIPTORS = (property, classmethod, staticmethod)
SOURCES = {  # of the reference, by the title of the page
    "Programs": "prefect_optuna",
    "Blocks": "prefect_optuna.blocks",
    "Artifacts": "prefect_optuna.blocks.artifacts",
    "Tasks": "prefect_optuna.tasks",
    "Scopes": "prefect_optuna.tasks.scope",
    "Persistence": "prefect_optuna.tasks.persistence",
    "Flows": "prefect_optuna.flows",
    "Deployments": "prefect_optuna.deployments",
    "Errors": "prefect_optuna.errors",
}


def copy_pages(pages: Path) -> None:
    """The pages with what they take from READMEs: `--8<-- "file:section"`."""
    for page in HERE.rglob("*.md"):
        target = pages / page.relative_to(HERE)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(with_sections(page.read_text(encoding="utf-8")), encoding="utf-8")


def with_sections(text: str) -> str:
    """Put the sections of READMEs where a page names them."""

    def section(match: re.Match[str]) -> str:
        file, name = match["file"], match["name"]
        found = re.search(
            rf"<!-- --8<-- \[start:{name}\] -->\n(.*?)<!-- --8<-- \[end:{name}\] -->",
            (ROOT / file).read_text(encoding="utf-8"),
            re.DOTALL,
        )
        if found is None:
            raise LookupError(f"{file} has no section {name!r}")
        return re.sub(r"^###", "##", found[1].strip(), flags=re.MULTILINE)

    return re.sub(r'^--8<-- "(?P<file>[\w./]+):(?P<name>[\w-]+)"$', section, text, flags=re.M)


def ask_nobody(html: Path) -> None:
    """Take what the search needs in a folder from the folder, and from no other server."""
    shutil.copy(HERE / "worker.js", html)
    for page in html.rglob("*.html"):
        up = "../" * (len(page.relative_to(html).parts) - 1)
        text = page.read_text(encoding="utf-8").replace(
            "https://unpkg.com/iframe-worker/shim", f"{up}worker.js"
        )
        page.write_text(text, encoding="utf-8")


def copy_package() -> None:
    """The package as it is installed, with the headings of examples that Griffe knows."""
    target = SITE / "package" / "prefect_optuna"
    for floor in ("blocks", "tasks", "flows", "deployments"):
        shutil.copytree(ROOT / floor, target / floor, ignore=shutil.ignore_patterns("__pycache__"))
    for module in ROOT.glob("*.py"):
        shutil.copy(module, target)
    for module in target.rglob("*.py"):
        text = module.read_text(encoding="utf-8")
        text = re.sub(r"^( +)Example:$", r"\1Examples:", text, flags=re.MULTILINE)
        module.write_text(text, encoding="utf-8")


def check_documented(name: str, thing: object) -> None:
    """Refuse a public class or function without a docstring, and such a method of a class."""
    members = vars(thing) if inspect.isclass(thing) else {}
    for member in members:
        # What overrides something documented is documented by it.
        it = inspect.getattr_static(thing, member)
        if not member.startswith("_") and (callable(it) or isinstance(it, DESCRIPTORS)):
            check_documented(f"{name}.{member}", getattr(thing, member))
    text = thing.__doc__ if inspect.isclass(thing) else inspect.getdoc(thing)
    if (callable(thing) or isinstance(thing, DESCRIPTORS)) and not text:
        sys.exit(f"{name} is public and has no docstring.")


def write_reference(pages: Path) -> list[str]:
    """A page for each floor and room, with every name that it promises."""
    folder = pages / "reference"
    folder.mkdir(exist_ok=True)
    made: list[str] = []
    for title, package in SOURCES.items():
        module = importlib.import_module(package)
        lines = [f"# {title}", "", f"`{package}`: {(module.__doc__ or '').strip()}", ""]
        for name in module.__all__:
            if not name.startswith("__"):
                check_documented(f"{package}.{name}", getattr(module, name))
                lines += [f"::: {package}.{name}", ""]
        made.append(f"reference/{title.lower()}.md")
        (pages / made[-1]).write_text("\n".join(lines), encoding="utf-8")
    return made


def write_command_line(pages: Path) -> str:
    """The help of `prefect-optuna` and of each of its commands."""
    from prefect_optuna.deployments.cli import app

    text = app.generate_docs(output_format="markdown", heading_level=1)
    (pages / "reference/command-line.md").write_text(text, encoding="utf-8")
    return "reference/command-line.md"


def write_settings(pages: Path) -> str:
    """Each setting with its variable and its default."""
    from prefect_optuna.blocks import OptunaSettings

    lines = [
        "# Settings",
        "",
        "Each is read from its environment variable, from a `.env` file, from Prefect's active "
        "profile, or by its own name from `prefect.toml`, below `[integrations.optuna]`, and from "
        "`pyproject.toml`, below `[tool.prefect.integrations.optuna]`: `lease = 30`. "
        "[`OptunaSettings`](blocks.md#prefect_optuna.blocks.OptunaSettings) says more of each.",
        "",
    ]
    for name, field in OptunaSettings.model_fields.items():
        default = "" if field.default is None else f" By default `{field.default}`."
        variable = f"`PREFECT_INTEGRATIONS_OPTUNA_{name.upper()}`"
        lines += [f"## `{name}`", "", f"{field.description}{default}", "", variable, ""]
    (pages / "reference/settings.md").write_text("\n".join(lines), encoding="utf-8")
    return "reference/settings.md"


def main() -> int:
    """Build the site; the exit code of the generator."""
    shutil.rmtree(SITE, ignore_errors=True)
    pages = SITE / "pages"
    pages.mkdir(parents=True)
    copy_pages(pages)
    take_pictures = [sys.executable, HERE / "screenshots.py", pages / "pictures"]
    subprocess.run(take_pictures, check=True)  # noqa: S603 - in a process of its own, with a server
    copy_package()
    settings = yaml.safe_load((HERE / "mkdocs.yml").read_text(encoding="utf-8"))
    settings["nav"][-1]["Reference"] = [
        *write_reference(pages),
        {"Command line": write_command_line(pages)},
        {"Settings": write_settings(pages)},
        *settings["nav"][-1]["Reference"],
    ]
    (SITE / "mkdocs.yml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-m", "zensical", "build", "--strict", "-f", "mkdocs.yml"]
    if code := subprocess.run(command, cwd=SITE, check=False).returncode:  # noqa: S603
        return code
    ask_nobody(SITE / "html")
    look = [sys.executable, HERE / "look.py", SITE / "html"]
    return subprocess.run(look, check=False).returncode  # noqa: S603


if __name__ == "__main__":
    sys.exit(main())
