"""A secret that nobody else has, and a search for it in whatever is left behind."""

from __future__ import annotations

import base64
import gzip
import io
import secrets
import sqlite3
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_CONTEXT = 60  # bytes before and after what was found
_DEPTH = 4  # archives in archives


@dataclass(frozen=True)
class Canary:
    """One secret for each place: all have `core` in them, and the name of the place.

    Letters and digits are the same in a URL, in JSON, in `repr` and in shells, so that the core is
    found however a secret was escaped; what is around it makes a difference of these spellings.
    """

    core: str = field(default_factory=lambda: secrets.token_hex(8))

    def secret(self, place: str) -> str:
        """The secret of a place."""
        return f"c/{self.core}@+{place}"

    def found_in(self, content: bytes | str, where: str, depth: int = _DEPTH) -> list[str]:
        """Where in some bytes the core is, whatever they are encoded or packed in; a line each."""
        content = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
        found: list[str] = []
        for form, needle in self._needles.items():
            for text in (content, content.replace(b"\r", b"").replace(b"\n", b"")):
                start, seen = -1, set[bytes]()
                while (start := text.find(needle, start + 1)) >= 0:
                    end = start + len(needle)
                    if (after := text[end : end + 10]) in seen:  # the same place
                        continue
                    seen.add(after)
                    around = text[max(0, start - _CONTEXT) : end + _CONTEXT]
                    found.append(f"{where} ({form}): {around!r}")
                if seen:
                    break
        if depth:
            for name, inner in _unpacked(content):
                found += self.found_in(inner, f"{where}!{name}", depth - 1)
        return found

    def found_in_files(self, folder: Path) -> list[str]:
        """What in the names and contents of all files below a folder has the core in it."""
        found: list[str] = []
        for path in sorted(folder.rglob("*")):
            found += self.found_in(str(path), "the name of a file")
            if path.is_file() and not path.is_symlink():
                with suppress(FileNotFoundError):  # something lives there still
                    found += self.found_in(path.read_bytes(), str(path))
                    found += self.found_in_rows(_rows_of(path), str(path))
        return found

    def found_in_rows(self, rows: Iterable[tuple[str, Iterable[Any]]], where: str) -> list[str]:
        """What in the rows of tables has the core in it."""
        found: list[str] = []
        for table, row in rows:
            for value in row:
                if isinstance(value, (str, bytes)):
                    found += self.found_in(value, f"{where}, {table}")
                elif value is not None:
                    found += self.found_in(repr(value), f"{where}, {table}", 0)
        return found

    @property
    def _needles(self) -> dict[str, bytes]:
        plain = self.core.encode()
        needles = {
            "plain": plain,
            "upper case": plain.upper(),
            "UTF-16": self.core.encode("utf-16-le"),
            "UTF-32": self.core.encode("utf-32-le"),
            "hex": plain.hex().encode(),
            "hex, upper case": plain.hex().upper().encode(),
            "percent": "".join(f"%{byte:02x}" for byte in plain).encode(),
        }
        for shift, once in enumerate(_in_base64(plain)):
            needles[f"base64, {shift}"] = once
            for again, twice in enumerate(_in_base64(once)):
                needles[f"base64 in base64, {shift}, {again}"] = twice
        return needles


def _in_base64(content: bytes) -> list[bytes]:
    """What of some bytes is the same in base64, for each of three places where they may begin."""
    forms: list[bytes] = []
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + content)
        forms.append(encoded[(8 * shift + 5) // 6 : 8 * (shift + len(content)) // 6])
    return forms


def _unpacked(content: bytes) -> Iterator[tuple[str, bytes]]:
    if content[:2] == b"PK":
        with suppress(zipfile.BadZipFile), zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                yield name, archive.read(name)
    elif content[:2] == b"\x1f\x8b":
        with suppress(OSError, EOFError, zlib.error):
            yield "gzip", gzip.decompress(content)
    elif content[:1] == b"\x78":
        with suppress(zlib.error):
            yield "zlib", zlib.decompress(content)
    elif content[:6] in (b"ARROW1", b"\xff\xff\xff\xff\x10\x00"):
        yield "arrow", _arrow_text(content).encode("utf-8", "surrogatepass")


def _arrow_text(content: bytes) -> str:
    import pyarrow as pa

    opener = pa.ipc.open_file if content.startswith(b"ARROW1") else pa.ipc.open_stream
    with suppress(pa.ArrowInvalid), opener(pa.py_buffer(content)) as reader:
        table = reader.read_all()
        return f"{table.schema.to_string(show_field_metadata=True)}\n{table.to_pylist()!r}"
    return ""


def _rows_of(path: Path) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """The rows of an SQLite database, which has long text in pieces, and some in another file."""
    with path.open("rb") as file:
        if not file.read(16).startswith(b"SQLite format 3"):
            return
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as database:
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            for row in database.execute(f'SELECT * FROM "{table}"'):
                yield table, row
