"""Keys of a namespace, and their contents.

The registry is one slot of a Redis Cluster, and each study is another:

| key | type | content |
|---|---|---|
| `{ns}` | hash | `format`: of this layout; `next`: the last study's id |
| `{ns}:names` | hash | a study's name: its id |
| `{ns}:studies` | hash | a study's id: its name |
| `{ns:id}:meta` | hash | `name`, `directions`, `operation`, `version`, `tip`, `next`, `sums` |
| `{ns:id}:live` | hash | number of an unfinished trial: its head |
| `{ns:id}:trial:<n>` | hash | what was set on an unfinished trial after it was made |
| `{ns:id}:finished` | list | one record for each finished trial, in the order they finished |
| `{ns:id}:log` | list | the last operations; the last of them is number `version` |
| `{ns:id}:distributions` | hash | short id: a distribution as Optuna's JSON |
| `{ns:id}:kinds` | hash | a parameter's field: what a distribution must be like to fit |
| `{ns:id}:heartbeats` | sorted set | number of a running trial: the server's milliseconds |
| `{ns:id}:user`, `{ns:id}:system` | hash | the study's attributes: name as JSON: value as JSON |

In `meta`, `directions` is JSON, `operation` made the study, `tip` is the last one, which begins the
log's last entry, and `next` is the number of the next trial, and so how many there are. `sums`, as
in `sums.py`, are of the first trials in `finished`, and only save others the reading of them.
`deleted` is there while a study is deleted.

A head is four parts with tabs between them: the state (`R` or `W`) and, right after it, the
operation that made the trial; the time it was started; the time it was completed; and the fields
it was made with, as a JSON object. A field is a JSON string: `"px"` is the parameter x, `"ukey"`
and `"skey"` are attributes, `"i3"` is the intermediate value of step 3, `"v"` the objectives'
values. In `trial:<n>` each value follows the place of its field and a space: `0 [...]`.

A record is a JSON array: `[number, state, values, started, completed, fields, later fields...]`,
where states are the first letters of their names, times are seconds since 1970 in UTC, with a
decimal point (0.1.0 wrote microseconds on the writer's wall clock, without one), and a parameter is
`[id of the distribution, value inside Optuna]`. Of fields of one name, the last one counts.

An entry of the log is lines: the operation, a tab and its answer; then what it did, as in
`study_copy.py`. Nothing is ever pickled.
"""

from __future__ import annotations

from dataclasses import dataclass

FORMAT = 1
"""The version of this layout."""


@dataclass(frozen=True, slots=True)
class Registry:
    """The keys that say which studies there are.

    Example:
        >>> from prefect_optuna.blocks.redis_storage.layout import Registry
        >>> Registry("lab").names
        '{lab}:names'
    """

    namespace: str

    @property
    def root(self) -> str:
        """Hash: the format, and the last id that was given to a study."""
        return f"{{{self.namespace}}}"

    @property
    def names(self) -> str:
        """Hash: ids by name."""
        return f"{self.root}:names"

    @property
    def studies(self) -> str:
        """Hash: names by id."""
        return f"{self.root}:studies"


class StudyKeys:
    """The keys of one study.

    Example:
        >>> from prefect_optuna.blocks.redis_storage.layout import StudyKeys
        >>> StudyKeys("lab", 3).trial(7)
        '{lab:3}:trial:7'
    """

    def __init__(self, namespace: str, study_id: int) -> None:
        self.prefix: str = f"{{{namespace}:{study_id}}}:"
        self.meta: str = self.prefix + "meta"
        self.live: str = self.prefix + "live"
        self.log: str = self.prefix + "log"
        self.finished: str = self.prefix + "finished"
        self.distributions: str = self.prefix + "distributions"
        self.kinds: str = self.prefix + "kinds"
        self.heartbeats: str = self.prefix + "heartbeats"
        self.user: str = self.prefix + "user"
        self.system: str = self.prefix + "system"

    @property
    def fixed(self) -> tuple[str, ...]:
        """Every key but those of unfinished trials, in the order in which scripts take them."""
        return (
            self.meta,
            self.live,
            self.log,
            self.finished,
            self.distributions,
            self.kinds,
            self.heartbeats,
            self.user,
            self.system,
        )

    def trial(self, number: int) -> str:
        """Hash: what was set on an unfinished trial.

        Example:
            >>> from prefect_optuna.blocks.redis_storage.layout import StudyKeys
            >>> StudyKeys("lab", 3).trial(7)
            '{lab:3}:trial:7'
        """
        return f"{self.prefix}trial:{number}"


def trial_id(study_id: int, number: int) -> int:
    """The id of a trial, which holds the study's id in its lowest bits and the number above them.

    So ids need no counter, are small, and never meet. The study's id takes groups of four bits,
    of which the lowest says whether another group follows.

    Example:
        >>> from prefect_optuna.blocks.redis_storage.layout import trial_id, trial_place
        >>> trial_id(5, 1000)
        16010
        >>> trial_place(16010)
        (5, 1000)
    """
    bits, shift = 0, 0
    while True:
        group, study_id = study_id & 7, study_id >> 3
        bits |= (group << 1 | (study_id > 0)) << shift
        shift += 4
        if not study_id:
            return number << shift | bits


def trial_place(of: int) -> tuple[int, int]:
    """The study's id and the trial's number that an id stands for.

    Example:
        >>> from prefect_optuna.blocks.redis_storage.layout import trial_place
        >>> trial_place(16010)
        (5, 1000)
    """
    study_id, shift, rest = 0, 0, int(of)
    while rest >= 0:
        group, rest = rest & 15, rest >> 4
        study_id |= group >> 1 << shift
        if not group & 1:
            if group == 0:  # no study has the id 0, and no id ends with an empty group
                break
            return study_id, rest
        shift += 3
    raise KeyError(f"No trial with the id {of} exists.")
