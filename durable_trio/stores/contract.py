"""The one seam between the engine and a database: every verb, and what each promises.

A store is synchronous and batch-shaped. It owns its connection, its locks and its schema; it must not know trio,
workflows or codecs: payloads are JSON text, instants are microseconds, runs are small integers.

Writing is one pure verb: ``apply(batch)`` takes operations in order and returns one outcome for each, in the same
order, all committed in one transaction. A batch cannot fail for one of its operations: an operation that is refused
(stale fence, unknown run, conflict) changes nothing, its outcome is the error *as a value*, and the others stand. What
concerns the whole store (full disk, I/O error, foreign writer) is raised, and then nothing of the batch is committed,
except where the error says that the commit is in doubt.

A run's writes carry a ``Fence``: they take effect only if ``owner`` and ``token`` are still those of the run, and the
executor has not ended; it is checked in the same transaction. Otherwise the outcome is ``OwnershipLost`` and nothing
of that operation is written.

A row that cannot be read, because the file was damaged, is never an error of a read: the record says so in ``damage``.
An operation that meets a damaged run sets it aside (suspended, unowned, due at no time, with a problem) where it would
have changed it, and goes on with the others.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

import attrs

from durable_trio.records import RunStatus
from durable_trio.rows import ExecutorRow, HistoryRow, MailboxEntry, ReportRow, RunRow, WaitRow
from durable_trio.stores.operations import (
    NO_POSITION,
    Advance,
    ClaimDue,
    ClaimRun,
    ContinueAsNew,
    CopyHistory,
    CutHistory,
    DeleteRun,
    Draft,
    Fence,
    Finish,
    ForkRun,
    Operation,
    Park,
    Prune,
    Pruned,
    PutReport,
    ReapExecutor,
    RegisterExecutor,
    Release,
    RenewLease,
    RequestCancel,
    ResumeRun,
    SendSignal,
    Sent,
    SignalWithStart,
    Started,
    StartRun,
    Stuck,
    Sweep,
    TooLong,
    Unpark,
)

__all__ = [
    "NOTHING_LOADED",
    "NO_POSITION",
    "Advance",
    "Change",
    "ClaimDue",
    "ClaimRun",
    "ContinueAsNew",
    "CopyHistory",
    "CutHistory",
    "DeleteRun",
    "Draft",
    "Fence",
    "Finish",
    "ForkRun",
    "Loaded",
    "MailLook",
    "NamedSignals",
    "Operation",
    "Park",
    "Prune",
    "Pruned",
    "PutReport",
    "ReapExecutor",
    "RegisterExecutor",
    "Release",
    "RenewLease",
    "RequestCancel",
    "ResumeRun",
    "RunFilter",
    "SendSignal",
    "Sent",
    "SetBack",
    "SignalWithStart",
    "StartRun",
    "Started",
    "Store",
    "StoreStatus",
    "Stuck",
    "Sweep",
    "TooLong",
    "Unpark",
]

# ---- reads -------------------------------------------------------------------------------------------------------


@attrs.define
class Loaded:
    """All that an executor needs to go on with a run it has claimed. History in order of seq.

    ``left_out``: of the unread signals those with ids above the first of these and up to the second are not among
    ``unread``, because they are many (see ``Store.mail``); cancels and ends of children always are.
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
class NamedSignals:
    """Unread signals of one name, the oldest first, from after an id on; ``is_all`` if there are no more."""

    after: int
    entries: tuple[MailboxEntry, ...]
    is_all: bool


@attrs.define
class MailLook:
    """A look at a run's unread mailbox, of one instant: what has come after an id, and signals by their names."""

    after: int
    entries: tuple[MailboxEntry, ...]
    is_all: bool = True
    named: Mapping[str, NamedSignals] = attrs.Factory(dict)


@attrs.define
class Change:
    """A run as it was after a change, with what it had published by then."""

    row: RunRow
    values: Mapping[str, str]


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


@attrs.define(kw_only=True)
class StoreStatus:
    """Counts for ``engine.status``."""

    runs_by_status: Mapping[RunStatus, int]
    parked: tuple[str, ...]  # ids, at most 1000
    unfinished_by_workflow: Mapping[str, int]
    library_version: str
    warnings: tuple[str, ...]
    recorded_count: int = 0  # rises with each history row; for rates


@attrs.define(kw_only=True)
class Backlog:
    """What waits to be claimed, and how many runs each executor owns."""

    executor_count: int  # those that have not ended, as far as is known
    next_due_at: int | None  # the earliest wake_at of unowned runs; of those in line, the earliest of their heads
    due_count: int  # of those, how many are due; counted only up to a limit
    owned_counts: Mapping[int, int]  # by executor; one that owns none is left out


@attrs.define
class SetBack:
    """An unowned run whose due time was stored before the wall clock was set back."""

    run_id: str
    workflow: str
    wake_at: int
    stamped_at: int  # when that was stored, or something later that the run has stored


class Store(abc.ABC):
    """A database that keeps runs. One instance belongs to one process; ``apply`` is called by one thread at a time.

    Reads may be called from one other thread at the same time as ``apply``; a read never sees half a batch.
    """

    #: Whether what only people ask may be called from a third thread at the same time: ``list_runs``, ``changes``,
    #: ``changes_with_values``, ``values``, ``history``, ``waits``, ``unread``, ``reports`` and ``status``.
    answers_apart: bool = False

    #: Whether everything happens in this process's memory: the front then never uses a thread.
    is_memory: bool = False
    #: "full", "normal" or "memory".
    durability: str = "full"

    @abc.abstractmethod
    def open(self) -> None:
        """Open or create the database and bring its schema up to date. Twice is nothing.

        Raises:
            StoreError: a subclass that names what is wrong with the file; the file is unchanged then.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Close all connections, and release every lock of this store's executors. Twice is nothing."""

    @abc.abstractmethod
    def apply(self, batch: Sequence[Operation], *, block: bool = True) -> list[Any] | None:
        """Commit a batch and return one outcome per operation (module docstring).

        ``block=False``: return ``None`` at once, with nothing done, if another process has the write turn.

        Raises:
            StoreFull, StoreReadOnly: nothing is committed; the same batch may be tried again.
            StoreInUse: somebody else held the file longer than patience; nothing is committed.
            StoreCorrupt: I/O error or damage; the commit may be in doubt, the store must not be used on.
        """

    def hurry(self) -> None:  # noqa: B027  # a store that never waits for others has nothing to do
        """Wait for others only some seconds from now on, until it is opened again: this process is leaving."""

    @abc.abstractmethod
    def transact(
        self,
        fence: Fence,
        fn: Callable[[Any], Advance],
        *,
        seconds_max: float,
    ) -> Any:
        """Run a user's function and commit its rows and the ``Advance`` that it returns in one transaction.

        ``fn(connection)`` gets a guarded connection: no transaction control, attach, pragma, or writes to the
        engine's tables. It runs alone, in the write turn, and finds nothing that another one has left in the
        connection. If it raises, all is rolled back and the exception comes out; so does ``OwnershipLost``, checked
        before ``fn`` is called and again at the end. ``StepTimeout`` after ``seconds_max``; ``StepFailed`` if it has
        spoilt its transaction, as by having the database roll it back. An error of the store's is that also if ``fn``
        has met it and swallowed it, or raised it as another. Outcome as of ``Advance``.
        """

    @abc.abstractmethod
    def connect(self) -> Any:
        """Return a new connection to the same database for the user; the user closes it."""

    @abc.abstractmethod
    def foreign_changes(self) -> bool | None:
        """Return whether others have committed since this was last asked; ``None`` if it cannot be told just now.

        Own commits do not count. Costs microseconds: it is asked many times a second, by the thread that applies.
        """

    @abc.abstractmethod
    def executor_is_alive(self, executor: int) -> bool:
        """Return whether that executor's kernel lock is held. Costs microseconds."""

    # reads

    @abc.abstractmethod
    def run(self, run_id: str) -> RunRow | None:
        """Return the run with that id."""

    @abc.abstractmethod
    def load(self, run: int) -> Loaded:
        """Return history, waits, unread mailbox and published values of a run, of one instant."""

    def load_many(self, runs: Sequence[int]) -> tuple[Loaded, ...]:
        """Return what ``load`` does for each run; a store may do better than one by one."""
        return tuple(self.load(run) for run in runs)

    def waits(self, run: int) -> tuple[WaitRow, ...]:
        """Return the open waits of a run; a store may do better than load it all."""
        return self.load(run).waits

    @abc.abstractmethod
    def history(self, run: int) -> tuple[HistoryRow, ...]:
        """Return the history of a run in order of seq."""

    @abc.abstractmethod
    def list_runs(self, which: RunFilter, *, limit: int, before: tuple[int, int] | None = None) -> tuple[RunRow, ...]:
        """Return runs, newest first by ``(created_at, run)``; ``before`` continues after that pair."""

    @abc.abstractmethod
    def changes(self, which: RunFilter, *, after: int, limit: int) -> tuple[RunRow, ...]:
        """Return runs with ``changed > after``, in order of ``(changed, run)``; a run that matches no more is left out.

        ``limit`` never cuts between runs with the same ``changed``.
        """

    def changes_with_values(self, which: RunFilter, *, after: int, limit: int) -> tuple[Change, ...]:
        """Return what ``changes`` does, each with the published values of that run.

        A store should answer of one instant, so that a watcher is never shown values that are newer than the status;
        what is written here asks twice and cannot.
        """
        rows = self.changes(which, after=after, limit=limit)
        values = self.values([row.run for row in rows])
        return tuple(Change(row, values[row.run]) for row in rows)

    def news(self, *, after: int, limit: int) -> tuple[Change, ...]:
        """Return what ``changes_with_values`` does of all runs, for the one who passes them on: others wait for it."""
        return self.changes_with_values(RunFilter(), after=after, limit=limit)

    @abc.abstractmethod
    def last_change(self) -> int:
        """Return the highest ``changed`` given out so far; 0 in an empty store."""

    @abc.abstractmethod
    def values(self, runs: Sequence[int]) -> Mapping[int, Mapping[str, str]]:
        """Return the published values of some runs, by run and key, as JSON text."""

    def missing_runs(self, run_ids: Sequence[str]) -> tuple[str, ...]:
        """Return those of some ids that no run has; a store may do better than one by one."""
        return tuple(run_id for run_id in run_ids if self.run(run_id) is None)

    @abc.abstractmethod
    def mailbox_after(self, entry: int, *, limit: int) -> tuple[MailboxEntry, ...]:
        """Return mailbox entries with a higher id, in order, whether read or not."""

    @abc.abstractmethod
    def last_mailbox_id(self) -> int:
        """Return the highest mailbox id given out so far; 0 if none."""

    @abc.abstractmethod
    def unread(self, run: int) -> tuple[MailboxEntry, ...]:
        """Return the unread mailbox entries of a run, in order of arrival."""

    def mail(self, run: int, *, after: int, names: Mapping[str, int], limit: int) -> MailLook:
        """Return unread entries of a run with an id above ``after``, and signals of some names above theirs.

        At most ``limit`` of each, in order of arrival. A store should do better than read them all: it is asked at
        each message.
        """
        unread = self.unread(run)
        entries = [entry for entry in unread if entry.id > after]
        named = {}
        for name, above in names.items():
            found = [entry for entry in unread if entry.kind == "signal" and entry.name == name and entry.id > above]
            named[name] = NamedSignals(above, tuple(found[:limit]), len(found) <= limit)
        return MailLook(after, tuple(entries[:limit]), len(entries) <= limit, named)

    @abc.abstractmethod
    def backlog(self, workflows: Sequence[str], *, now: int, due_max: int) -> Backlog:
        """Return what waits to be claimed among these workflows, and who has how many. Cost as for ``ClaimDue``."""

    def set_back(self, workflows: Sequence[str], *, now: int, limit: int) -> tuple[SetBack, ...]:
        """Return the unowned runs of these workflows with ``wake_at > now`` and a stamp in the future, earliest first.

        A stamp is ``created_at``, or ``started_at`` of a wait. It may cost a look at all that waits: it is asked only
        after the wall clock was set back. A store that answers nothing has such runs wait until their written time.
        """
        return ()

    def owned(self, executor: int) -> tuple[RunRow, ...]:
        """Return the runs that an executor owns; cost grows with them alone.

        Asked when a service was started again: the outcome of a claim may have been lost. A store that answers nothing
        has such runs wait until the executor ends.
        """
        return ()

    @abc.abstractmethod
    def executors(self, *, ended: bool = False) -> tuple[ExecutorRow, ...]:
        """Return the executors that have not ended; with ``ended`` also the others that still own runs."""

    @abc.abstractmethod
    def reports(self) -> tuple[ReportRow, ...]:
        """Return what processes have said of themselves, also those that have died since, in order of ``process``."""

    @abc.abstractmethod
    def status(self) -> StoreStatus:
        """Return counts of runs, the parked ones, unfinished runs by workflow, and warnings."""

    @abc.abstractmethod
    def wal_checkpoint(self, mode: Literal["passive", "truncate"] = "passive") -> None:
        """Move the log into the database, in the write turn; nothing where there is no log."""
