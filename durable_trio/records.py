"""attrs records of what is stored, and the statuses. No logic beyond what a record says of itself.

Two layers. *Rows* are what a store reads and writes: small integer keys, instants in microseconds, payloads as JSON
text. *Records* (``RunRecord``, ``StepRecord``, …) are what users see: decoded values, aware datetimes.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple, Self

import attrs

from supervisors import TreeNode

__all__ = [
    "EngineStatus",
    "FailureRecord",
    "Page",
    "Problem",
    "ProcessReport",
    "RunRecord",
    "RunStatus",
    "StepKind",
    "StepRecord",
    "StepStatus",
    "UnreadRecord",
    "WaitRecord",
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
    UNREADABLE = "unreadable"  # never stored: stands for a word that the file should not hold


class StepStatus(enum.StrEnum):
    """How the thing that a history row records came out."""

    COMPLETED = "completed"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    UNREADABLE = "unreadable"  # never stored: stands for a word that the file should not hold


# Of the count in a key: no file has as many, and it is a number that every store can look for.
_DIGITS_MAX = 18


class Key(NamedTuple):
    """The place of a durable call in its program: branch, name, and how often that name came before in it."""

    branch: str
    name: str
    n: int

    def __str__(self) -> str:
        name = escape(self.name)
        return f"{self.branch}/{name}#{self.n}" if self.branch else f"{name}#{self.n}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the key that ``str`` has written.

        Raises:
            ValueError: it is no such text.
        """
        branch, _, last = text.rpartition("/")
        name, mark, n = last.rpartition("#")
        is_number = n.isascii() and n.isdigit() and len(n) <= _DIGITS_MAX
        if not mark or not is_number or not _is_unicode(text):
            raise ValueError(f"{text!r} is no key of a history row; keys look like 'branch#0/name#0' or 'name#0'")
        return cls(branch, unescape(name), int(n))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate: nothing that is stored has one
        return False
    return True


def escape(name: str) -> str:
    """Percent-escape the marks that separate the parts of a key."""
    if "%" in name or "/" in name or "#" in name:
        return name.replace("%", "%25").replace("/", "%2F").replace("#", "%23")
    return name


def unescape(name: str) -> str:
    """Undo ``escape``."""
    return name.replace("%23", "#").replace("%2F", "/").replace("%25", "%")


# ---- rows: what a store reads and writes -------------------------------------------------------------------------
#
# ``damage``: what of the row cannot be read, because the file was damaged or changed by another program, as a text for
# people that names table, row and column. The fields concerned hold stand-ins then; such a row is never executed.
#
# Nobody changes a row. They are not frozen, since each step makes a few and setting a frozen field costs three times as
# much; the same goes for what is asked of a store.


@attrs.define(kw_only=True, unsafe_hash=True)
class HistoryRow:
    """One recorded outcome. Written once, never changed."""

    seq: int
    key: Key
    kind: StepKind
    status: StepStatus = StepStatus.COMPLETED
    attempt: int = 1
    result: str | None = None  # JSON
    error: str | None = None  # JSON of a failure
    compensates: bool = False  # a compensation was registered with it
    started_at: int
    finished_at: int
    damage: str | None = None


@attrs.define(kw_only=True, unsafe_hash=True)
class WaitRow:
    """What an open durable call must remember over a crash: its due time, its attempts, or that it has begun."""

    key: Key
    kind: str  # sleep | signal | retry | intent | deadline | child
    due_at: int | None = None
    attempt: int = 0
    error: str | None = None  # of the last attempt
    started_at: int
    damage: str | None = None


@attrs.define(kw_only=True, unsafe_hash=True)
class MailboxEntry:
    """A message to a run: a signal, a request to cancel, or the end of a child."""

    id: int
    run: int
    kind: str  # signal | cancel | child
    name: str
    payload: str | None
    created_at: int
    damage: str | None = None


@attrs.define(kw_only=True, unsafe_hash=True)
class RunRow:
    """A run as it is stored. ``run`` is the store's small key, ``id`` the user's."""

    run: int
    id: str
    workflow: str
    status: RunStatus
    args: str
    result: str | None
    error: str | None
    problem: str | None
    queue: str | None
    priority: int
    tags: str
    parent: int | None
    parent_id: str | None
    seed: bytes
    generation: int
    created_at: int
    started_at: int | None
    finished_at: int | None
    wake_at: int | None
    ttl_at: int | None
    recoveries: int
    compensation_errors: str
    owner: int | None
    token: int
    changed: int  # rises with every change that a watcher sees; the order of changes
    damage: str | None = None


@attrs.define(kw_only=True, unsafe_hash=True)
class ReportRow:
    """What a process has said of itself, as it is stored. A damaged one is left out: nothing depends on it."""

    process: str
    updated_at: int
    report: str  # JSON


@attrs.define(kw_only=True, unsafe_hash=True)
class ExecutorRow:
    """One incarnation of an executor: a process that runs runs."""

    id: int
    pid: int
    host: str
    boot_id: str
    started_at: int
    lease_until: int  # microseconds of the monotonic clock of that boot
    ended_at: int | None
    damage: str | None = None


# ---- records: what users see -------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class FailureRecord:
    """A failure that is not given back as an exception: its qualified type, its text, its traceback."""

    type: str
    message: str
    traceback: str = ""


@attrs.frozen(kw_only=True)
class Problem:
    """Why a run is parked: ``kind`` is one word, ``text`` is for people, ``fingerprint`` is that of the code."""

    kind: str
    text: str
    fingerprint: str = ""


@attrs.frozen(kw_only=True)
class RunRecord:
    """A run as it was at one instant.

    ``args`` and ``result`` are converted by the workflow's annotations where the engine knows the workflow, else
    they are plain JSON values. ``values`` are what the run has published so far. ``recoveries`` counts the deaths of
    its process in a row without a new row of its history between them: after one that came with progress it is 1 again.

    What cannot be read, because the file is damaged, is ``None``, or empty where it is never ``None``; an instant is
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
    owner: int | None = None  # the executor that has it in hand, by the id that ``EngineStatus`` gives


@attrs.frozen(kw_only=True)
class StepRecord:
    """One row of a run's history. ``result`` is the stored JSON value, ``error`` how it failed.

    ``problem`` says what of it cannot be read, if the file is damaged; that is ``None``, or ``unreadable``.
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


@attrs.frozen(kw_only=True)
class WaitRecord:
    """A durable call that is open: what it has stored so far.

    ``kind`` is "sleep", "signal", "retry" (a step before its next attempt) or "intent" (a step with ``at_most_once``
    that has begun). Other open calls, a step that runs or a wait for a child, have stored nothing yet. ``problem`` is
    as in ``StepRecord``.
    """

    key: str
    kind: str
    due_at: datetime | None
    attempt: int
    error: FailureRecord | None
    started_at: datetime
    problem: str | None = None


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
class ExecutorStatus:
    """An executor that has not ended in order. ``is_alive``: its process holds its lock; else it has died."""

    id: int
    pid: int
    host: str
    started_at: datetime
    is_self: bool
    is_alive: bool = True


@attrs.frozen(kw_only=True)
class StepInHand:
    """A step whose function is running, in a run that is to end: what the run waits for before it can."""

    run_id: str
    key: str
    started_at: datetime


@attrs.frozen(kw_only=True)
class ProcessReport:
    """A process that serves a store, as it was when its supervision tree last changed.

    ``executor`` is the id by which it owns runs; ``None`` for the parent of worker processes. ``workflows`` are the
    names of those that it can execute. ``lingering`` are steps that runs wait for which were asked to cancel, or which
    are compensating; at most a hundred of them, looked at once a second.
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


@attrs.frozen(kw_only=True)
class EngineStatus:
    """What an engine and its store look like now.

    ``unknown_workflows`` are those with unfinished runs that this engine was not given, with their counts.
    ``warnings`` are sentences for people, such as an SQLite version with a known fault. ``recorded_count`` rises by one
    with each recorded outcome: two looks give a rate. It may fall when the newest runs are removed.
    """

    durability: str
    executors: tuple[ExecutorStatus, ...]
    runs_by_status: Mapping[RunStatus, int]
    parked: tuple[str, ...]
    unknown_workflows: Mapping[str, int]
    resident_runs: int
    sqlite_version: str
    warnings: tuple[str, ...]
    recorded_count: int = 0
