"""`compose.yaml`: valid by the Compose specification, and true to what it starts."""

from __future__ import annotations

import importlib.resources
import json
import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from prefect.settings import Settings

import prefect_optuna.deployments
from prefect_optuna.deployments.pools import STUDIES_QUEUE

FOLDER = Path(prefect_optuna.deployments.__file__).parent
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]


def known_settings() -> set[str]:
    """The environment variables that Prefect reads."""
    from prefect.settings.legacy import _get_settings_fields

    aliases: set[str] = set()

    def walk(model: Any) -> None:
        for field in model.model_fields.values():
            choices = getattr(field.validation_alias, "choices", [])
            aliases.update(str(choice).upper() for choice in choices if isinstance(choice, str))
            if isinstance(field.annotation, type) and hasattr(field.annotation, "model_fields"):
                walk(field.annotation)

    walk(Settings)
    return aliases | set(_get_settings_fields(Settings))


def environment_of(service: dict[str, Any]) -> dict[str, str]:
    return service.get("environment", {})


def test_it_is_valid_by_the_compose_specification() -> None:
    folder = importlib.resources.files("check_jsonschema") / "builtin_schemas" / "vendor"
    schema = json.loads((folder / "compose-spec.json").read_text())
    validator = jsonschema.validators.validator_for(schema)(schema)
    validator.validate(COMPOSE)
    broken = {**COMPOSE, "services": {"worker": {"comand": "prefect"}}}
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(broken)


def test_every_variable_of_prefect_is_one_that_prefect_reads() -> None:
    known = known_settings()
    assert "PREFECT_SERVER_DATABASE_HOST" in known
    used = {name for service in SERVICES.values() for name in environment_of(service)}
    used |= set(re.findall(r"export (\w+)=", (FOLDER / "compose.yaml").read_text()))
    own = ("PREFECT_INTEGRATIONS_OPTUNA_", "PREFECT_REDIS_MESSAGING_")
    checked = {name for name in used if name.startswith("PREFECT_") and not name.startswith(own)}
    assert len(checked) > 10
    assert checked <= known


def test_no_password_is_in_the_file_or_in_an_environment() -> None:
    for name, service in SERVICES.items():
        for variable, value in environment_of(service).items():
            secret = re.search(r"PASSWORD|SECRET|KEY|ROOT_USER", variable)
            assert not secret or str(value).startswith("/run/secrets/"), f"{name}: {variable}"
            assert not re.search(r"://[^/]*:[^/]*@", str(value)), f"{name}: {variable}"
    assert all(list(secret) == ["file"] for secret in COMPOSE["secrets"].values())


def test_every_secret_that_is_read_is_mounted_and_the_workers_read_none() -> None:
    for name, service in SERVICES.items():
        text = yaml.safe_dump(service)
        read = set(re.findall(r"/run/secrets/(\w+)", text))
        assert read == set(service.get("secrets", [])), name
    assert "secrets" not in SERVICES["worker"]
    assert "secrets" not in SERVICES["dashboard"]


def test_only_this_machine_reaches_its_ports() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_studies_are_on_the_disk_and_none_is_evicted() -> None:
    command = SERVICES["redis-studies"]["command"][-1]
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command
    assert SERVICES["redis-studies"]["volumes"] == ["redis-studies:/data"]


def test_a_worker_has_one_run_and_who_distributes_a_study_waits_elsewhere() -> None:
    *_, queue, name, limit, number = SERVICES["worker"]["command"]
    assert (queue, name, limit, number) == ("--work-queue", "default", "--limit", "1")
    assert SERVICES["studies"]["command"][-2:] == ["--work-queue", STUDIES_QUEUE]


def test_the_commands_of_this_package_are_there() -> None:
    from prefect_optuna.deployments import container, lab

    assert SERVICES["set-up"]["command"][-1] == lab.__name__
    variables = [name for name in SERVICES["set-up"]["environment"] if name.startswith("LAB_")]
    assert variables
    assert all(name in (lab.__doc__ or "") for name in variables)
    for name in ("worker", "studies"):
        assert SERVICES[name]["command"][:3] == ["python", "-m", container.__name__]
    assert SERVICES["dashboard"]["command"][:2] == ["prefect-optuna", "dashboard"]


def test_the_dashboard_s_command_is_one_that_the_command_line_takes() -> None:
    from prefect_optuna.deployments.cli import app

    command, bound, _ = app.parse_args(
        SERVICES["dashboard"]["command"][1:], exit_on_error=False, print_error=False
    )
    assert command.__name__ == "dashboard"
    assert bound.arguments["host"] == "0.0.0.0"


def test_no_secret_and_no_history_gets_into_the_image_and_every_module_does() -> None:
    ignored = (FOLDER.parent / ".dockerignore").read_text().splitlines()
    rules = [line for line in ignored if not line.startswith("#")]
    assert rules[0] == "*"
    assert "deployments/secrets" in rules[rules.index("!deployments") :]
    taken = [rule[1:] for rule in rules if rule.startswith("!")]
    for rule in taken:
        assert any(FOLDER.parent.glob(rule)), rule
    project = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text())
    folders = {path.split("/")[0] for path in project["tool"]["setuptools"]["package-dir"].values()}
    modules = {path.name for path in FOLDER.parent.glob("*.py")}
    assert len(modules) > 2
    for name in (folders - {"."}) | modules | {"py.typed", "setup.cfg"}:
        assert any(fnmatch(name, rule) for rule in taken), name


def test_older_programs_take_the_file_too() -> None:
    """Debian's docker-compose 1.29 refuses `name:`; its project is named beside it."""
    assert "name" not in COMPOSE
    assert "COMPOSE_PROJECT_NAME=" in (FOLDER / ".env").read_text()
