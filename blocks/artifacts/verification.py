"""Verification that every version is still what was logged."""

from __future__ import annotations

from dataclasses import dataclass

from prefect_optuna.blocks.artifacts.index import VersionIndex
from prefect_optuna.blocks.artifacts.objects import ContentStore
from prefect_optuna.errors import ArtifactNotFoundError, CorruptArtifactError


@dataclass(frozen=True)
class VersionProblem:
    """A problem of one version.

    Attributes:
        name: of the artifact; of one whose record cannot be read, the name of its directory.
        version: its number.
        problem: what is wrong, for people.

    Example:
        >>> from prefect_optuna.blocks.artifacts.verification import VersionProblem
        >>> VersionProblem("model", 3, "the content is missing").version
        3
    """

    name: str
    version: int
    problem: str


@dataclass(frozen=True)
class Verification:
    """The findings of `ArtifactRepository.verify`.

    Attributes:
        ok: how many versions are what was logged.
        removed: of how many `gc` has removed the content.
        problems: what is wrong with the others.

    Example:
        >>> from prefect_optuna.blocks import ArtifactRepository
        >>> repository = ArtifactRepository("memory://docs-verification")
        >>> _ = repository.log("limits", [0, 1])
        >>> repository.verify()
        Verification(ok=1, removed=0, problems=())
    """

    ok: int
    removed: int
    problems: tuple[VersionProblem, ...]


def verify_all(index: VersionIndex, objects: ContentStore) -> Verification:
    """Read everything that the index names, and each content once."""
    ok = removed = 0
    problems: list[VersionProblem] = []
    contents: dict[str, str | None] = {}
    for directory in index.directories():
        numbers, name = index.numbers(directory), directory
        for number in range(max(numbers, default=-1) + 1):
            try:
                record = index.record(directory, number)
                name = record.name
                marks = index.marks(directory, [number])[number]
            except ArtifactNotFoundError:
                problems.append(VersionProblem(name, number, "the record is missing"))
                continue
            except CorruptArtifactError as error:
                problems.append(VersionProblem(name, number, str(error)))
                continue
            if marks.removed_at is not None:
                removed += 1
                continue
            if record.path not in contents:
                contents[record.path] = objects.problem(record.path)
            if problem := contents[record.path]:
                problems.append(VersionProblem(name, number, problem))
            else:
                ok += 1
    return Verification(ok, removed, tuple(problems))
