"""Errors of a scope: each names the key."""

from __future__ import annotations

from prefect_optuna.blocks.errors import PrefectOptunaError


class InvalidParameterError(PrefectOptunaError, TypeError):
    """The given parameter is none: its key is no text, or it is used in place of its value."""


class MissingParameterError(PrefectOptunaError, KeyError):
    """A parameter that has no default is in no scope."""

    def __str__(self) -> str:
        """The message as it is: `KeyError` would show it in quotes."""
        return str(self.args[0])


class ConfigFileError(PrefectOptunaError, ValueError):
    """A file of parameters cannot be read, or refers to itself."""


class ConfigFileNotFoundError(ConfigFileError, FileNotFoundError):
    """A file of parameters is not there."""


class UnreadParameterWarning(UserWarning):
    """A parameter was set and never read: perhaps its name is misspelt."""
