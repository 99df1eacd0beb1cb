"""Errors as Prefect may know them: it puts each into its log and onto its server.

The message of a driver may quote the URL that it was given, password and all. Whoever has called a
flow gets the error itself; Prefect gets one that says the same without secrets.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from prefect_optuna.blocks._secrets import error_words, is_public


class PublicError(Exception):
    """An error whose message, or that of its cause, had a secret in it."""

    def __init__(self, message: str, original: BaseException | None = None) -> None:
        super().__init__(message)
        self.original = original

    def __reduce__(self) -> tuple[type[PublicError], tuple[str]]:
        # Prefect keeps the error of a flow run as a pickle in a file.
        return type(self), (str(self),)


@contextmanager
def public_errors() -> Generator[None]:
    """Raise a `PublicError` in the place of an error that would show a secret.

    Example:
        >>> from prefect_optuna.flows.public_errors import public_errors
        >>> with public_errors():
        ...     raise OSError("no answer from redis://me:hunter2@host/0")
        Traceback (most recent call last):
            ...
        prefect_optuna.flows.public_errors.PublicError: OSError: no answer from redis://host/0
    """
    try:
        yield
    except PublicError:
        raise
    except Exception as error:
        if is_public(error):
            raise
        public = PublicError(error_words(error), error)
        raise public.with_traceback(error.__traceback__) from None
