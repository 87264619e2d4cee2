"""The live side of a run's turns: its state, and how what happens to it is written down.

Rows take their seq when they are submitted, so commit order is seq order. While a signal waits for its turn, new rows
are kept back, so that what is on its way runs dry.
"""

from __future__ import annotations

import abc
from collections import deque
from collections.abc import Callable
from typing import Any

import outcome
import trio

from durable_trio.clock import Clock
from durable_trio.errors import RunConflict
from durable_trio.records import HistoryRow, Key, StepKind, WaitRow
from durable_trio.stores.contract import Loaded
from durable_trio.turns.agenda import Agenda
from durable_trio.turns.call import Call
from durable_trio.turns.deadlines import DeadlineScope
from durable_trio.turns.history import History
from durable_trio.turns.host import Host, LastCall
from durable_trio.turns.port import Port
from durable_trio.turns.quiet import Lane


class Extension:
    """A task that waits inside the running turn, and what it waits for once that is known."""

    def __init__(self, task: trio.lowlevel.Task) -> None:
        self.task = task
        self.result: outcome.Outcome[Any] | None = None


class Recording(abc.ABC):
    """The state of a run's turns, and what writes it down."""

    def __init__(
        self, loaded: Loaded, *, port: Port, host: Host, clock: Clock, started_at: int, had_begun: bool
    ) -> None:
        self.port = port
        self.clock = clock
        self.now = started_at  # the latest of the delivered rows: the time that the body sees
        self.last_stamp = started_at  # of the last delivered row; unlike that, it may go back
        self.runnable_count = 0
        self.busy_count = 0
        self.tasks: set[trio.lowlevel.Task] = set()
        self.lane = Lane()
        self.is_live = False
        self.is_held = False  # draining: no call goes live and nothing is delivered any more
        self.is_leaving = False  # its release is on its way: no alarm is needed here any more
        self.has_progressed = False  # a row was committed that was not there before
        self.is_expired = False
        self.is_cancelled = False
        self.history = History(loaded.history)
        self.agenda = Agenda(loaded.waits, clock)
        self.calls: dict[Key, Call] = {}
        self.deadlines: dict[Key, DeadlineScope] = {}
        self._expiring: set[Key] = set()  # deadlines whose rows are on their way
        self._late: list[Call] = []  # calls that begin once those are delivered, if they are still there
        self._left_deadlines: set[Key] = set()
        # Where the body is: after which row, and how much it has published since. The same at replay.
        self.position = (0, 0)
        self.delivered: deque[HistoryRow] = deque(maxlen=8)  # for people, when something diverges
        self._host = host
        self._seq = self.history.last_seq
        self._had_begun = had_begun or bool(loaded.history)
        self._ready: deque[tuple[HistoryRow, Call | None]] = deque()
        self._cancelled: list[Call] = []
        self._wave: deque[Call] = deque()
        self._starts: dict[int, trio.lowlevel.Task] = {}
        self._start_count = 0
        self._extended: deque[Extension] = deque()
        self._held: deque[Callable[[], None]] | None = None
        self._alarm_at: int | None = None
        self._is_pumping = False
        self._last_call: LastCall | None = None

    @abc.abstractmethod
    def pump(self) -> None:
        """Deliver what can be delivered until the body moves or nothing is left."""

    def next_seq(self) -> int:
        """Return the seq for a row that is submitted now."""
        self._seq += 1
        return self._seq

    def record(self, submit: Callable[[], None]) -> None:
        """Call ``submit``, which takes a seq and writes; later, if a signal is waiting for its turn."""
        if self._held is None:
            submit()
        else:
            self._held.append(submit)

    def note(self, key: Key) -> None:
        """Have an answer to a question of the body recorded with the next row; ``History.take_patch`` finds it."""
        now = self.clock.stamp()
        self.port.ride(
            HistoryRow(seq=self.next_seq(), key=key, kind=StepKind.PATCH, started_at=now, finished_at=self.now)
        )

    def committed(self, result: Any, row: HistoryRow, call: Call | None) -> None:
        """Take the outcome of the commit of ``row``: deliver it in its turn, or give the run up."""
        if call is not None:
            call.is_undecided = False
        if result is True:
            self.has_progressed = True
            self._ready.append((row, call))
            self.pump()
        elif result is False and call is not None:
            call.is_sealed = False
            call.outcome = None
            self._host.look()
        elif not (isinstance(result, RunConflict) and call is not None and call.conflicted(result)):
            self._refuse(result)

    def check(self, result: Any) -> None:
        """Take the outcome of a commit that nobody waits for."""
        if result is True:
            self.pump()
        else:
            self._refuse(result)

    def _refuse(self, result: Any) -> None:
        error = result if isinstance(result, BaseException) else RuntimeError(f"unexpected outcome {result!r}")
        self._host.refused(error)

    def end_with(self, call: LastCall) -> None:
        """Have ``call.end_history`` called once nothing else of the run is undelivered or on its way."""
        self._last_call = call

    def set_timer(self, call: Call, due_at: int, wait: WaitRow | None, *, stamped_at: int | None = None) -> None:
        """Have ``call.fire`` called at ``due_at``; ``wait``, if given, is stored before the run rests.

        ``stamped_at``: when that time was set, if it was not now.
        """
        call.due_at = due_at
        call.due = self.clock.due(due_at, stamped_at=stamped_at)
        self.agenda.set_timer(call.key, call.due)
        if wait is not None:
            self.agenda.remember(wait)

    def stored_wait(self, key: Key) -> tuple[Key, ...]:
        """Return the keys to clear for a call that ends: its own if something of it is stored."""
        return (key,) if self.agenda.is_stored(key) else ()

    def clear_wait(self, key: Key) -> None:
        """Remove what a cancelled call left in the store; nobody waits for it."""
        if self.agenda.is_stored(key):
            self.port.advance(self.check, cleared=(key,), now=self.clock.stamp())
        self.agenda.forget(key)

    def busy(self, call: Call) -> None:
        """Something of the user's begins to run for ``call``."""
        call.is_busy = True
        self.busy_count += 1

    def emerged(self, call: Call, *, goes_on: bool = False) -> None:
        """What ran for ``call`` has come out; if it ``goes_on`` at once, the run must not look idle in between."""
        call.is_busy = False
        self.busy_count -= 1
        if not goes_on and (self._wave or self.busy_count == 0):
            self.pump()

    def has_unmatched_waits(self) -> bool:
        """Return whether something is stored of a call that the body has not made yet in this stay."""
        return any(key not in self.calls for key in self.agenda.waits)

    def _unhold(self) -> None:
        held, self._held = self._held, None
        for submit in held or ():
            submit()

    def _flush_waits(self) -> None:
        waits = self.agenda.take_new()
        if waits:
            self.port.advance(self.check, waits=waits, now=self.clock.stamp())
