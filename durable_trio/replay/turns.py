"""Delivers a run's rows to its body one at a time, each when the body is quiet; the same live and at replay.

The theory. Let a body be any number of tasks that share memory. If (1) its tasks are woken from outside only by
delivered rows, (2) a row is delivered only when all tasks are blocked, (3) the rows come in the recorded order, and
(4) tasks that are woken together go one at a time, the oldest first (``quiet.Lane``), then each replay runs through
the same states, whatever trio's scheduler does.

``pump`` is the whole machine. It is called whenever something may have become possible (quiet, a commit, a message)
and delivers, in this order of precedence:

1. cancellations of parked calls that a delivered row or the body itself has caused, one at a time in order of keys;
   a cancelled step function is waited for first, so that its call ends in this same turn; so is the commit of an
   outcome that came before, because a replay after a crash may not find it;
2. starts of branches, one at a time, in order of ``start_soon``;
3. at replay, the next row of the history; a row that nobody waits for is divergence;
4. when all rows are delivered (the barrier): control messages that are waiting; then the parked calls go live;
5. rows committed since, in order of seq;
6. a signal, if nothing else of the run is undelivered or on its way;
7. due times.

Nothing here waits: it is all synchronous, on the event loop, and must not raise.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import copy_context
from functools import partial
from typing import Any, Protocol

import outcome
import trio

from durable_trio.clock import Clock
from durable_trio.errors import Detached, RunConflict, RunExpired
from durable_trio.records import HistoryRow, Key, MailboxEntry, StepKind, WaitRow
from durable_trio.replay.agenda import Agenda
from durable_trio.replay.calls import Call
from durable_trio.replay.deadlines import DeadlineScope
from durable_trio.replay.history import CONTROL_KINDS, History
from durable_trio.replay.mail import Mail
from durable_trio.replay.port import Port
from durable_trio.replay.quiet import Lane, foreign_wait
from durable_trio.stores.base import Loaded


class Host(Protocol):
    """What the turns ask of the actor that hosts the run. All of it is synchronous and must not raise."""

    def control(self, row: HistoryRow) -> None:
        """A cancel or ttl row is delivered: cancel the body."""

    def went_live(self) -> None:
        """All recorded rows are delivered."""

    def idle(self, due_at: int | None, waits_for: tuple[str, ...], waits: tuple[WaitRow, ...]) -> None:
        """The run only waits now. ``waits`` are not stored yet."""

    def foreign(self, places: Sequence[str]) -> None:
        """The body is blocked in waits that are not durable."""

    def stuck(self, row: HistoryRow, *, hopeless: bool) -> None:
        """At replay nobody waits for the next row; hopeless if no task waits for anything outside either."""

    def alarm(self, due_at: int) -> None:
        """Call ``pump`` at that time."""

    def look(self) -> None:
        """The mailbox holds more than the run knows of: read it and call ``message``."""

    def quiesced(self) -> None:
        """Held, and no function runs and nothing is on its way to the store any more."""

    def refused(self, error: BaseException) -> None:
        """A write was refused: the run is no longer ours, or the store is lost."""


class _Extension:
    """A task that waits inside the running turn, and what it waits for once that is known."""

    def __init__(self, task: trio.lowlevel.Task) -> None:
        self.task = task
        self.result: outcome.Outcome[Any] | None = None


class LastCall(Protocol):
    """A call that ends the history instead of adding to it."""

    @property
    def key(self) -> Key: ...

    def end_history(self) -> None:
        """Do it now."""


class Turns:
    """The turns of one resident run. See the module's docstring."""

    def __init__(
        self, loaded: Loaded, *, port: Port, host: Host, clock: Clock, ttl_at: int | None, started_at: int
    ) -> None:
        self.port = port
        self.clock = clock
        self.now = started_at  # of the last delivered row: the time that the body sees
        self.runnable_count = 0
        self.busy_count = 0
        self.tasks: set[trio.lowlevel.Task] = set()
        self.lane = Lane()
        self.is_live = False
        self.is_held = False  # draining: no call goes live and nothing is delivered any more
        self.is_leaving = False  # its release is on its way: no alarm is needed here any more
        self.is_expired = False
        self.is_cancelled = False
        self.history = History(loaded.history)
        self.agenda = Agenda(loaded.waits)
        self.calls: dict[Key, Call] = {}
        self.deadlines: dict[Key, DeadlineScope] = {}
        self._left_deadlines: set[Key] = set()
        self.delivered: deque[HistoryRow] = deque(maxlen=8)  # for people, when something diverges
        self.mail = Mail(self, loaded.unread, ttl_at)
        self._host = host
        self._seq = self.history.last_seq
        self._ready: deque[tuple[HistoryRow, Call | None]] = deque()
        self._cancelled: list[Call] = []
        self._wave: deque[Call] = deque()
        self._starts: dict[int, trio.lowlevel.Task] = {}
        self._start_count = 0
        self._extended: deque[_Extension] = deque()
        self._held: deque[Callable[[], None]] | None = None
        self._alarm_at: int | None = None
        self._is_pumping = False
        self._last_call: LastCall | None = None

    # ---- the body's side ---------------------------------------------------------------------------------------

    @property
    def is_replaying(self) -> bool:
        """Whether recorded rows are still to be delivered."""
        return not self.history.is_over

    @property
    def is_repeating(self) -> bool:
        """Whether the body does again what it has done before: it has a history, and no call of it has begun yet."""
        return self.history.last_seq > 0 and not self.is_live

    async def perform(self, call: Call) -> Any:
        """Park the calling task until the call's row is delivered; return the row.

        Raises:
            trio.Cancelled: a scope around the call was cancelled, and the call has no outcome.
            RunExpired: the run's time to live is over, and the call is shielded from that cancellation.
            Detached: the run leaves this process.
        """
        if self.port.is_cut:
            raise Detached
        call.task = trio.lowlevel.current_task()
        call.task_context = copy_context()
        self.add(call)
        # A call in a cancelled scope must not begin; trio asks for its abort as soon as it is parked.
        call.deadline = trio.current_effective_deadline()
        if not call.is_sealed and (call.is_unabortable or call.deadline != -math.inf):
            if self._is_refused(call):
                self._refuse_expired(call)
            elif self.is_live and not self.is_held:
                self._begin(call)
        return await trio.lowlevel.wait_task_rescheduled(partial(self._abort, call))

    def add(self, call: Call) -> None:
        """Take a call that waits for its outcome."""
        call.turns = self
        call.is_sealed = self.history.has(call.key)
        self.calls[call.key] = call
        call.parked()

    async def extend(self, submit: Callable[[Callable[[Any], None]], None]) -> Any:
        """Wait for a commit inside the running turn: nothing is delivered meanwhile. Not a cancel point.

        It goes on when the other tasks of the turn are blocked, however long the commit took.
        """
        if self.port.is_cut:
            raise Detached
        extension = _Extension(trio.lowlevel.current_task())

        def done(result: Any) -> None:
            extension.result = outcome.Value(result)
            self.pump()

        self._extended.append(extension)
        submit(done)
        return await trio.lowlevel.wait_task_rescheduled(_no_abort)

    async def settle(self) -> None:
        """Take the controls that are recorded up to here, and those on their way, now that the body has ended."""
        while True:
            row = self.history.next_row()
            while row is not None and row.kind in CONTROL_KINDS:
                self.history.advance()
                self._hand_over(row, None)
                row = self.history.next_row()
            while self._ready and self._ready[0][1] is None:
                self._hand_over(*self._ready.popleft())
            if not self.mail.is_on_the_way:
                return
            await self.extend(self.mail.when_recorded)

    def announce_start(self) -> int:
        """Return the place of a branch in the order of starts."""
        self._start_count += 1
        return self._start_count

    async def await_start(self, place: int) -> None:
        """Park a new branch until its start is delivered. Not a cancel point: trio starts such a task, too."""
        if self.port.is_cut:
            raise Detached
        self._starts[place] = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(_no_abort)

    def _is_refused(self, call: Call) -> bool:
        return self.is_expired and call.kind is not StepKind.COMPENSATION and not call.is_unabortable

    def _refuse_expired(self, call: Call) -> None:
        self.refuse(call, RunExpired("the run's time to live is over; no durable call begins any more"))

    def refuse(self, call: Call, error: Exception) -> None:
        """Have a call that has no outcome raise ``error``, in its turn."""

        def raise_error() -> None:
            raise error

        call.raise_cancel = raise_error
        self._cancelled.append(call)

    def _abort(self, call: Call, raise_cancel: Callable[[], Any]) -> trio.lowlevel.Abort:
        if self.port.is_cut:
            self.calls.pop(call.key, None)
            return trio.lowlevel.Abort.SUCCEEDED
        call.raise_cancel = raise_cancel
        if not call.is_sealed:
            if call.is_live or call.is_unabortable:
                call.cancel()
            if not call.is_unabortable:
                self._cancelled.append(call)
                self.pump()
        elif call.is_undecided:
            self._cancelled.append(call)
        return trio.lowlevel.Abort.FAILED

    def abandon(self, call: Call) -> None:
        """Cancel a call that no task waits for; its cancellation is delivered in its turn."""
        if call.raise_cancel is None and (call.is_undecided or not call.is_sealed):
            call.raise_cancel = _no_raise
            if not call.is_sealed:
                call.cancel()
            self._cancelled.append(call)

    # ---- the live side -----------------------------------------------------------------------------------------

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

    def committed(self, result: Any, row: HistoryRow, call: Call | None) -> None:
        """Take the outcome of the commit of ``row``: deliver it in its turn, or give the run up."""
        if call is not None:
            call.is_undecided = False
        if result is True:
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

    def set_timer(self, call: Call, due_at: int, wait: WaitRow | None) -> None:
        """Have ``call.fire`` called at ``due_at``; ``wait``, if given, is stored before the run rests."""
        call.due_at = due_at
        self.agenda.set_timer(call.key, due_at)
        if wait is not None:
            self.agenda.remember(wait)

    def stored_wait(self, key: Key) -> tuple[Key, ...]:
        """Return the keys to clear for a call that ends: its own if something of it is stored."""
        return (key,) if self.agenda.is_stored(key) else ()

    def clear_wait(self, key: Key) -> None:
        """Remove what a cancelled call left in the store; nobody waits for it."""
        if self.agenda.is_stored(key):
            self.port.advance(self.check, cleared=(key,), now=self.clock.now())
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

    def message(self, entries: Sequence[MailboxEntry]) -> None:
        """Take the unread entries of the run's mailbox, as they are now."""
        for call in self.calls.values():
            if call.waits_for is not None and call.due_at is not None:  # one that is due was told to look first
                self.agenda.set_timer(call.key, call.due_at)
        self.mail.take(entries)
        self.pump()

    def hold(self) -> None:
        """Let nothing begin and deliver nothing any more; functions that run may finish and are recorded."""
        self.is_held = True
        self._unhold()
        self.pump()

    def has_unmatched_waits(self) -> bool:
        """Return whether something is stored of a call that the body has not made yet in this stay."""
        return any(key not in self.calls for key in self.agenda.waits)

    # ---- deadlines ---------------------------------------------------------------------------------------------

    def enter_deadline(self, scope: DeadlineScope) -> None:
        """A durable deadline begins."""
        self.deadlines[scope.key] = scope
        self.agenda.set_timer(scope.key, scope.due_at)
        if self.port.is_cut:  # in a ``finally`` block of a run that is leaving
            scope.shield = False

    def exit_deadline(self, scope: DeadlineScope) -> None:
        """A durable deadline's block has ended; a row of its expiry is void from now on."""
        del self.deadlines[scope.key]
        if not self.is_live:
            self._left_deadlines.add(scope.key)

    # ---- the pump ----------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Deliver what can be delivered until the body moves or nothing is left."""
        if self._is_pumping or self.port.is_cut:
            return
        if self._extended and self.runnable_count == 0:
            self._end_extension()
            return
        if self.is_held:
            self._flush_waits()
            if not self.busy_count and not self.port.in_flight:
                self._host.quiesced()
            return
        self._is_pumping = True
        try:
            while self.runnable_count == 0 and not self.port.is_cut and self._deliver():
                self.lane.delivered()
            if self.runnable_count == 0 and not self.port.is_cut and self.is_live:
                self._rest()
        finally:
            self._is_pumping = False

    def _deliver(self) -> bool:
        """Make one delivery; return whether another look makes sense."""
        if self._wave or self._cancelled:
            return self._deliver_cancellation()
        if self._starts:
            trio.lowlevel.reschedule(self._starts.pop(min(self._starts)))
            return True
        row = self.history.next_row()
        if row is not None:
            return self._replay(row)
        if self._ready and (self.is_live or self._ready[0][1] is None):
            self._hand_over(*self._ready.popleft())
            return True
        if not self.is_live:
            return self._pass_barrier()
        return self._take_signal() or self._fire_due() or self._end_history()

    def _end_extension(self) -> None:
        result = self._extended[0].result
        if result is not None:
            trio.lowlevel.reschedule(self._extended.popleft().task, result)

    def _deliver_cancellation(self) -> bool:
        if not self._wave:
            self._wave.extend(sorted(self._cancelled, key=lambda call: call.place_in_wave))
            self._cancelled.clear()
        call = self._wave[0]
        if call.is_undecided or (not call.is_sealed and call.is_busy):
            self._unhold()  # what it waits for may be among it
            return False
        self._wave.popleft()
        if not call.is_sealed and self.calls.get(call.key) is call:
            call.deliver_cancellation()
        return True

    def _replay(self, row: HistoryRow) -> bool:
        call = self.calls.get(row.key)
        if row.kind in CONTROL_KINDS or row.kind is StepKind.PATCH or (call is not None and call.kind is row.kind):
            self.history.advance()
            self._hand_over(row, call)
            return True
        if row.kind is StepKind.DEADLINE and self._has_met(row.key):
            self.history.advance()
            self._hand_over(row, None)
            return True
        # A scope with trio's own deadline around a call may end it, as it did when the row was recorded.
        ends_by_itself = any(call.deadline != math.inf for call in self.calls.values())
        self._host.stuck(row, hopeless=not ends_by_itself and not self.foreign_waits(also_in_process=True))
        return False

    def _has_met(self, key: Key) -> bool:
        """Return whether the body has entered that deadline in this replay."""
        return key in self.deadlines or key in self._left_deadlines

    def _hand_over(self, row: HistoryRow, call: Call | None) -> None:
        self.now = max(self.now, row.finished_at)
        self.delivered.append(row)
        if call is not None:
            del self.calls[row.key]
            self.agenda.forget(row.key)
            call.deliver(row)
        elif row.kind is StepKind.DEADLINE:
            scope = self.deadlines.get(row.key)
            if scope is not None:
                scope.cancel("its durable deadline has expired")
        elif row.kind in CONTROL_KINDS:
            self.is_expired = self.is_expired or row.kind is StepKind.TTL
            self.is_cancelled = self.is_cancelled or row.kind is StepKind.CANCEL
            self.mail.note_control(row)
            self._host.control(row)

    def _pass_barrier(self) -> bool:
        """All rows are delivered: let control messages go first, then let the parked calls begin."""
        if not self.mail.is_settled():
            return False
        self.is_live = True
        self._host.went_live()
        if self.mail.ttl_at is not None:
            self._raise_alarm(self.mail.ttl_at)
        for call in sorted(self.calls.values(), key=lambda call: call.key):
            if call.raise_cancel is not None and not call.is_unabortable:
                continue
            if self._is_refused(call):
                self._refuse_expired(call)
            else:
                self._begin(call)
        return True

    def _begin(self, call: Call) -> None:
        call.is_live = True
        call.go_live()

    def _take_signal(self) -> bool:
        """Record one signal that a parked call waits for; only with nothing else of the run on its way."""
        match = self.mail.matching_signal()
        if match is None:
            self._unhold()
            return False
        if self.port.in_flight:
            if self._held is None:  # else steps that commit all the time would hold up the signal for ever
                self._held = deque()
            return False
        held, self._held = self._held, None
        self.mail.record_signal(*match)
        self._held = held
        self._unhold()
        return True

    def _unhold(self) -> None:
        held, self._held = self._held, None
        for submit in held or ():
            submit()

    def _fire_due(self) -> bool:
        if self.agenda.is_empty and self.mail.ttl_at is None:
            return False
        now = self.clock.now()
        self.mail.take_ttl(now)
        fired = False
        while (due := self.agenda.pop_due(now)) is not None:
            if self._is_stale(*due):
                continue
            fired = True
            call = self.calls.get(due[1])
            if call is not None:
                call.fire(now)
            else:
                self._expire(self.deadlines[due[1]], now)
        return fired

    def _end_history(self) -> bool:
        """Let a call end this history, with nothing of it on the way: a cancel that is would be lost with the rows."""
        call = self._last_call
        if call is None or self.port.in_flight or call.key not in self.calls:
            return False
        self._last_call = None
        call.end_history()
        return True

    def _expire(self, scope: DeadlineScope, now: int) -> None:
        scope.is_expiring = True

        def submit() -> None:
            row = HistoryRow(
                seq=self.next_seq(), key=scope.key, kind=StepKind.DEADLINE, started_at=scope.due_at, finished_at=now
            )
            self.port.advance(lambda result: self.committed(result, row, None), rows=(row,), now=now)

        self.record(submit)

    def _is_stale(self, due_at: int, key: Key) -> bool:
        call = self.calls.get(key)
        if call is not None:
            return call.is_sealed or call.raise_cancel is not None or call.due_at != due_at
        scope = self.deadlines.get(key)
        return scope is None or scope.is_expiring or scope.cancel_called

    # ---- rest --------------------------------------------------------------------------------------------------

    def _rest(self) -> None:
        """Nothing more to deliver now: store new waits, set the alarm, and say so if the run only waits."""
        due_at = self.agenda.next_due(self._is_stale)
        if self._only_waits():
            names = sorted({call.waits_for for call in self.calls.values() if call.waits_for is not None})
            if self.mail.ttl_at is not None:
                due_at = self.mail.ttl_at if due_at is None else min(due_at, self.mail.ttl_at)
            self._host.idle(due_at, tuple(names), self.agenda.take_new())
        else:
            self._flush_waits()
        if due_at is not None and not self.is_leaving:
            self._raise_alarm(due_at)

    def _only_waits(self) -> bool:
        if self.port.in_flight or self.busy_count or self._wave or self._cancelled or self._ready or self._held:
            return False
        foreign = self.foreign_waits()
        if foreign:
            self._host.foreign(foreign)
        return bool(self.calls) and not foreign

    def _flush_waits(self) -> None:
        waits = self.agenda.take_new()
        if waits:
            self.port.advance(self.check, waits=waits, now=self.clock.now())

    def foreign_waits(self, *, also_in_process: bool = False) -> list[str]:
        """Return where tasks of the body are blocked in something that is not durable.

        ``also_in_process``: also where they wait for another task, which need not be one of the body's.
        """
        if len(self.tasks) == len(self.calls) == 1:
            return []
        parked = {call.task for call in self.calls.values() if call.task is not None}
        others = self.tasks - parked - {extension.task for extension in self._extended} - set(self._starts.values())
        places = [foreign_wait(task, also_in_process=also_in_process) for task in others]
        return [place for place in places if place is not None]

    def _raise_alarm(self, due_at: int) -> None:
        if self._alarm_at is None or due_at < self._alarm_at or self._alarm_at <= self.clock.now():
            self._alarm_at = due_at
            self._host.alarm(due_at)

    # ---- detach ------------------------------------------------------------------------------------------------

    def throw_detached(self) -> None:
        """End the durable waits that are still blocked; the port is cut and the body's scope cancelled before."""
        tasks = [call.task for call in self.calls.values() if call.task is not None]
        tasks += [*(extension.task for extension in self._extended), *self._starts.values()]
        self.calls, self._extended, self._starts = {}, deque(), {}
        for task in tasks:
            trio.lowlevel.reschedule(task, outcome.Error(Detached()))
        for scope in self.deadlines.values():  # a wait in memory inside a shielded one
            scope.shield = False


def _no_abort(_: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED


def _no_raise() -> None:
    """Stands for the cancellation of a call that no task waits for."""
