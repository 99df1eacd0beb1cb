"""Whatever is done to it, a repository and a dictionary agree."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from prefect_optuna.blocks import ArtifactLogError, VersionNotFoundError
from prefect_optuna.blocks.artifacts.records import ArtifactVersion
from prefect_optuna.blocks.artifacts.repository import ArtifactRepository

TICK = timedelta(microseconds=1)
PAST, FUTURE = datetime(2001, 1, 1, tzinfo=UTC), datetime(2101, 1, 1, tzinfo=UTC)
NAMES = st.sampled_from(["model", "a b", "a-b"])
# Few, so that versions have the same content.
VALUES = st.sampled_from(["x", "y", {"z": [1.5, None]}, 4])


class Logged:
    """What the model knows of a version."""

    def __init__(self, value: Any, version: ArtifactVersion) -> None:
        self.value = value
        self.created_at = version.created_at
        self.expiry: datetime | None = None
        self.removed = False

    def is_current(self, moment: datetime) -> bool:
        return self.expiry is None or moment < self.expiry


class RepositoryMachine(RuleBasedStateMachine):
    """Two repositories, of which one promotes to the other, and two dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.urls = [f"memory://{uuid4()}", f"memory://{uuid4()}"]
        self.repositories = [ArtifactRepository(url) for url in self.urls]
        self.models: list[dict[str, list[Logged]]] = [{}, {}]

    def check(self, which: int, name: str, expected: Logged | None, **chosen: Any) -> None:
        if expected is not None and not expected.removed:
            assert self.repositories[which].load(name, **chosen) == expected.value
            return
        message = "was removed" if expected else "no artifact|expired|only version|no version"
        with pytest.raises(VersionNotFoundError, match=message):
            self.repositories[which].load(name, **chosen)

    def newest(self, which: int, name: str, moment: datetime) -> Logged | None:
        versions = self.models[which].get(name, [])
        return next((one for one in reversed(versions) if one.is_current(moment)), None)

    @rule(which=st.integers(0, 1), name=NAMES, value=VALUES)
    def log(self, which: int, name: str, value: Any) -> None:
        version = self.repositories[which].log(name, value)
        versions = self.models[which].setdefault(name, [])
        assert version.version == len(versions)
        assert not versions or version.created_at > versions[-1].created_at
        versions.append(Logged(value, version))

    @rule(which=st.integers(0, 1))
    def open_anew(self, which: int) -> None:
        self.repositories[which] = ArtifactRepository(self.urls[which])

    @rule(which=st.integers(0, 1), name=NAMES, number=st.integers(0, 4))
    def load_by_number_and_time(self, which: int, name: str, number: int) -> None:
        versions = self.models[which].get(name, [])
        expected = versions[number] if number < len(versions) else None
        self.check(which, name, expected, version=number)
        if expected:
            self.check(which, name, expected, version=expected.created_at)
            self.check(which, name, expected, version=expected.created_at.isoformat())

    @rule(which=st.integers(0, 1), name=NAMES, number=st.integers(0, 4), early=st.booleans())
    def load_as_of(self, which: int, name: str, number: int, early: bool) -> None:
        versions = self.models[which].get(name, [])
        if number >= len(versions):
            return
        moment = versions[number].created_at - (TICK if early else timedelta())
        there = [one for one in versions if one.created_at <= moment]
        expected = next((one for one in reversed(there) if one.is_current(moment)), None)
        self.check(which, name, expected, asof=moment)

    @rule(
        which=st.integers(0, 1),
        name=NAMES,
        number=st.integers(0, 4),
        expiry=st.sampled_from([PAST, FUTURE, None]),
    )
    def expire(self, which: int, name: str, number: int, expiry: datetime | None) -> None:
        versions = self.models[which].get(name, [])
        if number >= len(versions) or versions[number].removed:
            with pytest.raises(VersionNotFoundError):
                self.repositories[which].expire(name, number, expiry=expiry)
            return
        version = self.repositories[which].expire(name, number, expiry=expiry)
        assert expiry in (None, version.expiry)
        versions[number].expiry = version.expiry

    @rule(name=NAMES)
    def promote(self, name: str) -> None:
        found = self.newest(0, name, datetime.now(UTC))
        there = self.models[1].setdefault(name, [])
        if found is None:
            kind: type[Exception] | None = VersionNotFoundError
        elif there and (there[-1].created_at >= found.created_at or there[-1].value == found.value):
            kind = ArtifactLogError
        else:
            version = self.repositories[0].promote(name, self.repositories[1])
            assert (version.version, version.created_at) == (len(there), found.created_at)
            there.append(Logged(found.value, version))
            return
        with pytest.raises(kind):
            self.repositories[0].promote(name, self.repositories[1])

    @rule(which=st.integers(0, 1), dry_run=st.booleans())
    def collect(self, which: int, dry_run: bool) -> None:
        now = datetime.now(UTC)
        garbage = self.repositories[which].gc(dry_run)
        expected = {
            (name, number)
            for name, versions in self.models[which].items()
            for number, one in enumerate(versions)
            if not one.removed and not one.is_current(now)
        }
        assert {(one.name, one.version) for one in garbage.versions} == expected
        if not dry_run:
            for name, number in expected:
                self.models[which][name][number].removed = True

    @invariant()
    def all_is_as_the_model_says(self) -> None:
        for which, (repository, model) in enumerate(
            zip(self.repositories, self.models, strict=True)
        ):
            assert repository.names() == sorted(name for name, one in model.items() if one)
            for name, versions in model.items():
                self.check(which, name, self.newest(which, name, datetime.now(UTC)))
                if versions:
                    found = repository.versions(name)
                    assert [
                        (one.created_at, one.expiry, one.removed_at is not None) for one in found
                    ] == [(one.created_at, one.expiry, one.removed) for one in versions]

    @precondition(lambda self: any(self.models))
    @rule(which=st.integers(0, 1))
    def verify(self, which: int) -> None:
        versions = [one for versions in self.models[which].values() for one in versions]
        report = self.repositories[which].verify()
        removed = sum(one.removed for one in versions)
        assert (report.ok, report.removed) == (len(versions) - removed, removed)
        assert not report.problems


TestRepository = RepositoryMachine.TestCase
TestRepository.settings = settings(max_examples=30, stateful_step_count=20)
