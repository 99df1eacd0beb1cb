"""Blobs: files that are named after the SHA-256 digest of what is in them.

Studies of one code share them. A study's folder lists the blobs that it needs, in files below
`needs/`, so that what nobody needs any more can be told, and removed beside whoever writes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Container, Iterable, Mapping

from prefect_optuna.blocks import ArchiveError, ArtifactFileSystem
from prefect_optuna.blocks.artifacts.objects import ContentStore
from prefect_optuna.errors import ArtifactNotFoundError
from prefect_optuna.tasks.archive.series.packs import packed


def blob_path(digest: str) -> str:
    """Return the path of the blob of that digest, relative to the root of the artifacts."""
    return f"blobs/{digest[:2]}/{digest}"


def blob_store(artifacts: ArtifactFileSystem) -> ContentStore:
    """All blobs, as files that are named after their content."""
    return ContentStore(artifacts, "", "blobs", "blobs-trash")


def write_blobs(artifacts: ArtifactFileSystem, folder: str, contents: Iterable[bytes]) -> None:
    """Store contents, each once however often it is written, and say which study needs them."""
    blobs = {hashlib.sha256(content).hexdigest(): content for content in contents}
    _put(artifacts, blobs)
    needs = json.dumps(sorted(blobs)).encode()
    artifacts.create(f"{folder}/needs/{hashlib.sha256(needs).hexdigest()[:32]}.json", needs)
    # One may have been removed as unneeded, before anybody could know that it is needed.
    _put(artifacts, blobs)


def _put(artifacts: ArtifactFileSystem, blobs: Mapping[str, bytes]) -> None:
    for digest, content in blobs.items():
        if not artifacts.exists(blob_path(digest)):
            artifacts.create(blob_path(digest), content)


def needed_blobs(artifacts: ArtifactFileSystem, folder: str) -> set[str]:
    """The digests of the blobs that the study of a folder needs."""
    needed: set[str] = set()
    for path, content in artifacts.read_many(artifacts.ls(f"{folder}/needs")).items():
        try:
            needed |= set(json.loads(content))
        except (ValueError, TypeError):
            raise ArchiveError(
                f"{artifacts.location(path)} is damaged: expected a list of SHA-256 digests. "
                "Bring it back from a copy."
            ) from None
    return needed


def needed_paths(artifacts: ArtifactFileSystem, gone: Container[str] = ()) -> set[str]:
    """List the paths of blobs that any study needs, except those whose folders are `gone`."""
    return {
        blob_path(digest)
        for folder in artifacts.ls("studies")
        if folder not in gone
        for digest in needed_blobs(artifacts, folder)
    }


def read_blob(artifacts: ArtifactFileSystem, digest: str, what: str) -> bytes:
    """Read and verify a blob."""
    return _verified(artifacts, blob_path(digest), digest, what, blob_store(artifacts).content)


def read_verified(artifacts: ArtifactFileSystem, path: str, digest: str, what: str) -> bytes:
    """Read a file of an archive whose digest is known, and raise `ArchiveError` if it differs."""
    try:
        return _verified(artifacts, path, digest, what, artifacts.read_path)
    except ArchiveError:
        if (content := packed(artifacts, path, digest)) is not None:
            return content
        # Two copies of one study share a folder; what the second one has goes beside the first.
        beside = beside_path(path, digest)
        if not artifacts.exists(beside):
            raise
        return _verified(artifacts, beside, digest, what, artifacts.read_path)


def beside_path(path: str, digest: str) -> str:
    """Return the path of a file whose place other content has: `000003-<16 digits>.arrow`.

    Example:
        >>> from prefect_optuna.tasks.archive.series.blobs import beside_path
        >>> beside_path("trials/000003.arrow", "e3b0c44298fc1c149afbf4c8996fb924")
        'trials/000003-e3b0c44298fc1c14.arrow'
    """
    stem, dot, suffix = path.rpartition(".")
    return f"{stem}-{digest[:16]}{dot}{suffix}" if dot else f"{path}-{digest[:16]}"


def _verified(
    artifacts: ArtifactFileSystem,
    path: str,
    digest: str,
    what: str,
    read: Callable[[str], bytes],
) -> bytes:
    place = artifacts.location(path)
    try:
        content = read(path)
    except ArtifactNotFoundError:
        raise ArchiveError(
            f"The archive is incomplete: {what} is missing. Expected the file {place}. "
            "Bring it back, or name the artifacts that the study was archived to: artifacts=..."
        ) from None
    actual = hashlib.sha256(content).hexdigest()
    if actual != digest:
        raise ArchiveError(
            f"The archive is damaged: {what} in {place} is not what was archived. Expected the "
            f"SHA-256 digest {digest}, found {actual} ({len(content)} bytes). Bring the file back "
            "from a copy; nothing of it has been used."
        )
    return content
