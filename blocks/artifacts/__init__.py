"""Artifacts: handlers that turn values into files, and repositories that keep every version."""

from prefect_optuna.blocks.artifacts.array_artifacts import NPYArtifact, NPZArtifact
from prefect_optuna.blocks.artifacts.artifact import Artifact, decode, encode
from prefect_optuna.blocks.artifacts.faces import (
    ArtifactFace,
    artifact_key,
    artifact_markdown,
    publish_artifact,
)
from prefect_optuna.blocks.artifacts.figure_artifacts import HTMLArtifact, PNGArtifact, SVGArtifact
from prefect_optuna.blocks.artifacts.json_artifact import JSONArtifact
from prefect_optuna.blocks.artifacts.model_artifact import PydanticArtifact
from prefect_optuna.blocks.artifacts.pickle_artifacts import JoblibArtifact, PickleArtifact
from prefect_optuna.blocks.artifacts.records import ArtifactVersion
from prefect_optuna.blocks.artifacts.registry import (
    HandlerImportError,
    InvalidHandlerError,
    find_handler,
    handler_for,
    handlers,
    register_handler,
)
from prefect_optuna.blocks.artifacts.repository import ArtifactRepository, OutputOnlyWarning
from prefect_optuna.blocks.artifacts.retention import Garbage
from prefect_optuna.blocks.artifacts.table_artifacts import (
    ArrowArtifact,
    CSVArtifact,
    ParquetArtifact,
)
from prefect_optuna.blocks.artifacts.text_artifacts import MarkdownArtifact, TextArtifact
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
from prefect_optuna.blocks.artifacts.verification import Verification
from prefect_optuna.blocks.artifacts.yaml_artifact import YAMLArtifact

__all__ = [
    "ArrowArtifact",
    "Artifact",
    "ArtifactFace",
    "ArtifactRepository",
    "ArtifactVersion",
    "CSVArtifact",
    "Garbage",
    "HTMLArtifact",
    "HandlerImportError",
    "InvalidHandlerError",
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
