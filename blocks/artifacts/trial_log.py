"""Metrics, parameters, tags and artifacts of a trial or a study, beside what Optuna keeps itself.

Each is one attribute of the trial or the study, so that logging one writes one, however many
there are, and Optuna's dashboard shows them. The content of an artifact goes to a repository in
the study's folder, and its attribute says where.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from optuna import Study, Trial
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import BaseTrial, FrozenTrial

from prefect_optuna.blocks.artifact_filesystem import ArtifactFileSystem
from prefect_optuna.blocks.artifacts.artifact import Artifact
from prefect_optuna.blocks.artifacts.pages import artifact_key, publish_artifact
from prefect_optuna.blocks.artifacts.records import ArtifactVersion
from prefect_optuna.blocks.artifacts.repository import ArtifactRepository
from prefect_optuna.blocks.locations import as_artifact_filesystem
from prefect_optuna.blocks.stores.protocol import checked_path
from prefect_optuna.blocks.study_storage import claim_folder
from prefect_optuna.errors import (
    ArtifactLoadError,
    ArtifactLogError,
    ReadOnlyError,
    VersionNotFoundError,
)

_METRIC, _PARAMETER, _TAGS, _ARTIFACT = "metric:", "parameter:", "tags", "artifact:"
_KEY = re.compile("[a-z0-9-]+")  # of an artifact in Prefect

Location: TypeAlias = ArtifactFileSystem | str | Path | None


def log_metric(trial: Trial, name: str, value: Any) -> None:
    """Keep a number that is not the value of a trial; of one name, the last counts.

    Args:
        trial: a running trial.
        name: of the metric.
        value: a number, or anything else that JSON can hold. NumPy's scalars are numbers.

    Raises:
        ArtifactLogError: JSON cannot hold the value.
        ReadOnlyError: the trial has ended, or is a copy that Optuna has handed out.

    Example:
        >>> import optuna
        >>> from prefect_optuna.blocks import log_metric, logged_metrics
        >>> trial = optuna.create_study().ask()
        >>> log_metric(trial, "rmse", 0.25)
        >>> logged_metrics(trial)
        {'rmse': 0.25}
    """
    _set(trial, f"{_METRIC}{name}", value)


def log_parameter(trial: Trial, name: str, value: Any) -> None:
    """Keep a parameter that no sampler has suggested; of one name, the last counts.

    Args:
        trial: a running trial.
        name: of the parameter.
        value: anything that JSON can hold. NumPy's scalars are numbers.

    Raises:
        ArtifactLogError: JSON cannot hold the value.
        ReadOnlyError: the trial has ended, or is a copy that Optuna has handed out.

    Example:
        >>> import optuna
        >>> from prefect_optuna.blocks import log_parameter, logged_parameters
        >>> trial = optuna.create_study().ask()
        >>> log_parameter(trial, "solver", "lsoda")
        >>> logged_parameters(trial)
        {'solver': 'lsoda'}
    """
    _set(trial, f"{_PARAMETER}{name}", value)


def tag(trial: Trial, *tags: str, overwrite: bool = False) -> None:
    """Add tags to a trial, in order; the same may be there twice.

    Args:
        trial: a running trial.
        tags: the tags.
        overwrite: remove those that are there first.

    Raises:
        ReadOnlyError: the trial has ended, or is a copy that Optuna has handed out.

    Example:
        >>> import optuna
        >>> from prefect_optuna.blocks import logged_tags, tag
        >>> trial = optuna.create_study().ask()
        >>> tag(trial, "stiff", "long")
        >>> logged_tags(trial)
        ['stiff', 'long']
    """
    before = [] if overwrite else logged_tags(trial)
    _set(trial, _TAGS, [*before, *tags])


def logged_metrics(trial: Trial | FrozenTrial) -> dict[str, Any]:
    """Return the metrics that `log_metric` has kept, by name."""
    return _named(trial, _METRIC)


def logged_parameters(trial: Trial | FrozenTrial) -> dict[str, Any]:
    """Return the parameters that `log_parameter` has kept, by name."""
    return _named(trial, _PARAMETER)


def logged_tags(trial: Trial | FrozenTrial) -> list[str]:
    """Return the tags that `tag` has kept, in order."""
    _check(trial)
    return list(trial.user_attrs.get(_TAGS, []))


def log_artifact(
    study_or_trial: Study | Trial,
    name: str,
    value: Any,
    handler: str | type[Artifact] | None = None,
    *,
    artifacts: Location = None,
    overwrite: bool = False,
    publish: bool = False,
    fname: str | None = None,
    **writer_kwargs: Any,
) -> ArtifactVersion:
    """Keep a value with a trial or a study, as a file.

    Args:
        study_or_trial: a study, or a running trial.
        name: of the artifact; each trial has names of its own, and so has the study.
        value: what to keep.
        handler: the alias or the class of the handler that writes it; by default the one for
            values of that type.
        artifacts: where: a block, `"slug/name"`, a path or a URL; by default where `optimize`
            puts the archive.
        overwrite: go on if there is one of that name. It stays, as an earlier version.
        publish: also show it in Prefect's UI, under a key made of the study and the name: what
            the study and its trials log under one name is a timeline there.
        fname: a name for downloaded copies.
        **writer_kwargs: for the handler.

    Returns:
        The version, in the repository `studies/<uuid>/artifacts`.

    Raises:
        ArtifactLogError: there is one of that name, or the handler cannot write the value.
        UnknownHandlerError: there is no such handler, or none for values of that type.
        InvalidSettingError: this cannot be a name.
        ReadOnlyError: the trial has ended, or is a copy that Optuna has handed out.
        StorageUnavailableError: the filesystem failed. Whatever is raised, the trial or the
            study has no artifact that it had not before.

    Example:
        >>> import optuna
        >>> from prefect_optuna.blocks import load_artifact, log_artifact
        >>> trial = optuna.create_study().ask()
        >>> version = log_artifact(trial, "fit", {"slope": 2.0}, artifacts="memory://docs-trial")
        >>> load_artifact(trial, "fit", artifacts="memory://docs-trial")
        {'slope': 2.0}
    """
    _check(study_or_trial)
    key = f"{_ARTIFACT}{checked_path(name)}"
    if not overwrite and key in study_or_trial.user_attrs:
        raise ArtifactLogError(
            f"{_title(study_or_trial)} has an artifact {name!r} already. Take another name, or "
            "pass overwrite=True: the one before stays, as an earlier version."
        )
    if isinstance(study_or_trial, Study):
        study, full_name = study_or_trial, name
    else:
        _check_running(study_or_trial)
        study, full_name = study_or_trial.study, f"trial {study_or_trial.number}: {name}"
    filesystem = as_artifact_filesystem(artifacts)
    repository = ArtifactRepository(filesystem, f"{claim_folder(study, filesystem)}/artifacts")
    version = repository.log(full_name, value, handler, fname=fname, **writer_kwargs)
    reference = {
        "repository": repository.prefix,
        "name": full_name,
        "version": version.version,
        "handler": version.handler,
        "sha256": version.sha256,
        "bytes": version.size,
        "path": version.path,
        **({"key": artifact_key(study.study_name, name)} if publish else {}),
    }
    _set(study_or_trial, key, reference)
    if publish:
        number = None if isinstance(study_or_trial, Study) else study_or_trial.number
        whose = "study" if number is None else f"study.trials[{number}]"
        publish_artifact(
            study.study_name,
            name,
            value,
            version.handler,
            version=version.version,
            trial=number,
            location=filesystem.location(version.path),
            size=version.size,
            sha256=version.sha256,
            load_hint=f"load_artifact({whose}, {name!r}, artifacts={filesystem.location()!r})",
        )
    return version


def logged_artifacts(trial: Trial | FrozenTrial) -> list[str]:
    """The names of what `log_artifact` has kept with a trial; `load_artifact` reads it.

    Example:
        >>> import optuna
        >>> from prefect_optuna.blocks.artifacts.trial_log import logged_artifacts
        >>> logged_artifacts(optuna.create_study().ask())
        []
    """
    return list(_named(trial, _ARTIFACT))


def artifact_pages(user_attrs: Mapping[str, Any]) -> dict[str, str]:
    """The artifacts that a study or a trial has logged: the key of each page, or an empty text."""
    pages: dict[str, str] = {}
    for name, reference in user_attrs.items():
        if name.startswith(_ARTIFACT):
            key = str(reference.get("key", "")) if isinstance(reference, dict) else ""
            # Whoever writes to the storage writes these, too.
            pages[name.removeprefix(_ARTIFACT)] = key if _KEY.fullmatch(key) else ""
    return pages


def load_artifact(
    study_or_trial: Study | Trial | FrozenTrial,
    name: str,
    *,
    artifacts: Location = None,
    validate: bool = True,
    **reader_kwargs: Any,
) -> Any:
    """Load what `log_artifact` has kept.

    Args:
        study_or_trial: a study or a trial, also one that has ended.
        name: of the artifact.
        artifacts: where it was logged to.
        validate: refuse what was written in another environment, where that matters.
        **reader_kwargs: for the handler.

    Returns:
        The value.

    Raises:
        VersionNotFoundError: there is no such artifact; says which there are.
        ArtifactLoadError: it is damaged, or of another environment, or cannot be read.

    Example:
        >>> import optuna
        >>> from prefect_optuna.blocks import load_artifact, log_artifact
        >>> study = optuna.create_study()
        >>> _ = log_artifact(study, "note", "the first season", artifacts="memory://docs-study")
        >>> load_artifact(study, "note", artifacts="memory://docs-study")
        'the first season'
    """
    references = _named(study_or_trial, _ARTIFACT)
    if name not in references:
        raise VersionNotFoundError(
            f"{_title(study_or_trial)} has no artifact {name!r}; it has "
            f"{', '.join(map(repr, sorted(references))) or 'none'}."
        )
    reference = references[name]
    try:
        prefix, full_name, version = (reference[k] for k in ("repository", "name", "version"))
    except (TypeError, KeyError):
        raise ArtifactLoadError(
            f"The attribute {_ARTIFACT + name!r} is no reference to an artifact: {reference!r}."
        ) from None
    repository = ArtifactRepository(artifacts, prefix, mode="r")
    found_digest = repository.metadata(full_name, version)["sha256"]
    if found_digest != reference.get("sha256", found_digest):
        raise ArtifactLoadError(
            f"The artifact {name!r} of {_title(study_or_trial)} is not what was logged: expected "
            f"the SHA-256 {reference['sha256']}, and its record names {found_digest}. Bring the "
            "record and the file back from a copy; nothing of it has been used."
        )
    return repository.load(full_name, version, validate=validate, **reader_kwargs)


def _check(study_or_trial: Study | BaseTrial) -> None:
    """Know before anything is done; that the name was given first is a slip that happens."""
    if not isinstance(study_or_trial, (Study, BaseTrial)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ArtifactLogError(
            "expected a trial first, or a study where artifacts are logged, and found "
            f"{type(study_or_trial).__name__}: log_artifact(trial, name, value)."
        )


def _named(study_or_trial: Study | Trial | FrozenTrial, prefix: str) -> dict[str, Any]:
    _check(study_or_trial)
    attributes: Mapping[str, Any] = study_or_trial.user_attrs
    return {
        key[len(prefix) :]: value for key, value in attributes.items() if key.startswith(prefix)
    }


def _set(study_or_trial: Study | Trial, key: str, value: Any) -> None:
    _check(study_or_trial)
    if isinstance(study_or_trial, FrozenTrial):
        raise _ended(study_or_trial)
    value = value.item() if hasattr(value, "item") and not hasattr(value, "__len__") else value
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:
        raise ArtifactLogError(
            f"{key!r} of {_title(study_or_trial)} has to be something that JSON can hold: {error}. "
            "Keep anything else with log_artifact."
        ) from None
    try:
        study_or_trial.set_user_attr(key, value)
    except UpdateFinishedTrialError:
        raise _ended(study_or_trial) from None


def _check_running(trial: Trial) -> None:
    """Know before anything is written."""
    if isinstance(trial, FrozenTrial):
        raise _ended(trial)
    states = trial.study.get_trials(deepcopy=False)
    if states[trial.number].state.is_finished():
        raise _ended(trial)


def _ended(trial: Study | Trial | FrozenTrial) -> ReadOnlyError:
    return ReadOnlyError(
        f"{_title(trial)} has ended, or is a copy that Optuna has handed out, and can only be "
        "read. Log while the trial runs, or to the study."
    )


def _title(study_or_trial: Study | Trial | FrozenTrial) -> str:
    if isinstance(study_or_trial, Study):
        return f"The study {study_or_trial.study_name!r}"
    return f"Trial {study_or_trial.number}"
