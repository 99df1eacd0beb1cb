"""Blobs: files that are named after the SHA-256 digest of what is in them."""

from __future__ import annotations

import hashlib

from prefect_optuna.blocks import ArchiveError, ArtifactFileSystem, ArtifactNotFoundError

__all__ = ["blob_path", "read_blob", "read_verified", "write_blob"]


def blob_path(digest: str) -> str:
    """Where the blob of that digest lies, relative to the root of the artifacts."""
    return f"blobs/{digest[:2]}/{digest}"


def write_blob(artifacts: ArtifactFileSystem, content: bytes) -> str:
    """Store the content, once however often it is written, and return its digest."""
    digest = hashlib.sha256(content).hexdigest()
    artifacts.create(blob_path(digest), content)
    return digest


def read_blob(artifacts: ArtifactFileSystem, digest: str, what: str) -> bytes:
    """Read and verify a blob.

    Args:
        artifacts: where it lies.
        digest: its SHA-256 digest, as 64 hexadecimal digits.
        what: the part of the archive it holds, for messages.

    Raises:
        ArchiveError: it is gone, or holds something else.
    """
    return read_verified(artifacts, blob_path(digest), digest, what)


def read_verified(artifacts: ArtifactFileSystem, path: str, digest: str, what: str) -> bytes:
    """Read a file of an archive whose digest is known, and raise `ArchiveError` if it differs."""
    place = artifacts.location(path)
    try:
        content = artifacts.read_path(path)
    except ArtifactNotFoundError:
        raise ArchiveError(
            f"The archive is incomplete: {what} is missing. Expected the file {place}. "
            "Bring it back, or name the artifacts that the study was archived to: artifacts=..."
        ) from None
    found = hashlib.sha256(content).hexdigest()
    if found != digest:
        raise ArchiveError(
            f"The archive is damaged: {what} in {place} is not what was archived. Expected the "
            f"SHA-256 digest {digest}, found {found} ({len(content)} bytes). Bring the file back "
            "from a copy; nothing of it has been used."
        )
    return content
