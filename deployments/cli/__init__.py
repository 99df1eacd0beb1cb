"""`prefect-optuna`, the command line.

| command | what it does |
|---|---|
| `up`, `down`, `status` | a Prefect server of this directory in the background |
| `demo` | the whole way, on a real problem |
| `stop`, `pause`, `resume`, `delete` | whoever runs a study, and the study as a whole |
| `serve` | a Prefect server, a pool and workers on this machine, for trying |
| `deploy`, `deploy-worker` | optimizations on workers |
| `scale` | more workers for a study that runs, or fewer |
| `deploy-reevaluation`, `deploy-report`, `deploy-gc` | what runs on a schedule |
| `studies`, `show`, `trials` | look at studies |
| `report`, `dashboard` | look at them in a browser |
| `reevaluate`, `rerun` | run archived trials again: of a study, of an exported file |
| `export`, `import` | a study with its archive as one file |
| `gc` | remove what deleted studies have left |
| `spool` | trials that ended on this machine while their storage was away |

What was asked for is on standard output, with `--json` as one JSON document; everything else is on
standard error. The exit code is 0 where it was done, 1 where it could not be done (the message
says why), 2 where the command line itself is wrong, 3 where trials were not reproduced, and 130
after Ctrl-C.

Nothing here imports Prefect or Optuna before a command runs: help and completion come at once.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext

from cyclopts import App, CycloptsError, CycloptsPanel, Group, Parameter

from prefect_optuna.deployments.cli import deploying, looking, running
from prefect_optuna.deployments.cli.output import FAILED, INTERRUPTED, OK, USAGE, markup, note

__all__ = ["main"]

_CONSOLE_LEVEL = "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"


def _worth_showing(default: object) -> str | None:
    """A default, where it says more than that nothing was given."""
    return None if default is None or default is False or default == [] else str(default)


def _version() -> str:
    from importlib.metadata import version

    return version("prefect-optuna")


app: App = App(
    name="prefect-optuna",
    help="Optuna studies as Prefect flows: deployed, watched, run again.",
    help_epilogue=(
        "Studies are kept in *.prefect-optuna* below this directory, or where *--storage* and "
        "*--artifacts*, or PREFECT\\_INTEGRATIONS\\_OPTUNA\\_STORAGE and ...\\_ARTIFACTS, say.\n\n"
        "Exit codes: 0 done, 1 not done, 2 wrong usage, 3 not reproduced, 130 Ctrl-C."
    ),
    help_format="markdown",
    default_parameter=Parameter(show_default=_worth_showing),
    version=_version,
    suppress_keyboard_interrupt=False,
    result_action="return_value",
)
_OPTIONS = Group("Options", sort_key=9)
app.register_install_completion_command(add_to_startup=False)
for _flag in ("--help", "--version", "--install-completion"):
    app[_flag].group = _OPTIONS

_COMMANDS: dict[str, tuple[Callable[..., int | None], ...]] = {
    "Look": (
        looking.studies,
        looking.show,
        looking.trials,
        looking.watch,
        running.report,
        running.dashboard,
    ),
    "Work": (
        running.reevaluate,
        running.rerun,
        looking.stop,
        looking.pause,
        looking.resume,
        looking.retry_failed,
        looking.export,
        looking.import_,
        looking.delete,
        running.gc,
        looking.spool,
    ),
    "Server": (running.up, running.down, running.status, running.demo),
    "Deploy": (
        running.serve,
        deploying.deploy,
        deploying.deploy_reevaluation,
        deploying.deploy_report,
        deploying.deploy_gc,
        deploying.deploy_worker,
        deploying.make_pool,
        looking.scale,
    ),
}
for _number, (_heading, _commands) in enumerate(_COMMANDS.items()):
    _group = Group(_heading, sort_key=_number)
    for _place, _command in enumerate(_commands):
        _name = _command.__name__.strip("_").replace("_", "-")
        app.command(_command, name=_name, group=_group, sort_key=_place, help_epilogue="")


def main(tokens: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        tokens: the words after `prefect-optuna`; by default those of this process.

    Returns:
        The exit code.

    Example:
        >>> from prefect_optuna.deployments.cli import main
        >>> main(["trials", "lynx-hare", "--limit", "many"])
        2
    """
    tokens = sys.argv[1:] if tokens is None else tokens
    try:
        command, bound, _ = app.parse_args(tokens, exit_on_error=False, print_error=False)
        if not getattr(command, "__module__", "").startswith(__package__ or ""):
            command(*bound.args, **bound.kwargs)  # help, or the version
            return OK
        with _surroundings(logs=command is not looking.studies):
            return command(*bound.args, **bound.kwargs) or OK
    except CycloptsError as error:
        from rich.console import Console

        Console(stderr=True).print(CycloptsPanel(_without_secrets(str(error), tokens)))
        return USAGE
    except KeyboardInterrupt:
        note("[dim]Interrupted.[/]")
        return INTERRUPTED
    except BrokenPipeError:  # what reads the output, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        from prefect_optuna.blocks import PrefectOptunaError
        from prefect_optuna.errors import UntrustedArchiveError

        # A file that cannot be written has a sentence of its own; anything else is a bug of ours.
        if not isinstance(error, (PrefectOptunaError, OSError)):
            raise
        note(f"[bold red]Error:[/] {markup(str(error))}")
        if type(error) is UntrustedArchiveError:
            note("[dim]Here: prefect-optuna show STUDY, and then --trusted.[/]")
        return FAILED


@contextmanager
def _surroundings(*, logs: bool) -> Generator[None]:
    """Quiet logs, and the server of this directory where no other one is configured.

    Prefect's logging takes a sixth of a second to set up. Without it, warnings are bare lines.
    """
    asked_for = os.environ.get(_CONSOLE_LEVEL)
    in_a_program = "prefect.main" in sys.modules  # which has set its logging up by now
    if asked_for is None:
        os.environ[_CONSOLE_LEVEL] = "WARNING"  # in the terminal only; Prefect's UI has it all
    with nullcontext() if in_a_program else _importing():
        import optuna
        from prefect.logging.configuration import setup_logging
        from prefect.logging.handlers import PrefectConsoleHandler
        from prefect.settings import get_current_settings, temporary_settings

        from prefect_optuna.blocks.texts import VisibleOnly
        from prefect_optuna.flows.temporary_server import running_server_url

        if logs:
            importlib.import_module("prefect.main")  # sets the logging up, with that level
    with ExitStack() as stack:
        if asked_for is None:
            if in_a_program:
                setup_logging()
                stack.callback(setup_logging)
            stack.callback(os.environ.pop, _CONSOLE_LEVEL)
        url = None if get_current_settings().api.url else running_server_url()
        if url:
            stack.enter_context(temporary_settings({"api.url": f"{url}/api"}))
        stack.callback(optuna.logging.set_verbosity, optuna.logging.get_verbosity())
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        logging.getLogger("EventsWorker").setLevel(logging.ERROR)  # of what is still to be sent
        for handler in logging.root.handlers:
            if isinstance(handler, PrefectConsoleHandler):
                stack.callback(handler.removeFilter, _has_no_traceback)
                handler.addFilter(_has_no_traceback)
                stack.callback(handler.console.pop_render_hook)
                handler.console.push_render_hook(VisibleOnly())
        yield


@contextmanager
def _importing() -> Generator[None]:
    """Import without the garbage collector, which would take a sixth of the time.

    What is imported stays: it is not looked at again.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _without_secrets(message: str, tokens: Sequence[str]) -> str:
    """Mask the words of a command that may be secrets in the message about them."""
    values = [token.partition("=")[2] if token.startswith("-") else token for token in tokens]
    for value in values:
        if "@" in value or "=" in value or "://" in value:
            from prefect_optuna.blocks._secrets import place_text

            message = message.replace(value, place_text(value))
    return message


def _has_no_traceback(record: logging.LogRecord) -> bool:
    """Errors come to `main`, which shows a traceback where one is due."""
    return not record.exc_info
