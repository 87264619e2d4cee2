"""What a batch concerns, as it is in memory between its two round trips: facts that were read, and what changes.

Facts are of runs that are locked, or that cannot be otherwise before the transaction ends. ``decide`` changes the runs
among them, so that each operation finds what those before it have done.
"""

from __future__ import annotations

from typing import NamedTuple

import attrs

from durable_trio.records import RunStatus
from durable_trio.rows import HistoryRow, Key, MailboxEntry, RunRow, WaitRow
from durable_trio.rules.run_life import FINAL
from durable_trio.stores.contract import StartRun

__all__ = ["Added", "Changes", "Facts", "Letter", "NotTogetherError", "RacedError", "Run"]


class NotTogetherError(Exception):
    """What these operations mean depends on each other in a way that facts do not tell: do them one by one."""


class RacedError(Exception):
    """Somebody else has stored at the same moment what is concerned: begin anew, and it is among the facts."""


@attrs.define(eq=False)
class Run:
    """A run, as far as it is known; of one that is not locked only who owns it, and its id.

    ``refusal``: why it is parked if it is unowned, unless it is damaged. ``now``: the server's time when it was locked.
    """

    run: int
    id: str
    owner: int | None
    token: int
    is_locked: bool = False
    status: RunStatus = RunStatus.PENDING
    wake_at: int | None = None
    is_due: bool = False
    waits_for: tuple[str, ...] = ()
    problem: str | None = None
    refused: str = ""
    refusal: str | None = None
    parent: int | None = None
    changed: int = 0
    now: int = 0
    # What comes of it. A run that goes on has its error until there is another, and no result.
    is_changed: bool = False
    is_seen: bool = False  # watchers are to see it
    has_ended: bool = False  # by this batch
    error: str | None = None
    result: str | None = None
    compensation_errors: str | None = None
    finished_at: int | None = None

    @property
    def is_final(self) -> bool:
        """Whether it has ended."""
        return self.status in FINAL

    @property
    def is_held_up(self) -> bool:
        """Whether it is unowned because a code does not fit it, or because it is damaged."""
        return self.problem is not None or (self.refused != "" and self.owner is None and not self.is_final)

    def touch(self) -> None:
        """Have watchers see a change."""
        self.changed = max(self.changed + 1, self.now)
        self.is_changed = self.is_seen = True

    def wake(self, now: int) -> None:
        """Put it in line, if it is not due before."""
        self.wake_at = now if self.wake_at is None else min(self.wake_at, now)
        self.is_due = self.is_changed = True

    def end(self, status: RunStatus, *, error: str | None, now: int) -> None:
        """Have it end."""
        self.status = status
        self.owner = self.wake_at = self.problem = None
        self.waits_for, self.refused = (), ""
        self.error, self.finished_at = error, now
        self.has_ended = True
        self.touch()

    def take_from(self, row: RunRow) -> RunRow:
        """Return a row of it, read before, as it is now."""
        problem = self.problem
        if problem is None and self.is_held_up:
            problem = self.refusal
        row = attrs.evolve(
            row, status=self.status, owner=self.owner, wake_at=self.wake_at, problem=problem, changed=self.changed
        )
        if self.has_ended:
            errors = row.compensation_errors if self.compensation_errors is None else self.compensation_errors
            return attrs.evolve(
                row,
                result=self.result,
                error=self.error,
                finished_at=self.finished_at,
                compensation_errors=errors,
            )
        return row if self.error is None else attrs.evolve(row, error=self.error)


class Letter(NamedTuple):
    """What is known of an unread entry of a mailbox."""

    kind: str
    name: str
    created_at: int


@attrs.define(eq=False)
class Added:
    """A run that was inserted, in case its start comes so far; else it is removed again."""

    run: int
    owner: int | None
    parent: int | None
    parent_id: str | None
    changed: int
    is_used: bool = False


@attrs.define(eq=False)
class Facts:
    """What is known. Of unread entries so many are known that whether there is one stays known when some are taken."""

    living: set[int] = attrs.Factory(set)
    runs: dict[int, Run] = attrs.Factory(dict)
    by_id: dict[str, Run] = attrs.Factory(dict)
    rows: dict[int, RunRow] = attrs.Factory(dict)  # of runs whose start is asked for, with the digest of arguments
    digests: dict[int, bytes] = attrs.Factory(dict)
    starts: dict[str, StartRun] = attrs.Factory(dict)  # the first operation that would store a run of this id
    added: dict[str, Added] = attrs.Factory(dict)  # what was inserted for it
    numbers: list[int] = attrs.Factory(list)  # of entries to come, the last one first
    unread: dict[int, dict[int, Letter]] = attrs.Factory(dict)  # by run and number of the entry
    unread_counts: dict[int, int] = attrs.Factory(dict)  # of signals
    signals: dict[tuple[int, str], MailboxEntry] = attrs.Factory(dict)  # by run and id of the signal
    cancels: dict[int, MailboxEntry] = attrs.Factory(dict)
    begun: set[int] = attrs.Factory(set)  # runs that have a history, or open calls
    open_children: dict[int, set[int]] = attrs.Factory(dict)
    lost_children: set[str] = attrs.Factory(set)  # ids of runs that their parent's history has lost
    history: set[tuple[int, Key]] = attrs.Factory(set)


@attrs.define(eq=False)
class Changes:
    """What is to be written, one row for each of a table."""

    history: list[tuple[int, HistoryRow]] = attrs.Factory(list)
    waits: dict[tuple[int, Key], WaitRow | None] = attrs.Factory(dict)  # None: it is to go
    over: list[int] = attrs.Factory(list)  # runs whose waits go, all of them
    taken: list[tuple[int, int]] = attrs.Factory(list)  # entry and seq
    sent: list[tuple[MailboxEntry, str | None]] = attrs.Factory(list)  # with the id of the signal
    published: dict[tuple[int, str], tuple[str, int, int]] = attrs.Factory(dict)  # value, seq, n
    runs: list[Run] = attrs.Factory(list)
    unrefused: list[int] = attrs.Factory(list)  # runs of which it is forgotten who has refused them
    unwanted: list[int] = attrs.Factory(list)  # runs that were inserted for nothing
    renewals: dict[int, int] = attrs.Factory(dict)  # how often, by executor
