"""Stores of the bytes of artifacts, for each kind of filesystem; private to `blocks`."""

from __future__ import annotations

from prefect_optuna.blocks.stores.opening import REMOTE, open_store
from prefect_optuna.blocks.stores.protocol import ArtifactInfo, ArtifactStore

__all__ = ["REMOTE", "ArtifactInfo", "ArtifactStore", "open_store"]
