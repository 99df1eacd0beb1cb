"""CSV, Parquet and Arrow: tables of three libraries."""

from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prefect_optuna.blocks import ArtifactLoadError, ArtifactLogError
from prefect_optuna.blocks.artifacts import (
    ArrowArtifact,
    Artifact,
    CSVArtifact,
    ParquetArtifact,
    decode,
    encode,
    handler_for,
)
from prefect_optuna.errors import CorruptArtifactError

COLUMNS = {"year": [1900, 1901, 1902], "hare": [30.0, 47.2, None], "note": ["a", None, "µ,\n"]}
EXACT = pytest.mark.parametrize("handler", [ParquetArtifact, ArrowArtifact])


def arrow_table() -> pa.Table:
    return pa.table(COLUMNS).replace_schema_metadata({"unit": "thousands"})


def pandas_frame() -> pd.DataFrame:
    times = pd.date_range("1900", periods=3, freq="YS", tz="Europe/Berlin", name="when")
    frame = pd.DataFrame({"hare": [30.0, np.nan, 1e-300], "name": ["a", "b", "µ"]}, index=times)
    return frame.assign(kind=pd.Categorical(["x", "y", "x"]), n=pd.array([1, None, 3], "Int64"))


def polars_frame() -> pl.DataFrame:
    return pl.DataFrame(COLUMNS).with_columns(
        pl.Series("kind", ["x", "y", "x"], pl.Categorical), pl.Series("l", [[1], [], [2, 3]])
    )


@EXACT
def test_LZ8_a_pyarrow_table_comes_back_with_its_metadata(handler: type[Artifact]) -> None:
    again = decode(handler, encode(handler, arrow_table()))
    assert again.equals(arrow_table(), check_metadata=True)
    bare = decode(handler, encode(handler, pa.table({"x": [1]})))
    assert bare.schema.metadata is None


@EXACT
def test_a_table_comes_back_as_one_of_its_library(handler: type[Artifact]) -> None:
    pd.testing.assert_frame_equal(
        decode(handler, encode(handler, pandas_frame())), pandas_frame(), check_freq=False
    )
    again = decode(handler, encode(handler, polars_frame()))
    assert isinstance(again, pl.DataFrame)
    assert again.equals(polars_frame())
    assert again.schema == polars_frame().schema


@EXACT
def test_a_table_comes_back_as_one_of_another_library_where_asked(
    handler: type[Artifact],
) -> None:
    content = encode(handler, polars_frame())
    assert decode(handler, content, as_="arrow").column("year").to_pylist() == COLUMNS["year"]
    assert decode(handler, content, as_="pandas")["year"].tolist() == COLUMNS["year"]
    assert decode(handler, encode(handler, arrow_table()), as_="polars").height == 3


@EXACT
@pytest.mark.parametrize("make", [arrow_table, pandas_frame, polars_frame])
def test_the_same_table_gives_the_same_bytes(handler: type[Artifact], make: Any) -> None:
    assert encode(handler, make()) == encode(handler, make())


def test_a_parquet_file_of_somebody_else_comes_back_in_arrow() -> None:
    file = io.BytesIO()
    pq.write_table(arrow_table(), file)
    assert decode(ParquetArtifact, file.getvalue()).equals(arrow_table())
    assert decode(ParquetArtifact, file.getvalue(), columns=["year"]).column_names == ["year"]


def test_others_read_the_parquet_files() -> None:
    content = io.BytesIO(encode(ParquetArtifact, pandas_frame(), compression="zstd"))
    assert pd.read_parquet(content).index.name == "when"


@EXACT
def test_a_library_that_is_not_there_is_named(
    handler: type[Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = encode(handler, polars_frame())
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(ArtifactLoadError, match=r'pip install polars.*Or pass as_="arrow"'):
        decode(handler, content)


@pytest.mark.parametrize("handler", [ParquetArtifact, ArrowArtifact, CSVArtifact])
def test_a_library_that_nobody_knows_is_refused(handler: type[Artifact]) -> None:
    with pytest.raises(ArtifactLoadError, match="not 'dask'"):
        decode(handler, encode(handler, arrow_table()), as_="dask")


@pytest.mark.parametrize("handler", [ParquetArtifact, ArrowArtifact, CSVArtifact])
def test_what_is_no_table_is_refused(handler: type[Artifact]) -> None:
    with pytest.raises(ArtifactLogError, match=f"'{handler.alias}' expects .* found dict"):
        encode(handler, {"x": [1]})


def test_a_column_of_several_types_is_refused_with_its_name() -> None:
    with pytest.raises(ArtifactLogError, match="column mixed"):
        encode(ParquetArtifact, pd.DataFrame({"mixed": [1, "a"]}))
    with pytest.raises(ArtifactLogError, match="Duplicate column names"):
        encode(ParquetArtifact, pd.DataFrame([[1, 2]], columns=["a", "a"]))


def test_an_empty_table_is_a_table() -> None:
    for handler in (ParquetArtifact, ArrowArtifact, CSVArtifact):
        empty = arrow_table().slice(0, 0)
        assert decode(handler, encode(handler, empty)).column_names == list(COLUMNS)
    assert decode(ParquetArtifact, encode(ParquetArtifact, pd.DataFrame())).empty


def test_LZ8_csv_is_what_other_programs_read() -> None:
    content = encode(CSVArtifact, arrow_table())
    assert content.decode() == ('"year","hare","note"\n1900,30,"a"\n1901,47.2,\n1902,,"µ,\n"\n')
    assert pd.read_csv(io.BytesIO(content))["note"].tolist()[2] == "µ,\n"
    again = decode(CSVArtifact, content)
    assert again.column("year").to_pylist() == COLUMNS["year"]
    assert again.column("note").to_pylist()[2] == "µ,\n"


def test_csv_has_arguments_for_writing_and_reading() -> None:
    content = encode(CSVArtifact, arrow_table(), delimiter=";", include_header=False)
    assert content.startswith(b'1900;30;"a"\n')
    content = encode(CSVArtifact, arrow_table(), delimiter=";")
    kinds = {"year": pa.string()}
    again = decode(CSVArtifact, content, delimiter=";", column_types=kinds)
    assert again.column("year").to_pylist()[0] == "1900"
    assert decode(CSVArtifact, content, as_="pandas", delimiter=";", usecols=["year"]).shape == (
        3,
        1,
    )
    assert decode(CSVArtifact, content, as_="polars", delimiter=";").columns == list(COLUMNS)


def test_csv_keeps_a_pandas_index_that_says_something() -> None:
    assert encode(CSVArtifact, pd.DataFrame({"x": [1]})) == b'"x"\n1\n'
    named = pd.DataFrame({"x": [1]}, index=pd.Index(["lynx"], name="who"))
    assert encode(CSVArtifact, named) == b'"x","who"\n1,"lynx"\n'


def test_csv_refuses_what_it_cannot_hold() -> None:
    with pytest.raises(ArtifactLogError, match="'parquet'"):
        encode(CSVArtifact, polars_frame())


@pytest.mark.parametrize("handler", [ParquetArtifact, ArrowArtifact])
@pytest.mark.parametrize("keep", [0, 4, 0.5, 0.99])
def test_a_cut_off_table_is_corrupt(handler: type[Artifact], keep: float) -> None:
    content = encode(handler, arrow_table())
    cut = content[: int(keep if keep > 1 else keep * len(content))]
    with pytest.raises(CorruptArtifactError, match=handler.alias):
        decode(handler, cut)


@pytest.mark.parametrize("make", [arrow_table, pandas_frame, polars_frame])
def test_parquet_is_the_handler_of_a_table(make: Any) -> None:
    assert handler_for(make()) is ParquetArtifact
