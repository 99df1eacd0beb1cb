"""The Python and the packages that trials ran with, once more: built by uv, kept for the next time.

An environment lies in the user's cache folder, under the digest of what is in it. It is built
beside its place and renamed when it is whole, so that nothing half is ever used. This package is
not installed in it: the process that runs trials there gets the one that is running here, which
knows how to read the archive.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prefect.logging import get_logger

from prefect_optuna.blocks._secrets import public_text, without_secrets
from prefect_optuna.blocks.settings import OptunaSettings
from prefect_optuna.blocks.stores.local import shared_part
from prefect_optuna.blocks.texts import visible_line
from prefect_optuna.errors import EnvironmentUnavailableError, StorageUnavailableError
from prefect_optuna.tasks.archive.carrying.garbage import StudyGarbage
from prefect_optuna.tasks.archive.record.environment import (
    FOLDER,
    RECORD_FILE,
    Environment,
    is_requirement,
)

if TYPE_CHECKING:
    from packaging.requirements import Requirement
    from packaging.version import Version

EnvironmentChoice = Literal["here", "recorded", "closest"]

UNUSED_DAYS = 30
"""An environment that no trial has run in for so long is removed by `gc`."""

_FORMAT = 1
_OTHERWISE = "environment='here' runs trials with what is installed here"
_OURS = "prefect-optuna"
_MAX_REASON = 250  # characters at either end

# No others that begin so: SSH takes along whatever is called `LC_`, and people hide tokens there.
LOCALE = (
    "LC_ALL", "LC_COLLATE", "LC_CTYPE", "LC_MESSAGES", "LC_MONETARY", "LC_NUMERIC", "LC_TIME",
)  # fmt: skip
"""The variables of the language of a process, beside `LANG`."""

# What uv, git and compilers need. Not what this process has of secrets beside that: building a
# package runs code of its authors.
_FOR_UV = {
    *LOCALE, "PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "TEMP", "TMP", "LANG", "LANGUAGE", "TZ",
    "USERPROFILE", "APPDATA", "LOCALAPPDATA", "PROGRAMDATA", "PROGRAMFILES", "SYSTEMROOT",
    "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT", "NETRC", "SSH_AUTH_SOCK", "GIT_SSH_COMMAND",
    "GIT_SSL_CAINFO", "SSL_CERT_FILE", "SSL_CERT_DIR", "SSL_CLIENT_CERT", "HTTP_PROXY",
    "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "CC", "CXX", "CFLAGS", "CXXFLAGS", "CPPFLAGS",
    "LDFLAGS", "LD_LIBRARY_PATH", "CUDA_HOME",
}  # fmt: skip
# These would have uv install something else, or into another place.
_NOT_FOR_UV = {
    "UV_PYTHON", "UV_SYSTEM_PYTHON", "UV_CONSTRAINT", "UV_OVERRIDE", "UV_REQUIRE_HASHES",
    "UV_PROJECT_ENVIRONMENT", "UV_RESOLUTION",
}  # fmt: skip
# What leads Python to packages of elsewhere; and what keeps it from compiling those of a new
# environment once, without which each start takes twice as long.
_NOT_THERE = (
    "PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "CONDA_PREFIX", "CONDA_DEFAULT_ENV",
    "PYTHONDONTWRITEBYTECODE",
)  # fmt: skip
_DRAWN = "\u00d7╰─▶├│ "  # around what uv says, in some of its versions
_NO_NETWORK = (
    "error sending request",
    "dns error",
    "failed to fetch",
    "could not connect",
    "network connectivity is disabled",
    "network is unreachable",
)
_UNTRUSTED = "invalid peer certificate"
_NOT_LET_IN = "authentication credentials"  # uv says so in a hint, after "was not found"


@dataclass(frozen=True)
class PreparedEnvironment:
    """An environment in which archived trials run.

    Attributes:
        folder: where it lies.
        notes: what in it is not as it was recorded, for people.
        built: whether it was built just now.
    """

    folder: Path
    notes: tuple[str, ...] = ()
    built: bool = False

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return _python_in(self.folder)

    def variables(
        self, variables: Mapping[str, str], ours: Path, *, named: Collection[str] = ()
    ) -> dict[str, str]:
        """The variables of a process that finds what is in it, this package, and none beside.

        `ours` is a folder with this package; those that are `named` it has in any case.
        """
        kept = {n: text for n, text in variables.items() if n not in _NOT_THERE or n in named}
        more = kept.get("PYTHONPATH")
        return kept | {
            "VIRTUAL_ENV": str(self.folder),
            "PATH": os.pathsep.join([str(self.python.parent), kept.get("PATH", os.defpath)]),
            "PYTHONNOUSERSITE": "1",
            "PYTHONPATH": os.pathsep.join([str(ours), *([more] if more else [])]),
        }

    def package(self) -> Path:
        """A folder beside it with this package, as it runs here, and nothing else; it is kept."""
        source = _source()
        name = hashlib.sha256(f"{source} {_our_version()}".encode()).hexdigest()[:12]
        place = self.folder / f"prefect-optuna-{name}"
        if not place.exists():
            with tempfile.TemporaryDirectory(dir=self.folder) as made:
                part = Path(made, "part")
                part.mkdir()
                _put_package(part, source)
                with contextlib.suppress(OSError):  # another process was faster
                    part.rename(place)
        return place


@dataclass(frozen=True)
class UnusedEnvironment:
    """An environment that no trial has run in for a while, or that was never finished.

    Attributes:
        folder: where it lies.
        python: its version of Python; empty where it was never finished.
        packages: how many are in it.
        last_used: when a trial began to run in it.
        size: how many bytes it has; uv's cache may have most of them as well.
    """

    folder: Path
    python: str
    packages: int
    last_used: datetime
    size: int

    def __str__(self) -> str:
        what = (
            f"environment with Python {self.python} and {self.packages} packages"
            if self.python
            else "unfinished environment"
        )
        return f"{what}, last used {self.last_used:%Y-%m-%d}: {self.size:,} bytes"


@dataclass
class _Wanted:
    """Requirements of an environment.

    Attributes:
        implementation: of Python, such as `"cpython"`.
        python: its version.
        pins: a requirement by the canonical name of each package.
        notes: what was left out.
        missing: what nobody can have, and why.
        also: what is added where none of the name was recorded.
        otherwise: what else there is to do where something cannot be had.
    """

    implementation: str
    python: str
    pins: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    also: dict[str, str] = field(default_factory=dict)
    otherwise: str = ""

    def digest(self, closest: bool) -> str:
        """The name under which it is kept."""
        content = [
            _FORMAT,
            self.implementation,
            self.python,
            sys.platform,
            platform.machine(),
            sorted(self.pins.values()),
            closest,
            *([sorted(self.also.values())] if self.also else []),
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]


def prepare_environment(
    environment: Environment,
    *,
    needed: Iterable[str] = (),
    closest: bool = False,
    also: Mapping[str, str] | None = None,
    otherwise: str = _OTHERWISE,
) -> PreparedEnvironment:
    """Have the Python and the packages that were recorded, in an environment of their own.

    It is built by uv, which has the user's settings for it, such as `UV_INDEX` and
    `UV_FIND_LINKS`, and kept in the user's cache folder, or where the setting `environments` says.
    What is there already is used. Of two that need the same one, one builds it.

    `also` is added where none of the name was recorded, and `otherwise` is what else there is to
    do, for the message where something cannot be had.

    Example:
        >>> from prefect_optuna.tasks import Environment
        >>> from prefect_optuna.tasks.environments import prepare_environment
        >>> then = Environment("3.11.7", "CPython", "", "", 1, {"no such": "1.0"})
        >>> prepare_environment(then)
        Traceback (most recent call last):
            ...
        prefect_optuna.errors.EnvironmentUnavailableError: The environment ... cannot be ...
    """
    wanted = _wanted(environment, needed)
    wanted.also, wanted.otherwise = dict(also or {}), otherwise
    if wanted.missing:
        raise _unavailable(wanted, wanted.missing, {})
    root = _root()
    key = wanted.digest(closest)
    place, part = root / key, root / f"{key}.part"
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if shared := shared_part(root):
            raise EnvironmentUnavailableError(
                f"Environments are kept in {root}, which is not its user's alone, because of "
                f"{shared}: somebody else may have put a Python there. Make it so, chmod 700, or "
                "name another folder: PREFECT_INTEGRATIONS_OPTUNA_ENVIRONMENTS."
            )
        with _lock(root, key):
            if (kept := _kept(place)) is not None:
                return kept
            _remove(part)  # a process was killed while it built this
            try:
                notes = _build(part, wanted, closest)
                _remove(place)  # its Python is gone
                part.rename(place)
            except BaseException:
                _remove(part)
                raise
    except OSError as error:
        raise StorageUnavailableError(
            f"The environment of the trials cannot be kept in {root}: {error.strerror}. "
            "PREFECT_INTEGRATIONS_OPTUNA_ENVIRONMENTS names another folder."
        ) from error
    return PreparedEnvironment(place, tuple(notes), built=True)


def newest_version(package: str, python: str) -> str:
    """The newest version of a package that uv finds for a version of Python.

    Raises:
        EnvironmentUnavailableError: there is none, or no index is reachable.

    Example:
        >>> from prefect_optuna.tasks.environments import newest_version
        >>> newest_version("no such package", "3.11.7")
        Traceback (most recent call last):
            ...
        prefect_optuna.errors.EnvironmentUnavailableError: Which version of no such ...
    """
    from packaging.utils import InvalidName, canonicalize_name

    try:
        # It is a line of a file in which uv would read options and folders, too.
        canonicalize_name(package, validate=True)
    except InvalidName:
        raise EnvironmentUnavailableError(
            f"Which version of {visible_line(package)} is the newest cannot be said: that is no "
            "name of a package. Expected one such as numpy."
        ) from None
    with tempfile.TemporaryDirectory() as folder:
        done = _uv(
            "pip", "compile", "--no-deps", "--no-header", "--no-annotate", "--quiet",
            "--python", sys.executable, "--python-version", python, "-",
            cwd=Path(folder), text=package,
        )  # fmt: skip
    newest = done.stdout.strip().partition("==")[2]
    if done.returncode or not newest:
        raise EnvironmentUnavailableError(
            f"Which version of {visible_line(package)} is the newest cannot be said: "
            f"{_reason(done) or 'uv has found none'}. uv looks where its settings say, such as "
            "UV_INDEX and UV_FIND_LINKS."
        )
    return newest


def collect_environments(
    *, days: float = UNUSED_DAYS, dry_run: bool = True
) -> list[UnusedEnvironment]:
    """Remove the environments on this machine that no trial has run in for a while.

    Example:
        >>> from prefect_optuna.tasks.environments import collect_environments
        >>> collect_environments(days=10_000)
        []
    """
    from filelock import Timeout

    root = _root()
    unused: list[UnusedEnvironment] = []
    before = time.time() - days * 86400
    for folder in [] if shared_part(root) else sorted(root.iterdir()):
        is_part = folder.suffix == ".part"
        if not folder.is_dir() or not (is_part or (folder / RECORD_FILE).exists()):
            continue
        with contextlib.suppress(Timeout, FileNotFoundError), _lock(root, folder.stem, timeout=0):
            record = {} if is_part else _read_record(folder)
            used = (folder if is_part else folder / RECORD_FILE).stat().st_mtime
            if used > before and not is_part:
                continue
            unused.append(
                UnusedEnvironment(
                    folder,
                    record.get("python", ""),
                    len(record.get("requirements", ())),
                    datetime.fromtimestamp(used, UTC),
                    _size(folder),
                )
            )
            if not dry_run:
                half = root / f"{folder.stem}.part"
                if not is_part:
                    _remove(half)
                    folder.rename(half)  # so that a kill leaves nothing that looks whole
                _remove(half)
    return unused


def garbage_text(garbage: object, environments: Sequence[UnusedEnvironment], *, dry: bool) -> str:
    """Describe what `gc` has found, for people.

    Example:
        >>> from prefect_optuna.tasks.archive.carrying.garbage import StudyGarbage
        >>> from prefect_optuna.tasks.environments import garbage_text
        >>> garbage_text(StudyGarbage(dry_run=True), [], dry=True)
        'There is no garbage.'
    """
    text = str(garbage)
    if not environments:
        return text
    lines = [] if text == str(StudyGarbage(dry)) else text.splitlines()
    head = "Would be removed, by dry_run=False:" if dry else "Removed:"
    lines = lines or [head]
    return "\n".join([*lines, *(f"  {visible_line(str(unused))}" for unused in environments)])


@contextlib.contextmanager
def running_package() -> Generator[Path]:
    """A folder for `PYTHONPATH` that has this package, as it runs here, and nothing else.

    Example:
        >>> with running_package() as folder:
        ...     print((folder / "prefect_optuna" / "tasks" / "problem.py").exists())
        True
    """
    with tempfile.TemporaryDirectory(prefix="prefect-optuna-", ignore_cleanup_errors=True) as made:
        _put_package(Path(made), _source())
        yield Path(made)


def _source() -> Path:
    return Path(__file__).absolute().parents[1]


def _our_version() -> str:
    try:
        return importlib.metadata.version(_OURS)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _put_package(folder: Path, source: Path) -> None:
    link = folder / "prefect_optuna"
    try:
        link.symlink_to(source, target_is_directory=True)
    except OSError:  # not everybody may on Windows
        shutil.copytree(source, link, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    # Prefect finds what we register by our metadata.
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        ours = importlib.metadata.distribution(_OURS)
        about = folder / f"prefect_optuna-{ours.version}.dist-info"
        about.mkdir()
        for name in ("METADATA", "entry_points.txt", "direct_url.json"):
            text = ours.read_text(name) or (name == "METADATA" and ours.read_text("PKG-INFO"))
            if text:
                (about / name).write_text(text, encoding="utf-8")


def _wanted(environment: Environment, needed: Iterable[str]) -> _Wanted:
    from packaging.utils import canonicalize_name

    wanted = _Wanted(environment.implementation.lower(), environment.python)
    if needs := _needed_python(environment.python):
        wanted.missing[f"Python {environment.python}"] = (
            f"this version of prefect-optuna, which runs the trials there, needs {needs}"
        )
    if not environment.implementation.isidentifier():  # or uv takes it for a file, and runs that
        wanted.missing[f"Python {environment.python}"] = (
            f"{environment.implementation!r} is no implementation of Python"
        )
    imported = {canonicalize_name(name) for name in needed}
    for name, version in environment.distributions.items():
        plain = canonicalize_name(name)
        source = environment.sources.get(name)
        if plain == _OURS:
            continue
        if source == FOLDER and plain in imported:
            wanted.missing[f"{name}=={version}"] = (
                "it was installed from a folder of the machine, without a commit that says which "
                "code that was"
            )
        elif source == FOLDER:
            wanted.notes.append(
                f"{name} {version} is left out: it was installed from a folder of the machine, and "
                "the code does not import it"
            )
        else:
            pin = f"{name} @ {source}" if source else f"{name}=={version}"
            if is_requirement(name, version, source):
                wanted.pins[plain] = pin
            else:
                wanted.missing[pin] = "no installer takes it"
    return wanted


def _needed_python(version: str) -> str:
    """Say which Python this package needs, if one is not among those."""
    from packaging.specifiers import SpecifierSet

    try:
        needs = importlib.metadata.metadata(_OURS)["Requires-Python"] or ""
    except importlib.metadata.PackageNotFoundError:
        return ""
    return "" if SpecifierSet(needs).contains(version, prereleases=True) else needs


def _build(part: Path, wanted: _Wanted, closest: bool) -> list[str]:
    """Make the environment in a folder."""
    get_logger(__name__).info(
        "Building an environment with Python %s and %d packages; the next time it is there.",
        wanted.python,
        len(wanted.pins),
    )
    notes = list(wanted.notes)
    missing: dict[str, str] = {}
    nearest: dict[str, str] = {}
    python_found = _make_venv(part, f"{wanted.implementation}@{wanted.python}")
    if python_found:
        request = f"{wanted.implementation}@{'.'.join(wanted.python.split('.')[:2])}"
        name = f"Python {wanted.python}"
        missing[name] = python_found
        if not _make_venv(part, request):
            nearest[name] = f"Python {_version_of(_python_in(part))}"
        else:
            raise _unavailable(wanted, missing, nearest)
    pins = dict(wanted.pins)
    failed = _install(part, pins.values())
    if failed:
        for plain, reason in _unobtainable(part, pins, wanted.otherwise).items():
            missing[pins[plain]] = reason
            if (near := _closest(part, pins[plain])) is not None:
                nearest[pins[plain]] = pins[plain] = near
        if not missing:
            raise EnvironmentUnavailableError(
                f"The environment of the trials cannot be built: {failed}"
            )
    if missing and (not closest or missing.keys() - nearest.keys()):
        raise _unavailable(wanted, missing, nearest)
    if failed and (failed := _install(part, pins.values())):
        raise EnvironmentUnavailableError(f"The environment cannot be built: {failed}")
    notes += [f"{nearest[pin]} in place of {pin}" for pin in missing]
    notes += _complete(part, wanted.also)
    record = {
        "format": _FORMAT,
        "python": _version_of(_python_in(part)) if python_found else wanted.python,
        "requirements": sorted(pins.values()),
        "notes": notes,
    }
    (part / RECORD_FILE).write_text(json.dumps(record, indent=1), encoding="utf-8")
    return notes


def _make_venv(part: Path, request: str) -> str:
    """Make an empty environment with a Python."""
    here = f"{platform.python_implementation().lower()}@{platform.python_version()}"
    python = sys.executable if request == here else request
    made = _uv(
        "venv", "--relocatable", "--no-project", "--clear", "--python", python, str(part),
        cwd=part.parent,
    )  # fmt: skip
    return _reason(made)


def _install(part: Path, requirements: Iterable[str]) -> str:
    """Install exactly these."""
    file = part / "requirements.txt"
    file.write_text("".join(f"{line}\n" for line in requirements), encoding="utf-8")
    return _reason(
        _uv("pip", "install", "--no-deps", "--python", str(_python_in(part)), "-r", str(file),
            cwd=part)
    )  # fmt: skip


def _unobtainable(part: Path, pins: Mapping[str, str], otherwise: str) -> dict[str, str]:
    """Find the unavailable packages, and why, by bisection: uv names one at a time."""
    reasons: dict[str, str] = {}
    pending: list[list[str]] = [list(pins)]
    while pending:
        names = pending.pop()
        reason = _resolve(part, [pins[name] for name in names])[1]
        if not reason:
            continue
        if any(sign in reason.lower() for sign in (*_NO_NETWORK, _NOT_LET_IN)):
            if _UNTRUSTED in reason:
                advice = (
                    "SSL_CERT_FILE names the certificate of the authority that signed the index's"
                )
            elif _NOT_LET_IN in reason:
                advice = (
                    "Say here, where the environment is built, who asks: in ~/.netrc, or for an "
                    "index that UV_INDEX calls `lab`, by UV_INDEX_LAB_USERNAME and "
                    f"UV_INDEX_LAB_PASSWORD. Or {otherwise}"
                )
            else:
                advice = f"Where the network is away, {otherwise}"
            raise EnvironmentUnavailableError(
                f"The packages that were recorded cannot be fetched: {reason}. {advice}; what uv "
                "has fetched before, it has in its cache."
            )
        if len(names) == 1:
            reasons[names[0]] = reason
        else:
            pending += [names[len(names) // 2 :], names[: len(names) // 2]]
    return reasons


def _closest(part: Path, pin: str) -> str | None:
    """The available version of a package that is next to one that is not."""
    from packaging.requirements import Requirement
    from packaging.version import InvalidVersion, Version

    requirement = Requirement(pin)
    text = next((clause.version for clause in requirement.specifier), "")
    try:
        version = Version(text)
    except InvalidVersion:
        return None
    name = requirement.name
    if version.local and (same := _resolve(part, [f"{name}=={version.public}"])[0]):
        return same
    candidates: list[Version] = []
    for asked, options in (
        (f"{name}<{version.public}", ()),
        (f"{name}>{version.public}", ("--resolution", "lowest")),
    ):
        answer = _resolve(part, [asked], *options)[0]
        if answer:
            candidates.append(Version(answer.partition("==")[2]))
    if not candidates:
        return None
    # The later one of two, for what other packages ask for is mostly a lowest version.
    best = max(reversed(candidates), key=functools.partial(_likeness, version))
    return f"{name}=={best}"


def _likeness(one: Version, other: Version) -> int:
    """Count the leading numbers that two versions share."""
    pairs = zip(one.release, other.release, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), len(one.release))


def _resolve(part: Path, requirements: Sequence[str], *options: str) -> tuple[str, str]:
    """Return what uv would install, without its dependencies; and why it cannot."""
    done = _uv(
        "pip", "compile", "--no-deps", "--no-header", "--no-annotate", "--quiet", *options,
        "--python", str(_python_in(part)), "-", cwd=part, text="\n".join(requirements),
    )  # fmt: skip
    return ("", _reason(done)) if done.returncode else (done.stdout.strip(), "")


def _complete(part: Path, also: Mapping[str, str]) -> list[str]:
    """Add what this package needs and the recorded one did not, so that it runs there."""
    from packaging.utils import canonicalize_name

    there = {canonicalize_name(name): version for name, version in _installed_in(part).items()}
    added = [pin for name, pin in {**needed_here(), **also}.items() if name not in there]
    if added and (failed := _install(part, added)):
        raise EnvironmentUnavailableError(
            f"What this version of prefect-optuna needs beside the packages that were recorded "
            f"({', '.join(added[:5])}{' ...' if len(added) > 5 else ''}) cannot be had: {failed}."
        )
    notes = [f"{pin} was added: this version of prefect-optuna needs it" for pin in added]
    notes += [
        f"this version of prefect-optuna expects {one.name}{one.specifier}, and has {version} there"
        for one in _our_requirements()
        if (version := there.get(canonicalize_name(one.name))) is not None
        if not one.specifier.contains(version, prereleases=True)
    ]
    return notes


_LIST = (
    "import importlib.metadata as m, json; "
    "print(json.dumps({d.metadata['Name']: d.version for d in m.distributions()}))"
)


def _installed_in(part: Path) -> dict[str, str]:
    """The version of each package that Python finds there, by its name."""
    command = [str(_python_in(part)), "-I", "-c", _LIST]
    # A package may run code whenever Python starts.
    variables = {name: value for name, value in _variables().items() if name[:3] != "UV_"}
    listed = subprocess.run(  # noqa: S603 - its interpreter
        command, capture_output=True, env=variables, check=True
    )
    return json.loads(listed.stdout)


def _our_requirements(extras: Collection[str] = ("",)) -> list[Requirement]:
    from packaging.requirements import Requirement

    try:
        texts = importlib.metadata.requires(_OURS) or ()
    except importlib.metadata.PackageNotFoundError:
        return []
    every = map(Requirement, texts)
    return [
        need
        for need in every
        if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in extras)
    ]


def needed_here(extras: Collection[str] = ()) -> dict[str, str]:
    """Return what this package needs, as it is installed here: a pin by canonical name.

    Args:
        extras: those of this package that are meant, too, as far as they are installed.

    Example:
        >>> from prefect_optuna.tasks.environments import needed_here
        >>> needed_here()["optuna"].partition("==")[0]
        'optuna'
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    pins: dict[str, str] = {}
    pending = _our_requirements(("", *extras))
    while pending:
        requirement = pending.pop()
        name = canonicalize_name(requirement.name)
        if name in pins:
            continue
        try:
            distribution = importlib.metadata.distribution(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            continue
        pins[name] = f"{name}=={distribution.version}"
        for text in distribution.requires or ():
            needs = Requirement(text)
            marked = needs.marker
            extras = ("", *requirement.extras)
            if marked is None or any(marked.evaluate({"extra": extra}) for extra in extras):
                pending.append(needs)
    return pins


def _unavailable(
    wanted: _Wanted, missing: Mapping[str, str], nearest: Mapping[str, str]
) -> EnvironmentUnavailableError:
    lines = [
        f"  {pin}: {f'{nearest[pin]} comes closest; ' if pin in nearest else ''}{reason}"
        for pin, reason in missing.items()
    ]
    ways = wanted.otherwise
    if ways == _OTHERWISE and not missing.keys() - nearest.keys():
        ways = f"environment='closest' takes what comes closest, and says so; {ways}"
    return EnvironmentUnavailableError(
        "\n".join(
            [
                "The environment of the trials cannot be built here. What cannot be had:",
                *lines,
                f"What can be done: {ways}. uv looks where its settings say, such as UV_INDEX and "
                "UV_FIND_LINKS.",
            ]
        ),
        dict(nearest),
    )


def _uv(*arguments: str, cwd: Path, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run uv."""
    import uv

    def run(variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603 - the uv that is installed beside us
            [uv.find_uv_bin(), "--no-progress", "--color", "never", *arguments],
            input=text,
            cwd=cwd,  # where no settings of a project are
            env=variables,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )

    done = run(_variables())
    if done.returncode and _UNTRUSTED in done.stderr:
        # An index or a proxy of an organization: pip, which has installed what is here, trusts the
        # certificates of the system, and uv does so when it is asked.
        return run({"UV_NATIVE_TLS": "1", "UV_SYSTEM_CERTS": "1"} | _variables())
    return done


def _variables() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name.upper() in _FOR_UV
        or (
            name.startswith(("UV_", "XDG_"))
            and name not in _NOT_FOR_UV
            and not name.startswith("UV_PUBLISH_")  # packages that are built see them
        )
    } | {"GIT_TERMINAL_PROMPT": "0"}


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """Return the reason why uv has failed, in a line; empty if it has not."""
    if not done.returncode:
        return ""
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    start = next((n for n, line in enumerate(said) if line.startswith(("error:", _DRAWN[0]))), 0)
    hints = [n for n, line in enumerate(said) if n > start and line.startswith("hint:")]
    refused = [said[n].removeprefix("hint:") for n in hints if _NOT_LET_IN in said[n]]
    words = ""
    for line in (*said[start : min(hints, default=None)], *refused):
        plain = line.lstrip(_DRAWN).removeprefix("error:").removeprefix("cause:").strip()
        goes_on = plain == line  # of older versions, which break their lines
        words += f"{' ' if goes_on else '; '}{plain.rstrip('.')}" if words else plain.rstrip(".")
    text = public_text(without_secrets(words)) or f"uv ended with {done.returncode}"
    if len(text) <= 2 * _MAX_REASON:
        return text
    return f"{text[:_MAX_REASON]} ... {text[-_MAX_REASON:]}"  # the first cause is said last


def _root() -> Path:
    given = OptunaSettings().environments
    if given is not None:
        return given.expanduser().absolute()
    if sys.platform == "win32":
        caches = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        caches = Path.home() / "Library" / "Caches"
    else:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "prefect-optuna" / "environments"


def _lock(root: Path, key: str, timeout: float = -1) -> Any:
    from filelock import FileLock

    return FileLock(root / f"{key}.lock", timeout=timeout)


def _kept(place: Path) -> PreparedEnvironment | None:
    """Return an existing environment, which counts as used now; `None` if there is none."""
    try:
        record = _read_record(place)
        if not _python_in(place).exists():
            return None  # that Python was removed
        (place / RECORD_FILE).touch()
    except (OSError, ValueError):
        return None
    return PreparedEnvironment(place, tuple(record.get("notes", ())))


def _read_record(place: Path) -> dict[str, Any]:
    return json.loads((place / RECORD_FILE).read_text(encoding="utf-8"))


def _python_in(folder: Path) -> Path:
    windows = sys.platform == "win32"
    return folder / ("Scripts" if windows else "bin") / ("python.exe" if windows else "python")


def _version_of(python: Path) -> str:
    # Without what the packages there have it run.
    command = [str(python), "-I", "-S", "-c", "import platform; print(platform.python_version())"]
    return subprocess.run(  # noqa: S603 - the environment's interpreter
        command, capture_output=True, text=True, encoding="utf-8", check=True
    ).stdout.strip()


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _size(folder: Path) -> int:
    size = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                size += Path(parent, name).lstat().st_size
    return size
