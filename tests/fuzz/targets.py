"""What is given damaged input: what makes a case, what reads it, and which errors are its own."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib.metadata
import io
import json
import math
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Generator
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch
from urllib.parse import quote

os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_ENABLED", "false")

import numpy as np
import optuna
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset  # its import makes classes by exec
import pyarrow.parquet
from mutations import mutate_bytes, mutate_json, mutate_text
from pydantic import SecretStr

from prefect_optuna.blocks import (
    ArtifactFileSystem,
    InMemoryStudyStorage,
    JournalStudyStorage,
    PrefectOptunaError,
    as_artifact_filesystem,
    as_study_storage,
)
from prefect_optuna.blocks.artifacts import decode, encode, find_handler, records
from prefect_optuna.blocks.stores import opening
from prefect_optuna.flows.spool import Spool, TrialKeeper
from prefect_optuna.tasks import ArchivedStudy, Environment, OptunaArchive, Problem
from prefect_optuna.tasks.archive import Capture, decode_result, encode_result
from prefect_optuna.tasks.archive.carrying.portable import pack_problem, unpack_problem
from prefect_optuna.tasks.archive.record.environment import requirements_text
from prefect_optuna.tasks.archive.series import series_table
from prefect_optuna.tasks.archive.series.blobs import pack_files, packed
from prefect_optuna.tasks.archive.series.results import EncodedResult, decode_series
from prefect_optuna.tasks.persistence.container import Container, write_container
from prefect_optuna.tasks.trial import Outcome

Errors = tuple[type[BaseException], ...]
Target = tuple[Callable[[Random], Any], Callable[[Any], Any], Errors]

_OURS = (PrefectOptunaError,)
_SERIES = {"hare": np.linspace(0, 1, 40), "lynx": np.arange(40)}
_TABLE = pa.table(
    {
        "x": pa.array([1, None, 3]),
        "text": ["a", "bb", None],
        "kind": pa.array(["u", "v", "u"]).dictionary_encode(),
        "lists": [[1.5], [], None],
        "pairs": [{"a": 1}, None, {"a": 3}],
        "when": pa.array([1, 2, 3], pa.timestamp("ns", "UTC")),
        "flag": [True, None, False],
        "none": pa.nulls(3),
        "views": pa.array(["a long text, which is no inline view"] * 3, pa.string_view()),
        "fixed": pa.array([b"abc"] * 3, pa.binary(3)),
        "maps": pa.array([[("a", 1)]] * 3, pa.map_(pa.string(), pa.int64())),
    }
)
_FRAME = pd.DataFrame(
    {"c": pd.Categorical(["a", "b", "a"]), "t": pd.date_range("2020", periods=3), "x": [1, 2, 3]}
)
_RESULTS = [
    _SERIES,
    {"field": np.ones((2, 3)), "n": 3, "text": np.array(["a", "bcd"]), "t": (1, {2}, 1j)},
    {"z": np.zeros(20_000), "b": np.arange(20_000) % 3},
    {"table": _TABLE, "list": [0.5] * 20, "when": np.array(["2020"], "M8[D]")},
    _TABLE,
    _FRAME,
    pl.DataFrame({"a": ["x" * 20, None], "b": [[1], [2, 3]]}),
]
_KEY = b"prefect_optuna"
_SIGNING = SecretStr("0123456789abcdef0123456789abcdef")


def _arrow_case(seeds: list[bytes], key: bytes, rng: Random) -> bytes:
    """An Arrow file with other bytes, or with other JSON in a sound file."""
    seed = rng.choice(seeds)
    if rng.random() < 0.6:
        return mutate_bytes(seed, seeds, rng)
    table = pa.ipc.open_file(seed).read_all()
    metadata = dict(table.schema.metadata)
    chosen = b"pandas" if b"pandas" in metadata and rng.random() < 0.5 else key
    if chosen in metadata:
        metadata[chosen] = mutate_text(metadata[chosen], rng)
    if rng.random() < 0.3:
        table = table.select(rng.sample(table.column_names, len(table.column_names)))
    sink = pa.BufferOutputStream()
    table = table.replace_schema_metadata(metadata)
    options = pa.ipc.IpcWriteOptions(compression=rng.choice([None, "lz4", "zstd"]))
    with pa.ipc.new_file(sink, table.schema, options=options) as writer:
        writer.write_table(table, rng.choice([None, max(len(table) // 2, 1)]))
    return sink.getvalue().to_pybytes()


@contextlib.contextmanager
def results(_: Path) -> Generator[Target]:
    seeds = [encode_result(one) for one in _RESULTS]

    def check(content: bytes) -> Any:
        with contextlib.suppress(*_OURS):
            decode_series(content, "hare")
        return decode_result(content)

    yield lambda rng: _arrow_case(seeds, _KEY, rng), check, _OURS


@contextlib.contextmanager
def containers(folder: Path) -> Generator[Target]:
    seeds: list[bytes] = []
    values = [
        {"animal": "lynx", "power": [0.5] * 30, "n": 1, "f": np.ones((2, 3), order="F")},
        {"rows": np.zeros(3, [("a", "<f8"), ("b", "S3")]), "t": np.array(["a", "bc"])},
        {"table": _TABLE, "frame": _FRAME, "set": {1, 2}, "z": np.array([1j])},
    ]
    for compression in (None, "zstd", "lz4"):
        for value in values:
            file = io.BytesIO()
            write_container(file, value, {"class": "Spectrum"}, compression=compression)
            seeds.append(file.getvalue())

    def check(content: bytes) -> Any:
        if len(content) % 3 == 0:
            path = folder / "container.arrow"
            path.write_bytes(content)
            return Container(path).values()
        if len(content) % 3 == 1:
            container = Container(io.BytesIO(content))
            return {name: container.value(name) for name in container.names()}
        return Container(content).values()

    yield lambda rng: _arrow_case(seeds, b"prefect_optuna.persistence", rng), check, _OURS


@contextlib.contextmanager
def artifacts(_: Path) -> Generator[Target]:
    arrays = {"hare": np.arange(30.0), "text": np.array(["a", "bc"])}
    values: dict[str, list[Any]] = {
        "npy": [np.eye(3), np.zeros(2, [("a", "<f8"), ("b", "S3")])],
        "npz": [arrays],
        "json": [{"a": (1, 2j, {3}), "x": np.arange(3), "t": np.float64(2), "u": np.array(["a"])}],
        "yaml": [{"a": [1, 2], "b": {"c": "text"}}],
        "csv": [pa.table({"x": [1, 2], "s": ["a", None]})],
        "parquet": [_TABLE.drop_columns(["none", "views", "fixed"]), _FRAME],
        "arrow": [_TABLE, _FRAME],
    }
    seeds = [(a, encode(find_handler(a), v)) for a, group in values.items() for v in group]
    seeds.append(("npz", encode(find_handler("npz"), arrays, compressed=True)))
    seeds.append(("yaml", b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"))

    def case(rng: Random) -> bytes:
        alias, content = rng.choice(seeds)
        others = [other for name, other in seeds if name == alias]
        if alias == "json":
            content = mutate_text(content, rng)
        elif alias == "npz" and rng.random() < 0.5:
            content = _zipped(content, rng, {})
        elif alias == "yaml" and rng.random() < 0.3:
            lines = ["a0: &a0 [x, x, x, x]"]
            lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
            content = "\n".join(lines).encode()
        else:
            content = mutate_bytes(content, others, rng)
        return alias.ljust(8).encode() + content

    def check(content: bytes) -> Any:
        return decode(find_handler(content[:8].decode().strip()), content[8:])

    yield case, check, _OURS


def _zipped(content: bytes, rng: Random, documents: dict[str, Callable[[bytes], bytes]]) -> bytes:
    """A ZIP file with entries that are renamed, doubled, compressed otherwise, or mutated."""
    sink = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(sink, "w") as target:
        names = source.namelist()
        chosen = rng.choice(names)
        for name in names:
            entry = source.read(name)
            method = zipfile.ZIP_DEFLATED if name in documents else zipfile.ZIP_STORED
            if name in documents:
                entry = documents[name](entry)
            if name == chosen:
                match rng.randrange(7):
                    case 0:
                        name = rng.choice(["../x", "/x", "files/../../x", "", "x\\y", name * 2])
                    case 1:
                        method = rng.choice([zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
                    case 2:
                        entry = mutate_bytes(entry, [entry], rng)
                    case 3:
                        continue
                    case 4 if rng.random() < 0.05:  # which takes as long as fifty others
                        entry += b" " * 10_000_000
                        method = zipfile.ZIP_DEFLATED
                    case _:
                        pass
            target.writestr(zipfile.ZipInfo(name), entry, method)
    return sink.getvalue()


SCALE = np.linspace(0.0, 1.0, 100)


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    return {"x": trial.suggest_float("x", -1, 1), "k": trial.suggest_categorical("k", ["a", 1])}


def run(params: dict[str, Any]) -> dict[str, Any]:
    return {"curve": params["x"] * SCALE}


def evaluate(result: dict[str, Any]) -> float:
    return float(result["curve"].sum())


def _study(name: str) -> ArchivedStudy:
    """A study with trials, results, a series and two axes, in memory."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage, files = InMemoryStudyStorage(name=name), f"memory://{name}"
    study = storage.create_study("hares")
    archive = OptunaArchive(study, artifacts=files, signing_key=_SIGNING)
    with _few_distributions():
        problem = Problem(suggest=suggest, run=run, evaluate=evaluate)
        archive.save_problem(problem, scope={"seed": 3})
    archive.study_add_axis("t", [1, 2, 3])
    archive.study_add_axis("long", np.arange(100))
    for _ in range(2):
        trial = study.ask()
        result = run(suggest(trial))
        trial.set_user_attr("result", archive.writer().write(trial.number, result))
        archive.trial_add_timeseries(trial, "loss", [3.0, 2.0, 1.0], ["t"])
        archive.trial_add_timeseries(trial, "wave", np.ones(100), ["long"])
        study.tell(trial, 1.0)
    archive.sign()
    there: dict[str, Any] = {"storage": storage, "artifacts": files, "signing_key": _SIGNING}
    archived = ArchivedStudy.load("hares", **there)
    assert archived.signatures.complete
    return archived


@contextlib.contextmanager
def _few_distributions() -> Generator[None]:
    """Two hundred take longer to be read than all the rest, and there is one reader for all."""
    few = [importlib.metadata.distribution(one) for one in ("numpy", "optuna", "prefect-optuna")]
    with patch.object(importlib.metadata, "distributions", lambda: few):
        yield


class _InTurn(contextlib.nullcontext[Any]):
    """In place of threads, whose beginnings take longer than what they read from memory."""

    map = staticmethod(map)


@contextlib.contextmanager
def _at_once() -> Generator[None]:
    """Files in memory are read without threads, and one that is missing is not looked for twice."""
    with (
        patch.object(opening, "ThreadPoolExecutor", _InTurn),
        patch.object(series_table, "ThreadPoolExecutor", _InTurn),
        patch.object(records.time, "sleep", lambda _: None),
    ):
        yield


def _looked_at(archived: ArchivedStudy) -> list[Any]:
    """All that one does with an archive before trusting it."""
    found: list[Any] = []
    for look in (
        archived.describe,
        archived.source,
        archived.requirements,
        archived.git_diff,
        archived.script,
        archived.scope,
        lambda: archived.axes,
        lambda: archived.series,
        lambda: archived.result(0),
        lambda: archived.timeseries("loss"),
        lambda: archived.timeseries("wave", kind="pandas"),
        lambda: archived.timeseries("curve"),
    ):
        with contextlib.suppress(*_OURS):
            found.append(look())
    return found


@contextlib.contextmanager
def exports(folder: Path) -> Generator[Target]:
    seed = _study("fuzz-export").export(folder / "seed.zip").read_bytes()
    count = iter(range(1 << 60))

    def case(rng: Random) -> bytes:
        if rng.random() < 0.4:
            return mutate_bytes(seed, [seed], rng)
        documents: dict[str, Callable[[bytes], bytes]] = {}
        with zipfile.ZipFile(io.BytesIO(seed)) as source:
            trials, index = source.read("trials.jsonl"), json.loads(source.read("index.json"))
        if rng.random() < 0.5:
            lines = trials.splitlines(keepends=True)
            lines[0] = mutate_text(lines[0], rng) + b"\n"
            trials = b"".join(lines)
            index["trials"]["sha256"] = hashlib.sha256(trials).hexdigest()
            documents["trials.jsonl"] = lambda _: trials
        if rng.random() < 0.6:
            index = mutate_json(index, rng)
        documents["index.json"] = lambda _: json.dumps(index).encode()
        return _zipped(seed, rng, documents)

    def check(content: bytes) -> Any:
        number = next(count)
        path = folder / f"{number}.zip"
        path.write_bytes(content)
        storage = InMemoryStudyStorage(name=f"fuzz-{number}")
        files = ArtifactFileSystem(url=f"memory://fuzz-in-{number}")
        there: dict[str, Any] = {"storage": storage, "artifacts": files}
        try:
            with _at_once():
                return _looked_at(ArchivedStudy.import_(path, **there, signing_key=_SIGNING))
        finally:
            path.unlink()
            with contextlib.suppress(Exception):
                optuna.delete_study(study_name="hares", storage=storage.get_storage())
            with contextlib.suppress(Exception):
                files.rm("studies", recursive=True)
                files.rm("blobs", recursive=True)

    yield case, check, _OURS


@contextlib.contextmanager
def archives(_: Path) -> Generator[Target]:
    original = _study("fuzz-archive")
    study, files = original.study, as_artifact_filesystem("memory://fuzz-archive")
    there: dict[str, Any] = {"storage": InMemoryStudyStorage(name="fuzz-archive")}
    there |= {"artifacts": files, "signing_key": _SIGNING}
    storage: Any = study._storage
    study_id = study._study_id
    attributes = dict(study.user_attrs)
    of_trial = dict(study.trials[0].user_attrs)
    blobs = {path: files.read_path(path) for path in files.glob("**")}
    texts = [path for path, content in blobs.items() if content[:1] in b"{["]

    def case(rng: Random) -> bytes:
        changed: dict[str, Any] = {"study": attributes, "trial": of_trial, "files": {}}
        match rng.randrange(3):
            case 0:
                name = rng.choice(list(attributes))
                changed["study"] = {**attributes, name: mutate_json(attributes[name], rng)}
            case 1:
                name = rng.choice(list(of_trial))
                changed["trial"] = {**of_trial, name: mutate_json(of_trial[name], rng)}
            case _:
                # A file of another content, and its digest wherever the former one was.
                path = rng.choice(sorted(texts if rng.random() < 0.7 else blobs))
                content = blobs[path]
                new = (
                    mutate_text(content, rng)
                    if path in texts
                    else mutate_bytes(content, [content], rng)
                )
                old_digest, digest = (hashlib.sha256(c).hexdigest() for c in (content, new))
                text = json.dumps(changed).replace(old_digest, digest)
                changed = json.loads(text)
                place = path.replace(old_digest[:2] + "/" + old_digest, digest[:2] + "/" + digest)
                changed["files"] = {place: new.hex()}
        return json.dumps(changed).encode()

    def check(content: bytes) -> Any:
        changed = json.loads(content)
        storage._studies[study_id].user_attrs = changed["study"]
        storage._studies[study_id].trials[0].user_attrs = changed["trial"]
        before = {path: blobs.get(path) for path in changed["files"]}
        try:
            for path, text in changed["files"].items():
                files.write_path(path, bytes.fromhex(text))
            with _at_once():
                return _looked_at(ArchivedStudy.load("hares", **there))
        finally:
            for path, old in before.items():
                if old is None:
                    files.rm(path)
                else:
                    files.write_path(path, old)

    yield case, check, _OURS


@contextlib.contextmanager
def redis(folder: Path) -> Generator[Target]:
    import sys

    sys.path.insert(0, str(Path(__file__).parents[1]))
    from redis_servers import RedisServer

    from prefect_optuna.blocks.redis_storage import RedisStorage

    server = RedisServer(folder / "redis")
    with server, server.client() as client:
        storage = RedisStorage(server.url)
        study = optuna.create_study(storage=storage, study_name="hares")
        study.set_user_attr("note", {"a": [1, 2]})
        for _ in range(3):
            trial = study.ask()
            suggest(trial)
            trial.report(0.5, 1)
            trial.set_user_attr("note", [1, "x"])
            study.tell(trial, 1.0)
        suggest(study.ask())
        storage.close() if hasattr(storage, "close") else None
        saved = {key: client.dump(key) for key in sorted(client.keys("*"))}
        kinds = {key: client.type(key) for key in saved}

        def case(rng: Random) -> bytes:
            key = rng.choice(list(saved))
            match kinds[key]:
                case b"hash":
                    fields: Any = client.hgetall(key)
                    place: Any = rng.choice(sorted(fields))
                    value = fields[place]
                case b"list":
                    place = rng.randrange(client.llen(key))
                    value = client.lindex(key, place)
                case b"string":
                    place, value = "", client.get(key)
                case _:
                    place, value = None, b""
            if place is None:
                new = b"x"
            elif b"\t" in value and rng.random() < 0.7:
                parts = value.split(b"\t")
                number = rng.randrange(len(parts))
                parts[number] = mutate_text(parts[number], rng)
                new = b"\t".join(parts)
            else:
                new = mutate_text(value, rng)
            place = place.decode("latin-1") if isinstance(place, bytes) else place
            return json.dumps([key.decode("latin-1"), place, new.decode("latin-1")]).encode()

        def check(content: bytes) -> Any:
            key, place, new = json.loads(content)
            key, new = key.encode("latin-1"), new.encode("latin-1")
            try:
                match kinds[key]:
                    case b"hash":
                        client.hset(key, place.encode("latin-1"), new)
                    case b"list":
                        client.lset(key, place, new)
                    case _:
                        client.set(key, new)
                reader = RedisStorage(server.url)
                found = [
                    [vars(trial) for trial in reader.get_all_trials(one._study_id)]
                    for one in reader.get_all_studies()
                ]
                reader.get_study_id_from_name("hares")
                return found
            finally:
                client.delete(key)
                client.restore(key, 0, saved[key])

        yield case, check, (*_OURS, KeyError)


@contextlib.contextmanager
def urls(_: Path) -> Generator[Target]:
    schemes = ["redis", "rediss", "redis+cluster", "redis+sentinel", "postgresql", "mysql", "s3"]
    schemes += ["sqlite", "journal", "memory", "grpc", "sftp", "gs", "az", "file", "http", "", "x"]
    secret = "s3cretQ7fuzz"
    whole = re.compile(rf"(rediss?|postgresql|mysql)://me:[\w%]*{secret}@[\w\[]")

    def case(rng: Random) -> str:
        password = rng.choice(["", "/", "#", "@", "?", "%", ":", " ", "\0"]) + secret
        if rng.random() < 0.5:
            password = quote(password, safe="")
        slashes = rng.choice(["://"] * 6 + [":/", ":", "//", ":///"])
        host = rng.choice(
            ["localhost", "[::1]", "[::1", "h:99999999", "h:x", "", "é.example", "a,b"]
        )
        tail = rng.choice(
            ["", "/0", "/db?timeout=x", "/x?sslmode=%", "/../..", "#f", "/a//b", "?="]
        )
        url = f"{rng.choice(schemes)}{slashes}me:{password}@{host}{tail}"
        text = (
            mutate_bytes(url.encode(), [url.encode()], rng) if rng.random() < 0.3 else url.encode()
        )
        return text.decode(errors="replace")

    def check(url: str) -> Any:
        shown: list[str] = []
        first: BaseException | None = None
        for make in (as_study_storage, as_artifact_filesystem):
            try:
                block = make(url)
                where = block.location if make is as_study_storage else block.location()
                shown += [repr(block), str(where)]
            except _OURS as error:
                first = error
                while error is not None:
                    shown.append(str(error))
                    error = error.__cause__ or (
                        None if error.__suppress_context__ else error.__context__
                    )
        # What is no URL of a server is the path of a file, or ambiguous.
        is_url = whole.match(url) is not None
        for text in shown:
            if is_url and secret in text:
                raise AssertionError(f"{url!r} shows its password: {text!r}")
        if first is not None:
            raise first
        return None

    yield case, check, _OURS


@contextlib.contextmanager
def journals(folder: Path) -> Generator[Target]:
    path = folder / "seed.journal"
    storage = JournalStudyStorage(path=path).get_storage()
    study = optuna.create_study(storage=storage, study_name="hares")
    study.set_user_attr("note", {"a": [1, 2]})
    for _ in range(2):
        trial = study.ask()
        suggest(trial)
        trial.report(0.5, 1)
        trial.set_user_attr("note", [1, "x"])
        study.tell(trial, 1.0)
    study.enqueue_trial({"x": 0.5})
    study.add_trial(study.trials[0])
    suggest(study.ask())
    lines = path.read_bytes().splitlines()
    count = iter(range(1 << 60))

    def case(rng: Random) -> bytes:
        if rng.random() < 0.2:
            return mutate_bytes(path.read_bytes(), [path.read_bytes()], rng)
        changed = list(lines)
        place = rng.randrange(len(changed))
        changed[place] = mutate_text(changed[place], rng)
        return b"\n".join(changed) + b"\n"

    def check(content: bytes) -> Any:
        place = folder / f"{next(count)}.journal"
        place.write_bytes(content)
        try:
            storage = JournalStudyStorage(path=place).get_storage()
            found: list[Any] = []
            for one in storage.get_all_studies():
                study = optuna.load_study(study_name=one.study_name, storage=storage)
                trials = study.get_trials()
                found += [repr(trials), study.user_attrs, repr(vars(one))]
                check_trials(trials)
            return found
        finally:
            for left in folder.glob(f"{place.name}*"):
                left.unlink()

    yield case, check, _OURS


def check_trials(trials: list[optuna.trial.FrozenTrial]) -> None:
    """Trials are made of numbers, whoever has written them down."""
    for trial in trials:
        for number in (*(trial.values or ()), *trial.intermediate_values.values()):
            math.isnan(number)


@contextlib.contextmanager
def spools(folder: Path) -> Generator[Target]:
    study = _study("fuzz-spool").study
    trial = study.trials[0]
    keeper = TrialKeeper("hares", "journal:///hares.journal", "0b8f", "ab" * 16, Spool(folder))
    encoded = EncodedResult(encode_result(_SERIES), {"sha256": "00"})
    path = keeper.spool.put(
        keeper.ended(Outcome(0, "complete", values=(0.5,)), trial, encoded)
    ).path
    assert path is not None
    magic, _, head, body = path.read_bytes().split(b"\n", 3)

    def case(rng: Random) -> bytes:
        content = mutate_text(head, rng) + b"\n" + body
        return b"\n".join([magic, hashlib.sha256(content).hexdigest().encode(), content])

    def check(content: bytes) -> Any:
        path.write_bytes(content)
        found = list(keeper.spool)
        check_trials([one.trial for one in found])
        when = [datetime.fromtimestamp(one.at).isoformat() for one in found]  # noqa: DTZ006
        return [when, [(one.id, vars(one), f"{one.storage:s}{one.study_name:s}") for one in found]]

    yield case, check, ()


@contextlib.contextmanager
def packs(_: Path) -> Generator[Target]:
    whole = as_artifact_filesystem("memory://fuzz-packs")
    contents = [encode_result(result) for result in _RESULTS[:4]]
    digests = {
        f"studies/hares/trials/{number:07}.arrow": hashlib.sha256(content).hexdigest()
        for number, content in enumerate(contents)
    }
    for path, content in zip(digests, contents, strict=True):
        whole.write_path(path, content)
    assert len(pack_files(whole, digests)) == len(digests)
    (place,) = whole.ls("studies/hares/packs")
    seed = whole.read_path(place)
    count = iter(range(1 << 60))

    def case(rng: Random) -> bytes:
        return mutate_bytes(seed, [seed], rng) if rng.random() < 0.7 else _zipped(seed, rng, {})

    def check(content: bytes) -> Any:
        files = ArtifactFileSystem(url=f"memory://fuzz-pack-{next(count)}")
        files.write_path(place, content)
        try:
            found = {path: packed(files, path, digest) for path, digest in digests.items()}
        finally:
            files.rm("studies", recursive=True)
        # What comes back is what was packed, or nothing.
        for part, there in zip(found.values(), contents, strict=True):
            assert part is None or part == there
        return list(found.values())

    yield case, check, _OURS


@contextlib.contextmanager
def deployed(_: Path) -> Generator[Target]:
    capture = Capture.of(Problem(suggest=suggest, run=run, evaluate=evaluate))
    with _few_distributions():
        text = pack_problem(capture, Environment.capture())
    content = json.loads(zlib.decompress(base64.b64decode(text)))

    def case(rng: Random) -> str:
        if rng.random() < 0.3:
            return mutate_bytes(text.encode(), [text.encode()], rng).decode("latin-1")
        changed = mutate_json(content, rng)
        return base64.b64encode(zlib.compress(json.dumps(changed).encode())).decode()

    def check(text: str) -> Any:
        found = unpack_problem(text, capture.code_version)
        assert found.content == capture.content
        origin = found.origin
        assert origin is not None
        return [origin, requirements_text(origin), origin.diff()]

    yield case, check, _OURS


TARGETS: dict[str, Callable[[Path], contextlib.AbstractContextManager[Target]]] = {
    "results": results,
    "containers": containers,
    "artifacts": artifacts,
    "exports": exports,
    "archives": archives,
    "redis": redis,
    "urls": urls,
    "journals": journals,
    "spools": spools,
    "deployed": deployed,
    "packs": packs,
}
"""By name."""

SHARES = {"exports": 4, "archives": 4}
"""Of the time, for those of which a case takes longer; the others have one each."""
