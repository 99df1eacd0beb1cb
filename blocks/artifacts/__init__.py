"""Artifacts: handlers that turn values into files, and repositories that keep every version.

The names are imported when they are first used: what keeps studies needs no artifacts.
"""

import typing

from prefect_optuna._lazy import lazy_names

if typing.TYPE_CHECKING:
    from prefect_optuna.blocks.artifacts.artifact import Artifact, decode, encode
    from prefect_optuna.blocks.artifacts.figure_artifacts import (
        HTMLArtifact,
        PNGArtifact,
        SVGArtifact,
    )
    from prefect_optuna.blocks.artifacts.pages import (
        ArtifactPage,
        artifact_key,
        artifact_markdown,
        publish_artifact,
    )
    from prefect_optuna.blocks.artifacts.records import ArtifactVersion
    from prefect_optuna.blocks.artifacts.registry import (
        find_handler,
        handler_for,
        handlers,
        register_handler,
    )
    from prefect_optuna.blocks.artifacts.repository import ArtifactRepository, Garbage, Verification
    from prefect_optuna.blocks.artifacts.table_artifacts import (
        ArrowArtifact,
        CSVArtifact,
        NPYArtifact,
        NPZArtifact,
        ParquetArtifact,
    )
    from prefect_optuna.blocks.artifacts.trial_log import (
        load_artifact,
        log_artifact,
        log_metric,
        log_parameter,
        logged_metrics,
        logged_parameters,
        logged_tags,
        tag,
    )
    from prefect_optuna.blocks.artifacts.value_artifacts import (
        JoblibArtifact,
        JSONArtifact,
        MarkdownArtifact,
        PickleArtifact,
        PydanticArtifact,
        TextArtifact,
        YAMLArtifact,
    )
    from prefect_optuna.errors import OutputOnlyWarning

__all__ = [
    "ArrowArtifact",
    "Artifact",
    "ArtifactPage",
    "ArtifactRepository",
    "ArtifactVersion",
    "CSVArtifact",
    "Garbage",
    "HTMLArtifact",
    "JSONArtifact",
    "JoblibArtifact",
    "MarkdownArtifact",
    "NPYArtifact",
    "NPZArtifact",
    "OutputOnlyWarning",
    "PNGArtifact",
    "ParquetArtifact",
    "PickleArtifact",
    "PydanticArtifact",
    "SVGArtifact",
    "TextArtifact",
    "Verification",
    "YAMLArtifact",
    "artifact_key",
    "artifact_markdown",
    "decode",
    "encode",
    "find_handler",
    "handler_for",
    "handlers",
    "load_artifact",
    "log_artifact",
    "log_metric",
    "log_parameter",
    "logged_metrics",
    "logged_parameters",
    "logged_tags",
    "publish_artifact",
    "register_handler",
    "tag",
]

_MODULE_OF = {
    "ArrowArtifact": "blocks.artifacts.table_artifacts",
    "Artifact": "blocks.artifacts.artifact",
    "ArtifactPage": "blocks.artifacts.pages",
    "ArtifactRepository": "blocks.artifacts.repository",
    "ArtifactVersion": "blocks.artifacts.records",
    "CSVArtifact": "blocks.artifacts.table_artifacts",
    "Garbage": "blocks.artifacts.repository",
    "HTMLArtifact": "blocks.artifacts.figure_artifacts",
    "JSONArtifact": "blocks.artifacts.value_artifacts",
    "JoblibArtifact": "blocks.artifacts.value_artifacts",
    "MarkdownArtifact": "blocks.artifacts.value_artifacts",
    "NPYArtifact": "blocks.artifacts.table_artifacts",
    "NPZArtifact": "blocks.artifacts.table_artifacts",
    "OutputOnlyWarning": "errors",
    "PNGArtifact": "blocks.artifacts.figure_artifacts",
    "ParquetArtifact": "blocks.artifacts.table_artifacts",
    "PickleArtifact": "blocks.artifacts.value_artifacts",
    "PydanticArtifact": "blocks.artifacts.value_artifacts",
    "SVGArtifact": "blocks.artifacts.figure_artifacts",
    "TextArtifact": "blocks.artifacts.value_artifacts",
    "Verification": "blocks.artifacts.repository",
    "YAMLArtifact": "blocks.artifacts.value_artifacts",
    "artifact_key": "blocks.artifacts.pages",
    "artifact_markdown": "blocks.artifacts.pages",
    "decode": "blocks.artifacts.artifact",
    "encode": "blocks.artifacts.artifact",
    "find_handler": "blocks.artifacts.registry",
    "handler_for": "blocks.artifacts.registry",
    "handlers": "blocks.artifacts.registry",
    "load_artifact": "blocks.artifacts.trial_log",
    "log_artifact": "blocks.artifacts.trial_log",
    "log_metric": "blocks.artifacts.trial_log",
    "log_parameter": "blocks.artifacts.trial_log",
    "logged_metrics": "blocks.artifacts.trial_log",
    "logged_parameters": "blocks.artifacts.trial_log",
    "logged_tags": "blocks.artifacts.trial_log",
    "publish_artifact": "blocks.artifacts.pages",
    "register_handler": "blocks.artifacts.registry",
    "tag": "blocks.artifacts.trial_log",
}

lazy_names(__name__, _MODULE_OF)
