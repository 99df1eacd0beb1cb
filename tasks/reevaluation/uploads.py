"""Uploads of archived code that runs again: kept in a scratch folder, and compared.

`optuna.artifacts.upload_artifact` writes to the store that the code names, beside what the study
has there. Here its place is taken: the file is compared with the archived trial's upload of that
name, where the store still has it, and nobody's store is written to.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

UploadVerdict = Literal["same", "other", "unknown"]
_PREFIX = "artifacts:"  # Optuna's


def uploads_of(system_attrs: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The uploads of a trial: the id of each, and the name of its file."""
    uploads: list[tuple[str, str]] = []
    for name, text in system_attrs.items():
        if name.startswith(_PREFIX):
            try:
                data: Any = json.loads(text)
                uploads.append((str(data["artifact_id"]), str(data["filename"])))
            except (ValueError, TypeError, KeyError):
                continue  # not of Optuna's making
    return uploads


class Uploads:
    """Takes the place of Optuna's stores of artifacts.

    Attributes:
        archived: the archived trial's uploads, as `uploads_of` gives them.
        verdicts: for each file uploaded now whether it is the `same` as then, an `other` one, or
            `unknown`, where the trial had none of that name or its store cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        # Optuna's stores import boto3 where it is installed, which takes a quarter of a second.
        from optuna.artifacts import FileSystemArtifactStore

        self._scratch = FileSystemArtifactStore(folder)
        self._made: set[str] = set()
        self.archived: Sequence[tuple[str, str]] = ()
        self.verdicts: dict[str, UploadVerdict] = {}

    @contextmanager
    def in_place(self) -> Generator[None]:
        """Stand in for `upload_artifact` and `download_artifact` while this holds."""
        names = ("optuna.artifacts", "optuna.artifacts._upload", "optuna.artifacts._download")
        places: list[Any] = [importlib.import_module(name) for name in names]
        upload: Any = places[0].upload_artifact
        download: Any = places[0].download_artifact

        def upload_artifact(*arguments: Any, **options: Any) -> str:
            # Optuna still takes them by place, the store last.
            options |= dict(
                zip(("study_or_trial", "file_path", "artifact_store"), arguments, strict=False)
            )
            store, path = options["artifact_store"], Path(options["file_path"])
            made = upload(**{**options, "artifact_store": self._scratch})
            self._made.add(made)
            self._compare(store, path)
            return made

        def download_artifact(*, artifact_store: Any, **options: Any) -> None:
            mine = options.get("artifact_id") in self._made
            download(artifact_store=self._scratch if mine else artifact_store, **options)

        replaced = {"upload_artifact": upload_artifact, "download_artifact": download_artifact}
        before = [
            (place, name, getattr(place, name, None)) for place in places for name in replaced
        ]
        for place, name, held in before:
            if held is not None:
                setattr(place, name, replaced[name])
        try:
            yield
        finally:
            for place, name, held in before:
                if held is not None:
                    setattr(place, name, held)

    def _compare(self, store: Any, path: Path) -> None:
        with path.open("rb") as file:
            now = _digest(file)
        then: list[bytes] = []
        for artifact_id, name in self.archived:
            if name != path.name:
                continue
            try:
                with store.open_reader(artifact_id) as file:
                    then.append(_digest(file))
            except Exception:  # noqa: BLE001, S112 - whatever stores raise that are not here
                continue
        verdict: UploadVerdict = "unknown" if not then else "same" if now in then else "other"
        if self.verdicts.get(path.name) != "other":  # of several, the one that differs counts
            self.verdicts[path.name] = verdict


def _digest(file: Any) -> bytes:
    digest = sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.digest()
