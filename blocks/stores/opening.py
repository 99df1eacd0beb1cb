"""Opening of the store that a URL names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import fsspec

from prefect_optuna.blocks.stores.failures import translated, wrong_options
from prefect_optuna.blocks.stores.fsspec_store import MemoryStore, ObjectStore
from prefect_optuna.blocks.stores.local import LocalStore
from prefect_optuna.blocks.stores.protocol import ArtifactStore
from prefect_optuna.blocks.stores.retrying import RetryingStore
from prefect_optuna.errors import StorageUnavailableError

REMOTE = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gcs",
    "gcs": "gcs",
    "az": "azure",
    "abfs": "azure",
    "abfss": "azure",
    "sftp": "sftp",
    "ssh": "sftp",
}
"""The protocols of other machines, and the extra that brings each one's client."""

_DEFAULTS: dict[str, dict[str, Any]] = {
    "s3": {
        # Listings come from the store, and not from what this process remembers of it.
        "use_listings_cache": False,
        # One layer of repetitions is enough: RetryingStore's.
        "config_kwargs": {
            "connect_timeout": 10,
            "retries": {"mode": "standard", "total_max_attempts": 1},
        },
    },
    "gcs": {"use_listings_cache": False},
    "azure": {"use_listings_cache": False},
    # sshfs would talk to any server. This is asyncssh's own default: ~/.ssh/known_hosts.
    "sftp": {"known_hosts": ()},
}


def open_store(url: str, options: Mapping[str, Any]) -> ArtifactStore:
    """The store of a checked URL; a path without a protocol is a local folder.

    Nothing is connected yet: that is part of the first call, and of each repetition.
    """
    # Without urlsplit, which reads a bracket in the name of a memory as half an address.
    protocol = url.partition("://")[0].lower() if "://" in url else ""
    if not protocol:
        return LocalStore(url)
    if protocol == "memory":
        filesystem, root = fsspec.url_to_fs(url, **options)
        return MemoryStore(filesystem, root, url)
    extra = REMOTE[protocol]
    options = {**_DEFAULTS[extra], **options}
    return RetryingStore(url, lambda: _connect(url, protocol, extra, options))


def _connect(url: str, protocol: str, extra: str, options: Mapping[str, Any]) -> ArtifactStore:
    try:
        with translated():
            if extra == "sftp":
                return _sftp(url, options)
            filesystem, root = fsspec.url_to_fs(url, **options)
    except ImportError as error:
        raise StorageUnavailableError(
            f"{protocol}:// needs a library that is not installed ({error}). Install it: "
            f'pip install "prefect-optuna[{extra}]"'
        ) from error
    except (TypeError, ValueError, AttributeError, LookupError):
        # Their own message may quote a value, which may be a secret.
        raise wrong_options(url) from None
    return ObjectStore(filesystem, root, url)


def _sftp(url: str, options: Mapping[str, Any]) -> ArtifactStore:
    from sshfs import SSHFileSystem

    from prefect_optuna.blocks.stores.sftp import SftpStore

    parts = urlsplit(url)
    address = {"host": parts.hostname, "port": parts.port, "username": parts.username}
    given: dict[str, Any] = {name: value for name, value in address.items() if value is not None}
    # fsspec would hand out the same one again, also after its connection has gone.
    filesystem = SSHFileSystem(**{**given, **options}, skip_instance_cache=True)
    return SftpStore(filesystem, parts.path.rstrip("/"), url)
