"""How artifacts look in Prefect's UI: what the page says, and that it stays small and harmless.

Screenshots are kept in `.cache/screenshots/`: look at them after changing the pages.
"""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import logging
import math
import re
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import certifi
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from matplotlib.figure import Figure
from PIL import Image
from plotly.graph_objects import Figure as PlotlyFigure
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import Artifact as PrefectArtifact
from prefect.client.schemas.sorting import ArtifactSort
from prefect.settings import (
    PREFECT_API_SSL_CERT_FILE,
    PREFECT_API_TLS_INSECURE_SKIP_VERIFY,
    PREFECT_API_URL,
    temporary_settings,
)
from prefect.types._datetime import now
from servers import free_port

from prefect_optuna.blocks import ArtifactLogError
from prefect_optuna.blocks._secrets import without_secrets
from prefect_optuna.blocks.artifacts import PNGArtifact, encode
from prefect_optuna.blocks.artifacts.pages import (
    artifact_key,
    artifact_markdown,
    code,
    escape,
    fenced,
    publish_artifact,
)
from prefect_optuna.blocks.settings import quick_client
from prefect_optuna.errors import UnknownHandlerError

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from prefect_optuna.deployments import LocalServer

SCREENSHOTS = Path(__file__).parents[3] / ".cache" / "screenshots"
HOSTILE = 'a|b `c` <img src=x onerror="document.title=1"> *d* [e](javascript:f) $g$\n# h ```'


def noise(pixels: int) -> Figure:
    """A figure whose picture does not compress."""
    figure = Figure(figsize=(7, 5), dpi=200)
    figure.subplots().imshow(np.random.default_rng(0).random((pixels, pixels)))
    return figure


def series() -> Figure:
    figure = Figure(figsize=(7, 3))
    axes = figure.subplots()
    axes.plot([1900, 1901, 1902], [30, 47.2, 70.2], label="hare")
    axes.legend()
    return figure


def table(rows: int = 3) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "year": range(1900, 1900 + rows),
            "hare": [30.123456789, math.nan, math.inf] + [1e-300] * (rows - 3),
            "note": [HOSTILE, None, "µ"] + ["x" * 100] * (rows - 3),
        }
    )


def rows_of(markdown: str) -> list[list[str]]:
    lines = [line for line in markdown.splitlines() if line.startswith("| ")]
    return [re.split(r"(?<!\\)\|", line[2:-2]) for line in lines]


def picture_in(markdown: str) -> bytes:
    (found,) = re.findall(r"!\[\]\(data:image/png;base64,([^)]*)\)", markdown)
    return base64.b64decode(found)


PLAIN = st.from_regex(r"[a-z0-9]{1,3}(-[a-z0-9]{1,3}){0,2}", fullmatch=True)
NAMES = PLAIN | st.text("ab -.A", max_size=5) | st.text(max_size=5) | st.just("cca25775")


@settings(max_examples=100)
@given(st.tuples(st.none() | NAMES, NAMES), st.tuples(st.none() | NAMES, NAMES))
def test_two_artifacts_never_share_a_key(a: Any, b: Any) -> None:
    assert (artifact_key(*a) == artifact_key(*b)) == (a == b)
    assert re.fullmatch(r"[a-z0-9-]+", artifact_key(*a))


def test_a_key_says_what_it_is_where_the_names_allow_it() -> None:
    assert artifact_key("lynx-hare", "best-params") == "study-lynx-hare--best-params"
    assert artifact_key(None, "best-params") == "artifact-best-params"
    close = ["a b", "a-b", "A-b", "a_b", "a--b", "a-b-", "ä-b", "", "a" * 300, "a" * 301]
    keys = [artifact_key(study, name) for study in (None, *close) for name in close]
    assert len(set(keys)) == len(keys)
    assert max(map(len, keys)) < 160


def test_a_key_is_never_that_of_a_report() -> None:
    from prefect_optuna.flows.report import report_key

    for study, name in itertools.product(("lynx-hare", "Lynx & Hare"), ("cca25775", "a", "")):
        reports = {report_key(s) for s in (study, f"{study}-{name}", f"{study}--{name}")}
        reports.add("study-lynx-hare--cca25775")
        assert artifact_key(study, name) not in reports


def test_a_page_says_what_it_is_where_it_is_and_how_to_load_it() -> None:
    array = np.zeros((3, 1000))
    content = encode_of(array)
    markdown, description = artifact_markdown(
        "weights",
        array,
        version=12,
        location="s3://key:secret@bucket/objects/ab/abc.npy?X-Amz-Signature=def#frag",
        load_hint='ArtifactRepository("s3://key:secret@bucket?token=x").load("weights", 12)',
    )
    assert markdown == (
        "# weights\n\n"
        "array of float64, 3 x 1,000, written by `npy`, 24.1 KB, version 12\n\n"
        "## Load it\n\n"
        '```python\nArtifactRepository("s3://bucket").load("weights", 12)\n```\n\n'
        f"- SHA-256 `{hashlib.sha256(content).hexdigest()}`\n"
        "- in `s3://bucket/objects/ab/abc.npy`\n"
    )
    assert description == "**array of float64, 3 x 1,000**\n\nnpy, 24.1 KB, version 12\n"


def encode_of(array: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_what_is_known_is_taken_and_not_made_again() -> None:
    class Unwritable:
        pass

    markdown, card = artifact_markdown(
        "m", Unwritable(), "pickle", content=b"x", size=5_000_000_000, sha256="abc"
    )
    assert "written by `pickle`, 5 GB\n" in markdown
    assert "`abc`" in markdown
    assert "pickle, 5 GB" in card


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (1, "1 byte"), (999, "999 bytes"), (1000, "1 KB"), (999_600, "1 MB")],
)
def test_sizes_are_as_people_say_them(size: int, text: str) -> None:
    assert text in artifact_markdown("a", 1, size=size).description


@pytest.mark.parametrize("convert", [lambda t: t, pl.from_pandas, pa.Table.from_pandas])
def test_a_table_is_shown_as_one(convert: Any) -> None:
    markdown, description = artifact_markdown("series", convert(table()))
    heading, line, *body = rows_of(markdown)
    assert [cell.strip() for cell in heading] == ["year", "hare", "note"]
    assert [cell.strip() for cell in line] == ["---:", "---:", "---"]
    assert [row[0].strip() for row in body] == ["1900", "1901", "1902"]
    assert [row[1].strip() for row in body][::2] == ["30.123", "∞"]
    assert body[1][1].strip() in ("nan", "")
    assert "table, 3 x 3, written by" in markdown
    assert "table, 3 x 3" in description
    assert "The first" not in markdown


def test_of_a_large_table_the_first_rows_and_columns_are_shown_and_the_rest_is_counted() -> None:
    wide = pd.DataFrame(np.zeros((1234, 50)), columns=[f"column {i}" for i in range(50)])
    markdown, _ = artifact_markdown("wide", wide)
    rows = rows_of(markdown)
    assert len(rows) == 22
    assert f"The first 20 of 1,234 rows and {len(rows[0])} of 50 columns." in markdown
    assert 3 < len(rows[0]) < 10
    assert len(markdown) < 10_000


def test_a_pandas_index_is_shown_where_it_says_something() -> None:
    frame = pd.DataFrame({"x": [1]}, index=pd.Index(["lynx"], name="who"))
    assert [cell.strip() for cell in rows_of(artifact_markdown("t", frame)[0])[0]] == ["who", "x"]
    times = pd.DataFrame({"x": [1]}, index=[pd.Timestamp("1900-01-01")])
    assert "1900\\-01\\-01 00\\:00\\:00" in artifact_markdown("t", times)[0]
    assert rows_of(artifact_markdown("t", pd.DataFrame())[0]) == []
    twins = pd.DataFrame([[1, 2]], columns=["a", "a"])
    assert len(rows_of(artifact_markdown("t", twins, "text", content=b"")[0])[0]) == 2


def test_cells_are_text_in_one_line_and_nothing_else() -> None:
    odd = [HOSTILE, b"\x00", ["a"] * 1000, {"k": None}, datetime(2025, 1, 20, tzinfo=UTC)]
    frame = pd.DataFrame({HOSTILE: odd, "x": ["y" * 10_000_000] * 5})
    markdown, _ = artifact_markdown("odd", frame, "text", content=b"", sha256="0")
    rows = rows_of(markdown)
    assert {len(row) for row in rows} == {2}
    assert "<" not in markdown
    assert max(len(cell) for row in rows for cell in row) < 80


@pytest.mark.parametrize("value", ["a note", "x" * 10_000, HOSTILE, "", "a\x00\x1b[31mb\r\n\tc"])
@pytest.mark.parametrize("alias", ["text", "markdown"])
def test_text_is_shown_as_text_and_cut_at_a_stated_length(value: str, alias: str) -> None:
    markdown, _ = artifact_markdown("note", value, alias)
    fence = re.search(r"\n(`{3,})(markdown)?\n(.*?)\n\1\n", markdown + "\n", re.S)
    assert fence
    visible = (
        value.replace("\x00", r"\x00")
        .replace("\x1b", r"\x1b")
        .replace("\r", "")
        .replace("\t", " " * 4)
    )
    assert fence[3] == visible[:4000]
    assert ("The first 4,000 of 10,000 letters." in markdown) is (len(value) > 4000)


def test_json_and_yaml_are_shown_as_people_read_them() -> None:
    value = {"x": [1, math.inf], "µ": None}
    assert '```json\n{\n  "x": [\n    1,\n' in artifact_markdown("p", value)[0]
    assert '"µ": null' in artifact_markdown("p", value)[0]
    assert "```yaml\nx:\n- 1\n- .inf\n" in artifact_markdown("p", value, "yaml")[0]


def test_a_picture_is_shown_with_a_small_copy_in_the_card() -> None:
    content = encode(PNGArtifact, series())
    markdown, description = artifact_markdown("plot", series())
    assert picture_in(markdown) == content
    assert Image.open(io.BytesIO(picture_in(description))).width == 280
    assert "matplotlib figure, written by `png`" in markdown


@pytest.mark.parametrize("pixels", [200, 2000])
def test_a_large_picture_is_scaled_down(pixels: int) -> None:
    content = encode(PNGArtifact, noise(pixels))
    assert len(content) > 100_000
    markdown, description = artifact_markdown("plot", content, "png")
    small = Image.open(io.BytesIO(picture_in(markdown)))
    assert 200 < small.width <= 1400
    assert abs(small.height / small.width - 5 / 7) < 0.01
    (address,) = re.findall(r"\((data:[^)]*)\)", markdown)
    assert 30_000 < len(address) <= 100_000
    assert len(description) < 15_000


def test_a_small_svg_is_a_picture_and_a_large_one_is_not() -> None:
    assert "![](data:image/svg+xml;base64," in artifact_markdown("plot", series(), "svg")[0]
    figure = Figure()
    figure.subplots().plot(np.random.default_rng(0).random(5000), "o")
    large = artifact_markdown("plot", figure, "svg")[0]
    assert "data:" not in large
    assert "SHA-256" in large


def test_a_plotly_page_is_not_put_into_the_page() -> None:
    markdown, description = artifact_markdown("plot", PlotlyFigure(), load_hint="load('plot')")
    assert re.search(r"plotly figure, written by `html`, 4|5\.\d+ MB", markdown)
    assert "load('plot')" in markdown
    assert len(markdown) + len(description) < 1000


def test_a_picture_that_is_none_is_left_out() -> None:
    broken = b"\x89PNG\r\n\x1a\n" + b"x" * 200_000
    assert "data:" not in artifact_markdown("plot", broken, "png")[0]


def test_a_hostile_name_is_text() -> None:
    frame = pd.DataFrame({HOSTILE: [HOSTILE]})
    for value in (HOSTILE, frame):
        for text in artifact_markdown(HOSTILE, value, location=HOSTILE, load_hint=HOSTILE):
            html = MarkdownIt().enable("table").render(text)
            assert not re.search(r"<(img|a|em)\b", html)
            assert html.count("<h1") <= 1
            assert html.count("<table") <= 1


@pytest.mark.parametrize(
    ("url", "bare"),
    [
        ("s3://key:secret@bucket/a?sig=x", "s3://bucket/a"),
        ("https://u@host:80/a/b.json#x", "https://host:80/a/b.json"),
        ("s3://key:se/cr@et@bucket/a", "s3://bucket/a"),
        ("postgresql://u:p%40@[::1]:5432/db", "postgresql://[::1]:5432/db"),
        ("simplecache::s3://k:s@bucket/x?y", "simplecache::s3://bucket/x"),
        ("zip://a.csv?q::s3://k:s@bucket/x", "zip://a.csv::s3://bucket/x"),
        ("redis://u:/secret@h/0", "redis://h/0"),
        ("redis://u:123/secret@h/0", "redis://h/0"),
        ("postgresql://u:#secret@h/db", "postgresql://h/db"),
        ("s3://bucket/user@example.org/a", "s3://bucket/user@example.org/a"),
        ("memory://name/a", "memory://name/a"),
        ("/data/a?b#c", "/data/a?b#c"),
        ("f('abfs://k:s@c/a', 'gs://k:s@c/b')", "f('abfs://c/a', 'gs://c/b')"),
    ],
)
def test_no_url_has_a_secret(url: str, bare: str) -> None:
    assert without_secrets(url) == bare


@given(st.text("ab`\n~", max_size=12))
def test_code_and_fences_hold_any_text(text: str) -> None:
    fence, *_, end = fenced(text).split("\n")
    assert fence == end
    assert fence not in text
    assert fenced(text) == f"{fence}\n{text}\n{fence}"
    assert "\n" not in code(text)
    assert escape(text).count("\\`") == text.count("`")


def test_a_value_that_cannot_be_written_is_an_error() -> None:
    with pytest.raises(UnknownHandlerError):
        artifact_markdown("a", object())
    with pytest.raises(UnknownHandlerError):
        artifact_markdown("a", 1, "zz")
    with pytest.raises(ArtifactLogError):
        artifact_markdown("a", {"x": object()})


def published(key: str) -> list[PrefectArtifact]:
    with get_client(sync_client=True) as client:
        return client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])),
            sort=ArtifactSort.CREATED_DESC,
        )


@pytest.mark.usefixtures("prefect_server")
def test_versions_form_a_timeline_under_one_key_and_belong_to_their_runs() -> None:
    started = now("UTC")

    @task
    def in_a_task() -> UUID | None:
        return publish_artifact("faces", "loss curve", {"step": 1}, version=1)

    @flow
    def in_a_flow() -> list[UUID | None]:
        return [publish_artifact("faces", "loss curve", {"step": 0}, version=0), in_a_task()]

    ids = [*in_a_flow(), publish_artifact("faces", "loss curve", {"step": 2}, version=2)]
    publish_artifact("faces", "loss-curve", "another artifact")
    key = artifact_key("faces", "loss curve")
    newest, second, first = published(key)
    assert [first.id, second.id, newest.id] == ids
    assert first.flow_run_id is not None
    assert first.task_run_id is None
    assert second.flow_run_id == first.flow_run_id
    assert second.task_run_id is not None
    assert (newest.flow_run_id, newest.task_run_id) == (None, None)
    assert '"step": 2' in str(newest.data)
    assert newest.created
    assert newest.created >= started
    assert len(published("study-faces--loss-curve")) == 1
    with get_client(sync_client=True) as client:
        collections = client.request("POST", "/artifacts/latest/filter", json={}).json()
    assert [one["latest_id"] for one in collections if one["key"] == key] == [str(newest.id)]


def test_a_server_that_is_away_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    away = {"api.url": f"http://127.0.0.1:{free_port()}/api", "client.max_retries": 0}
    logger = logging.getLogger("test.faces")
    with temporary_settings(away):
        assert publish_artifact("faces", "away", 1, logger=logger) is None
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "'study-faces--away'" in record.getMessage()


@pytest.fixture(scope="module")
def pages(prefect_server: LocalServer) -> dict[str, str]:
    """The addresses of the pages of some artifacts."""
    hint = 'repository = ArtifactRepository("s3://bucket")\nvalue = repository.load("series")'
    common: dict[str, Any] = {"location": "s3://bucket/objects/ab.parquet", "load_hint": hint}
    ids = {
        "table": publish_artifact("faces", "table", table(300), version=1, **common),
        "picture": publish_artifact("faces", "picture", noise(200), version=3, **common),
        "hostile": publish_artifact("faces", HOSTILE, HOSTILE, location=HOSTILE, load_hint=HOSTILE),
    }
    return {name: f"{prefect_server.url}/v2/artifacts/artifact/{id_}" for name, id_ in ids.items()}


def test_certificates_are_read_once_and_as_prefect_s_settings_say(tmp_path: Path) -> None:
    def context_of(client: Any) -> ssl.SSLContext:
        return client._client._transport._pool._ssl_context

    url = {PREFECT_API_URL: f"https://127.0.0.1:{free_port()}/api"}
    with temporary_settings(url):
        first, second = quick_client(), quick_client()
        assert context_of(first) is context_of(second)
        assert context_of(first).verify_mode is ssl.CERT_REQUIRED
        assert context_of(first).check_hostname
        with temporary_settings({PREFECT_API_TLS_INSECURE_SKIP_VERIFY: True}):
            assert context_of(quick_client()).verify_mode is ssl.CERT_NONE
        own = tmp_path / "own.pem"
        own.write_text(Path(certifi.where()).read_text(encoding="utf-8").split("\n\n")[0])
        with temporary_settings({PREFECT_API_SSL_CERT_FILE: str(own)}):
            mine, prefects = context_of(quick_client()), context_of(get_client(sync_client=True))
            assert mine.get_ca_certs() == prefects.get_ca_certs()
            assert len(mine.get_ca_certs()) < len(context_of(first).get_ca_certs())
            own.write_text(Path(certifi.where()).read_text(encoding="utf-8"))
            assert len(mine.get_ca_certs()) < len(context_of(quick_client()).get_ca_certs())
        assert quick_client()._client.timeout.read == 10.0


@pytest.mark.slow
def test_the_pages_in_a_browser(pages: dict[str, str], page: Page) -> None:
    page.set_viewport_size({"width": 1280, "height": 1500})
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))

    page.goto(pages["table"])
    page.locator("h1", has_text="table").wait_for()
    assert page.locator("table tbody tr").count() == 20
    assert page.get_by_role("cell", name="∞").is_visible()
    assert page.get_by_text("The first 20 of 300 rows.").is_visible()
    page.screenshot(path=SCREENSHOTS / "artifact-table.png")

    page.goto(pages["picture"])
    page.locator("h1", has_text="picture").wait_for()
    page.wait_for_function(
        "[...document.querySelectorAll('img[src]')].some(i => i.clientWidth > 400)"
    )
    page.screenshot(path=SCREENSHOTS / "artifact-picture.png")

    page.goto(pages["hostile"])
    page.get_by_text("SHA-256").first.wait_for()
    assert page.get_by_role("heading", name="Load it").is_visible()
    assert page.locator("[href^='javascript'], img[src='x']").count() == 0
    assert page.locator("h1", has_text=re.compile("^ ?h")).count() == 0
    page.screenshot(path=SCREENSHOTS / "artifact-hostile.png")

    assert page.title() != "1"
    assert errors == []
