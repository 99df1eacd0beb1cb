"""A Prefect flow whose parameters may be problems, samplers and blocks, and how it is ended."""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from types import FrameType, FunctionType, TracebackType
from typing import Any, NoReturn, ParamSpec, TypeAlias, TypeVar, cast
from uuid import UUID

import httpx
from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound, TerminationSignal
from prefect.flows import Flow
from prefect.logging import get_logger
from prefect.runtime import flow_run
from prefect.settings import get_current_settings
from prefect.states import Cancelled
from prefect.utilities.callables import ParameterSchema, parameter_schema
from pydantic import BaseModel

from prefect_optuna.blocks import ArtifactFileSystem, StudyStorage
from prefect_optuna.blocks._secrets import (
    SecretVariables,
    error_words,
    is_public,
    is_secret_name,
    place_text,
    without_secrets,
)
from prefect_optuna.blocks.settings import settings_read_once
from prefect_optuna.flows.problem_source import Code, enter_environment
from prefect_optuna.flows.temporary_server import (
    end_temporary_server,
    other_settings,
    running_server_url,
)
from prefect_optuna.tasks.archive.record.environment import of_this_process
from prefect_optuna.tasks.problem import Problem
from prefect_optuna.tasks.trial import Stopping

# Errors as Prefect may know them: it puts each into its log and onto its server.
#
# The message of a driver may quote the URL that it was given, password and all. Whoever has
# called a flow gets the error itself; Prefect gets one that says the same without secrets.


class PublicError(Exception):
    """An error whose message, or that of its cause, had a secret in it."""

    def __init__(self, message: str, original: BaseException | None = None) -> None:
        super().__init__(message)
        self.original = original

    def __reduce__(self) -> tuple[type[PublicError], tuple[str]]:
        # Prefect keeps the error of a flow run as a pickle in a file.
        return type(self), (str(self),)


@contextmanager
def public_errors() -> Generator[None]:
    """Raise a `PublicError` in the place of an error that would show a secret.

    Example:
        >>> from prefect_optuna.flows.study_flow import public_errors
        >>> with public_errors():
        ...     raise OSError("no answer from redis://me:hunter2@host/0")
        Traceback (most recent call last):
            ...
        prefect_optuna.flows.study_flow.PublicError: OSError: no answer from redis://host/0
    """
    try:
        yield
    except PublicError:
        raise
    except Exception as error:
        if is_public(error):
            raise
        public = PublicError(error_words(error), error)
        raise public.with_traceback(error.__traceback__) from None


# Ctrl-C in a study: one line that says what was kept, and a second one ends it at once.


_said: ContextVar[list[Callable[[], str]]] = ContextVar("prefect_optuna_said")
_ours = "prefect_optuna_message"  # on a KeyboardInterrupt: what is shown in place of its traceback
_LOGGERS = ("", "prefect", "prefect.flow_runs", "prefect.task_runs")
_show_before = sys.excepthook
_OF_A_CRASH = ("Crash detected!", "Finished in state Crashed")
_OF_A_FAILURE = ("Encountered exception during execution", "Finished in state Failed")


def note_study(words: Callable[[], str]) -> None:
    """Say what an interruption of this study is to be told with."""
    _said.get([]).append(words)


@contextmanager
def interruptible() -> Generator[None]:
    """Have Ctrl-C raise a `KeyboardInterrupt` that says what was kept.

    Where nobody catches it, that sentence is shown and no traceback. A second Ctrl-C, while the
    study still puts things in order, ends a program at once: the next start finds what it has
    left. Where somebody else handles Ctrl-C, nothing changes.

    Example:
        >>> try:
        ...     with interruptible():
        ...         note_study(lambda: "Study 'mine' keeps 3 finished trials.")
        ...         raise KeyboardInterrupt
        ... except KeyboardInterrupt as interruption:
        ...     print(interruption)
        Interrupted. Study 'mine' keeps 3 finished trials.
    """
    token = _said.set(said := [])
    main = threading.current_thread() is threading.main_thread()
    takes_over = main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    once = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal once
        if once and not _is_interactive():
            _leave(_sentence(said))
        once = True
        signal.default_int_handler(number, frame)

    def passes(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith((*_OF_A_CRASH, *(_OF_A_FAILURE if once else ())))

    consoles = _consoles()
    for console in consoles:
        console.addFilter(passes)
    if takes_over:
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except KeyboardInterrupt as error:
        if hasattr(error, _ours):  # of a study within this one
            raise
        raise _interruption(_sentence(said)) from None
    except Exception as error:
        if once and KeyboardInterrupt.__name__ in str(error):  # pydantic makes its own of it
            raise _interruption(_sentence(said)) from None
        raise
    finally:
        _said.reset(token)
        for console in consoles:
            console.removeFilter(passes)
        if takes_over and signal.getsignal(signal.SIGINT) is interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _consoles() -> list[logging.Handler]:
    from prefect.logging.handlers import PrefectConsoleHandler

    handlers = [handler for name in _LOGGERS for handler in logging.getLogger(name).handlers]
    return [handler for handler in handlers if isinstance(handler, PrefectConsoleHandler)]


def _sentence(said: list[Callable[[], str]]) -> str:
    return f"Interrupted. {said[-1]()}" if said else "Interrupted before the first trial."


def _interruption(message: str) -> KeyboardInterrupt:
    """A plain `KeyboardInterrupt`: for another class, Python would not say that it was Ctrl-C."""
    global _show_before
    error: Any = KeyboardInterrupt(message)
    setattr(error, _ours, message)
    error._render_traceback_ = lambda: [message]  # IPython's
    if sys.excepthook is not _show:
        _show_before, sys.excepthook = sys.excepthook, _show
    return error


def _show(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Show the sentence if the interruption has not been caught."""
    message = getattr(error, _ours, None)
    if message is None:
        _show_before(kind, error, traceback)
        return
    print(message, file=sys.stderr)
    if not _is_interactive() and threading.current_thread() is threading.main_thread():
        # Python is about to end, and waits for threads.
        signal.signal(signal.SIGINT, _leave_at_once)


def _leave_at_once(number: int, frame: FrameType | None) -> None:
    _leave("")


def _leave(message: str) -> None:
    if message:
        os.write(2, f"{message}\n".encode())
    os._exit(128 + signal.SIGINT)


def _is_interactive() -> bool:
    return hasattr(sys, "ps1") or "IPython" in sys.modules


# SIGTERM in two steps: trials are asked to stop, and interrupted when their grace is over.


_replaced: list[Any] = []  # handlers of SIGTERM that ours stand before


def _die_of_sigterm() -> None:
    """Have a process that a trial has forked end at SIGTERM, as it would without us.

    A handler in Python does not wake a process that is about to wait for a lock, and whoever has
    sent the signal, such as `Pool.terminate`, would wait for its end for ever.
    """
    if _replaced:
        before = _replaced[0]
        of_prefect = str(getattr(before, "__module__", "")).startswith("prefect.")
        signal.signal(signal.SIGTERM, signal.SIG_DFL if of_prefect else before)
        _replaced.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_die_of_sigterm)


@contextmanager
def ending_softly(stopping: Stopping) -> Generator[Callable[[], None]]:
    """Have SIGTERM ask trials to stop, and end the program some seconds later.

    Ctrl-C interrupts at once, as ever, and so does SIGTERM where no trial looks. Without a handler
    of somebody else's, such as Prefect's, the program ends with `SystemExit`, so that its trials
    are asked again at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before = signal.getsignal(signal.SIGTERM)
    if before is signal.SIG_IGN or before is None:
        yield lambda: None
        return
    timers: list[threading.Timer] = []

    def end(number: int, frame: FrameType | None) -> NoReturn:
        stopping.set()
        if callable(before):
            before(number, frame)
        raise SystemExit(128 + number)

    def hear(number: int, frame: FrameType | None) -> None:
        # No log line: the handler may have interrupted one.
        if stopping.is_set() or not stopping.is_asked:
            end(number, frame)
        stopping.set()
        timer = threading.Timer(stopping.grace, os.kill, (os.getpid(), signal.SIGTERM))
        timer.daemon = True
        timer.start()
        timers.append(timer)

    def end_if_asked() -> None:
        if stopping.is_set():
            end(signal.SIGTERM, None)

    signal.signal(signal.SIGTERM, hear)
    _replaced.append(before)
    try:
        yield end_if_asked
    finally:
        for timer in timers:
            timer.cancel()
        if _replaced:  # and not in a process that was forked from here
            _replaced.pop()
            signal.signal(signal.SIGTERM, before)


_FOR_A_TRIAL = (
    "prefect.utilities.visualization",
    "prefect.task_engine",
    "psutil",
    "numpy.random",
    "threadpoolctl",
)
_results: ContextVar[list[Any]] = ContextVar("prefect_optuna_results")

P = ParamSpec("P")
R = TypeVar("R")

_PLACES = ("storage", "artifacts")

Check: TypeAlias = Callable[[Set[str], Mapping[str, Any]], dict[str, Any]]


class StudyFlow(Flow[P, R]):
    """A flow that is called with live objects, and recorded with words for them."""

    check: Check | None = None
    code: Code | None = None

    def __init__(self, fn: Callable[P, R], **options: Any) -> None:
        # Prefect makes the form of the parameters here, which takes longer than all the rest of an
        # import, and most programs never look at it. So it sees a function that has none.
        super().__init__(_without_parameters(fn), **options)
        functools.update_wrapper(self, fn)
        self.fn = self._declared = fn

    @property
    def isasync(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """False: it is not `async`. Prefect's engine asks before it begins a worker's run.

        That is the last moment at which its process can still start anew elsewhere: from then on
        Prefect's server has the run as running, and its worker a line to this very engine.
        """
        if self.code is not None:
            enter_environment(self.code, self.validate_parameters)
        return False

    @isasync.setter
    def isasync(self, _: bool) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Nothing to be set."""

    @property
    def parameters(self) -> ParameterSchema:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The form of the parameters, made when somebody looks at it."""
        if self._form is None:
            self._form = parameter_schema(self._declared)
        return self._form

    @parameters.setter
    def parameters(self, _: ParameterSchema) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self._form: ParameterSchema | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the flow here.

        Prefect's flow heartbeat serves automations that watch deployed runs, which do not come
        this way; its thread takes a second to end, and a study may take less.
        """
        # Sets up Prefect's logging. `from prefect import flow` imports it, too; here it waits for
        # the first call, since it takes as long as importing this package.
        importlib.import_module("prefect.main")

        if self.check is not None:
            known = inspect.signature(self._declared).parameters.keys()
            kwargs = self.check(known, _named(self, args, kwargs))
            args = ()
            threading.Thread(target=_prepare, name="prefect-optuna-prepare", daemon=True).start()
        found = None if get_current_settings().api.url else running_server_url()
        with other_settings(**_settings(found)), interruptible():
            return self._call(args, kwargs)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        end_temporary_server()
        token = _results.set(results := [])
        public: PublicError | None = None
        try:
            with _said_once():
                return super().__call__(*args, **kwargs)
        except (httpx.TransportError, ObjectNotFound) as error:
            # What became of a study does not depend on whether a server hears of it.
            if not results:
                raise
            logger = get_logger(__name__)
            if isinstance(error, ObjectNotFound):
                logger.warning(
                    "The Prefect server does not know this run any more, as after its database "
                    "was reset. What the study came to is in its storage."
                )
            else:
                logger.warning(
                    "The Prefect server is away, and will show this run as running: %s: %s.",
                    type(error).__name__,
                    error,
                )
            return results[0]
        except PublicError as error:
            if error.original is None:
                raise
            public = error
        finally:
            _results.reset(token)
        # Out here, what it was raised from stays what it was.
        raise cast("BaseException", public.original)

    def serialize_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """The parameters as the server records them: no contents of contexts, no secrets."""
        secrets = SecretVariables.here()
        return {
            name: None
            if value is None
            else _place(value)
            if name in _PLACES
            else _describe(value, secrets)
            for name, value in parameters.items()
        }

    def validate_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Validate as Prefect does, which would put what is wrong into its log, secrets and all."""
        with _without_its_log():
            return super().validate_parameters(parameters)


def _prepare() -> None:
    """Import and read what a first trial needs, while the server is waited for."""
    for name in _FOR_A_TRIAL:
        with suppress(Exception):  # whoever needs it says what is wrong
            importlib.import_module(name)
    with suppress(Exception):
        of_this_process()


def _without_parameters(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of that name, in that file, that takes nothing."""

    def blank() -> None: ...

    there = blank.__code__.replace(co_filename=function.__code__.co_filename)
    made = FunctionType(there, function.__globals__)
    for name in ("__module__", "__name__", "__qualname__", "__doc__"):
        setattr(made, name, getattr(function, name))
    return made


def _named(
    flow: Flow[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of a call by their names; more than there are is Python's own error."""
    return {**inspect.signature(flow.fn).bind_partial(*args).arguments, **kwargs}


def _settings(found: str | None) -> dict[str, Any]:
    """Prefect's settings that are others while a flow runs here, on a server that was found."""
    page = get_current_settings().ui_url or found or ""
    # Prefect makes it of the server's URL, login and all, and prints it.
    public = without_secrets(page)
    return {
        "flows": {"heartbeat_frequency": None},
        **({"ui_url": public} if public != page or found else {}),
        **({"api": {"url": f"{found}/api"}} if found else {}),
    }


# Where Prefect says every few seconds that it cannot send its events, as long as that lasts.
_REPEATING = ("prefect.events.clients", "prefect._internal.concurrency")


@contextmanager
def _said_once() -> Generator[None]:
    """Have each warning of a server that is away pass once in a run."""
    seen: set[str] = set()

    def passes(record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        new = record.msg not in seen
        seen.add(record.msg)
        return new

    loggers = [logging.getLogger(name) for name in _REPEATING]
    for logger in loggers:
        logger.addFilter(passes)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(passes)


def note_result(result: R) -> R:
    """Note what a study flow returns, in case that no server is there to hear of it."""
    _results.get([]).append(result)
    return result


def study_flow(
    *,
    name: str,
    flow_run_name: str | Callable[[], str],
    check: Check | None = None,
    code: Code | None = None,
) -> Callable[[Callable[P, R]], StudyFlow[P, R]]:
    """Make a function a `StudyFlow`, as `prefect.flow` makes one a `Flow`.

    `check` is given the names of the flow's arguments and those of a call, `code` finds what a
    run executes, for a flow whose parameter `install` has workers install its packages.
    """

    def decorate(function: Callable[P, R]) -> StudyFlow[P, R]:
        made = StudyFlow(function, name=name, flow_run_name=flow_run_name)
        made.check, made.code = check, code
        made.fn = _with_public_errors(function)  # Prefect has looked at the function's file by now
        return made

    return decorate


def _with_public_errors(function: Callable[P, R]) -> Callable[P, R]:
    call = _call_publicly

    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        return call(function, *args, **kwargs)

    # Prefect looks up the annotations in the globals of the function that it calls.
    there = FunctionType(run.__code__, function.__globals__, closure=run.__closure__)
    return functools.update_wrapper(there, function)


def _call_publicly(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    try:
        with public_errors(), settings_read_once():
            return function(*args, **kwargs)
    except TerminationSignal:
        if not _is_cancelled():
            raise
        return cast("R", Cancelled(message="The study was cancelled."))


def _is_cancelled() -> bool:
    """Tell whether this flow run was terminated for that.

    A runner would tell Prefect's engine, but not where SIGTERM is somebody else's, such as trials
    that are to end softly; the run would count as crashed.
    """
    with suppress(Exception), get_client(sync_client=True) as client:
        state = client.read_flow_run(UUID(str(flow_run.id))).state
        return state is not None and (state.is_cancelling() or state.is_cancelled())
    return False


def _describe(value: Any, secrets: SecretVariables) -> Any:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, (str, Path)):
        text = without_secrets(str(value))
        name = secrets.name_in(text)
        return text if name is None else f"the value of {name}"
    if isinstance(value, Problem):
        return f"{value.name} (Problem)"
    if isinstance(value, Block):
        return _place(value)
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {
            str(key): "***"
            if isinstance(item, (str, bytes)) and is_secret_name(str(key))
            else _describe(item, secrets)
            for key, item in value.items()
        }
    if isinstance(value, Sequence):
        return [_describe(item, secrets) for item in value]
    return getattr(value, "__qualname__", None) or type(value).__name__


def _place(value: Any) -> Any:
    """Where a storage or an artifact filesystem is. A block may have any fields: none is shown."""
    if isinstance(value, StudyStorage):
        return value.location
    if isinstance(value, ArtifactFileSystem):
        return value.location()
    if isinstance(value, Block):
        name = value._block_document_name  # pyright: ignore[reportPrivateUsage]
        return f"{value.get_block_type_slug()}/{name}" if name else type(value).__name__
    if isinstance(value, (str, Path)):
        return place_text(str(value))
    if isinstance(value, Sequence):
        return [_place(item) for item in value]
    return type(value).__name__


@contextmanager
def _without_its_log() -> Generator[None]:
    """Have this thread's records of Prefect's module `flows` go nowhere."""
    thread, log = threading.get_ident(), logging.getLogger("prefect.flows")

    def others(record: logging.LogRecord) -> bool:
        return record.thread != thread

    log.addFilter(others)
    try:
        yield
    finally:
        log.removeFilter(others)
