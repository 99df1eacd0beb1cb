"""Saving a version: a captured problem, and what it runs in, from one trial of a study on."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from optuna import Study
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from prefect_optuna.blocks import ArchiveError, ArtifactFileSystem
from prefect_optuna.blocks.study_identity import claim_folder, study_uuid
from prefect_optuna.tasks.archive.code.capture import Capture, encode_scope
from prefect_optuna.tasks.archive.record.environment import Environment, is_built
from prefect_optuna.tasks.archive.record.manifest import (
    Manifest,
    Version,
    read_manifest,
    write_version,
)
from prefect_optuna.tasks.archive.record.signing import SigningKeys
from prefect_optuna.tasks.archive.record.trial_records import VERSION
from prefect_optuna.tasks.archive.series.axes import as_axis, read_axis
from prefect_optuna.tasks.archive.series.blobs import blob_path, read_blob, write_blobs
from prefect_optuna.tasks.archive.series.study_series import check_same


def save_version(
    study: Study,
    artifacts: ArtifactFileSystem,
    capture: Capture,
    *,
    scope: Mapping[str, Any],
    seed: int | None,
    trials_seed: int | None,
    keys: SigningKeys | None,
) -> tuple[Manifest, Version, tuple[str, ...]]:
    """Archive a captured problem, unless the study's last version is the same."""
    for name, values in capture.axes.items():
        if (axis := read_axis(study, artifacts, name)) is not None:
            own = as_axis(name, values, axis.unit)
            check_same(axis, own, f"The study {study.study_name!r}")
    environment = Environment.capture(
        capture.folder,
        seed=seed,
        trials_seed=trials_seed,
        sampler=study.sampler,
        pruner=study.pruner,
    )
    if (origin := capture.origin) is not None:
        # The code is of there, and it runs here.
        sources = {"script": origin.script, "script_source": origin.script_source}
        environment = replace(environment, git=origin.git, files={}, notes=(), **sources)
        if is_built():
            # From that one, with what this package needs beside; who builds it again adds it, too.
            known = {*origin.distributions, "prefect-optuna"}
            there = {n: v for n, v in environment.distributions.items() if n in known}
            environment = replace(environment, distributions=there)
    encoded_scope = encode_scope(scope)
    manifest = read_manifest(study)
    last = manifest.versions[-1] if manifest and manifest.versions else None
    if manifest and last and not artifacts.exists(blob_path(last.code_version)):
        raise ArchiveError(
            f"The archive of the study {study.study_name!r} was written to {manifest.artifacts}, "
            f"and is not in {artifacts.location()}. Name the artifacts that it was written to: "
            "artifacts=... Or take another study name."
        )
    folder = claim_folder(study, artifacts)
    described = json.dumps(environment.to_json(), indent=1, sort_keys=True).encode("ascii")
    blobs = [*capture.blobs.values(), *environment.files.values(), capture.content, described]
    write_blobs(artifacts, folder, blobs)
    version = Version(
        first_trial=len(study.get_trials(deepcopy=False)),
        code_version=capture.code_version,
        environment=hashlib.sha256(described).hexdigest(),
        scope=encoded_scope,
    )
    if last is not None and not _differ(artifacts, last, version, environment):
        version = last
    if manifest is None or version is not last or (keys is not None and version.signature is None):
        manifest = write_version(
            study, version, uuid=study_uuid(study), artifacts=artifacts.location(), keys=keys
        )
    if last is not None and version is not last:
        _name_queued(study, version)
    if (claimed := claim_folder(study, artifacts)) != folder:
        # Another process has given the study its UUID at the same moment.
        write_blobs(artifacts, claimed, blobs)
    return manifest, version, environment.notes


def _name_queued(study: Study, version: Version) -> None:
    """Have the trials in the queue name the new version: by their numbers, they were older.

    Who takes one says again what he runs it with; in a loop of one's own, nobody does.
    """
    storage = study._storage  # pyright: ignore[reportPrivateUsage]
    for trial in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        with contextlib.suppress(UpdateFinishedTrialError):
            trial_id = trial._trial_id  # pyright: ignore[reportPrivateUsage]
            storage.set_trial_system_attr(trial_id, VERSION, version.id)


def changes(manifest: Manifest) -> list[str]:
    """List what changed from each version to the next, for people who compare trials."""
    texts: list[str] = []
    for before, after in zip(manifest.versions, manifest.versions[1:], strict=False):
        changed = [
            what
            for what, name in (
                ("problem's code or context", "code_version"),
                ("environment", "environment"),
                ("scope", "scope"),
            )
            if getattr(before, name) != getattr(after, name)
        ]
        texts.append(f"The {' and the '.join(changed)} changed before trial {after.first_trial}.")
    return texts


def _differ(
    artifacts: ArtifactFileSystem, last: Version, new: Version, environment: Environment
) -> bool:
    if (last.code_version, last.scope) != (new.code_version, new.scope):
        return True
    if last.environment == new.environment:
        return False
    content = read_blob(artifacts, last.environment, "the environment")
    before = Environment.from_json(json.loads(content))
    # The script that was started matters to people, and to no result.
    return bool(before.diff(environment).keys() - {"script", "script_source"})
