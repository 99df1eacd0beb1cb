"""Text as it is: plain, and Markdown."""

from __future__ import annotations

from typing import IO, Any, ClassVar

from prefect_optuna.blocks.artifacts.artifact import Artifact, refuse_options, type_name
from prefect_optuna.errors import ArtifactLogError


class TextArtifact(Artifact):
    r"""Writes text in UTF-8, to the letter: line ends stay as they are.

    Example:
        >>> from prefect_optuna.blocks.artifacts import TextArtifact, decode, encode
        >>> decode(TextArtifact, encode(TextArtifact, "µ\r\n"))
        'µ\r\n'
    """

    __slots__ = ()
    alias: ClassVar[str] = "text"
    suffix: ClassVar[str] = "txt"
    binary: ClassVar[bool] = False

    @classmethod
    def takes(cls, value: Any) -> bool:
        """Take text."""
        return type(value) is str

    @classmethod
    def write(cls, obj: Any, buf: IO[str], **writer_kwargs: Any) -> None:
        """Write text.

        Args:
            obj: a string.
            buf: a text file.
            **writer_kwargs: there are none.

        Raises:
            ArtifactLogError: it is no string.
        """
        refuse_options(writer_kwargs)
        if not isinstance(obj, str):
            raise ArtifactLogError(
                f"The artifact handler {cls.alias!r} expects a string, and found "
                f"{type_name(obj)}. Pass str(...), or leave the handler out to get one that fits."
            )
        buf.write(obj)

    @classmethod
    def read(cls, buf: IO[str], **reader_kwargs: Any) -> str:
        """Read text.

        Args:
            buf: a text file.
            **reader_kwargs: there are none.

        Returns:
            All of it.
        """
        refuse_options(reader_kwargs)
        return buf.read()


class MarkdownArtifact(TextArtifact):
    """Writes Markdown, which is text; only the suffix is another, and it is never guessed.

    Example:
        >>> from prefect_optuna.blocks.artifacts import find_handler
        >>> find_handler("markdown").suffix
        'md'
    """

    __slots__ = ()
    alias: ClassVar[str] = "markdown"
    suffix: ClassVar[str] = "md"

    @classmethod
    def takes(cls, value: Any) -> bool:
        """Return False: a text is Markdown only if it is logged as such."""
        return False
