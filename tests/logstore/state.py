"""What there is in the store, as plain Python data, and what the operations of all families need of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from durable_trio.errors import OwnershipLost, RunConflict, RunNotFound
from durable_trio.records import RunStatus
from durable_trio.rows import (
    CodeRow,
    DeathRow,
    ExecutorRow,
    GenerationRow,
    HistoryRow,
    Key,
    MailboxEntry,
    ReportRow,
    RunRow,
    WaitRow,
)
from durable_trio.rules.run_life import FINAL, WAITING
from durable_trio.stores.contract import Fence
from durable_trio.stores.questions import OpenSteps

__all__ = ["Letter", "Run", "State", "cannot_be", "conflict", "not_found"]


@attrs.define(eq=False)
class Letter:
    """An entry of a mailbox. ``seq``: that of the history row which has taken it; ``None`` while it is unread."""

    entry: MailboxEntry
    signal_id: str | None
    seq: int | None = None

    @property
    def is_unread(self) -> bool:
        return self.seq is None


@attrs.define(eq=False)
class Run:
    """A run with all that belongs to it. ``row`` is changed in place: give it away as ``State.row`` only."""

    row: RunRow
    args_digest: bytes
    waits_for: tuple[str, ...] = ()
    claimed_seq: int = -1  # the last seq of its history when it was claimed
    refused: dict[int, tuple[int, str]] = attrs.Factory(dict)  # by code: when, and the problem
    history: dict[Key, HistoryRow] = attrs.Factory(dict)
    waits: dict[Key, WaitRow] = attrs.Factory(dict)
    mail: dict[int, Letter] = attrs.Factory(dict)
    values: dict[str, tuple[str, tuple[int, int]]] = attrs.Factory(dict)  # text and position
    generations: dict[int, tuple[GenerationRow, tuple[HistoryRow, ...]]] = attrs.Factory(dict)

    @property
    def is_final(self) -> bool:
        return self.row.status in FINAL

    @property
    def is_refused(self) -> bool:
        """Whether some code has refused it, and nobody executes it."""
        return bool(self.refused) and self.row.owner is None and not self.is_final

    @property
    def is_held_up(self) -> bool:
        return self.is_refused or self.row.problem is not None

    @property
    def is_asleep(self) -> bool:
        return self.row.owner is None and self.row.status in WAITING

    @property
    def last_seq(self) -> int:
        return max((row.seq for row in self.history.values()), default=-1)

    def in_order(self) -> tuple[HistoryRow, ...]:
        """Return the history in order of seq."""
        return tuple(sorted(self.history.values(), key=lambda row: row.seq))

    def unread(self, kind: str | None = None, name: str | None = None) -> Iterator[Letter]:
        """Give what is unread, in order of arrival; of one kind, or one name, if it is given."""
        for letter in self.mail.values():
            if letter.is_unread and kind in (None, letter.entry.kind) and name in (None, letter.entry.name):
                yield letter

    def has_child_row(self, run_id: str, *, attempt_min: int = 0) -> bool:
        """Return whether its history has the start of that child."""
        return run_id in self.children(attempt_min)

    def children(self, attempt_min: int = 0) -> set[str]:
        """Return the ids of the children whose start is in its history."""
        rows = (row for row in self.history.values() if row.kind == "child" and row.attempt >= attempt_min)
        return {json.loads(row.result) for row in rows if row.result is not None}


@attrs.define(eq=False)
class State:
    """Everything. The same entries in the same order make the same state in each process."""

    runs: dict[int, Run] = attrs.Factory(dict)
    by_id: dict[str, Run] = attrs.Factory(dict)
    unfinished: dict[int, Run] = attrs.Factory(dict)
    executors: dict[int, ExecutorRow] = attrs.Factory(dict)  # those that have not ended
    codes: dict[int, CodeRow] = attrs.Factory(dict)
    served: dict[int, set[int]] = attrs.Factory(dict)  # codes by executor
    deaths: dict[int, DeathRow] = attrs.Factory(dict)
    reports: dict[str, ReportRow] = attrs.Factory(dict)
    open_steps: dict[int, OpenSteps] = attrs.Factory(dict)  # by executor
    tables: dict[str, dict[Any, Any]] = attrs.Factory(dict)  # the user's
    changes: list[tuple[int, int]] = attrs.Factory(list)  # number of the change, and run, as they came
    sent: list[tuple[int, int]] = attrs.Factory(list)  # number of the mailbox entry, and run, as they came
    last_run: int = 0
    last_executor: int = 0
    last_entry: int = 0
    last_change: int = 0
    recorded_count: int = 0
    _has_changed: bool = False  # in the present commit

    # ---- commits -------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """A commit begins: what changes in it gets one number."""
        self._has_changed = False

    def touch(self, run: Run) -> None:
        """Watchers are to see that a run has changed."""
        if not self._has_changed:
            self._has_changed = True
            self.last_change += 1
        if run.row.changed != self.last_change:
            run.row.changed = self.last_change
            self.changes.append((self.last_change, run.row.run))
        if run.is_final:
            self.unfinished.pop(run.row.run, None)
        else:
            self.unfinished[run.row.run] = run

    # ---- runs ----------------------------------------------------------------------------------------------------

    def add(self, run: Run) -> None:
        """Store a new run; it has the number ``last_run + 1``."""
        self.last_run = run.row.run
        self.runs[run.row.run] = self.by_id[run.row.id] = run
        self.touch(run)

    def remove(self, run: Run) -> None:
        """Remove a run with all that belongs to it."""
        number = run.row.run
        del self.runs[number], self.by_id[run.row.id]
        self.unfinished.pop(number, None)
        for child in self.children_of(number):
            child.row.parent = None

    def children_of(self, parent: int) -> list[Run]:
        """Return the runs that a run has started, in order of start."""
        return [run for run in self.runs.values() if run.row.parent == parent]

    def row(self, run: Run) -> RunRow:
        """Return the row of a run, as it is now."""
        return attrs.evolve(run.row, problem=self.problem_of(run))

    def record(self, run: Run, rows: Iterable[HistoryRow]) -> None:
        """Append to a history."""
        for row in rows:
            run.history[row.key] = row
            self.recorded_count += 1

    # ---- who owns them -------------------------------------------------------------------------------------------

    def owned(self, fence: Fence) -> Run | None:
        """Return the run of a fence that holds."""
        run = self.runs.get(fence.run)
        if run is None or (run.row.owner, run.row.token) != (fence.owner, fence.token):
            return None
        return run

    def ownership_lost(self, fence: Fence) -> OwnershipLost:
        """Return the error for a fence that does not hold."""
        run = self.runs.get(fence.run)
        if run is None:
            return OwnershipLost(f"run {fence.run} is not stored any more; executor {fence.owner} wrote nothing")
        return OwnershipLost(
            f"run {run.row.id!r} is not owned by executor {fence.owner} by claim {fence.token}, but by "
            f"{run.row.owner} by claim {run.row.token}; nothing was written"
        )

    # ---- codes ---------------------------------------------------------------------------------------------------

    def living(self, workflow: str, version: int | None = None) -> set[int]:
        """Return the codes of a workflow, or of one version of it, that some executor has."""
        found = {code for codes in self.served.values() for code in codes}
        of_workflow = (self.codes[code] for code in found if self.codes[code].workflow == workflow)
        return {row.code for row in of_workflow if version in (None, row.version)}

    def is_parked(self, run: Run) -> bool:
        """Return whether no code that lives may fit a run, or it is damaged."""
        if run.row.problem is not None:
            return not run.is_final
        return run.is_refused and self.living(run.row.workflow, run.row.version) <= run.refused.keys()

    def problem_of(self, run: Run) -> str | None:
        """Return why a run is parked."""
        if run.row.problem is not None or not self.is_parked(run):
            return run.row.problem
        _, _, problem = max((at, code, problem) for code, (at, problem) in run.refused.items())
        return problem

    # ---- waking and mail -----------------------------------------------------------------------------------------

    def wake(self, run: Run, now: int) -> None:
        """Have an unowned run be due, unless it was due before."""
        wake_at = run.row.wake_at
        run.row.wake_at = now if wake_at is None else min(wake_at, now)

    def post(
        self, run: Run, kind: str, name: str, payload: str | None, now: int, signal_id: str | None
    ) -> MailboxEntry:
        """Put an entry into a mailbox."""
        self.last_entry += 1
        entry = MailboxEntry(id=self.last_entry, run=run.row.run, kind=kind, name=name, payload=payload, created_at=now)
        run.mail[entry.id] = Letter(entry, signal_id)
        self.sent.append((entry.id, run.row.run))
        return entry


def not_found(run_id: str) -> RunNotFound:
    """Return the error for an id that no run has."""
    return RunNotFound(f"there is no run {run_id!r}", run_id=run_id)


def conflict(run: Run, what: str) -> RunConflict:
    """Return the error for what a run cannot do as it is."""
    return RunConflict(f"run {run.row.id!r} {what}", run_id=run.row.id)


def cannot_be(run: Run, status: RunStatus) -> RunConflict:
    """Return the error for a status that may not follow the one which the run has."""
    return conflict(run, f"is {run.row.status} and cannot become {status} by that; nothing was written")
