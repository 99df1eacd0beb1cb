"""Figures as pictures and pages, for people: they are not read back as figures."""

from __future__ import annotations

import sys
import threading
from typing import IO, Any, ClassVar, cast

from prefect_optuna.blocks.artifacts.artifact import Artifact, refuse_options, type_name
from prefect_optuna.errors import ArtifactLogError

_PNG = b"\x89PNG\r\n\x1a\n"


class PNGArtifact(Artifact):
    r"""Writes a Matplotlib figure as a PNG picture. The default for Matplotlib figures.

    Reading gives the bytes of the picture, which can be written again as they are.

    Example:
        >>> from matplotlib.figure import Figure
        >>> from prefect_optuna.blocks.artifacts import PNGArtifact, encode
        >>> encode(PNGArtifact, Figure(), dpi=50)[:4]
        b'\x89PNG'
    """

    __slots__ = ()
    alias: ClassVar[str] = "png"
    suffix: ClassVar[str] = "png"
    binary: ClassVar[bool] = True
    output_only: ClassVar[bool] = True

    @classmethod
    def takes(cls, value: Any) -> bool:
        """Take Matplotlib figures."""
        return _is_matplotlib(value)

    @classmethod
    def write(cls, obj: Any, buf: IO[bytes], **writer_kwargs: Any) -> None:
        """Draw a figure.

        Args:
            obj: a `matplotlib.figure.Figure`, or the bytes of a PNG picture.
            buf: a binary file.
            **writer_kwargs: arguments of `Figure.savefig`, such as `dpi`.

        Raises:
            ArtifactLogError: it is neither.
        """
        if isinstance(obj, bytes) and obj.startswith(_PNG):
            refuse_options(writer_kwargs)
            buf.write(obj)
            return
        figure = _matplotlib(obj, cls, "the bytes of a PNG picture")
        # Without the version of Matplotlib, so that the same picture has the same bytes.
        figure.savefig(buf, format="png", **{"metadata": {"Software": None}, **writer_kwargs})

    @classmethod
    def read(cls, buf: IO[bytes], **reader_kwargs: Any) -> bytes:
        """Read the picture.

        Args:
            buf: a binary file.
            **reader_kwargs: there are none.

        Returns:
            Its bytes.
        """
        refuse_options(reader_kwargs)
        content = buf.read()
        if not content.startswith(_PNG):
            raise ValueError("this is no PNG picture.")
        return content


class SVGArtifact(Artifact):
    """Writes a Matplotlib figure as an SVG picture, which stays sharp at any size.

    Reading gives the text of the picture.

    Example:
        >>> from matplotlib.figure import Figure
        >>> from prefect_optuna.blocks.artifacts import SVGArtifact, encode
        >>> b"<svg" in encode(SVGArtifact, Figure())
        True
    """

    __slots__ = ()
    alias: ClassVar[str] = "svg"
    suffix: ClassVar[str] = "svg"
    binary: ClassVar[bool] = False
    output_only: ClassVar[bool] = True

    # Matplotlib makes the ids in a picture of a setting that is global to the process.
    _hashing: ClassVar[threading.Lock] = threading.Lock()

    @classmethod
    def write(cls, obj: Any, buf: IO[str], **writer_kwargs: Any) -> None:
        """Draw a figure.

        Args:
            obj: a `matplotlib.figure.Figure`, or the text of an SVG picture.
            buf: a text file.
            **writer_kwargs: arguments of `Figure.savefig`, such as `transparent`.

        Raises:
            ArtifactLogError: it is neither.
        """
        if isinstance(obj, str) and "<svg" in obj:
            refuse_options(writer_kwargs)
            buf.write(obj)
            return
        figure = _matplotlib(obj, cls, "the text of an SVG picture")
        import matplotlib as mpl

        # With random ids and the date, no picture would be the same twice.
        with cls._hashing, mpl.rc_context({"svg.hashsalt": "prefect-optuna"}):
            figure.savefig(buf, format="svg", **{"metadata": {"Date": None}, **writer_kwargs})

    @classmethod
    def read(cls, buf: IO[str], **reader_kwargs: Any) -> str:
        """Read the picture.

        Args:
            buf: a text file.
            **reader_kwargs: there are none.

        Returns:
            Its text.
        """
        return _read_text(buf, reader_kwargs, "<svg", "</svg>")


class HTMLArtifact(Artifact):
    """Writes a plotly figure as a page that works by itself. The default for plotly figures.

    The page holds plotly's script, some 4 to 5 MB, and so opens without a network and in years.
    With `include_plotlyjs="cdn"` it is small, and loads the script from the internet. Reading
    gives the text of the page.

    Example:
        >>> from prefect_optuna.blocks.artifacts import HTMLArtifact, decode, encode
        >>> decode(HTMLArtifact, encode(HTMLArtifact, "<html></html>"))
        '<html></html>'
    """

    __slots__ = ()
    alias: ClassVar[str] = "html"
    suffix: ClassVar[str] = "html"
    binary: ClassVar[bool] = False
    output_only: ClassVar[bool] = True

    @classmethod
    def takes(cls, value: Any) -> bool:
        """Take plotly figures."""
        return _is_plotly(value)

    @classmethod
    def write(cls, obj: Any, buf: IO[str], **writer_kwargs: Any) -> None:
        """Write a page.

        Args:
            obj: a `plotly.graph_objects.Figure`, or the text of an HTML page.
            buf: a text file.
            **writer_kwargs: arguments of `Figure.to_html`, such as `include_plotlyjs`.

        Raises:
            ArtifactLogError: it is neither.
        """
        if isinstance(obj, str) and "<html" in obj.lower():
            refuse_options(writer_kwargs)
            buf.write(obj)
            return
        if not _is_plotly(obj):
            raise ArtifactLogError(
                "The artifact handler 'html' expects a plotly figure or the text of an HTML page, "
                f"and found {type_name(obj)}. For a Matplotlib figure use 'png' or 'svg'."
            )
        # By default the id is random, and no page would be the same twice.
        figure: Any = obj
        buf.write(figure.to_html(**{"div_id": "figure", **writer_kwargs}))

    @classmethod
    def read(cls, buf: IO[str], **reader_kwargs: Any) -> str:
        """Read the page.

        Args:
            buf: a text file.
            **reader_kwargs: there are none.

        Returns:
            Its text.
        """
        return _read_text(buf, reader_kwargs, "<html", "</html>")


# A value can only be a figure of a library that is imported.
def _is_matplotlib(value: Any) -> bool:
    module = cast("Any", sys.modules.get("matplotlib.figure"))
    return module is not None and isinstance(value, module.Figure)


def _is_plotly(value: Any) -> bool:
    module = cast("Any", sys.modules.get("plotly.basedatatypes"))
    return module is not None and isinstance(value, module.BaseFigure)


def _matplotlib(value: Any, handler: type[Artifact], otherwise: str) -> Any:
    if _is_matplotlib(value):
        return value
    figure = getattr(value, "figure", None)
    raise ArtifactLogError(
        f"The artifact handler {handler.alias!r} expects a matplotlib.figure.Figure or "
        f"{otherwise}, and found {type_name(value)}. "
        + (
            "Pass its .figure."
            if _is_matplotlib(figure)
            else "For a plotly figure use the handler 'html'."
        )
    )


def _read_text(buf: IO[str], options: dict[str, Any], start: str, end: str) -> str:
    refuse_options(options)
    text = buf.read()
    if start not in text.lower() or not text.rstrip().lower().endswith(end):
        raise ValueError(f"this has no {start}> that ends with {end}.")
    return text
