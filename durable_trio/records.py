"""What users get of what is stored: records of decoded values and aware datetimes, and the words for a status.

No logic beyond what a record says of itself. What a store reads and writes is in ``rows``.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

import attrs

from supervisors import TreeNode

__all__ = [
    "Awaited",
    "BulkProgress",
    "CodeRecord",
    "EarlierError",
    "EngineStatus",
    "ErrorGroup",
    "FailureRecord",
    "GenerationRecord",
    "Page",
    "Problem",
    "ProcessReport",
    "Reload",
    "RunRecord",
    "RunStatus",
    "StepKind",
    "StepRecord",
    "StepStatus",
    "UnreadRecord",
    "VersionRecord",
    "WaitRecord",
    "WorkerFamily",
    "WorkflowStats",
]


class RunStatus(enum.StrEnum):
    """Where a run is in its life."""

    PENDING = "pending"  # stored, nobody has begun it
    RUNNING = "running"
    SUSPENDED = "suspended"  # it only waits (in memory or not), or it is parked with a problem
    COMPENSATING = "compensating"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether a run in this status has ended."""
        return self in _FINAL


_FINAL = frozenset({RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED})


class StepKind(enum.StrEnum):
    """What a history row records."""

    STEP = "step"
    TRANSACTION = "transaction"
    SLEEP = "sleep"
    SIGNAL = "signal"
    MAP = "map"  # never stored: its items are steps
    CHILD = "child"  # a child was started
    CHILD_END = "child_end"  # a child's end was awaited
    DEADLINE = "deadline"  # a durable deadline has expired
    PATCH = "patch"
    CONTINUE = "continue"  # never stored: it ends the history
    CANCEL = "cancel"  # the run was asked to cancel
    TTL = "ttl"  # the run's time to live was over
    COMPENSATION = "compensation"
    UNREADABLE = "unreadable"  # never stored: stands for a word that the store should not hold


class StepStatus(enum.StrEnum):
    """How the thing that a history row records came out."""

    COMPLETED = "completed"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    UNREADABLE = "unreadable"  # never stored: stands for a word that the store should not hold


@attrs.frozen(kw_only=True)
class FailureRecord:
    """A failure that is not given back as an exception: its qualified type, its text, its traceback."""

    type: str
    message: str
    traceback: str = ""


@attrs.frozen(kw_only=True)
class EarlierError:
    """How one attempt of a step has failed: the qualified type and the text of its error, both cut where they are long.

    ``line`` is the innermost line of your code that it came through, as ``file:line in function``, if there is any.
    """

    attempt: int
    type: str
    message: str
    failed_at: datetime
    line: str | None = None


@attrs.frozen(kw_only=True)
class Problem:
    """Why a run is parked: ``kind`` is one word, ``text`` is for people, ``fingerprint`` is that of the code."""

    kind: str
    text: str
    fingerprint: str = ""


@attrs.frozen(kw_only=True)
class StepInHand:
    """A step whose function is executing, or was when its process died: then it is not ``is_alive``.

    ``started_at`` is when this attempt began. ``executor``, ``pid`` and ``thread`` (its native id, as in
    ``/proc/<pid>/task``) say where; they are ``None`` where only the run's executor tells, once a second.
    ``is_reported``: on a server it is known from what its process says, at most a second old, instead of at once.
    """

    run_id: str
    key: str
    started_at: datetime
    kind: StepKind = StepKind.STEP
    attempt: int = 1
    executor: int | None = None
    pid: int | None = None
    thread: int | None = None
    is_alive: bool = True
    is_reported: bool = False


@attrs.frozen(kw_only=True)
class Awaited:
    """One thing that a run waits for.

    ``kind`` is "start" (a delay), "sleep", "signal", "retry" (a step's next attempt), "map" (its items, ``total`` of
    them), "child", "deadline" (of a block), "ttl", or "executor": the run is due, and ``reason`` says why nobody takes
    it. ``name`` is that of the sleep or the signal, the key of the step or the map, or the id of the child, whose
    ``workflow`` is told too. ``due_at`` is when the wait is over at the latest, or when the run was due.
    """

    kind: str
    name: str | None = None
    key: str | None = None
    workflow: str | None = None
    due_at: datetime | None = None
    total: int | None = None
    reason: str | None = None


@attrs.frozen(kw_only=True)
class RunRecord:
    """A run as it was at one instant.

    ``args`` and ``result`` are converted by the workflow's annotations where the engine knows the workflow, else
    they are plain JSON values. ``values`` are what the run has published so far. ``recoveries`` counts the deaths of
    its process in a row without a new row of its history between them: after one that came with progress it is 1 again.
    ``compensation_errors`` are the first thousand.

    ``version`` is that of its workflow, ``None`` until it is known: that of a run which was started by name, where the
    workflow was not known, is the newest one that its first executor has.

    ``forked_from`` is the id of the run that this one is a fork of, ``forked_before`` the key of the row before which
    it was made. That run need not be there any more.

    What cannot be read, because the store is damaged, is ``None``, or empty where it is never ``None``; an instant is
    the nearest that a ``datetime`` can hold; an unknown status is ``suspended``. ``problem`` then has the kind
    ``"damaged"`` and says which table, row and column it is, also for a run that has ended.
    """

    id: str
    workflow: str
    status: RunStatus
    args: tuple[Any, ...]
    result: Any
    error: BaseException | FailureRecord | None
    problem: Problem | None
    queue: str | None
    priority: int
    tags: Mapping[str, str]
    parent_id: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    wake_at: datetime | None
    ttl_at: datetime | None
    recoveries: int
    generation: int
    compensation_errors: tuple[FailureRecord, ...]
    values: Mapping[str, Any] = attrs.field(factory=dict)
    version: int | None = 0
    forked_from: str | None = None
    forked_before: str | None = None
    owner: int | None = None  # the executor that has it in hand, by the id that ``EngineStatus`` gives
    open_steps: tuple[StepInHand, ...] = ()  # that are executing now; only ``run.record()`` tells them
    # What it waits for, some twenty at most; ``run.record()`` and ``engine.list_runs`` tell it. Children that go on are
    # among it, also detached ones; what it has just begun to wait for is told once that is stored.
    waits_for: tuple[Awaited, ...] = ()


@attrs.frozen(kw_only=True)
class GenerationRecord:
    """A history that a run has ended by ``ctx.continue_as_new``, and that is kept.

    ``args`` are those that it began with, ``version`` that of the workflow which has
    executed it, ``finished_at`` is when the next one took over. Of a long history only the
    last rows are kept: ``left_out`` is how many went before them. ``problem`` is as in ``StepRecord``.
    """

    generation: int
    args: tuple[Any, ...]
    started_at: datetime | None
    finished_at: datetime
    left_out: int
    version: int | None = 0
    problem: str | None = None


@attrs.frozen(kw_only=True)
class StepRecord:
    """One row of a run's history. ``result`` is the stored JSON value, ``error`` how it failed.

    ``earlier_errors`` tells how the attempts before the last one have failed: of many the first two and the last six.
    ``problem`` says what of it cannot be read, if the store is damaged; that is ``None``, or ``unreadable``.
    """

    key: str
    kind: StepKind
    status: StepStatus
    attempt: int
    result: Any
    error: FailureRecord | None
    started_at: datetime
    finished_at: datetime
    problem: str | None = None
    earlier_errors: tuple[EarlierError, ...] = ()


@attrs.frozen(kw_only=True)
class WaitRecord:
    """A durable call that is open: what it has stored so far.

    ``kind`` is "sleep", "signal", "retry" (a step before its next attempt), "intent" (a step with ``at_most_once`` that
    has begun) or "map" (``total``: how many items it has, of which each has a row once it has come out). Other open
    calls, a step that runs or a wait for a child, have stored nothing yet. ``error`` is how the last attempt has
    failed; ``earlier_errors`` and ``problem`` are as in ``StepRecord``.
    """

    key: str
    kind: str
    due_at: datetime | None
    attempt: int
    error: FailureRecord | None
    started_at: datetime
    problem: str | None = None
    earlier_errors: tuple[EarlierError, ...] = ()
    total: int | None = None


@attrs.frozen(kw_only=True)
class UnreadRecord:
    """What has been sent to a run and is not taken by it yet.

    ``kind`` is "signal" or "cancel" (a request). ``payload`` is the stored JSON value; of a cancel it is the reason.
    ``problem`` is as in ``StepRecord``.
    """

    kind: str
    name: str
    payload: Any
    sent_at: datetime
    problem: str | None = None


@attrs.frozen(kw_only=True)
class Page:
    """Some runs, newest first; ``next_cursor`` asks for the next ones, ``None`` at the end."""

    runs: tuple[RunRecord, ...]
    next_cursor: str | None


@attrs.frozen(kw_only=True)
class BulkProgress:
    """One run that a call for many has dealt with, and how far that call is by then.

    ``refusal`` says why the run was left as it is; ``None``: it was done. ``done_count`` and ``left_count`` are these
    so far, ``total`` is how many runs there were to begin with; those that were not what was asked for any more, when
    their turn came, are counted in neither.
    """

    run_id: str
    refusal: str | None
    done_count: int
    left_count: int
    total: int


@attrs.frozen(kw_only=True)
class WorkflowStats:
    """What the runs of one workflow have come to.

    ``failure_rate`` is the share of failed ones among those that completed or failed. The seconds that half of the
    runs, and 95 % of them, took at most are those of the newest that completed, ``measured_count`` of them. What does
    not exist is ``None``.
    """

    workflow: str
    runs_by_status: Mapping[RunStatus, int]
    failure_rate: float | None
    seconds_p50: float | None
    seconds_p95: float | None
    measured_count: int
    oldest_unfinished: str | None  # the id of the run
    oldest_unfinished_at: datetime | None  # when it was created


@attrs.frozen(kw_only=True)
class ErrorGroup:
    """Runs that have failed with the same type of error and, but for numbers and ids in it, the same text.

    ``message`` is that text, with ``<n>`` and ``<id>`` in it. ``example`` is the last of the runs, with the text of its
    own.
    """

    type: str
    message: str
    count: int
    workflows: tuple[str, ...]
    example: str  # the id of the run
    example_message: str
    first_at: datetime
    last_at: datetime


@attrs.frozen(kw_only=True)
class CodeRecord:
    """Code of a version of a workflow, as the store knows it: by a number, for each fingerprint another.

    ``executors`` are those alive that have it. ``refused`` counts unfinished runs that it does not fit, and that nobody
    executes now.
    """

    number: int
    fingerprint: str
    first_seen_at: datetime
    executors: tuple[int, ...]
    refused: int


@attrs.frozen(kw_only=True)
class VersionRecord:
    """A version of a workflow that some executor has, once had, or that some run waits for.

    ``version`` is ``None`` for runs of which it is not known yet: they were started by name, and get the newest one
    that their first executor has. ``parked`` of the ``unfinished`` runs are refused by all its code that lives.
    ``is_needless``: no unfinished run needs it, and newer versions are served: its function can go.
    """

    workflow: str
    version: int | None
    unfinished: int
    parked: int
    codes: tuple[CodeRecord, ...]
    is_needless: bool

    @property
    def is_served(self) -> bool:
        """Whether an executor that is alive has it."""
        return any(code.executors for code in self.codes)


@attrs.frozen(kw_only=True)
class ExecutorStatus:
    """An executor that has not ended in order. ``is_alive``: its process holds its lock; else it has died."""

    id: int
    pid: int
    host: str
    started_at: datetime
    is_self: bool
    is_alive: bool = True


@attrs.frozen(kw_only=True)
class Reload:
    """One time that a family of workers was asked to serve the code as it is in the files.

    ``workers`` are to be replaced, and ``replaced`` of them are. ``now`` says what it is at, for people; ``reason`` why
    it has failed. ``is_same_code``: the files are as they were when the family began, or at the last reload.
    """

    id: str
    state: Literal["waiting", "importing", "rehearsing", "replacing", "done", "failed"]
    workers: int = 0
    replaced: int = 0
    now: str = ""
    reason: str = ""
    is_same_code: bool = False

    @property
    def is_under_way(self) -> bool:
        """Whether it has begun, and has not ended."""
        return self.state in ("importing", "rehearsing", "replacing")

    @property
    def has_ended(self) -> bool:
        """Whether it is done, or has failed."""
        return self.state in ("done", "failed")


@attrs.frozen(kw_only=True)
class WorkerFamily:
    """What the parent of worker processes says of them.

    ``can_reload``: ``durable-trio reload`` can bring new code; else the program must be restarted. ``held_back`` are
    workers that have died and are not let in again, or cannot come back, while others serve: by name, why. ``reloads``
    are those that wait, the one that goes on, and the last ones that have ended, in order.
    """

    can_reload: bool = False
    held_back: Mapping[str, str] = attrs.field(factory=dict)
    reloads: tuple[Reload, ...] = ()


@attrs.frozen(kw_only=True)
class ProcessReport:
    """A process that serves a store, as it was when its supervision tree last changed.

    ``executor`` is the id by which it owns runs; ``None`` for the parent of worker processes. ``workflows`` are the
    names of those that it can execute. ``lingering`` are steps that runs wait for which were asked to cancel, or which
    are compensating; at most a hundred of them, looked at once a second. ``concurrency`` is how many runs it can have
    in hand; ``is_draining``: it takes no more of them, looked at once a second. ``family``: of worker processes, in the
    report of their parent.
    """

    pid: int
    host: str
    parent_pid: int
    executor: int | None
    workflows: tuple[str, ...]
    started_at: datetime
    updated_at: datetime
    tree: TreeNode
    lingering: tuple[StepInHand, ...] = ()
    concurrency: int | None = None
    is_draining: bool = False
    family: WorkerFamily | None = None


@attrs.frozen(kw_only=True)
class EngineStatus:
    """What an engine and its store look like now.

    ``unknown_workflows`` are those with unfinished runs that this engine was not given, with their counts.
    ``unserved_versions`` are those, by workflow and version, with unfinished runs that no executor has which is alive,
    though another version of the workflow is served; with their counts, too.
    ``warnings`` are sentences for people: of a version of the database with a known fault; of damage; of runs that are
    due, while others have kept all places of this engine for half a minute. ``recorded_count`` rises by one with each
    recorded outcome: two looks give a rate. It may fall when the newest runs are removed. ``store_version`` names the
    database and its version.
    """

    durability: str
    executors: tuple[ExecutorStatus, ...]
    runs_by_status: Mapping[RunStatus, int]
    parked: tuple[str, ...]
    unknown_workflows: Mapping[str, int]
    resident_runs: int
    store_version: str
    warnings: tuple[str, ...]
    recorded_count: int = 0
    unserved_versions: Mapping[tuple[str, int], int] = attrs.field(factory=dict)
