"""Artifact filesystems on the tests' own servers, and paths that none of them may accept."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec

from prefect_optuna.blocks import ArtifactFileSystem

BAD_PATHS = [
    "",
    "/",
    "/etc/passwd",
    "..",
    "../x",
    "a/../../x",
    "a/..",
    ".",
    "./a",
    "a//b",
    "a/",
    "a\0b",
    "a\\b",
    "..\\x",
    "C:x",
    "C:/x",
    "x" * 256,
    "ä" * 128,
    "a/" * 512 + "b",
    ".tmp-x",
    "a/.tmp-x",
    "\ud800",
    None,
    Path("a"),
]


def s3_options(server: str) -> dict[str, Any]:
    """What it takes to reach the tests' S3 server; `server` is its URL."""
    return {"key": "lab", "secret": "hunter2", "endpoint_url": server}


def s3_filesystem(server: str, prefix: str | None = None, **options: Any) -> ArtifactFileSystem:
    """A place of its own in a bucket of the server at a URL."""
    options = {**s3_options(server), **options}
    fsspec.filesystem("s3", **s3_options(server)).makedirs("tests", exist_ok=True)
    return ArtifactFileSystem(url=f"s3://tests/{prefix or uuid4()}", options=options)


def gcs_filesystem(server: str, **options: Any) -> ArtifactFileSystem:
    """A place of its own in a bucket of the server at a URL."""
    options = {"endpoint_url": server, "token": "anon", "project": "lab", **options}
    bucket = fsspec.filesystem("gcs", **options)
    if not bucket.exists("tests"):
        bucket.mkdir("tests")
    return ArtifactFileSystem(url=f"gs://tests/{uuid4()}", options=options)


# Azurite's own, which is no secret: https://learn.microsoft.com/azure/storage/common/storage-use-azurite
AZURITE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)


def azure_filesystem(port: int, **options: Any) -> ArtifactFileSystem:
    """A place of its own in a container of the server at a port."""
    address = (
        "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;"
        f"AccountKey={AZURITE_KEY};BlobEndpoint=http://127.0.0.1:{port}/devstoreaccount1;"
    )
    options = {"connection_string": address, **options}
    container = fsspec.filesystem("abfs", **options)
    if not container.exists("tests"):
        container.mkdir("tests")
    return ArtifactFileSystem(url=f"abfs://tests/{uuid4()}", options=options)


def sftp_filesystem(server: tuple[int, Path], root: Path, **options: Any) -> ArtifactFileSystem:
    """A folder of this machine, by way of an SSH server: its port and known_hosts file."""
    port, known_hosts = server
    given = {"password": "hunter2", "known_hosts": str(known_hosts)}
    return ArtifactFileSystem(
        url=f"sftp://lab@127.0.0.1:{port}{root}", options={**given, **options}
    )
