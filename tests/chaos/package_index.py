"""Where packages come from on this machine, in words that uv in a container understands."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# Settings of uv that hold elsewhere, too; not those that name its own folders.
_PASSED_ON = re.compile(
    r"UV_((DEFAULT_|EXTRA_|NO_)?INDEX(_\w+)?|FIND_LINKS|INSECURE_HOST|NATIVE_TLS|SYSTEM_CERTS|"
    r"HTTP_TIMEOUT)|SSL_CERT_FILE|(HTTPS?|ALL|NO)_PROXY",
    re.IGNORECASE,
)
# Of pip's settings, by their names there; uv parts some of them by commas.
_OF_PIP = {
    "index-url": ("UV_DEFAULT_INDEX", " "),
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "no-index": ("UV_NO_INDEX", " "),
    "cert": ("SSL_CERT_FILE", " "),
}
_SETTING = re.compile(r"^(?:global|install|user|site|:env:)\.([\w-]+)=(.*)$")


@dataclass(frozen=True)
class PackageIndex:
    """What uv has to be told, and the folders of this machine that it reads.

    Attributes:
        variables: for uv; a value may hold a password.
        volumes: what is mounted, in Docker's words.
    """

    variables: Mapping[str, str]
    volumes: list[str]

    @classmethod
    def of_this_machine(cls) -> PackageIndex:
        """What uv's variables say here, and otherwise pip's variables and files."""
        variables = {n: v for n, v in os.environ.items() if _PASSED_ON.fullmatch(n)}
        listed = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True
        )
        of_pip = _translated(listed.stdout)
        if not any("INDEX" in name or "LINKS" in name for name in variables):
            # pip takes the best of all places, and uv by default those of the first one.
            of_pip |= {"UV_INDEX_STRATEGY": "unsafe-best-match"} if "UV_INDEX" in of_pip else {}
            variables = {**of_pip, **variables}
        return cls(variables, _volumes(variables))


def _translated(text: str) -> dict[str, str]:
    variables: dict[str, str] = {}
    for line in text.splitlines():
        found = _SETTING.match(line)
        if found and found[1] in _OF_PIP:
            name, between = _OF_PIP[found[1]]
            variables[name] = between.join(str(ast.literal_eval(found[2])).split())
    return variables


def _volumes(variables: Mapping[str, str]) -> list[str]:
    """The folders and files that values name, under the same path and not to be written."""
    places: set[Path] = set()
    for value in variables.values():
        for word in re.split(r"[,\s]+", value):
            path = Path(re.sub(r"^(\w+=)?file://", "", word))
            if path.is_absolute() and path.exists():
                # The pages of such an index lead to files beside its folder.
                places.add(path.parent if path.name == "simple" else path)
    return [f"{place}:{place}:ro" for place in sorted(places)]
