"""Open every page of the built site as people do, and say what is wrong with it.

    python deployments/site/look.py FOLDER

`make docs` calls it. On a screen and on a phone, light and dark, and on paper, no page may have an
error in its console, ask another server, or be wider than the screen.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from screenshots import find_browser

if TYPE_CHECKING:
    from playwright.sync_api import Browser

_WIDTHS = (1280, 360)


def main(folder: Path) -> int:
    """Print what is wrong; the exit code is 1 where something is."""
    from playwright.sync_api import sync_playwright

    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"]) as one,
    ):
        # The page for what is not there is for servers: its links begin at the root of the site.
        pages = sorted({*folder.rglob("*.html")} - {folder / "404.html"})
        faults = {path: _faults(one, path) for path in pages}
        finds = _finds(one, folder / "index.html", "drift")
    lines = [f"{path.relative_to(folder)}: {f}" for path in pages for f in faults[path]]
    lines += [] if finds else ["index.html: the search finds nothing of drift"]
    print("\n".join(lines) or f"{len(pages)} pages looked at, and nothing wrong.")
    return 1 if lines else 0


def _faults(browser: Browser, path: Path) -> list[str]:
    said: list[str] = []
    page = browser.new_page()
    page.on("console", lambda it: said.append(it.text) if it.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on(
        "request",
        lambda it: None if it.url.startswith(("file:", "data:", "blob:")) else said.append(it.url),
    )
    for width in _WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme, media="screen")
            page.goto(path.as_uri())
            actual = int(page.evaluate("document.documentElement.scrollWidth"))
            if actual > width:
                said.append(f"{actual} pixels wide on a screen of {width}, {scheme}")
    page.emulate_media(media="print")
    page.pdf()
    page.close()
    return list(dict.fromkeys(said))


def _finds(browser: Browser, path: Path, word: str) -> bool:
    """Tell whether the search finds a word, without a server."""
    from playwright.sync_api import TimeoutError as Late

    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(path.as_uri())
    page.keyboard.press("/")
    try:
        page.get_by_placeholder("Search").last.fill(word)
        page.get_by_text(re.compile(r"^\d+ results?$")).wait_for(timeout=20_000)
    except Late:
        return False
    finally:
        page.close()
    return True


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
