"""A program of the tests: puts a secret wherever a user can put one, and says what became of it.

python canary_places.py OUTCOMES < SETTINGS. Both are JSON: the settings are the fields of `House`,
the outcomes are "kept" or "refused" by the names of the places. What the program says and what it
leaves in the current directory, in databases and on the server, is for the test to search.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import optuna
import pytest
from canary import Canary
from prefect.blocks.system import Secret
from prefect.events.actions import CancelFlowRun, RunDeployment, SendNotification
from prefect.settings import get_current_settings, temporary_settings
from pydantic import SecretStr
from servers import Cable, wait_until
from wheels_under_test import only_these_wheels, record_only, recorded, wheel

from prefect_optuna.blocks import (
    ArtifactFileSystem,
    ArtifactRepository,
    GrpcStudyStorage,
    OptunaSettings,
    RedisStorage,
    RedisStudyStorage,
    SQLStudyStorage,
    as_artifact_filesystem,
    as_study_storage,
    read_legacy_redis,
)
from prefect_optuna.deployments import (
    automate,
    deploy_gc,
    deploy_optimization,
    deploy_reevaluation,
    deploy_report,
    make_process_pool,
    run_on,
)
from prefect_optuna.deployments.cli import main as command_line_main
from prefect_optuna.errors import InvalidProblemError
from prefect_optuna.flows import Problem, distribute, optimize, reevaluate
from prefect_optuna.flows.report_flow import gc, report
from prefect_optuna.flows.spool import Spool, send
from prefect_optuna.tasks import ArchivedStudy, OptunaArchive, copy_study, param_scope
from prefect_optuna.tasks.environments import prepare_environment

Outcome = Literal["kept", "refused"]


@dataclass(frozen=True)
class House:
    """What the places are on.

    Args:
        core: of the canary.
        mark: what is in the name of each study, and no secret: to be found.
        postgresql: the port of a server that asks for no password.
        redis: the port of a server whose password is the secret of the place `redis`.
        s3: the URL of a server that takes any credentials.
        sftp: the port of a server whose password is the secret of the place `sftp`.
        known_hosts: the file that says who that server is.
        azure: the port of a server with the account `canary`, whose key is the secret of `azure`.
        inputs: a folder for what may hold secrets.
    """

    core: str
    mark: str
    postgresql: int
    redis: int
    s3: str
    sftp: int
    known_hosts: str
    azure: int
    inputs: str

    @cached_property
    def canary(self) -> Canary:
        """The canary."""
        return Canary(self.core)

    def study(self, place: str) -> str:
        """The name of a study."""
        return f"{place}-{self.mark}"

    def sql(self, secret: str) -> str:
        """A URL of PostgreSQL."""
        return f"postgresql://postgres:{quoted(secret)}@127.0.0.1:{self.postgresql}/postgres"

    @property
    def redis_url(self) -> str:
        """The URL of Redis."""
        return f"redis://:{quoted(self.canary.secret('redis'))}@127.0.0.1:{self.redis}/0"

    def s3_options(self, secret: str) -> dict[str, Any]:
        """What it takes to reach S3: the key's name and the key are both secret."""
        return {"key": quoted(secret), "secret": secret, "endpoint_url": self.s3}


def quoted(secret: str) -> str:
    """A secret as a URL has it."""
    return quote(secret, safe="")


Place = Callable[[House, str], object]
PLACES: dict[str, tuple[Outcome, Place]] = {}


def kept(place: Place) -> Place:
    """A place that works with a secret in it, and keeps it for itself."""
    PLACES[place.__name__] = "kept", place
    return place


def refused(place: Place) -> Place:
    """A place where a secret is refused."""
    PLACES[place.__name__] = "refused", place
    return place


def objective(trial: optuna.Trial) -> float:
    """A plain objective."""
    return (trial.suggest_float("x", -1, 1) - 0.5) ** 2


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """Parameters of a problem with series."""
    return {"x": trial.suggest_float("x", 0, 1)}


def run(params: Mapping[str, Any]) -> dict[str, Any]:
    """Its simulation."""
    return {"series": [params["x"]] * 3}


def evaluate(result: Mapping[str, Any]) -> float:
    """Its value."""
    return float(result["series"][0])


PROBLEM = Problem(suggest=suggest, run=run, evaluate=evaluate)


def go(problem: Any, study_name: str, **settings: Any) -> Any:
    """Optimize a little."""
    return optimize(
        problem,
        study_name=study_name,
        **{"n_trials": 2, "seed": 1, "progress": False, "artifacts": "artifacts", **settings},
    )


def show(*things: object) -> None:
    """Print things in each of the ways in which they are printed."""
    for thing in things:
        print(thing, repr(thing), f"{[thing]}")
        if hasattr(thing, "model_dump"):
            print(thing.model_dump(), thing.model_dump_json())


# -- the storage ---------------------------------------------------------------------------------


@kept
def sql_url(house: House, secret: str) -> None:
    """The storage as text, and all that is done with a study on it."""
    where = {"storage": house.sql(secret), "artifacts": "artifacts"}
    study = house.study("sql_url")
    show(go(PROBLEM, study, **where), as_study_storage(where["storage"]))
    archived = ArchivedStudy.load(study, **where)
    show(archived, archived.describe(), archived.study, archived.environment)
    show(gc(**where))
    archived.export("sql_url.zip")
    elsewhere = {"storage": house.sql(f"{secret}-2"), "artifacts": "elsewhere"}
    show(ArchivedStudy.import_("sql_url.zip", study_name=house.study("imported"), **elsewhere))
    copy_study(
        from_study_name=study,
        from_storage=where["storage"],
        from_artifacts="artifacts",
        to_study_name=house.study("copied"),
        to_storage=elsewhere["storage"],
        to_artifacts="elsewhere",
    )


@kept
def sql_fields(house: House, secret: str) -> None:
    """The storage as the fields of a block, with options of its driver."""
    fields = {
        "url": house.sql(secret),
        "engine_options": {"connect_args": {"password": secret, "application_name": "lab"}},
    }
    show(go(objective, house.study("sql_fields"), storage=fields))


@kept
def sql_block(house: House, secret: str) -> None:
    """The storage as a block that is saved, and used by its name."""
    block = SQLStudyStorage(url=SecretStr(house.sql(secret)))
    block.save("canary", overwrite=True)
    name = "sql-study-storage/canary"
    show(block, SQLStudyStorage.load("canary"), as_study_storage(name), block.get_storage())
    show(go(objective, house.study("sql_block"), storage=name))


@kept
def redis(house: House, secret: str) -> None:
    """Redis with a password, as text, as a block, and without Prefect."""
    show(go(PROBLEM, house.study("redis"), storage=house.redis_url, n_jobs=2))
    plain = house.redis_url.replace(f":{quoted(secret)}@", "")
    block = RedisStudyStorage(url=SecretStr(plain), password=SecretStr(secret))
    block.save("canary", overwrite=True)
    show(block, block.describe(), block.check(), block.repair(), block.get_storage())
    show(go(objective, house.study("redis_block"), storage="redis-study-storage/canary"))
    options = f"{plain}?password={quoted(secret)}"
    with RedisStorage(options) as storage:
        show(storage, optuna.create_study(storage=storage, study_name=house.study("redis_bare")))
    with RedisStorage(house.redis_url) as storage:
        show(storage, storage.get_all_studies())
    show(read_legacy_redis(house.redis_url), read_legacy_redis(options))


@kept
def default_storage(house: House, secret: str) -> None:
    """The storage of the settings."""
    with variables(PREFECT_INTEGRATIONS_OPTUNA_STORAGE=house.sql(secret)):
        show(OptunaSettings(), as_study_storage())
        show(go(objective, house.study("default_storage")))
        call("studies", "--json")


@kept
def profile(house: House, secret: str) -> None:
    """Settings in a file of Prefect's profiles, and in one of the working directory."""
    folder = Path(house.inputs, "profile")
    folder.mkdir()
    study, names = house.study("profile"), ("STORAGE", "ARCHIVE_KEY", "DASHBOARD_URL")
    values = dict(
        zip(names, (house.sql(secret), secret, f"http://me:{quoted(secret)}@h"), strict=True)
    )
    lines = [f'PREFECT_INTEGRATIONS_OPTUNA_{name} = "{value}"' for name, value in values.items()]
    (folder / "profiles.toml").write_text(
        "\n".join(['active = "canary"', "[profiles.canary]", *lines, ""]), encoding="utf-8"
    )
    there = variables(PREFECT_PROFILES_PATH=str(folder / "profiles.toml"))
    with there, temporary_settings():
        attempt(lambda: show(OptunaSettings(), OptunaSettings().model_dump(mode="json")))
        attempt(lambda: show(go(PROBLEM, study)))
        call("show", study, "--json")
        call("report", study)
        call("reevaluate", study)
        call("deploy-report", study, "--pool", "canary")


@kept
def command_line(house: House, secret: str) -> None:
    """The storage among the words of a command."""
    url, study = house.sql(secret), house.study("command_line")
    go(PROBLEM, study, storage=url)
    there = ("--storage", url, "--artifacts", "artifacts")
    call("studies", *there)
    call("studies", "--json", *there)
    call("show", study, *there)
    call("show", study, "--json", *there)
    call("trials", study, "--json", *there)
    call("report", study, *there)
    call("reevaluate", study, "--trusted", "--json", *there)
    call("export", study, "command_line.zip", "--json", *there)
    call("gc", *there)
    call("watch", study, *there)
    call("watch", study, "--json", *there)
    call("retry-failed", study, "--json", *there)
    call("pause", study, "--json", *there)
    call("resume", study, *there)
    call("scale", study, "--workers", "2", *there)
    call("scale", study, "--workers", "0", "--json", *there)
    call("stop", study, *there)
    call("spool", "send", *there)
    call("import", "command_line.zip", "--name", f"{study}-again", *there)
    call("import", "command_line.zip", "--json", *there)  # there is one of that name
    call("rerun", "command_line.zip", "--environment", "here", "--trusted", *there)
    call("delete", f"{study}-again", "--yes", "--json", *there)
    call("delete", "no-such-study", "--yes", *there)
    call("show", "no-such-study", *there)
    call("studies", "--storge", url)
    call("studies", url)
    call("studies", f"--storage={url}", "--limit", url)
    for wrong in SLIPS[::7]:
        call("gc", "--artifacts", wrong(house, secret))
        if "sentinel" not in wrong(house, secret):  # it is looked for again for 30 s
            call("show", study, "--storage", wrong(house, secret))
    for command in ("deploy-reevaluation", "deploy-report"):
        call(command, study, "--pool", "canary", *there, "--json")
    call("deploy-gc", "--pool", "canary", *there)


SLIPS: list[Callable[[House, str], str]] = [
    lambda house, secret: f"postgresql://me:/{secret}@127.0.0.1:1/db",
    lambda house, secret: f"postgresql://me:#{secret}@127.0.0.1:1/db",
    lambda house, secret: f"postgresql://me:{secret}@127.0.0.1:1/db",
    lambda house, secret: f"postgresql://me:{quoted(secret)}@127.0.0.1:1/db",
    lambda house, secret: f"postgresql://me:{quoted(secret)}@127.0.0.1:1x/db",
    lambda house, secret: f"postgresql://127.0.0.1:1/db?password={quoted(secret)}",
    lambda house, secret: f"postgresql+{quoted(secret)}://127.0.0.1/db",
    lambda house, secret: f"postgresql:/me:{quoted(secret)}@127.0.0.1:1/db",
    lambda house, secret: f"postgresql:me:{secret}@127.0.0.1",
    lambda house, secret: f"me:{secret}@127.0.0.1/db",
    lambda house, secret: f"mysql://me:{quoted(secret)}@127.0.0.1:1/db",
    lambda house, secret: f"oracle://me:{quoted(secret)}@127.0.0.1:1/db",
    lambda house, secret: f"sqlite:///folder/x.db?password={quoted(secret)}&uri=1",
    lambda house, secret: f"redis://:{quoted(secret)}@127.0.0.1:{house.redis}/0",
    lambda house, secret: f"redis://me:{quoted(secret)}@127.0.0.1:{house.redis}/0",
    lambda house, secret: f"redis://me:/{secret}@127.0.0.1:{house.redis}/0",
    lambda house, secret: f"redis://me:#{secret}@127.0.0.1:{house.redis}/0",
    lambda house, secret: f"redis:/me:{quoted(secret)}@127.0.0.1:{house.redis}/0",
    lambda house, secret: f"redis://127.0.0.1:{house.redis}/0?password={quoted(secret)}",
    lambda house, secret: f"redis://127.0.0.1:{house.redis}/0?db={quoted(secret)}",
    lambda house, secret: f"rediss://:{quoted(secret)}@127.0.0.1:{house.redis}/0",
    lambda house, secret: f"redis+sentinel://:{quoted(secret)}@127.0.0.1:{house.redis}/lab/0",
    lambda house, secret: f"redis+cluster://:{quoted(secret)}@127.0.0.1:{house.redis}",
    lambda house, secret: f"grpc://me:{quoted(secret)}@127.0.0.1:1",
    lambda house, secret: f"{quoted(secret)}://127.0.0.1",
    lambda house, secret: f"s3://key:{quoted(secret)}@bucket",
    lambda house, secret: f"s3://key:/{secret}@bucket",
    lambda house, secret: f"s3:/key:{quoted(secret)}@bucket",
    lambda house, secret: f"s3://bucket?secret={quoted(secret)}",
    lambda house, secret: f"sftp://me:{quoted(secret)}@127.0.0.1:1/data",
    lambda house, secret: f"abfs://container?sig={quoted(secret)}",
]


@kept
def slips(house: House, secret: str) -> None:
    """URLs with a typo, of servers that are away, with wrong passwords."""
    short: dict[str, Any] = {"timeout": 1, "retry_limit": 0}
    for wrong in SLIPS:
        url = wrong(house, secret)
        attempt(lambda url=url: as_study_storage(url))
        attempt(lambda url=url: SQLStudyStorage(url=url, timeout=1).study_names())
        attempt(lambda url=url: RedisStudyStorage(url=url, **short).study_names())
        attempt(lambda url=url: RedisStorage(url, **short).get_all_studies())
        attempt(lambda url=url: as_artifact_filesystem(url))
        if url.startswith("redis:"):
            attempt(lambda url=url: read_legacy_redis(url))
    url = SLIPS[3](house, secret)
    attempt(lambda: RedisStudyStorage(url=house.redis_url, password=secret))
    attempt(lambda: RedisStudyStorage(url="redis://127.0.0.1", tls_key_password=secret))
    attempt(lambda: SQLStudyStorage(url=url, engine_options={"pool_size": secret}).get_storage())
    attempt(lambda: SQLStudyStorage(url=url, timeout=secret))
    attempt(lambda: GrpcStudyStorage(host=f"me:{secret}@host"))


@kept
def slips_in_flows(house: House, secret: str) -> None:
    """The same, where the server hears of it."""
    for number, slip in enumerate(SLIPS):
        place = "artifacts" if number % 3 else "storage"
        if not slip(house, secret).startswith(("redis", "sftp")):  # they try again for 30 s
            where: dict[str, Any] = {place: slip(house, secret)}
            attempt(lambda where=where: go(objective, house.study("slip"), **where))
    url = SLIPS[3](house, secret)
    flows: list[Callable[[], Any]] = [
        lambda: reevaluate(house.study("slip"), storage=url),
        lambda: report(house.study("slip"), storage=url),
        lambda: gc(storage=[url, SLIPS[0](house, secret)]),
        lambda: distribute(PROBLEM, study_name=house.study("slip"), storage=url),
        lambda: go(objective, house.study("slip"), storage=url, n_jobs="many"),
        lambda: go(objective, house.study("slip"), storage={"url": url, "timeout": "long"}),
        lambda: go(objective, house.study("slip"), storage={"password": secret}),
    ]
    for flow in flows:
        attempt(flow)


# -- artifacts -----------------------------------------------------------------------------------


@kept
def s3(house: House, secret: str) -> None:
    """A bucket, by the fields of a block and by a saved one, with all that goes there."""
    import fsspec

    options = house.s3_options(secret)
    fsspec.filesystem("s3", **options).makedirs("canary", exist_ok=True)
    block = ArtifactFileSystem(url="s3://canary/block", options=options)
    block.save("canary", overwrite=True)
    name, study = "artifact-file-system/canary", house.study("s3")
    show(block, ArtifactFileSystem.load("canary"), as_artifact_filesystem(name))
    fields = {"url": block.url, "options": options}
    show(go(PROBLEM, study, artifacts=fields))
    archived = ArchivedStudy.load(study, artifacts=name)
    show(archived, OptunaArchive(archived.study, artifacts=name))
    archived.export("s3.zip")
    repository = ArtifactRepository(name, "own")
    show(repository, repository.log("note", "text", publish=True))
    with fsspec.filesystem("s3", **options).open(f"canary/{house.mark}", "wb") as file:
        file.write(house.mark.encode())
    copy = Path("bucket")
    fsspec.filesystem("s3", **options).get("canary", str(copy), recursive=True)


@kept
def s3_options(house: House, secret: str) -> None:
    """Options of other names, and such as cannot work."""
    good = house.s3_options(secret)
    away = house.s3.replace("://", f"://{quoted(secret)}@").rpartition(":")[0] + ":1"
    for options in (
        {**good, "endpoint_url": away},
        {**good, "endpoint_url": secret},
        {**good, "client_kwargs": {"region_name": secret}},
        {**good, "client_kwargs": {secret: secret}},
        {**good, "session": secret},
        {**good, "banana": secret},
        {**good, secret: "banana"},
        {"token": secret, "endpoint_url": house.s3},
        {"profile": secret, "endpoint_url": house.s3},
        {"key": secret, "endpoint_url": house.s3, "secret": 17},
    ):
        block = ArtifactFileSystem(url="s3://canary/options", options=options)
        show(block, block.location())
        attempt(block.check)
    for url in ("sftp://me@127.0.0.1:1/data", "abfs://container/x", "gs://bucket/x"):
        for name in ("password", "connection_string", "account_key", "token", "banana"):
            block = ArtifactFileSystem(url=url, options={name: secret})
            show(block, block.location())
            if url.startswith("abfs"):  # the others try again for a while
                attempt(block.check)
    attempt(lambda: ArtifactFileSystem(url="folder", options={"password": secret}))
    attempt(lambda: ArtifactFileSystem(url="s3://canary", options=secret))
    wrong = {"url": "s3://canary/options", "options": {**good, "endpoint_url": secret}}
    attempt(lambda: go(objective, house.study("s3_options"), artifacts=wrong))


@kept
def sftp(house: House, secret: str) -> None:
    """A folder of another machine, with a password that is right and with one that is wrong."""
    url = f"sftp://lab@127.0.0.1:{house.sftp}{Path.cwd() / 'sftp'}"
    options = {"password": secret, "known_hosts": house.known_hosts}
    in_artifacts("sftp", house, url, options)
    attempt(ArtifactFileSystem(url=url, options={**options, "password": f"{secret}!"}).check)
    stranger = {**options, "known_hosts": os.devnull}
    attempt(ArtifactFileSystem(url=url, options=stranger).check)
    attempt(lambda: ArtifactFileSystem(url=url.replace("lab@", f"lab:{quoted(secret)}@")))


@kept
def azure(house: House, secret: str) -> None:
    """A container, with a key that is right and with one that is wrong."""
    import fsspec

    def options(key: str) -> dict[str, Any]:
        blobs = f"http://127.0.0.1:{house.azure}/canary"
        address = {
            "DefaultEndpointsProtocol": "http",
            "AccountName": "canary",
            "AccountKey": base64.b64encode(key.encode()).decode(),
            "BlobEndpoint": blobs,
        }
        return {"connection_string": "".join(f"{name}={it};" for name, it in address.items())}

    fsspec.filesystem("abfs", **options(secret)).mkdir("canary")
    in_artifacts("azure", house, "abfs://canary/block", options(secret))
    for wrong in (options(f"{secret}!"), {"connection_string": secret}, {"account_key": secret}):
        attempt(ArtifactFileSystem(url="abfs://canary/block", options=wrong).check)


def in_artifacts(place: str, house: House, url: str, options: dict[str, Any]) -> None:
    """Archive a study there, by the fields of a block and by a saved one, and use it."""
    block = ArtifactFileSystem(url=url, options=options)
    block.save(f"canary-{place}", overwrite=True)
    name, study = f"artifact-file-system/canary-{place}", house.study(place)
    show(block, block.location(), ArtifactFileSystem.load(f"canary-{place}"))
    show(go(PROBLEM, study, artifacts={"url": url, "options": options}))
    archived = ArchivedStudy.load(study, artifacts=name)
    show(archived, archived.describe(), gc(artifacts=name))
    show(reevaluate(study, artifacts=name, trusted=True), report(study, artifacts=name))
    archived.export(f"{place}.zip")
    repository = ArtifactRepository(name, "own")
    show(repository, repository.log("note", "text", publish=True))


# -- what a problem holds ------------------------------------------------------------------------

TOKEN = os.environ.get("MY_TOKEN", "")
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
ENVIRONMENT = dict(os.environ)


def with_token(trial: optuna.Trial) -> float:
    """Refers to a module's constant."""
    return len(TOKEN) * objective(trial)


def with_headers(trial: optuna.Trial) -> float:
    """Refers to what was made of it."""
    return len(HEADERS) * objective(trial)


def with_environment(trial: optuna.Trial) -> float:
    """Refers to all variables."""
    return len(ENVIRONMENT) * objective(trial)


@refused
def token_of_a_module(house: House, _: str) -> None:
    """`TOKEN = os.environ["MY_TOKEN"]`."""
    go(with_token, house.study("token"))


@refused
def headers_of_a_module(house: House, _: str) -> None:
    """The same, within something else."""
    go(with_headers, house.study("headers"))


@refused
def environment_of_a_module(house: House, _: str) -> None:
    """`dict(os.environ)`."""
    go(with_environment, house.study("environment"))


@refused
def environment_in_a_context(house: House, _: str) -> None:
    """The same, in the context."""
    context = {"environment": dict(os.environ)}
    go(
        Problem(suggest=suggest, run=run, evaluate=evaluate, context=context),
        house.study("context"),
    )


@refused
def closure(house: House, _: str) -> None:
    """In a closure and a default."""
    token = TOKEN

    def closed(trial: optuna.Trial, header: str = f"Bearer {TOKEN}") -> float:
        return len(token) * len(header) * objective(trial)

    go(closed, house.study("closure"))


@refused
def registered(house: House, _: str) -> None:
    """In a context of a loop of one's own."""
    storage = as_study_storage(f"sqlite:///{house.study('registered')}.db")
    archive = OptunaArchive(storage.create_study(house.study("registered")), artifacts="artifacts")
    archive.context_add_many({"suggest": suggest, "evaluate": evaluate_token, "token": TOKEN})
    archive.set_suggest_entrypoint("suggest")
    archive.set_eval_entrypoint("evaluate")
    archive.check_minimal(require_run_function=False)


def evaluate_token(params: Mapping[str, Any]) -> float:
    """For `registered`."""
    return float(params["x"])


@refused
def registered_by_name(house: House, secret: str) -> None:
    """The same under a name that says it, without a variable."""
    storage = as_study_storage(f"sqlite:///{house.study('by_name')}.db")
    archive = OptunaArchive(storage.create_study(house.study("by_name")), artifacts="artifacts")
    archive.context_add_many({"suggest": suggest, "evaluate": evaluate_token, "api_key": secret})
    archive.set_suggest_entrypoint("suggest")
    archive.set_eval_entrypoint("evaluate")
    archive.check_minimal(require_run_function=False)


@refused
def data_of_a_study(house: House, _: str) -> None:
    """As data that is added to a study by this package."""
    study = as_study_storage("memory://data").create_study(house.study("data"))
    OptunaArchive(study, artifacts="artifacts").study_add_data("header", f"Bearer {TOKEN}")


@refused
def context_by_name(house: House, secret: str) -> None:
    """In a context under a name that says it."""
    context = {"settings": {"db": {"password": secret}}}
    go(Problem(suggest=suggest, run=run, evaluate=evaluate, context=context), house.study("named"))


# -- the scope -----------------------------------------------------------------------------------


@refused
def scope_of_a_variable(house: House, _: str) -> None:
    """The value of a secret variable."""
    go(objective, house.study("scope"), scope={"client": {"header": [f"Bearer {TOKEN}"]}})


@refused
def scope_by_name(house: House, secret: str) -> None:
    """A value whose name says what it is."""
    go(objective, house.study("scope"), scope={"api_key": secret})


@refused
def scope_by_inner_name(house: House, secret: str) -> None:
    """The same, further inside."""
    go(objective, house.study("scope"), scope={"client": [{"apiKey": secret}]})


@refused
def scope_around(house: House, secret: str) -> None:
    """In the scope in which a flow is called."""
    with param_scope(**{"db.password": secret}):
        go(objective, house.study("scope"))


@refused
def scope_of_a_url(house: House, secret: str) -> None:
    """A URL with a password."""
    go(objective, house.study("scope"), scope={"database": f"postgresql://me:{quoted(secret)}@h"})


@refused
def scope_of_a_reevaluation(house: House, secret: str) -> None:
    """What replaces an archived scope."""
    go(objective, house.study("again"))
    reevaluate(house.study("again"), artifacts="artifacts", trusted=True, scope={"api_key": secret})


@kept
def scope_inside(house: House, _: str) -> None:
    """What an objective itself puts into a scope, and reads there."""
    show(go(reads_inside, house.study("inside")))


def reads_inside(trial: optuna.Trial) -> float:
    """Takes a secret from where it should, and hands it on."""
    token = os.environ["MY_TOKEN"]
    with param_scope(**{"client.header": f"Bearer {token}", "db.password": token + "!"}):
        return len(str(param_scope.client.header(""))) + len(str(param_scope.db.password("")))


@kept
def scope_of_a_command(house: House, secret: str) -> None:
    """Parameters among the words of a command."""
    problem = f"{__file__}:PROBLEM"
    study = house.study("scope_of_a_command")
    call("deploy", problem, "--study", study, "--pool", "canary", "-D", f"api_key={secret}")
    go(objective, study, storage="journal:///command.journal")
    there = ("--storage", "journal:///command.journal", "--artifacts", "artifacts")
    call("reevaluate", study, "--trusted", "-D", f"db.password={secret}", *there, "--json")


# -- errors --------------------------------------------------------------------------------------


@kept
def error_of_an_objective(house: House, secret: str) -> None:
    """What an objective raises quotes a URL and a variable; it fails trials, or flows."""
    write_url(house, secret)
    show(go(raises, house.study("caught"), catch=ValueError))
    call("watch", house.study("caught"), "--artifacts", "artifacts")
    call("trials", house.study("caught"), "--json", "--artifacts", "artifacts")
    call("retry-failed", house.study("caught"), "--artifacts", "artifacts")
    for runner in (None, "threads", "processes"):
        study = house.study(f"raised_on_{runner}")
        jobs = {"n_jobs": 2, "task_runner": runner} if runner else {}
        expect(ValueError, lambda study=study, jobs=jobs: go(raises, study, **jobs))
    expect(ValueError, lambda: go(fine, house.study("callback"), callbacks=[raises_in_callback]))
    suggested = Problem(suggest=raises_in_suggest, run=run)
    expect(InvalidProblemError, lambda: go(suggested, house.study("suggested")))


def write_url(house: House, secret: str) -> None:
    """Where the following find a secret when they run."""
    file = Path(house.inputs, secret.rpartition("+")[2])
    file.write_text(house.sql(secret), encoding="utf-8")
    os.environ["URL_FILE"] = str(file)


@kept
def error_of_a_reevaluation(house: House, secret: str) -> None:
    """The same, when archived code runs again."""
    write_url(house, secret)
    study = house.study("raised_again")
    go(raises_again, study)
    os.environ["RAISE"] = "1"
    again = reevaluate(
        study,
        artifacts="artifacts",
        trusted=True,
        environment_variables=["RAISE", "URL_FILE", "MY_TOKEN"],
    )
    show(again, again.trials[0].message)
    assert again.trials[0].verdict == "failed"


@kept
def cause_of_a_drift(house: House, secret: str) -> None:
    """What is tried to find out why a value is another one, with a secret that the code reads."""
    write_url(house, secret)
    study = house.study("drifts")
    go(drifts, study)
    os.environ["RAISE"] = "1"
    names = ["RAISE", "URL_FILE", "MY_TOKEN", "MY_DATABASE"]
    variables = [word for name in names for word in ("--environment-variable", name)]
    there = ("--artifacts", "artifacts", "--trusted", "--why")
    assert call("reevaluate", study, *there, *variables) == 3
    assert call("reevaluate", study, *there, "--json", *variables) == 3


def drifts(trial: optuna.Trial) -> float:
    """Another value the second time, by what it reads."""
    read = [os.environ["MY_TOKEN"], os.environ["MY_DATABASE"]] if "RAISE" in os.environ else []
    url = Path(os.environ["URL_FILE"]).read_text(encoding="utf-8")
    return fine(trial) + len(read) + len(url)


def fine(trial: optuna.Trial) -> float:
    """Raises nothing."""
    return trial.suggest_float("x", 0, 1)


def raises(trial: optuna.Trial) -> float:
    """As a driver does."""
    trial.suggest_float("x", 0, 1)
    try:
        raise OSError(f"login with {os.environ['MY_TOKEN']!r} refused")
    except OSError as error:
        url = Path(os.environ["URL_FILE"]).read_text(encoding="utf-8")
        raise ValueError(f"cannot reach {url} with {os.environ['MY_TOKEN']}") from error


def raises_again(trial: optuna.Trial) -> float:
    """The second time."""
    return raises(trial) if "RAISE" in os.environ else fine(trial)


def raises_in_callback(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
    """As a callback does."""
    raise ValueError(f"cannot reach {Path(os.environ['URL_FILE']).read_text(encoding='utf-8')}")


def raises_in_suggest(trial: optuna.Trial) -> dict[str, Any]:
    """As a callback does."""
    raise ValueError(f"cannot reach {Path(os.environ['URL_FILE']).read_text(encoding='utf-8')}")


# -- keys, environments, deployments -------------------------------------------------------------


@kept
def signing_key(house: House, secret: str) -> None:
    """The key as a setting, as a block and as an argument, one that is too short, and in code."""
    study = house.study("signed")
    with variables(PREFECT_INTEGRATIONS_OPTUNA_ARCHIVE_KEY=secret):
        show(go(PROBLEM, study), OptunaSettings())
        archived = ArchivedStudy.load(study, artifacts="artifacts")
        show(archived, archived.signatures, archived.signatures.problems, archived.signatures.gaps)
        show(reevaluate(study, artifacts="artifacts"))
        attempt(
            lambda: reevaluate(
                study,
                artifacts="artifacts",
                environment_variables=["PREFECT_INTEGRATIONS_OPTUNA_ARCHIVE_KEY"],
            )
        )
        archived.export("signed.zip")
        attempt(lambda: go(objective, house.study("key_in_scope"), scope={"x": secret}))
    Secret(value=secret).save("canary-key", overwrite=True)
    with variables(PREFECT_INTEGRATIONS_OPTUNA_ARCHIVE_KEY_BLOCK="canary-key"):
        show(go(PROBLEM, house.study("signed_by_block")), OptunaSettings())
    archive = OptunaArchive(archived.study, artifacts="artifacts", signing_key=SecretStr(secret))
    archive.sign()
    show(archive, archive.manifest, vars(archive))
    attempt(lambda: ArchivedStudy.load(study, artifacts="artifacts", signing_key=secret + "?"))
    attempt(lambda: OptunaArchive(signing_key=SecretStr(f"{secret},{house.canary.core[:9]}")))


@kept
def sources(house: House, secret: str) -> None:
    """What is installed from URLs with tokens, and changes that git has not committed."""
    folder = Path(house.inputs, "repository")
    sys.path.insert(0, str(folder))
    try:
        problem = __import__("canary_problem").problem
        study = house.study("sources")
        show(go(problem, study))
        archived = ArchivedStudy.load(study, artifacts="artifacts")
        show(archived.environment, archived.requirements(), archived.git_diff())
        assert "canary-1" in archived.environment.sources, archived.environment.sources
        assert archived.environment.git is not None
    finally:
        sys.path.remove(str(folder))


@kept
def deployments(house: House, secret: str) -> None:
    """Parameters of deployments, of their runs and of automations."""
    make_process_pool("canary")
    problem, study, url = f"{__file__}:PROBLEM", house.study("deployed"), house.sql(secret)
    SQLStudyStorage(url=SecretStr(url)).save("canary-deployed", overwrite=True)
    there = {"storage": "sql-study-storage/canary-deployed", "artifacts": "artifacts"}
    common: dict[str, Any] = {"pool": "canary", "study_name": study}
    deployed = deploy_optimization(problem, cron="0 3 * * *", **common, **there)
    show(deployed, deployed.url)
    show(deploy_reevaluation(study, pool="canary", cron="0 4 * * *", **there))
    unsaved = SQLStudyStorage(url=SecretStr(url))
    refusals: list[Callable[[], Any]] = [
        lambda: deploy_optimization(problem, storage=url, **common),
        lambda: deploy_optimization(problem, storage=unsaved, **common),
        lambda: deploy_optimization(problem, workers=2, storage=url, **common),
        lambda: deploy_optimization(problem, options={"scope": {"api_key": secret}}, **common),
        lambda: deploy_optimization(problem, options={"scope": {"x": [url]}}, **common),
        lambda: deploy_optimization(problem, options={"scope": {"x": TOKEN}}, **common),
        lambda: deploy_optimization(problem, artifacts=f"s3://k:{quoted(secret)}@b", **common),
        lambda: deploy_reevaluation(study, storage=url, pool="canary"),
        lambda: deploy_report(study, storage=url, pool="canary"),
        lambda: deploy_gc(storage=[url], pool="canary"),
        lambda: deployed.run(storage=url),
        lambda: deployed.run(scope={"api_key": secret}),
        lambda: deployed.run(scope={"x": f"Bearer {TOKEN}"}),
        lambda: run_on("study.completed", "optimize/canary", parameters={"storage": url}),
        lambda: run_on("study.completed", deployed.name, parameters={"x": {"api_key": secret}}),
        lambda: automate("study.completed", RunDeployment(parameters={"storage": url})),
        lambda: automate("study.completed", SendNotification(**NO_BLOCK, subject="s", body=url)),
        lambda: automate("study.completed", CancelFlowRun(), description=url),
        lambda: distribute(PROBLEM, study_name=study, storage=url),
        lambda: distribute(PROBLEM, study_name=study, scope={"api_key": secret}, **there),
    ]
    for number, refusal in enumerate(refusals):
        assert attempt(refusal), f"refusal {number}"
    # Workers install what they lack from where their settings say, and those who deploy have some.
    index = f"http://lab:{quoted(secret)}@127.0.0.1:9/simple"
    with variables(UV_INDEX_URL=index, UV_INDEX_LAB_PASSWORD=secret):
        words = ("--pool", "canary", "--study", study, "--install", "--workers", "2", "--json")
        call("deploy", problem, *words, "--storage", there["storage"])
        call("deploy", problem, *words, "--storage", url)
        call("deploy-worker", "--pool", "canary", "--json")
        call("scale", study, "--workers", "3", "--storage", there["storage"])


NO_BLOCK = {"block_document_id": "00000000-0000-0000-0000-000000000000"}


@refused
def deployed_code(house: House, secret: str) -> None:
    """In the code that a deployment takes along: as a constant, and in a URL in its source."""
    make_process_pool("canary")
    file = Path(house.inputs, "deployed_code.py")
    url = f"postgresql://me:{quoted(secret)}@example.org/db"
    text = f"def url_in_source(trial):\n    return len({url!r}) * trial.suggest_float('x', 0, 1)\n"
    file.write_text(text, encoding="utf-8")
    there: dict[str, Any] = {"pool": "canary", "study_name": house.study("deployed_code")}
    for problem in (f"{__file__}:with_token", f"{__file__}:with_environment"):
        assert attempt(lambda problem=problem: deploy_optimization(problem, **there)), problem
        call("deploy", problem, "--pool", "canary", "--study", there["study_name"], "--json")
    with variables(PREFECT_INTEGRATIONS_OPTUNA_ARCHIVE_KEY=secret):
        signed = deploy_optimization(f"{__file__}:PROBLEM", **there)
        show(signed)
        parameters = {"problem": "archive", "study_name": there["study_name"], "version": "0" * 8}
        attempt(lambda: go(**parameters, trusted=True))
    deploy_optimization(f"{file}:url_in_source", **there)


# -- what lies on a machine ----------------------------------------------------------------------


@kept
def spooled(house: House, secret: str) -> None:
    """A trial that waits on the disk while its storage is away, and what is said of it."""
    with Cable(house.redis) as cable, ExitStack() as outage:

        def cut() -> None:
            wait_until(Path("spool-runs").exists, what="a trial that runs", timeout=60)
            outage.enter_context(cable.out())
            Path("spool-cut").touch()

        (cutter := threading.Thread(target=cut)).start()
        login = house.redis_url.rpartition("@")[0]
        there = {"url": f"{login}@127.0.0.1:{cable.port}/0", "retry_limit": 0.2}
        study = house.study("spooled")
        variables_there = variables(PREFECT_INTEGRATIONS_OPTUNA_PATIENCE="1", SPOOL_SECRET=secret)
        with variables_there:
            attempt(lambda: go(is_cut_off, study, storage=RedisStudyStorage(**there)))
        cutter.join()
        waiting = [one for one in Spool() if one.study_name == study]
        assert waiting, "nothing is in the spool"
        show(*waiting)
        call("spool")
        call("spool", "--json")
        attempt(lambda: send(waiting, RedisStudyStorage(**there), "artifacts"))
        outage.close()
        back = ("--storage", there["url"], "--artifacts", "artifacts")
        assert call("spool", "send", "--json", *back) == 0


def is_cut_off(trial: optuna.Trial) -> float:
    """Runs until its storage is away, and fails of an error that quotes secrets."""
    x = trial.suggest_float("x", 0, 1)
    Path("spool-runs").touch()
    while not Path("spool-cut").exists():
        time.sleep(0.02)
    token = os.environ["SPOOL_SECRET"]
    raise ValueError(f"no answer from redis://me:{token.replace('/', '%2F')}@host/0, {token}, {x}")


@kept
def kept_inputs(house: House, _: str) -> None:
    """Files that trials read: credentials, a secret in a name, and one in what is kept."""
    home = Path(house.inputs, "home")
    token = os.environ["MY_TOKEN"]
    files = {
        home / ".aws" / "credentials": f"aws_secret_access_key = {token}x",
        home / "data" / f"{token}.csv": "1\n",
        home / "data" / "token.txt": f"token {token}",
        home / "data" / ".env": f"TOKEN={token}",
        # No variable has this one: it is known by what stands before it.
        home / "data" / "lab.ini": f"[db]\npassword = {house.canary.secret('kept_inputs')}\n",
        home / "data" / "pelts.csv": f"1\n{house.mark}\n",
    }
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    study, listed = house.study("inputs"), Path(house.inputs, "listed.txt")
    listed.write_text("\n".join(map(str, files)), encoding="utf-8")
    with variables(HOME=str(home), LISTED=str(listed)):
        show(go(reads_files, study, keep_inputs="1 MB"))
    archived = ArchivedStudy.load(study, artifacts="artifacts")
    assert [one.name for one in archived.inputs() if one.kept and "pelts" in one.name]
    show(*archived.inputs(), *archived.reevaluations())
    archived.export("inputs.zip")
    passed_on = ("--environment-variable", "LISTED", "--environment", "here", "--trusted")
    with variables(LISTED=str(listed)):
        call("rerun", "inputs.zip", *passed_on, "--json")
        call("reevaluate", study, "--artifacts", "artifacts", *passed_on)


def reads_files(trial: optuna.Trial) -> float:
    """Reads what is in a list."""
    names = Path(os.environ["LISTED"]).read_text(encoding="utf-8").splitlines()
    return sum(len(Path(name).read_text(encoding="utf-8")) for name in names) + fine(trial)


@kept
def recorded_environment(house: House, secret: str) -> None:
    """What uv is given, builds, keeps and says: passwords of indexes, and of packages."""
    folder = Path("environment-of-the-canary").absolute()
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        wheels = only_these_wheels(folder, patch)
        wheel(wheels, "spy", "1.0", {"spy.pth": f"import os; open({str(wheels / 'spy.txt')!r}, 'a')"
                                                ".write(repr(dict(os.environ)))\n"})  # fmt: skip
        show(prepare_environment(recorded(tiny="1.0", spy="1.0")))
        record_only(patch, tiny="1.0")
        study = house.study("recorded")
        go(objective, study)
        there = ("--artifacts", "artifacts", "--trusted", "--environment")
        call("reevaluate", study, *there, "recorded", "--json")
        settings = {
            "UV_INDEX_URL": f"http://lab:{quoted(secret)}@127.0.0.1:9/simple",
            "UV_EXTRA_INDEX_URL": f"http://{quoted(secret)}@127.0.0.1:9/simple",
            "UV_INDEX_LAB_PASSWORD": secret,
            "UV_PUBLISH_TOKEN": secret,
            "UV_HTTP_RETRIES": "0",
        }
        for name, value in settings.items():
            patch.setenv(name, value)
        record_only(patch, tiny="3.0")
        go(objective, house.study("recorded_3"))
        call("reevaluate", house.study("recorded_3"), *there, "recorded")
        call("reevaluate", house.study("recorded_3"), *there, "closest", "--json")
        patch.delenv("UV_CONFIG_FILE")
        for source in (f"https://{quoted(secret)}@127.0.0.1:9/x.whl", "https://127.0.0.1:9/x.whl"):
            then = replace(recorded(tiny="3.0"), sources={"tiny": source})
            attempt(lambda then=then: prepare_environment(then))
        attempt(lambda: prepare_environment(recorded(tiny="4.0", nowhere="1.0")))
        call("gc", "--artifacts", "artifacts", "--json")


@kept
def api_url(house: House, secret: str) -> None:
    """A user and a password in the URL of Prefect's server, which answers, or does not."""
    here = get_current_settings().api.url or ""
    for url in (
        here.replace("://", f"://me:{quoted(secret)}@"),
        f"http://me:{quoted(secret)}@127.0.0.1:1/api",
        f"http://{quoted(secret)}@127.0.0.1:1/api",
    ):
        with variables(PREFECT_API_URL=url), temporary_settings({"api.url": url}):
            if ":1/" not in url:
                show(go(objective, house.study("api_url")))
            there = ("--artifacts", "artifacts")
            study = house.study("api_url")
            call("deploy-report", study, "--pool", "canary", "--run", "--json", *there)
            call("deploy-report", study, "--pool", "canary", "--run", *there)
            call("deploy-report", study, "--pool", "none", *there)
            call("report", study, *there)
            call("reevaluate", study, "--trusted", *there)
            attempt(lambda: distribute(PROBLEM, study_name="none", deployment="none/none"))
            attempt(lambda: run_on("study.completed", "none/none"))


# -- helpers -------------------------------------------------------------------------------------


def attempt(action: Callable[[], Any]) -> bool:
    """Do something that may be refused, and show what comes of it; whether it was."""
    try:
        show(action())
    except Exception as error:  # noqa: BLE001 - it is looked at
        traceback.print_exception(error)
        show(error, error.args)
        return True
    return False


def expect(kind: type[Exception], action: Callable[[], Any]) -> None:
    """Have something raise what is the caller's own, and is not shown by anybody but the caller."""
    try:
        action()
    except kind:
        return
    raise AssertionError(f"expected {kind.__name__}, and nothing was raised")


def call(*words: str) -> int:
    """Run a command line here."""
    return command_line_main(words)


@contextlib.contextmanager
def variables(**values: str) -> Generator[None]:
    """Set environment variables for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def main() -> None:
    """Go through all places."""
    settings = json.load(sys.stdin)
    only = settings.pop("only", None)
    if (part := settings.pop("part", None)) is not None:
        only = list(PLACES)[part::2]
    house = House(**{field.name: settings[field.name] for field in fields(House)})
    logging.getLogger("optuna").propagate = True
    outcomes: dict[str, str] = {}
    began = time.monotonic()
    for name, (_, place) in PLACES.items():
        if only and name not in only:
            continue
        print(f"-- {name} {house.mark}, after {time.monotonic() - began:.1f} s", flush=True)
        try:
            place(house, house.canary.secret(name))
            outcomes[name] = "kept"
        except Exception as error:  # noqa: BLE001 - it is looked at
            outcomes[name] = "refused"
            traceback.print_exception(error)
        sys.stdout.flush()
    Path(sys.argv[1]).write_text(json.dumps(outcomes), encoding="utf-8")


if __name__ == "__main__":
    main()
