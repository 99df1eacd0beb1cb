"""The study's report: one Markdown artifact in Prefect's UI, kept up to date while it runs."""

from __future__ import annotations

import contextvars
import hashlib
import logging
import math
import re
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from http import HTTPStatus
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote
from uuid import UUID

from optuna.trial import FrozenTrial
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
)
from prefect.client.schemas.sorting import ArtifactSort
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectHTTPStatusError
from prefect.logging import get_logger
from prefect.settings import get_current_settings

from prefect_optuna.blocks import OptunaSettings
from prefect_optuna.blocks._secrets import place_text
from prefect_optuna.blocks.artifacts.pages import code, data_uri, escape, fenced
from prefect_optuna.blocks.artifacts.trial_log import artifact_pages, logged_artifacts
from prefect_optuna.blocks.settings import quick_client
from prefect_optuna.blocks.study_summary import best_first, summary_of
from prefect_optuna.blocks.texts import command
from prefect_optuna.flows import plots
from prefect_optuna.flows.gallery import PICTURES, TimeShare, draw_gallery
from prefect_optuna.flows.study import Gallery, StudyStatus
from prefect_optuna.flows.temporary_server import other_settings
from prefect_optuna.flows.wording import (
    MAX_CELL,
    column_width,
    count_states,
    count_words,
    detail_columns,
    fit_columns,
    format_duration,
    format_value,
    named_states,
    shorten,
    state_words,
)
from prefect_optuna.tasks.archive.record.manifest import SCOPE_KEY

if TYPE_CHECKING:
    from typing import Self

    from prefect.client.orchestration import SyncPrefectClient

    _Logger = logging.Logger | logging.LoggerAdapter[logging.Logger]

_logger = get_logger(__name__)

_TABLE_LETTERS = 76  # what fits beside the page's margin on a common screen
_PICTURE_BYTES = 100_000
_PAGE_BYTES = 170_000  # of all pictures; as text in the page they are a third larger
_LAST_SECONDS = 2.0  # of processor time, after which the last report begins no other picture
_NBSP = "\N{NO-BREAK SPACE}"  # and no entity, which Prefect's first UI shows as its letters
_IN_ADDRESSES = ":/?&=%@;,+-._~"
_LAST_REPORT_SECONDS = 30.0


@dataclass(frozen=True)
class Report:
    """A report, as Prefect's UI shows it."""

    markdown: str
    description: str


def render_report(status: StudyStatus, *, pictures: bool = True) -> Report:
    """Write the report of a study.

    Example:
        >>> import optuna
        >>> study = optuna.create_study(study_name="demo")
        >>> study.optimize(lambda trial: trial.suggest_float("x", -1, 1) ** 2, n_trials=9)
        >>> status = StudyStatus("demo", ("minimize",), study.trials, 9, "completed", 0.2,
        ...                      "memory://", "memory://")
        >>> render_report(status).markdown.startswith("# Best value")
        True
    """
    ranked = status.best
    headline = headline_of(status, ranked)
    gallery = status.gallery
    if gallery is None:
        gallery = draw_gallery(status) if pictures else Gallery()
    drawn = gallery.pictures
    best = _fitting(status.best_figure, _PAGE_BYTES - _size(*drawn.values(), status.ensemble))
    single = len(status.directions) == 1
    parts = [
        f"# {headline}",
        _parameters(status, ranked) if single else _extremes(status, ranked),
        _scope(ranked) if single else "",
        _progress(status),
        last_day(status, bold="**"),
        *(f"**Note:** {_escape(note, 500)}" for note in status.notes),
        _dashboard(status),
        _image(f"Trial {ranked[0].number}, the best one" if ranked else "Best trial", best),
        *(_image(PICTURES[name], drawn.get(name)) for name in ("pareto", "history")),
        _table(status, ranked),
        _section(
            "What matters", *(_image(PICTURES[n], drawn.get(n)) for n in ("importances", "slices"))
        ),
        _section("The best trial among others", _image("Series of trials", status.ensemble)),
        _logged("the study", status.user_attrs),
        _logged(f"trial {ranked[0].number}", ranked[0].user_attrs) if single and ranked else "",
        _section("Who ran what", _image(PICTURES["timeline"], drawn.get("timeline"))),
        _section("Versions", _versions(status)),
        _section("Runs", _linked("Each run, with its report", report_key(status.study_name))),
        _section("Re-evaluations", _reevaluations(status)),
        _left_out(status) if gallery.left_out else "",
        _whereabouts(status),
    ]
    cover = best or next(iter(drawn.values()), None)
    thumbnail = plots.thumbnail(cover) if cover else None
    card = (f"**{headline}**", _short_progress(status), _image("", thumbnail))
    return Report(_paragraphs(parts), _paragraphs(card))


def report_key(study_name: str) -> str:
    """The key of a study's report among Prefect's artifacts.

    Two studies never share one: where the name has to be changed to fit Prefect's rule for keys,
    a hash of the name itself is appended.

    Example:
        >>> report_key("lynx-hare")
        'study-lynx-hare'
        >>> report_key("Lynx & Hare")
        'study-lynx-hare--cca25775'
    """
    ascii_name = unicodedata.normalize("NFKD", study_name).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^a-z0-9]+", "-", ascii_name.lower()).strip("-")[:60].strip("-")
    if slug != study_name:
        # No slug has two dashes in a row, so that none looks like a slug with its hash.
        slug += "--" + hashlib.sha256(study_name.encode()).hexdigest()[:8]
    return f"study-{slug}"


def reevaluation_key(study_name: str) -> str:
    """The key of the page of a study's re-evaluations among Prefect's artifacts.

    Example:
        >>> reevaluation_key("lynx-hare")
        'reevaluation-lynx-hare'
    """
    return "reevaluation-" + report_key(study_name).removeprefix("study-")


class Publisher(Protocol):
    """Takes the reports of a study, one after the other."""

    def publish(self, report: Report, /) -> bool:
        """Show a report, and tell whether that went well."""
        ...


class ReportPublisher:
    """Keeps the report of one study up to date in Prefect's UI.

    The report belongs to the flow run in which it is published, and is updated in place. A study
    that goes on in another flow run gets another version of it. A server that is away stops
    nothing: that is said once, and the next report is tried again.
    """

    def __init__(self, study_name: str, logger: _Logger | None = None) -> None:
        self.key: str = report_key(study_name)
        self._logger = logger or _logger
        self._artifact_id: UUID | None = None
        self._failing = False

    def publish(self, report: Report) -> bool:
        """Create the artifact, or update it."""
        try:
            # A client of its own, with settings of its own: the flow's is for the flow's thread.
            with quick_client() as client:
                self._send(client, report)
        except Exception as error:  # noqa: BLE001 - a report must not end a study
            if not self._failing:
                self._logger.warning(
                    "Cannot publish the study's report %r: %s: %s. The study goes on; the next "
                    "report is tried again.",
                    self.key,
                    type(error).__name__,
                    error,
                )
            self._failing = True
            return False
        if self._failing:
            self._logger.info("The study's report %r is up to date again.", self.key)
        self._failing = False
        return True

    def _send(self, client: SyncPrefectClient, report: Report) -> None:
        context = FlowRunContext.get()
        flow_run_id = context.flow_run.id if context and context.flow_run else None
        if self._artifact_id is None and flow_run_id is not None:
            self._artifact_id = self._find(client, flow_run_id)
        if self._artifact_id is None:
            created = client.create_artifact(
                ArtifactCreate(
                    type="markdown",
                    key=self.key,
                    description=report.description,
                    data=report.markdown,
                    flow_run_id=flow_run_id,
                )
            )
            self._artifact_id = created.id
            return
        # Not `client.update_artifact`, which also sends the whole report as an event: a server
        # keeps events for days, so that an hour's updates would take up some 100 MB.
        try:
            client.request(
                "PATCH",
                "/artifacts/{id}",
                json={"data": report.markdown, "description": report.description},
                path_params={"id": self._artifact_id},
            )
        except PrefectHTTPStatusError as error:
            if error.response.status_code == HTTPStatus.NOT_FOUND:
                self._artifact_id = None  # its database was reset; the next report is a new one
            raise

    def _find(self, client: SyncPrefectClient, flow_run_id: UUID) -> UUID | None:
        """The report that an earlier attempt of the same flow run has made."""
        artifacts = client.read_artifacts(
            artifact_filter=ArtifactFilter(
                key=ArtifactFilterKey(any_=[self.key]),
                flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run_id]),
            ),
            sort=ArtifactSort.CREATED_DESC,
            limit=1,
        )
        return artifacts[0].id if artifacts else None


class ReportThread:
    """Updates a study's report in the background, and once more at the end.

    The first report is published at once, and the next ones every `interval` seconds. Pictures
    are drawn anew at the end, and before that as often as drawing takes no more than `share` of
    the time.

    Args:
        status: tells how the study stands.
        publisher: takes the reports.
        words: does what `status` does, without drawing anything, for the first word of the end.

    Example:
        >>> import optuna
        >>> def status():
        ...     return StudyStatus("demo", ("minimize",), [], 1, "running", 0.0, "", "")
        >>> class Printer:
        ...     def publish(self, report):
        ...         print(report.description.splitlines()[0])
        ...         return True
        >>> with ReportThread(status, Printer()):
        ...     pass
        **No complete trial yet**
    """

    def __init__(
        self,
        status: Callable[[], StudyStatus],
        publisher: Publisher,
        *,
        words: Callable[[], StudyStatus] | None = None,
        interval: float = 5.0,
        share: float = 0.01,
    ) -> None:
        self._status = status
        self._words = words or status
        self._publisher = publisher
        self._interval = interval
        self._drawing = TimeShare(share=share, estimate=0.6)
        self._gallery = Gallery()
        self._closing = threading.Event()
        self._publishing = threading.Lock()  # what is published later has been looked at later
        self._published: object = None
        self._failing = False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Publish the first report, and go on in the background."""
        self._thread = self._start(self._run)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Publish the last report."""
        self._closing.set()
        # First the words: on a busy machine pictures that are being drawn may take longer than is
        # waited for.
        end = time.monotonic() + _LAST_REPORT_SECONDS
        words = self._start(self._say_how_it_ended)
        for thread in (words, self._thread):
            if thread is not None:
                thread.join(max(0.0, end - time.monotonic()))

    def _start(self, action: Callable[[], None]) -> threading.Thread:
        # The flow run and its client are in context variables, which threads do not inherit.
        run = contextvars.copy_context().run
        name = "prefect-optuna-report"
        thread = threading.Thread(target=run, args=(action,), name=name, daemon=True)
        thread.start()
        return thread

    def _say_how_it_ended(self) -> None:
        with other_settings(client={"max_retries": 0}):
            self._update(self._words, draw=False)

    def _run(self) -> None:
        # The next report is the better retry of one that a server did not take.
        with other_settings(client={"max_retries": 0}):
            self._update(self._status, draw=False)
            while not self._closing.wait(self._interval):
                self._update(self._status, draw=self._drawing.affords())
            self._update(self._status, draw=True)

    def _update(self, look: Callable[[], StudyStatus], *, draw: bool) -> None:
        try:
            if draw:
                status = look()
                # What stays has all pictures, but the end of a study is not held up by them.
                seconds = math.inf if status.state == "running" else _LAST_SECONDS
                with self._drawing.spend():
                    self._gallery = draw_gallery(status, seconds=seconds)
            with self._publishing:
                self._publish(replace(look(), gallery=self._gallery))
        except Exception:  # a report must not end a study
            if not self._failing:
                _logger.warning("Cannot write the study's report.", exc_info=True)
            self._failing = True

    def _publish(self, status: StudyStatus) -> None:
        news = (
            status.state,
            status.notes,
            status.lost,
            status.best_figure,
            status.ensemble,
            counts_of(status),
            status.gallery,
        )
        if news != self._published and self._publisher.publish(
            render_report(status, pictures=False)
        ):
            self._published = news


def _paragraphs(parts: Iterable[str]) -> str:
    return "\n\n".join(part for part in parts if part) + "\n"


def counts_of(status: StudyStatus) -> dict[str, int]:
    """Count the trials in each state, from the summary of a study where there is one."""
    summary = status.summary
    return named_states(summary.states, summary.lost) if summary else count_states(status.trials)


def headline_of(status: StudyStatus, ranked: Sequence[FrozenTrial]) -> str:
    """Summarize the outcome of a study in a few words."""
    if not ranked:
        complete = counts_of(status)["complete"]
        words = f"No {'feasible' if complete else 'complete'} trial"
        return f"{words} yet" if status.state == "running" else words
    if len(status.directions) > 1:
        return f"{len(ranked)} Pareto-best trial{'s' if len(ranked) > 1 else ''}"
    return f"Best value {format_value(ranked[0].values[0])}"


def standing_of(status: StudyStatus, ranked: Sequence[FrozenTrial]) -> str:
    """Tell which way the values of a study go, and for how long none has been better."""
    (direction,) = status.directions
    summary = status.summary
    if summary and summary.n_trials > len(status.trials):
        since = summary.since_best or 0  # or it is not known
    else:
        since = sum(t.state.is_finished() and t.number > ranked[0].number for t in status.trials)
    later = f"; none better in {since:,} trial{'s' if since > 1 else ''} since" if since else ""
    return direction + later


def _parameters(status: StudyStatus, ranked: Sequence[FrozenTrial]) -> str:
    if not ranked:
        return ""
    items = list(ranked[0].params.items())
    words = [f"{_escape(name)}{_NBSP}**{_escape(format_value(v))}**" for name, v in items[:40]]
    if len(items) > 40:
        words.append(f"and {len(items) - 40} more")
    first = f"Trial {ranked[0].number} ({standing_of(status, ranked)}): "
    return first + " · ".join(words) if words else ""


def _scope(ranked: Sequence[FrozenTrial]) -> str:
    """List what the best trial read of its scope."""
    read = ranked[0].user_attrs.get(SCOPE_KEY) if ranked else None
    if not isinstance(read, Mapping) or not read:
        return ""
    items = list(read.items())
    words = [f"{_escape(name)}{_NBSP}{_escape(format_value(v))}" for name, v in items[:40]]
    if len(items) > 40:
        words.append(f"and {len(items) - 40} more")
    return "Scope: " + " · ".join(words)


def _extremes(status: StudyStatus, ranked: Sequence[FrozenTrial]) -> str:
    lines = []
    for index, direction in enumerate(status.directions):
        values = [trial.values[index] for trial in ranked]
        if values:
            low, high = format_value(min(values)), format_value(max(values))
            lines.append(f"value {index} ({direction}): **{low}** to **{high}**")
    return " · ".join(lines)


def _progress(status: StudyStatus) -> str:
    done, words, rest = _progress_parts(status)
    return f"**{done}**{words}{rest}, **{status.state}**"


def progress_of(status: StudyStatus) -> str:
    """Describe how far a study is, in a line of plain text."""
    return "".join(_progress_parts(status)) + f", {status.state}"


def _progress_parts(status: StudyStatus) -> tuple[str, str, str]:
    done = _done(status)
    summary = status.summary
    words = (
        state_words(counts_of(status), summary.infeasible)
        if summary
        else count_words(status.trials)
    )
    if status.lost:
        words.append(f"{status.lost} lost and repeated")
    return (
        f"{done} trial{'' if done in ('1', '1 of 1') else 's'}",
        f" ({', '.join(words)})" if words else "",
        f" in {format_duration(status.elapsed)}" if status.elapsed else "",
    )


def _short_progress(status: StudyStatus) -> str:
    return f"{_done(status)}, {status.state}"  # a card has room for some thirty characters


def _done(status: StudyStatus) -> str:
    counts = counts_of(status)
    done = counts["complete"] + counts["pruned"] + counts["failed"]
    return f"{done:,}" if status.n_trials is None else f"{done:,} of {status.n_trials:,}"


def _size(*pictures: bytes | None) -> int:
    return sum(len(picture) for picture in pictures if picture)


def _fitting(picture: bytes | None, room: int) -> bytes | None:
    """The picture, made smaller where the page has no room for it as it is."""
    room = min(_PICTURE_BYTES, room)
    if picture is None or len(picture) <= room:
        return picture
    return plots.thumbnail(picture, width=1400, max_bytes=room)


def _section(heading: str, *parts: str) -> str:
    """Return a heading with its content, or nothing if there is none."""
    there = [part for part in parts if part]
    return "\n\n".join((f"## {heading}", *there)) if there else ""


def _dashboard(status: StudyStatus) -> str:
    """A link to optuna-dashboard, where the settings say that there is one."""
    url = OptunaSettings.here().dashboard_url
    if url is None:
        return ""
    page = "" if status.study_id is None else f"/studies/{status.study_id}"
    return (
        f"[Open in optuna-dashboard]({quote(url.rstrip('/'), safe=_IN_ADDRESSES)}/dashboard{page})"
    )


def _image(text: str, png: bytes | None) -> str:
    return f"![{text}]({data_uri(png)})" if png else ""


def _table(status: StudyStatus, ranked: Sequence[FrozenTrial]) -> str:
    best = ranked[:10]
    if not best:
        return ""
    numbers = {"trial": [str(trial.number) for trial in best]}
    for index, _ in enumerate(status.directions):
        heading = "value" if len(status.directions) == 1 else f"value {index}"
        numbers[heading] = [format_value(trial.values[index]) for trial in best]
    params = detail_columns(best)
    taken = sum(column_width(name, cells) for name, cells in numbers.items())
    shown = fit_columns(params, _TABLE_LETTERS - taken)
    columns = [
        ["trial", "---:", *numbers.pop("trial")],
        *([name, "---:", *(f"**{cell}**" for cell in cells)] for name, cells in numbers.items()),
        *(
            [_escape(name), "---:", *(_escape(cell) for cell in cells)]
            for name, cells in shown.items()
        ),
        ["took", "---:", *(_took(trial) for trial in best)],
    ]
    text = "\n".join(f"| {' | '.join(row)} |" for row in zip(*columns, strict=True))
    if more := len(params) - len(shown):
        text += f"\n\n{more} more parameter{'s' if more > 1 else ''} did not fit."
    return f"## Best trials\n\n{text}"


def _took(trial: FrozenTrial) -> str:
    duration = trial.duration
    return format_duration(duration.total_seconds()).replace(" ", _NBSP) if duration else ""


def _logged(whose: str, user_attrs: Mapping[str, Any]) -> str:
    """List what was kept with `log_artifact`, with links to what is shown in Prefect's UI."""
    pages = artifact_pages(user_attrs)
    words = [(key and _linked(code(name), key)) or code(name) for name, key in pages.items()]
    if len(words) > 40:
        words[40:] = [f"and {len(words) - 40} more"]
    return _section(f"Logged by {whose}", " · ".join(words)) if words else ""


def _yesterday(status: StudyStatus) -> tuple[int, FrozenTrial | None]:
    """Count the trials that had ended 24 hours ago, with the best one then, of one direction."""
    summary = status.summary
    if summary and summary.n_trials > len(status.trials):
        return summary.yesterday or (0, None)  # or it is not known
    yesterday = datetime.now() - timedelta(days=1)  # noqa: DTZ005 - local, as Optuna's times
    older = [t for t in status.trials if t.datetime_complete and t.datetime_complete < yesterday]
    best = best_first(older, status.directions) if len(status.directions) == 1 else []
    return len(older), next(iter(best), None)


def last_day(status: StudyStatus, bold: str = "") -> str:
    """Describe what the last 24 hours brought, in a study that is older."""
    n_older, before = _yesterday(status)
    if not n_older:
        return ""
    summary = status.summary or summary_of(status.trials, status.directions)
    n_new = summary.finished + summary.lost - n_older
    if not n_new:
        return ""
    now = next(iter(summary.best), None)
    words = f"{bold}In the last 24 hours:{bold} {n_new} trial{'s' if n_new > 1 else ''}"
    if len(status.directions) > 1:
        return words
    if before and now and before.number != now.number:
        old, new = (format_value(trial.values[0]) for trial in (before, now))
        return f"{words}, and the best value went from {old} to {bold}{new}{bold}"
    return f"{words}, none of them the best" if before else words


def _versions(status: StudyStatus) -> str:
    """The states of the code and its environment, where there is more than one."""
    if len(status.versions) < 2:
        return ""
    head = ("version", "from trial", "archived (UTC)", "code", "environment")
    lines = [f"| {' | '.join(head)} |", "| ---: | ---: | --- | --- | --- |"]
    lines += [
        f"| {number} | {version.first_trial} | {code(version.created[:16].replace('T', ' '))} "
        f"| {code(version.code_version[:12])} | {code(version.environment[:12])} |"
        for number, version in enumerate(status.versions)
    ][-10:]
    return "\n".join(lines)


def _reevaluations(status: StudyStatus) -> str:
    """List the outcomes of the last re-evaluations, with a link to their page in Prefect's UI."""
    if not status.reevaluations:
        return ""
    lines = [
        f"- {code(past.created[:16].replace('T', ' '))}: {_escape(past.headline)}"
        for past in reversed(status.reevaluations)
    ]
    if link := _linked("All of them, and how they drift", reevaluation_key(status.study_name)):
        lines.append(f"\n{link}")
    return "\n".join(lines)


def _linked(words: str, key: str) -> str:
    """A link to all that Prefect's UI has of an artifact, with the run that made each."""
    ui = get_current_settings().ui_url
    if not ui:
        return ""
    return f"[{words}]({quote(ui.rstrip('/'), safe=_IN_ADDRESSES)}/artifacts/key/{key})"


def _left_out(status: StudyStatus) -> str:
    draw = code(command("prefect-optuna", "report", status.study_name))
    return f"Drawing more pictures would have held up the end of the study. {draw} draws all."


def loading_code(status: StudyStatus) -> str:
    """The Python that opens a study, and what its best trial has logged."""
    opened = (
        "from prefect_optuna.blocks import as_study_storage\n\n"
        f"storage = as_study_storage({place_text(status.storage)!r})\n"
        f"study = storage.load_study({status.study_name!r})"
    )
    ranked = status.best
    names = logged_artifacts(ranked[0]) if ranked else []
    if not names:
        return opened
    return (
        f"from prefect_optuna import load_artifact\n{opened}\n"
        f"trial = study.trials[{ranked[0].number}]\n"
        f"load_artifact(trial, {names[0]!r}, artifacts={place_text(status.artifacts)!r})"
    )


def _whereabouts(status: StudyStatus) -> str:
    storage, artifacts = place_text(status.storage), place_text(status.artifacts)
    return "\n".join(
        (
            "## Load it",
            "",
            fenced(loading_code(status), "python"),
            "",
            f"The study is in {code(storage)}, its archive in {code(artifacts)}."
            + (f" It runs version {code(status.version)}." if status.version else ""),
        )
    )


def _escape(text: str, length: int = MAX_CELL) -> str:
    """Text of the user's, which shall look as it is and not as Markdown or HTML."""
    return escape(shorten(text, length))
