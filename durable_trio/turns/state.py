"""The state of a run's turns, and how what happens to it is written down.

Rows take their seq when they are submitted, so commit order is seq order. While a signal waits for its turn, new rows
are kept back, so that what is on its way runs dry.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import attrs
import trio

from durable_trio.clock import Clock, Due
from durable_trio.doors import guarded
from durable_trio.errors import RunConflict
from durable_trio.records import StepKind
from durable_trio.rows import HistoryRow, Key
from durable_trio.turns.agenda import Agenda
from durable_trio.turns.history import History
from durable_trio.turns.lane import Lane
from durable_trio.turns.mode import Mode
from durable_trio.turns.port import Port
from durable_trio.turns.resident import Resident
from durable_trio.turns.stage import Stage


class Recorded(Protocol):
    """What is asked here of a call whose outcome is written down."""

    key: Key
    due_at: int | None
    due: Due
    stage: Stage
    outcome: Any

    def deliver(self, row: HistoryRow) -> None:
        """Wake the body with the outcome."""

    def conflicted(self, error: RunConflict) -> bool:
        """The store refused the row because of a conflict; return whether the call deals with it."""


class Committed(Protocol):
    """What takes the outcome of the commit of a row, for which a call may wait."""

    def __call__(self, result: Any, row: HistoryRow, call: Recorded | None) -> None: ...


@attrs.define(kw_only=True, eq=False)
class RunState:
    """Where a resident run is in its history.

    Args:
        pump: goes on with what can be delivered; called when something was written down.
        committed: see ``Turns.committed``.
        ttl_at: when its time to live is over.
        had_begun: whether the body has run before.
    """

    port: Port
    resident: Resident
    clock: Clock
    pump: Callable[[], None]
    committed: Committed
    history: History
    agenda: Agenda
    ttl_at: Due | None
    now: int  # the latest of the delivered rows: the time that the body sees
    last_stamp: int  # of the last delivered row; unlike that, it may go back
    last_seq: int  # of the rows that were submitted
    _had_begun: bool
    # The body's tasks, how many of them are runnable, and whether that has to be looked at: kept by ``quiet``.
    tasks: set[trio.lowlevel.Task] = attrs.Factory(set)
    runnable_count: int = 0
    lane: Lane = attrs.Factory(Lane)
    is_afoot: bool = False
    mode: Mode = Mode.REPLAYING
    is_rehearsal: bool = False  # it goes no further than what is recorded, and nobody is told anything
    is_held: bool = False  # draining: no call goes live and nothing is delivered any more
    has_progressed: bool = False  # a row was committed that was not there before
    expired: HistoryRow | None = None  # the row that says that its time to live is over
    is_cancelled: bool = False
    # Where the body is: after which row, and how much it has published since. The same at replay.
    position: tuple[int, int] = (0, 0)
    # For people, when something diverges.
    delivered: deque[HistoryRow] = attrs.Factory(partial(deque, maxlen=8))
    # Answers that are being recorded on their own: no call begins before they are.
    answers_under_way: int = 0
    # What is kept back while a signal waits for its turn; None if none does.
    held: deque[Callable[[], None]] | None = None

    @property
    def is_replaying(self) -> bool:
        """Whether recorded rows are still to be delivered."""
        return not self.history.is_over

    @property
    def is_repeating(self) -> bool:
        """Whether the body does again what it has done before: it had begun already, and no call of it begins yet."""
        return self.is_rehearsal or (self._had_begun and self.mode is Mode.REPLAYING)

    def failed(self, error: BaseException) -> None:
        """Something of ours has failed in this run: it leaves, and nobody else is touched."""
        guarded(self.lane.open)  # it may hold a task back; one that has left already does not ask for it again
        self.resident.failed(error)

    # ---- positions ---------------------------------------------------------------------------------------------

    def next_position(self) -> tuple[int, int]:
        """Return where the body publishes something now: later than all before, and the same at replay."""
        self.position = self.coming_position
        return self.position

    @property
    def coming_position(self) -> tuple[int, int]:
        """What ``next_position`` will return."""
        seq, count = self.position
        return (seq, count + 1)

    # ---- writing -----------------------------------------------------------------------------------------------

    def next_seq(self) -> int:
        """Return the seq for a row that is submitted now."""
        self.last_seq += 1
        return self.last_seq

    def record(self, submit: Callable[[], None]) -> None:
        """Call ``submit``, which takes a seq and writes; later, if a signal is waiting for its turn."""
        if self.held is None:
            submit()
        else:
            self.held.append(submit)

    def note(self, key: Key, answer: str | None = None) -> None:
        """Have the answer to a question of the body recorded with the next row; ``History.answer`` finds it."""
        now = self.clock.stamp()
        self.port.ride(
            HistoryRow(
                seq=self.next_seq(), key=key, kind=StepKind.PATCH, result=answer, started_at=now, finished_at=self.now
            )
        )

    def answer(self, key: Key, answer: str) -> None:
        """Note an answer to a question about changed code.

        What other branches have recorded meanwhile, and the body has not got yet, would come first. If the process died
        between the two, the next replay would find it ahead, and answer otherwise. So what the answer leads to waits.
        """
        # Rows that were submitted, and riders are not yet, of which the body has not got the last.
        is_behind = not self.is_replaying and self.last_seq - self.port.rider_count != self.position[0]
        self.note(key, answer)
        if is_behind:
            self.answers_under_way += 1
            self.port.advance(self._answered)

    def _answered(self, result: Any) -> None:
        self.answers_under_way -= 1
        self.check(result)

    def check(self, result: Any) -> None:
        """Take the outcome of a commit that nobody waits for."""
        if result is True:
            self.pump()
        else:
            self.give_up(result)

    def give_up(self, result: Any) -> None:
        """Leave: the store has refused what the run had to write, or has failed."""
        error = result if isinstance(result, BaseException) else RuntimeError(f"unexpected outcome {result!r}")
        self.resident.write_refused(error)

    def clear_wait(self, key: Key) -> None:
        """Remove what a cancelled call left in the store; nobody waits for it."""
        if self.agenda.is_stored(key):
            self.port.advance(self.check, cleared=(key,))
        self.agenda.forget(key)

    def unhold(self) -> None:
        """Submit what was kept back."""
        held, self.held = self.held, None
        for submit in held or ():
            submit()

    def flush_waits(self) -> None:
        """Store the waits that are new."""
        waits = self.agenda.take_new()
        if waits:
            self.port.advance(self.check, waits=waits)
