"""Environment of a study: Python, machine, installed distributions, the state of the code.

Beside that it keeps what a digest names: the script that Python was started with, and the changes
to tracked files that git has not committed. Files that git does not track are left out, since that
is where secrets are; and so is a script, or the changes, with a secret in it. The setting
`archive_sources` leaves out both.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import importlib.util
import inspect
import json
import os
import platform
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FunctionType
from typing import Any
from urllib.parse import SplitResult, urlsplit, urlunsplit
from urllib.request import url2pathname

from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from pydantic import TypeAdapter

from prefect_optuna.blocks._secrets import SecretVariables, has_secret_urls, without_secrets
from prefect_optuna.blocks.settings import OptunaSettings
from prefect_optuna.blocks.texts import visible_line
from prefect_optuna.tasks.sampling import max_trials_of

MAX_SOURCE_BYTES = 1 << 20
"""A script or a diff that is larger is left out of the archive, and only its size is said."""

FOLDER = "a folder"
"""The source of a distribution that was installed from this machine's disk."""

RECORD_FILE = "environment.json"
"""The file that describes an environment that was built from a recorded one."""

_GIT_SECONDS = 3.0

RECORDED_VARIABLES = (
    "PYTHONHASHSEED",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "MKL_CBWR",
    "NUMBA_NUM_THREADS",
    "CUBLAS_WORKSPACE_CONFIG",
    "XLA_FLAGS",
)
"""Variables that change results without a change of code: order of sets, of sums in threads."""

# What was not taken down says nothing about what it was: by a former version, without
# threadpoolctl, or before a library was imported.
_SINCE_FORMAT_1 = ("cpu", "threads.", "kernels.", "sampler", "pruner")
_SCHEMES = (
    "https://", "http://", "git+https://", "git+http://", "git+ssh://", "git+file://",
    "hg+https://", "hg+http://", "hg+ssh://", "svn+https://", "svn+ssh://", "bzr+https://",
)  # fmt: skip
_COMMIT = re.compile(r"git\+\w+://.+@[0-9a-f]{6,64}(#subdirectory=[\w./-]+)?")
_reading = threading.Lock()
_WORD = 30  # characters of an option of a sampler
_KEPT_AS = {"deterministic_objective": "deterministic"}  # by `GPSampler`


@dataclass(frozen=True)
class GitState:
    """The state of a git work tree.

    Attributes:
        commit: the commit that is checked out; empty before the first one.
        branch: its branch; empty if the head is detached.
        dirty: whether tracked files differ from the commit.
        diff: SHA-256 digest of the blob that holds the differences; empty where there are none,
            where they are larger than 1 MiB, or where `archive_sources` is off.
        diff_bytes: how large they are, in bytes; 0 if that was not looked at.
    """

    commit: str
    branch: str
    dirty: bool
    diff: str = ""
    diff_bytes: int = 0


@dataclass(frozen=True)
class Environment:
    """The environment in which a study ran. No names of machines or people.

    Attributes:
        python: version of Python, such as `"3.11.7"`.
        implementation: `"CPython"` or another.
        platform: the operating system, as `platform.platform()` says it.
        machine: the processor's architecture, such as `"x86_64"`.
        cpu_count: how many processors there are.
        distributions: version by name of every installed distribution.
        git: state of the folder that the problem's source lies in; `None` outside a repository.
        script: name of the script that Python was started with, without its folder.
        cpu: the model of the processor; `None` if that is unknown.
        sources: of distributions that no index has, by name: a URL that pip accepts, or
            `"a folder"` for one that was installed from this machine's disk. One in development
            mode has the commit of its repository, where that has no changes and comes from a
            server.
        variables: environment variables that change numbers, such as `PYTHONHASHSEED` and
            `OMP_NUM_THREADS`, where they are set. No others.
        seed: of the sampler, where it is known.
        trials_seed: what the seeds of the trials come from; `None` where they have none.
        sampler: what asked for parameters, with the options that are not its defaults, such as
            `"TPESampler(multivariate=True)"`; empty where that is not known.
        pruner: what pruned, likewise.
        threads: how many threads each library for linear algebra and OpenMP had, such as
            `{"openblas": 8}`; empty without the package threadpoolctl.
        kernels: what code those libraries chose for the processor, such as
            `{"openblas": "Haswell"}`; likewise.
        script_source: SHA-256 digest of the blob that holds the script; empty if there is none,
            if it is larger than 1 MiB, or where `archive_sources` is off.
        files: the bytes that the digests here name, when it has just been captured.
        notes: what was left out of them, since there are secrets in it.
    """

    python: str
    implementation: str
    platform: str
    machine: str
    cpu_count: int
    distributions: dict[str, str] = field(default_factory=dict)
    git: GitState | None = None
    script: str | None = None
    cpu: str | None = None
    sources: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    seed: int | None = None
    trials_seed: int | None = None
    sampler: str = ""
    pruner: str = ""
    threads: dict[str, int] = field(default_factory=dict)
    kernels: dict[str, str] = field(default_factory=dict)
    script_source: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False, compare=False)
    notes: tuple[str, ...] = field(default=(), repr=False, compare=False)

    @classmethod
    def capture(
        cls,
        folder: str | Path | None = None,
        *,
        seed: int | None = None,
        trials_seed: int | None = None,
        sampler: BaseSampler | None = None,
        pruner: BasePruner | None = None,
    ) -> Environment:
        """Describe this process. The distributions are listed once per process.

        Args:
            folder: where the problem's source lies, for the state of its git repository.
            seed: of the sampler.
            trials_seed: what the seeds of the trials come from.
            sampler: of the study.
            pruner: of the study.

        Example:
            >>> from prefect_optuna.tasks import Environment
            >>> Environment.capture().implementation in ("CPython", "PyPy")
            True
        """
        files: dict[str, bytes] = {}
        notes: list[str] = []
        secrets = SecretVariables.here()

        def keep(content: bytes, what: str) -> str:
            if note := _secret_note(content, what, secrets):
                notes.append(note)
                return ""
            return _keep(content, files)

        keeps_sources = OptunaSettings.here().archive_sources
        git = _git_state(folder) if folder else None
        if git is not None and git.dirty and folder and keeps_sources:
            diff = (
                _git("diff", "--binary", "--no-color", "--no-ext-diff", "HEAD", cwd=folder) or b""
            )
            digest = keep(diff, "What git has not committed")
            git = replace(git, diff=digest, diff_bytes=len(diff))
        variables = {name: os.environ[name] for name in RECORDED_VARIABLES if name in os.environ}
        script = _script_bytes() if keeps_sources else b""
        threads, kernels = _thread_pools()
        return replace(
            of_this_process(),
            git=git,
            variables={
                name: value for name, value in variables.items() if secrets.name_in(value) is None
            },
            seed=seed,
            trials_seed=trials_seed,
            sampler=with_options(sampler),
            pruner=with_options(pruner),
            threads=threads,
            kernels=kernels,
            script_source=keep(script, "The script that Python was started with"),
            files=files,
            notes=tuple(notes),
        )

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Environment:
        """Read what `to_json` returned; fields of newer versions are left out.

        Raises:
            ValueError: a field is something else than it should be.
        """
        return _adapter().validate_python({**data, "files": {}, "notes": ()})

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON, without the bytes of the files."""
        fields = asdict(replace(self, files={}))
        del fields["files"], fields["notes"]
        return fields

    @property
    def surroundings(self) -> Environment:
        """The same without what goes with a single study: git, script, seeds, sampler, pruner.

        Example:
            >>> from prefect_optuna.tasks import Environment
            >>> Environment.capture(seed=7).surroundings == Environment.capture().surroundings
            True
        """
        return replace(
            self,
            git=None,
            script=None,
            seed=None,
            trials_seed=None,
            sampler="",
            pruner="",
            script_source="",
            files={},
            notes=(),
        )

    def diff(self, other: Environment | None = None) -> dict[str, tuple[Any, Any]]:
        """Say what differs between two environments.

        Args:
            other: the other one; by default that of this process, of which neither a git
                repository, nor the script and the seed, are compared. With a repository at hand:
                `environment.diff(Environment.capture("path/to/it"))`.

        Returns:
            For each difference its name and the two values, this environment's first; `None`
            stands for what is not there. A distribution is named `"distributions.numpy"`.

        Example:
            >>> from prefect_optuna.tasks import Environment
            >>> here = Environment.capture()
            >>> here.diff(here)
            {}
        """
        if other is None:
            return self.surroundings.diff(Environment.capture().surroundings)
        mine, its = _flat(self), _flat(other)
        names = mine.keys() | its.keys()
        names -= {
            name
            for name in names
            if name.startswith(_SINCE_FORMAT_1) and (name not in mine or name not in its)
        }
        return {
            name: (mine.get(name), its.get(name))
            for name in sorted(names)
            if mine.get(name) != its.get(name)
        }


def _flat(environment: Environment) -> dict[str, Any]:
    fields = environment.to_json()
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            flat.update({f"{name}.{key}": inner for key, inner in value.items()})
        elif value is not None and value != "":
            flat[name] = value
    # With a digest, the size says nothing more.
    flat.pop("git.diff_bytes", None)
    if not flat.get("git.diff"):
        flat.pop("git.diff", None)
    return flat


@functools.cache
def _adapter() -> TypeAdapter[Environment]:
    return TypeAdapter(Environment)


def requirements_text(environment: Environment, only: Iterable[str] | None = None) -> str:
    """The distributions of an environment as `pip install -r` takes them.

    Example:
        >>> from prefect_optuna.tasks.archive import Environment
        >>> from prefect_optuna.tasks.archive.record.environment import requirements_text
        >>> here = Environment.capture()
        >>> "optuna==" in requirements_text(here, only=["optuna"])
        True
    """
    from packaging.utils import canonicalize_name

    wanted = None if only is None else {canonicalize_name(name) for name in only}
    lines = [visible_line(f"# Python {environment.python}, {environment.platform}")]
    for name, version in environment.distributions.items():
        plain = canonicalize_name(name)
        if plain in wanted if wanted is not None else plain != "pip":
            lines.append(_requirement(name, version, environment.sources.get(name)))
    return "\n".join([*lines, ""])


def _requirement(name: str, version: str, source: str | None) -> str:
    from packaging.version import Version

    if source == FOLDER:
        return visible_line(f"# {name}=={version}: it was installed from a folder of the machine")
    if not is_requirement(name, version, source):
        place = f" @ {source}" if source else ""
        return visible_line(f"# {name} {version}{place}: this is nothing that pip accepts")
    if source:
        return f"{name} @ {source}"
    parsed = Version(version)
    if parsed.local:
        return f"{name}=={parsed.public}  # it was {version}, which an index of its own has"
    return f"{name}=={version}"


def is_built() -> bool:
    """Tell whether this process runs in an environment that was built from a recorded one."""
    return Path(sys.prefix, RECORD_FILE).exists()


def is_requirement(name: str, version: str, source: str | None) -> bool:
    r"""Tell whether it is one package in one version, and nothing else that pip would obey.

    Example:
        >>> is_requirement("numpy", "2.1.0", None)
        True
        >>> is_requirement("numpy", "2.1.0\n--index-url http://elsewhere.example", None)
        False
    """
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.version import InvalidVersion, Version

    try:
        # A name with an address in it would be a package of a folder of this machine.
        if Requirement(name) != Requirement(Requirement(name).name):
            return False
        if source is None:
            return bool(Version(version)) and version == version.strip()
    except (InvalidRequirement, InvalidVersion):
        return False
    # uv fills in ${VARIABLES}, and what begins with - may be an option of git's, or of SSH's.
    is_plain = source.isascii() and source.isprintable() and not set(source) & {*" $\\"}
    if not is_plain or not source.startswith(_SCHEMES) or "/-" in source or "@-" in source:
        return False
    return not source.startswith("git+") or _COMMIT.fullmatch(source) is not None


def of_this_process() -> Environment:
    """Return what stays the same in this process, read once."""
    with _reading:  # whoever comes second waits for the first
        return _here()


@functools.cache
def _here() -> Environment:
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    return Environment(
        python=platform.python_version(),
        implementation=platform.python_implementation(),
        platform=platform.platform(),
        machine=platform.machine(),
        cpu_count=os.cpu_count() or 1,
        distributions=_distributions(),
        cpu=_cpu(),
        sources=sources(),
        script=Path(script).name if script else None,
    )


def _cpu() -> str | None:
    """The model of the processor: `platform` knows its architecture only."""
    try:
        if sys.platform == "linux":
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
                key, _, value = line.partition(":")
                if key.strip() == "model name":
                    return value.strip()
        elif sys.platform == "darwin":
            command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
            answer = subprocess.run(command, capture_output=True, timeout=3, check=True)  # noqa: S603
            return answer.stdout.decode().strip()
    except (OSError, ValueError, subprocess.SubprocessError):
        pass
    return platform.processor() or None


def with_options(made: BaseSampler | BasePruner | None) -> str:
    """A sampler or pruner as one would write it, with what is not its default."""
    if made is None:
        return ""
    kind = type(made)
    if not _is_of_optuna(made):
        return f"{kind.__module__}.{kind.__qualname__}"  # of which nothing is known
    plain = None
    with warnings.catch_warnings(), contextlib.suppress(TypeError, ValueError, ImportError):
        warnings.simplefilter("ignore")
        plain = kind()
    options: list[str] = []
    for name, parameter in inspect.signature(kind).parameters.items():
        default = _option(_kept(plain, name, parameter.default))
        value = _option(_kept(made, name, parameter.default))
        if name != "seed" and value != default:  # a seed has its own place
            options.append(f"{name}={value}")
    if (most := max_trials_of(made)) is not None:
        options.append(f"max_trials={most}")
    return f"{kind.__name__}({', '.join(options)})"


def _is_of_optuna(value: object) -> bool:
    return type(value).__module__.partition(".")[0] == "optuna"


def _kept(made: object, name: str, default: object) -> object:
    """Return what became of an argument: Optuna keeps it under its name, or in a part."""
    parts = [part for part in getattr(made, "__dict__", {}).values() if _is_of_optuna(part)]
    parts = [part for part in parts if not isinstance(part, (BaseSampler, BasePruner))]
    name = _KEPT_AS.get(name, name)
    for holder in (made, *parts):
        if hasattr(holder, f"_{name}"):
            return getattr(holder, f"_{name}")
    named = [part for part in parts if isinstance(part, tuple) and hasattr(part, name)]
    return getattr(named[0], name) if named else default


def _option(value: object) -> str:
    """A number, a truth or a word as it is; of anything else, which may be a secret, its type."""
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    if isinstance(value, str) and value.isidentifier() and len(value) <= _WORD:
        return repr(value)
    if isinstance(value, FunctionType):
        return f"<function {value.__name__}>"
    if isinstance(value, (BaseSampler, BasePruner)) and _is_of_optuna(value):
        return with_options(value)
    return f"<{type(value).__name__}>"


def _thread_pools() -> tuple[dict[str, int], dict[str, str]]:
    """The threads and the kernels of libraries that this process has loaded by now."""
    if importlib.util.find_spec("threadpoolctl") is None:
        return {}, {}
    from threadpoolctl import threadpool_info  # pyright: ignore[reportMissingImports]

    threads: dict[str, int] = {}
    kernels: dict[str, str] = {}
    pools: list[dict[str, Any]] = threadpool_info()
    for pool in pools:  # NumPy and SciPy each have a library of their own; NumPy's comes first
        threads.setdefault(pool["internal_api"], pool["num_threads"])
        if kernel := pool.get("architecture"):
            kernels.setdefault(pool["internal_api"], kernel)
    return threads, kernels


def sources() -> dict[str, str]:
    """Return the sources of distributions that no index has, as PEP 610 records them."""
    by_name: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        text = distribution.read_text("direct_url.json")
        if text:
            name = _name_and_version(distribution)[0]
            try:
                by_name.setdefault(name, _source(json.loads(text)))
            except (ValueError, TypeError, KeyError, AttributeError):
                continue
    return dict(sorted(by_name.items()))


def _source(record: dict[str, Any]) -> str:
    url = urlsplit(str(record["url"]))
    if "dir_info" in record or url.scheme == "file":
        editable = (record.get("dir_info") or {}).get("editable")
        return (_commit_in(url2pathname(url.path)) if editable else None) or FOLDER
    plain = _public_url(url)
    subdirectory = record.get("subdirectory")
    fragments = [f"subdirectory={subdirectory}"] if subdirectory else []
    if vcs := record.get("vcs_info"):
        plain = f"{vcs['vcs']}+{plain}@{vcs['commit_id']}"
    elif digest := (record.get("archive_info") or {}).get("hashes", {}).get("sha256"):
        fragments.append(f"sha256={digest}")
    return f"{plain}#{'&'.join(fragments)}" if fragments else plain


def _public_url(url: SplitResult) -> str:
    plain = without_secrets(urlunsplit(url))
    if url.scheme == "ssh" and url.username:  # of an address of ssh, the user is a part
        plain = plain.replace("://", f"://{url.username}@", 1)
    return plain


def _commit_in(folder: str) -> str | None:
    """Return a URL for pip of a folder's commit; `None` if it is no commit of a repository."""
    state = _git("status", "--porcelain", cwd=folder)
    if state is None or state.strip():  # what git does not track may be imported as well
        return None
    commit = (_git("rev-parse", "HEAD", cwd=folder) or b"").decode().strip()
    remote = (_git("remote", "get-url", "origin", cwd=folder) or b"").decode().strip()
    within = (_git("rev-parse", "--show-prefix", cwd=folder) or b"").decode().strip().rstrip("/")
    if short := re.fullmatch(r"([\w.-]+@)?([\w.-]{2,}):(?!//)/?(.+)", remote):  # git@host:path
        remote = f"ssh://{short[1] or ''}{short[2]}/{short[3]}"
    url = urlsplit(remote)
    if not commit or url.scheme not in ("https", "http", "ssh", "git"):
        return None
    return f"git+{_public_url(url)}@{commit}" + (f"#subdirectory={within}" if within else "")


def _script_bytes() -> bytes:
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    try:
        path = Path(script or "")
        return path.read_bytes() if script and path.suffix == ".py" else b""
    except OSError:
        return b""


def _secret_note(content: bytes, what: str, secrets: SecretVariables) -> str | None:
    """Say why a file is not archived; `None` if nothing in it is known to be secret."""
    if not content or len(content) > MAX_SOURCE_BYTES:
        return None
    if name := secrets.name_in(content):
        return f"{what} holds the value of the environment variable {name}, and is not archived."
    if has_secret_urls(content.decode("utf-8", "replace")):
        return f"{what} holds a URL with a password or a token, and is not archived."
    return None


def _keep(content: bytes, files: dict[str, bytes]) -> str:
    if not content or len(content) > MAX_SOURCE_BYTES:
        return ""
    digest = hashlib.sha256(content).hexdigest()
    files[digest] = content
    return digest


def _distributions() -> dict[str, str]:
    versions: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name, version = _name_and_version(distribution)
        if name and name not in versions:  # the first one on the path is the one that is imported
            versions[name] = version
    return dict(sorted(versions.items(), key=lambda item: item[0].lower()))


def _name_and_version(distribution: importlib.metadata.Distribution) -> tuple[str, str]:
    """Read the head of the metadata only: parsing all of it takes most of the time."""
    text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    name = version = ""
    for line in text.splitlines():
        if not line:
            break
        key, _, value = line.partition(":")
        if key == "Name":
            name = value.strip()
        elif key == "Version":
            version = value.strip()
        if name and version:
            break
    return name, version


def _git(*arguments: str, cwd: str | Path) -> bytes | None:
    try:
        return subprocess.run(  # noqa: S603 - git, which is looked for where it always is
            ["git", *arguments],  # noqa: S607
            cwd=cwd,
            # Or git would write to the index of a repository that others are working in.
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            capture_output=True,
            timeout=_GIT_SECONDS,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def _git_state(folder: str | Path) -> GitState | None:
    output = _git("status", "--porcelain=v2", "--branch", "--untracked-files=no", cwd=folder)
    if output is None:
        return None
    lines = output.decode(errors="replace").splitlines()
    heads = dict(line[2:].split(" ", 1) for line in lines if line.startswith("# branch."))
    commit, branch = heads.get("branch.oid", ""), heads.get("branch.head", "")
    return GitState(
        commit="" if commit == "(initial)" else commit,
        branch="" if branch == "(detached)" else branch,
        dirty=any(not line.startswith("#") for line in lines),
    )
