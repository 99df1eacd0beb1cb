"""The identity of a study, and of the owner of a folder of artifacts."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

from optuna import Study
from optuna.storages import BaseStorage

from prefect_optuna.blocks._journal_storage import FileStorage
from prefect_optuna.blocks.artifact_filesystem import ArtifactFileSystem
from prefect_optuna.blocks.patience import PatientStorage

OWNERS = "owners"
"""The directory in a study's folder that says which study of which storage it belongs to."""

UUID_ATTRIBUTE = "prefect_optuna:uuid"
"""The system attribute of a study that holds its UUID; copies of a study have the same."""

_ARCHIVE = "backupContext"  # the user attribute that is the manifest of the study's archive
_HERE = ("localhost", "127.0.0.1", "::1", "")


def study_uuid(study: Study) -> str:
    """Return what names a study's folder: a name may be given again once a study is deleted.

    It is kept with the study; the first call makes it.

    Example:
        >>> import optuna
        >>> from prefect_optuna.blocks.study_identity import study_uuid
        >>> study = optuna.create_study()
        >>> study_uuid(study) == study_uuid(study)
        True
    """
    storage = study._storage  # pyright: ignore[reportPrivateUsage] - a study has no other way
    study_id = storage.get_study_id_from_name(study.study_name)
    if (uuid := uuid_of(storage, study_id)) is None:
        storage.set_study_system_attr(study_id, UUID_ATTRIBUTE, str(uuid4()))
        # Another process may have done so at the same time, and the last one holds.
        uuid = str(storage.get_study_system_attrs(study_id)[UUID_ATTRIBUTE])
    return uuid


def uuid_of(storage: BaseStorage, study_id: int) -> str | None:
    """The same of a study that is only looked at; `None` if it has none yet."""
    manifest = storage.get_study_user_attrs(study_id).get(_ARCHIVE)
    if isinstance(manifest, Mapping) and isinstance(manifest.get("uuid"), str):
        return manifest["uuid"]
    return storage.get_study_system_attrs(study_id).get(UUID_ATTRIBUTE)


def claim_folder(study: Study, artifacts: ArtifactFileSystem) -> str:
    """Return the folder of a study, `studies/<uuid>`, and say in it whose it is.

    What a copied study has logged is in the folder of the first one, which then has two owners.
    """
    path, content = owner_file(study)
    artifacts.create(path, content)
    return path.rpartition(f"/{OWNERS}/")[0]


def owner_file(study: Study) -> tuple[str, bytes]:
    """The file in a study's folder that says whose it is: its path, and what is in it."""
    owner = {
        "study_name": study.study_name,
        "storage": storage_identity(study._storage),  # pyright: ignore[reportPrivateUsage]
    }
    content = json.dumps(owner, sort_keys=True).encode()
    name = sha256(content).hexdigest()[:16]
    return f"studies/{study_uuid(study)}/{OWNERS}/{name}.json", content


def storage_identity(storage: BaseStorage) -> str | None:
    """Say which storage it is, the same from everywhere; `None` where that cannot be said.

    What is a file, or a server on this machine, has the machine's name in it. No passwords.

    Example:
        >>> from optuna.storages import InMemoryStorage
        >>> from prefect_optuna.blocks.study_identity import storage_identity
        >>> storage_identity(InMemoryStorage()) is None
        True
    """
    # Optuna puts a cache before some storages, which it does not name in public.
    storage = storage.storage if isinstance(storage, PatientStorage) else storage
    storage = getattr(storage, "_backend", storage) if _is_cache(storage) else storage
    engine = getattr(storage, "engine", None)
    if engine is not None:
        url = engine.url.set(password=None, query={})
        if url.get_backend_name() == "sqlite":
            return _on_this_machine("sqlite", url.database)
        host = platform.node() if (url.host or "") in _HERE else url.host
        return f"{url.get_backend_name()}://{host}:{url.port or ''}/{url.database}"
    if isinstance(storage, FileStorage):
        return _on_this_machine("journal", storage.path)
    backend = getattr(storage, "_backend", None)  # of Optuna's own JournalStorage
    path = getattr(backend, "_file_path", None)
    return None if path is None else _on_this_machine("journal", path)


def _is_cache(storage: BaseStorage) -> bool:
    return type(storage).__name__ == "_CachedStorage"


def _on_this_machine(kind: str, path: Any) -> str | None:
    if not path or str(path) == ":memory:":
        return None
    return f"{kind}://{platform.node()}{Path(path).resolve()}"
