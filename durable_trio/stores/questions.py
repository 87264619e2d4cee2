"""What can be asked of a store, as values: each question, what it answers, and the answers that are more than rows.

``Store.ask`` says what holds for all of them. A question names its answer's type, so that ``store.ask(FindRun("r"))``
is a ``RunRow | None`` for a type checker.

Most are asked by an engine, and runs wait for the answer: it must cost a few seeks and the rows that it gives. Those
that only people ask may take their time (``is_for_people``); no run waits for one of them, also not for its thread.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, Generic, TypeVar

import attrs

from durable_trio.records import RunStatus
from durable_trio.rows import (
    DeathRow,
    ExecutorRow,
    HistoryRow,
    MailboxEntry,
    OpenStepRow,
    ReportRow,
    RunRow,
    ServedCode,
    UntoldRow,
    WaitRow,
)

__all__ = [
    "NOTHING_LOADED",
    "AwaitedRows",
    "Backlog",
    "CountBacklog",
    "CountByWorkflow",
    "CountRuns",
    "FailedRun",
    "FindEnded",
    "FindMissing",
    "FindRun",
    "ListAwaited",
    "ListDeaths",
    "ListExecutors",
    "ListFailures",
    "ListHistory",
    "ListOpenSteps",
    "ListOwned",
    "ListReports",
    "ListRuns",
    "ListSetBack",
    "ListUnread",
    "ListUntold",
    "ListWaits",
    "LoadRun",
    "LoadRuns",
    "Loaded",
    "LookAtMailbox",
    "MailboxLook",
    "NamedSignals",
    "OpenChild",
    "OpenSteps",
    "Order",
    "Question",
    "ReadValues",
    "RunFilter",
    "SetBack",
    "StoreStatus",
    "WorkflowCounts",
]

Answer_co = TypeVar("Answer_co", covariant=True)


class Question(Generic[Answer_co]):
    """One thing that a store can be asked, and the type of what it answers."""

    __slots__ = ()

    #: Whether only people ask it, so that the answer may take its time.
    is_for_people: ClassVar[bool] = False


# ---- one run -----------------------------------------------------------------------------------------------------


@attrs.define
class FindRun(Question[RunRow | None]):
    """Answers the run with that id; ``None`` if there is none."""

    run_id: str


@attrs.define
class Loaded:
    """All that an executor needs to go on with a run it has claimed. History in order of seq.

    ``left_out``: of the unread signals those with ids above the first of these and up to the second are not among
    ``unread``, because they are many (see ``LookAtMailbox``); cancels and ends of children always are.
    ``damage``: that of one of the rows; then the run must not go on.
    """

    history: tuple[HistoryRow, ...]
    waits: tuple[WaitRow, ...]
    unread: tuple[MailboxEntry, ...]
    values: Mapping[str, str]
    positions: Mapping[str, tuple[int, int]] = attrs.Factory(dict)  # of the values, as they were published
    left_out: tuple[int, int] | None = None
    damage: str | None = None


#: What there is of a run that has just been started.
NOTHING_LOADED: Final = Loaded((), (), (), {})


@attrs.define
class LoadRun(Question[Loaded]):
    """Answers history, waits, unread mailbox and published values of a run; of an unknown one, that it has none."""

    run: int


@attrs.define
class LoadRuns(Question[tuple[Loaded, ...]]):
    """Answers what ``LoadRun`` does for each of some runs, in their order."""

    runs: Sequence[int]


@attrs.define
class ListHistory(Question[tuple[HistoryRow, ...]]):
    """Answers the history of a run in order of seq."""

    is_for_people = True
    run: int


@attrs.define
class ListWaits(Question[tuple[WaitRow, ...]]):
    """Answers the open waits of a run."""

    is_for_people = True
    run: int


@attrs.frozen
class OpenChild:
    """A child that has not ended."""

    id: str
    workflow: str


@attrs.frozen
class AwaitedRows:
    """What tells what a run waits for: its open waits, the next due first, and its newest children that go on."""

    waits: tuple[WaitRow, ...] = ()
    children: tuple[OpenChild, ...] = ()


@attrs.define
class ListAwaited(Question[Mapping[int, AwaitedRows]]):
    """Answers what some runs wait for, by run: of each at most ``limit`` waits and as many children.

    Children are looked for among the newest of a run.
    """

    is_for_people = True
    runs: Sequence[int]
    limit: int = attrs.field(kw_only=True, default=20)


@attrs.define
class ReadValues(Question[Mapping[int, Mapping[str, str]]]):
    """Answers the published values of some runs, by run and key, as JSON text; a run without any has none by key."""

    is_for_people = True
    runs: Sequence[int]


# ---- many runs ---------------------------------------------------------------------------------------------------


@attrs.define(kw_only=True)
class RunFilter:
    """Which runs. Several statuses: any; several tags: all. ``None`` means any."""

    run_id: str | None = None
    statuses: tuple[RunStatus, ...] | None = None
    workflow: str | None = None
    tags: tuple[tuple[str, str], ...] = ()
    queue: str | None = None
    parent_id: str | None = None
    created_after: int | None = None
    created_before: int | None = None
    is_parked: bool = False  # refused by all code that lives, or damaged
    is_retrying: bool = False  # unfinished, with a step that has failed and is tried again
    overdue_at: int | None = None  # nobody's, not parked, and due at this instant or before


class Order(enum.StrEnum):
    """What comes first in a list.

    ``CHANGED`` is for people. Changes of different runs need have no order where many commit at the same time
    (``ListChanges``): as far as they have one, ``RunRow.changed`` tells it, and is the order of this list.
    """

    NEWEST = "newest"
    OLDEST = "oldest"
    CHANGED = "changed"  # the last that has changed
    ENDED = "ended"  # the last that has ended, and none that has not


@attrs.define
class ListRuns(Question[tuple[RunRow, ...]]):
    """Answers runs in an order; ``before`` is what they are ordered by, and ``run``, of the last of the page before.

    They are ordered by ``created_at``, ``changed`` or ``finished_at``, those with the same by ``run``.
    """

    is_for_people = True
    which: RunFilter
    order: Order = attrs.field(kw_only=True, default=Order.NEWEST)
    limit: int = attrs.field(kw_only=True)
    before: tuple[float, int] | None = attrs.field(kw_only=True, default=None)


@attrs.define
class FindEnded(Question[tuple[str, ...]]):
    """Answers those of some ids whose runs have ended. Cost grows with their number, not with what else has changed."""

    run_ids: Sequence[str]


@attrs.define
class FindMissing(Question[tuple[str, ...]]):
    """Answers those of some ids that no run has."""

    run_ids: Sequence[str]


@attrs.define(kw_only=True)
class StoreStatus:
    """Counts for ``engine.status``."""

    runs_by_status: Mapping[RunStatus, int]
    parked: tuple[str, ...]  # ids, at most 1000
    unfinished_by_workflow: Mapping[str, int]
    unfinished_by_version: Mapping[tuple[str, int], int] = attrs.field(factory=dict)
    store_version: str
    warnings: tuple[str, ...]
    recorded_count: int = 0  # rises with each history row; for rates


@attrs.define
class CountRuns(Question[StoreStatus]):
    """Answers counts of runs, the parked ones, unfinished runs by workflow, and warnings."""

    is_for_people = True


@attrs.define(kw_only=True)
class WorkflowCounts:
    """How many runs of a workflow there are, and how long the newest of them have taken."""

    workflow: str
    by_status: Mapping[RunStatus, int]
    oldest_unfinished: tuple[str, int] | None  # id and ``created_at``, of all, however many are counted
    durations: tuple[int, ...]  # of those that have completed, the newest first, in microseconds


@attrs.define(kw_only=True)
class CountByWorkflow(Question[tuple[WorkflowCounts, ...]]):
    """Answers the counts of each workflow, or of one, by name; each is of one instant, and they are of several.

    ``since``: only runs created after that. ``durations_max``: of how many runs the durations are read.
    """

    is_for_people = True
    workflow: str | None = None
    since: int | None = None
    durations_max: int
    after: str | None = None  # the workflow that the answer so far has ended with


@attrs.define(kw_only=True)
class FailedRun:
    """A run that has failed, and the type and the text of its error; of a group, of each that is in it, some twenty."""

    run_id: str
    workflow: str
    finished_at: int
    causes: tuple[tuple[str, str], ...]


@attrs.define(kw_only=True)
class ListFailures(Question[tuple[FailedRun, ...]]):
    """Answers the runs that have failed, the last one first; ``since``: after that instant. ``before`` as ``ListRuns``.

    No payload is read but their errors, of which ``failures.causes_of`` makes the causes.
    """

    is_for_people = True
    workflow: str | None = None
    since: int | None = None
    limit: int
    before: tuple[float, int] | None = None


# ---- mailboxes ---------------------------------------------------------------------------------------------------


@attrs.define
class ListUnread(Question[tuple[MailboxEntry, ...]]):
    """Answers the unread mailbox entries of a run, in order of arrival."""

    is_for_people = True
    run: int


@attrs.define
class NamedSignals:
    """Unread signals of one name, the oldest first, from after an id on; ``is_all`` if there are no more."""

    after: int
    entries: tuple[MailboxEntry, ...]
    is_all: bool


@attrs.define
class MailboxLook:
    """A look at a run's unread mailbox, of one instant: what has come after an id, and signals by their names."""

    after: int
    entries: tuple[MailboxEntry, ...]
    is_all: bool = True
    named: Mapping[str, NamedSignals] = attrs.Factory(dict)


@attrs.define
class LookAtMailbox(Question[MailboxLook]):
    """Answers unread entries of a run with an id above ``after``, and signals of some names above theirs.

    At most ``limit`` of each, in order of arrival. Cost must not grow with what else is unread: it is asked at each
    message.
    """

    run: int
    after: int = attrs.field(kw_only=True)
    names: Mapping[str, int] = attrs.field(kw_only=True)
    limit: int = attrs.field(kw_only=True)


# ---- who executes what -------------------------------------------------------------------------------------------


@attrs.define(kw_only=True)
class Backlog:
    """What waits to be claimed, and how many runs each executor owns."""

    executor_count: int  # those that have not ended, as far as is known
    next_due_at: int | None  # the earliest wake_at of unowned runs; of those in line, the earliest of their heads
    due_count: int  # of those, how many are due; counted only up to a limit
    owned_counts: Mapping[int, int]  # by executor; one that owns none is left out


@attrs.define
class CountBacklog(Question[Backlog]):
    """Answers what waits to be claimed by these codes, and who has how many. Cost as for ``ClaimDue``.

    Runs to come that they have refused count among those to come.
    """

    codes: Sequence[ServedCode]
    now: int = attrs.field(kw_only=True)
    due_max: int = attrs.field(kw_only=True)


@attrs.define
class SetBack:
    """An unowned run whose due time was stored before the wall clock was set back."""

    run_id: str
    workflow: str
    wake_at: int
    stamped_at: int  # when that was stored, or something later that the run has stored


@attrs.define
class ListSetBack(Question[tuple[SetBack, ...]]):
    """Answers the unowned runs of these workflows with ``wake_at > now`` and a stamp in the future, earliest first.

    A stamp is ``created_at``, or ``started_at`` of a wait. It may cost a look at all that waits: it is asked only
    after the wall clock was set back. Unanswered, such runs would wait until their written time.
    """

    workflows: Sequence[str]
    now: int = attrs.field(kw_only=True)
    limit: int = attrs.field(kw_only=True)


@attrs.define
class ListOwned(Question[tuple[RunRow, ...]]):
    """Answers the runs that an executor owns; cost grows with them alone.

    Asked when a service was started again: the outcome of a claim may have been lost. Unanswered, such runs would wait
    until the executor ends.
    """

    executor: int


@attrs.define
class ListExecutors(Question[tuple[ExecutorRow, ...]]):
    """Answers the executors that have not ended; with ``ended`` also the others that still own runs.

    Which of their processes are there is judged after the rows were read: one of which it is said that it has ended
    has written nothing since.
    """

    ended: bool = False


@attrs.frozen
class OpenSteps:
    """Steps that are executing, or were when their process died; the longest under way first.

    ``unlisted_count``: how many more the same executors have, which are too many to be noted.
    """

    steps: tuple[OpenStepRow, ...]
    unlisted_count: int = 0


@attrs.define
class ListDeaths(Question[tuple[DeathRow, ...]]):
    """Answers the deaths of executors that are to be told of, and who of those concerned is still there."""


@attrs.define
class ListUntold(Question[tuple[UntoldRow, ...]]):
    """Answers what an executor has noted to tell of runs and has not told.

    That is written without a commit, and told by whoever finds the executor dead. Whether it was committed is not said.
    """

    executor: int


@attrs.define
class ListOpenSteps(Question[OpenSteps]):
    """Answers which steps are executing just now, of one run if it is given, as executors have noted it.

    It is no part of what the store promises. It is noted at once, without a commit (``Store.note_steps``), or it is as
    executors have told it last (``PutOpenSteps``); where neither is done, there are none. Of executors that have died,
    what they were at; that is kept for the last few of them.
    """

    is_for_people = True
    run: int | None = None


@attrs.define
class ListReports(Question[tuple[ReportRow, ...]]):
    """Answers what processes have said of themselves, also those that have died since, in order of ``process``."""

    is_for_people = True
