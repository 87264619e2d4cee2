"""Delivers a run's rows to its body one at a time, each when the body is quiet; the same live and at replay.

The theory. Let a body be any number of tasks that share memory. If (1) its tasks are woken from outside only by
delivered rows, (2) a row is delivered only when all tasks are blocked, and (3) the rows come in the recorded order, then
each replay runs through the same states, whatever the scheduler does between the tasks of different runs.

``pump`` is the whole machine. It is called whenever something may have become possible (quiet, a commit, a message)
and delivers, in this order of precedence:

1. cancellations of parked calls that a delivered row or the body itself has caused, one at a time in order of keys;
   a cancelled step function is waited for first, so that its call ends in this same turn;
2. at replay, the next row of the history; a row that nobody waits for is divergence;
3. when all rows are delivered (the barrier): control messages that are waiting; then the parked calls go live;
4. rows committed since, in order of seq;
5. a signal, if nothing else of the run is undelivered or on its way;
6. due times.

Nothing here waits: it is all synchronous, on the event loop, and must not raise.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import copy_context
from functools import partial
from typing import Any, Protocol

import outcome
import trio

from durable_trio.clock import Clock
from durable_trio.errors import Detached, RunExpired
from durable_trio.records import HistoryRow, Key, MailboxEntry, StepKind, WaitRow
from durable_trio.replay.calls import Call
from durable_trio.replay.port import Port
from durable_trio.replay.quiet import foreign_wait
from durable_trio.stores.base import Loaded

_CONTROL_KINDS = frozenset({StepKind.CANCEL, StepKind.TTL})


class Host(Protocol):
    """What the turns ask of the actor that hosts the run. All of it is synchronous and must not raise."""

    def control(self, row: HistoryRow) -> None:
        """A cancel or ttl row is delivered: cancel the body."""

    def went_live(self) -> None:
        """All recorded rows are delivered."""

    def idle(self, due_at: int | None, waits_for: tuple[str, ...], waits: tuple[WaitRow, ...]) -> None:
        """The run only waits now. ``waits`` are not stored yet."""

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


class Turns:
    """The turns of one resident run. See the module's docstring."""

    def __init__(
        self, loaded: Loaded, *, port: Port, host: Host, clock: Clock, ttl_at: int | None, started_at: int
    ) -> None:
        self.port = port
        self.clock = clock
        self.now = started_at  # of the last delivered row: the time that the body sees
        self.runnable_count = 0
        self.tasks: set[trio.lowlevel.Task] = set()
        self.is_live = False
        self.is_held = False  # draining: no call goes live and nothing is delivered any more
        self.is_leaving = False  # its release is on its way: no alarm is needed here any more
        self.expired = False
        self.calls: dict[Key, Call] = {}
        self.waits: dict[Key, WaitRow] = {wait.key: wait for wait in loaded.waits}
        self.unread: list[MailboxEntry] = list(loaded.unread)
        self.delivered: list[HistoryRow] = []
        self.busy_count = 0
        self._host = host
        self._ttl_at = ttl_at
        self._history: Sequence[HistoryRow] = loaded.history
        self._next = 0
        self._recorded = {row.key for row in loaded.history}
        self._seq = loaded.history[-1].seq if loaded.history else 0
        self._ready: deque[tuple[HistoryRow, Call | None]] = deque()
        self._cancelled: list[Call] = []
        self._wave: deque[Call] = deque()
        self._timers: list[tuple[int, Key]] = []
        self._alarm_at: int | None = None
        self._new_waits: list[WaitRow] = []
        self._control_pending = 0
        self._pumping = False
        self._control_taken = False
        self._held: deque[Callable[[], None]] | None = None
        self._extended: set[trio.lowlevel.Task] = set()

    # ---- the body's side ---------------------------------------------------------------------------------------

    @property
    def is_replaying(self) -> bool:
        """Whether recorded rows are still to be delivered."""
        return self._next < len(self._history)

    async def perform(self, call: Call) -> HistoryRow:
        """Park the calling task until the call's row is delivered; return the row.

        Raises:
            trio.Cancelled: a scope around the call was cancelled, and the call has no outcome.
            RunExpired: the run's time to live is over, and the call is shielded from that cancellation.
            Detached: the run leaves this process.
        """
        if self.port.is_cut:
            raise Detached
        call.turns = self
        call.task = trio.lowlevel.current_task()
        call.task_context = copy_context()
        call.is_sealed = call.key in self._recorded
        self.calls[call.key] = call
        # A call in a cancelled scope must not begin; trio asks for its abort as soon as it is parked.
        if not call.is_sealed and trio.current_effective_deadline() != -math.inf:
            if self._is_refused(call):
                self._refuse_expired(call)
            elif self.is_live and not self.is_held:
                self._begin(call)
        row: HistoryRow = await trio.lowlevel.wait_task_rescheduled(partial(self._abort, call))
        return row

    async def extend(self, submit: Callable[[Callable[[Any], None]], None]) -> Any:
        """Wait for a commit inside the running turn: nothing is delivered meanwhile. Not a cancel point."""
        if self.port.is_cut:
            raise Detached
        task = trio.lowlevel.current_task()

        def done(outcome_: Any) -> None:
            self._extended.discard(task)
            self.runnable_count -= 1  # rescheduling counts it again
            trio.lowlevel.reschedule(task, outcome.Value(outcome_))

        self._extended.add(task)
        self.runnable_count += 1
        submit(done)
        return await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)

    def _is_refused(self, call: Call) -> bool:
        return self.expired and call.kind is not StepKind.COMPENSATION

    def _refuse_expired(self, call: Call) -> None:
        def raise_expired() -> None:
            raise RunExpired("the run's time to live is over; no durable call begins any more")

        call.raise_cancel = raise_expired
        self._cancelled.append(call)

    def _abort(self, call: Call, raise_cancel: Callable[[], Any]) -> trio.lowlevel.Abort:
        if self.port.is_cut:
            self.calls.pop(call.key, None)
            return trio.lowlevel.Abort.SUCCEEDED
        call.raise_cancel = raise_cancel
        if not call.is_sealed:
            if call.is_live:
                call.cancel()
            self._cancelled.append(call)
            self.pump()
        return trio.lowlevel.Abort.FAILED

    # ---- the live side -----------------------------------------------------------------------------------------

    def next_seq(self) -> int:
        """Return the seq for a row that is submitted now."""
        self._seq += 1
        return self._seq

    def committed(self, outcome_: Any, row: HistoryRow, call: Call | None) -> None:
        """Take the outcome of the commit of ``row``: deliver it in its turn, or give the run up."""
        if outcome_ is True:
            self._ready.append((row, call))
            self.pump()
        elif outcome_ is False and call is not None:
            call.is_sealed = False
            call.outcome = None
            self._host.look()
        else:
            self._refuse(outcome_)

    def check(self, outcome_: Any) -> None:
        """Take the outcome of a commit that nobody waits for."""
        if outcome_ is True:
            self.pump()
        else:
            self._refuse(outcome_)

    def _refuse(self, outcome_: Any) -> None:
        error = outcome_ if isinstance(outcome_, BaseException) else RuntimeError(f"unexpected outcome {outcome_!r}")
        self._host.refused(error)

    def set_timer(self, call: Call, due_at: int, wait: WaitRow | None) -> None:
        """Have ``call.fire`` called at ``due_at``; ``wait``, if given, is stored before the run rests."""
        call.due_at = due_at
        heapq.heappush(self._timers, (due_at, call.key))
        if wait is not None:
            self.waits[wait.key] = wait
            self._new_waits.append(wait)

    def clear_wait(self, key: Key) -> None:
        """Remove what a cancelled call left in the store; nobody waits for it."""
        if self.waits.pop(key, None) is None:
            return
        if any(wait.key == key for wait in self._new_waits):
            self._new_waits = [wait for wait in self._new_waits if wait.key != key]
            return
        self.port.advance(self.check, cleared=(key,), now=self.clock.now())

    def busy(self, call: Call) -> None:
        """Something of the user's begins to run for ``call``."""
        call.is_busy = True
        self.busy_count += 1

    def emerged(self, call: Call) -> None:
        """What ran for ``call`` has come out."""
        call.is_busy = False
        self.busy_count -= 1
        if self._wave or self.busy_count == 0:
            self.pump()

    def message(self, entries: Sequence[MailboxEntry]) -> None:
        """Take the unread entries of the run's mailbox, as they are now."""
        self.unread = list(entries)
        for call in self.calls.values():
            if call.waits_for is not None and call.due_at is not None:  # one that is due was told to look first
                heapq.heappush(self._timers, (call.due_at, call.key))
        if self.is_live:
            self._take_control()
        self.pump()

    def hold(self) -> None:
        """Let nothing begin and deliver nothing any more; functions that run may finish and are recorded."""
        self.is_held = True
        self.pump()

    # ---- the pump ----------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Deliver what can be delivered until the body moves or nothing is left."""
        if self._pumping or self.port.is_cut:
            return
        if self.is_held:
            self._flush_waits()
            if not self.busy_count and not self.port.in_flight:
                self._host.quiesced()
            return
        self._pumping = True
        try:
            while self.runnable_count == 0 and not self.port.is_cut and self._deliver():
                pass
            if self.runnable_count == 0 and not self.port.is_cut and self.is_live:
                self._rest()
        finally:
            self._pumping = False

    def _deliver(self) -> bool:
        """Make one delivery; return whether another look makes sense."""
        if self._wave or self._cancelled:
            return self._deliver_cancellation()
        if self.is_replaying:
            return self._replay(self._history[self._next])
        if not self.is_live:
            return self._barrier()
        if self._ready:
            self._hand_over(*self._ready.popleft())
            return True
        return self._take_signal() or self._fire_due()

    def _deliver_cancellation(self) -> bool:
        if not self._wave:
            self._wave.extend(sorted(self._cancelled, key=lambda call: call.key))
            self._cancelled.clear()
        call = self._wave[0]
        if call.is_sealed:
            self._wave.popleft()
            return True
        if call.is_busy:
            return False
        self._wave.popleft()
        del self.calls[call.key]
        call.dropped()
        assert call.raise_cancel is not None
        trio.lowlevel.reschedule(call.task, outcome.capture(call.raise_cancel))
        return True

    def _replay(self, row: HistoryRow) -> bool:
        call = self.calls.get(row.key)
        if row.kind in _CONTROL_KINDS or (call is not None and call.kind is row.kind):
            self._next += 1
            self._hand_over(row, call)
            return True
        self._host.stuck(row, hopeless=not self.foreign_waits())
        return False

    def foreign_waits(self) -> list[str]:
        """Return where tasks of the body are blocked in something that is not durable."""
        others = self.tasks - self._parked_tasks()
        return [place for place in map(foreign_wait, others) if place is not None]

    def _parked_tasks(self) -> set[trio.lowlevel.Task]:
        return {call.task for call in self.calls.values()}

    def _hand_over(self, row: HistoryRow, call: Call | None) -> None:
        self._recorded.discard(row.key)
        self.now = max(self.now, row.finished_at)
        self.delivered.append(row)
        if call is None:
            self.expired = self.expired or row.kind is StepKind.TTL
            self._host.control(row)
            return
        del self.calls[row.key]
        self.waits.pop(row.key, None)
        trio.lowlevel.reschedule(call.task, outcome.Value(row))

    def _barrier(self) -> bool:
        """All rows are delivered: let control messages go first, then let the parked calls begin."""
        if not self._control_taken:
            self._control_taken = True
            self._take_control()
            self._take_ttl(self.clock.now())
        if self._ready:
            self._hand_over(*self._ready.popleft())
            return True
        if self._control_pending:
            return False
        self.is_live = True
        self._host.went_live()
        if self._ttl_at is not None:
            self._raise_alarm(self._ttl_at)
        for call in sorted(self.calls.values(), key=lambda call: call.key):
            if call.raise_cancel is None and self._is_refused(call):
                self._refuse_expired(call)
            elif call.raise_cancel is None:
                self._begin(call)
        return True

    def _begin(self, call: Call) -> None:
        call.is_live = True
        call.go_live()

    # ---- control, signals, timers ------------------------------------------------------------------------------

    def _take_control(self) -> None:
        for entry in self.unread:
            if entry.kind == "cancel":
                self.unread.remove(entry)
                self._submit_control(StepKind.CANCEL, entry)
                break

    def _take_ttl(self, now: int) -> None:
        if self._ttl_at is not None and now >= self._ttl_at:
            self._ttl_at = None
            if not any(row.kind is StepKind.TTL for row in self.delivered):
                self._submit_control(StepKind.TTL, None)

    def _submit_control(self, kind: StepKind, entry: MailboxEntry | None) -> None:
        now = self.clock.now()
        row = HistoryRow(
            seq=self.next_seq(),
            key=Key("", f"({kind})", sum(row.kind is kind for row in self.delivered)),
            kind=kind,
            result=entry.payload if entry is not None else None,
            started_at=entry.created_at if entry is not None else now,
            finished_at=now,
        )
        taken = ((entry.id, row.seq),) if entry is not None else ()
        self._control_pending += 1
        self.port.advance(partial(self._control_committed, row), rows=(row,), taken=taken, now=now)

    def _control_committed(self, row: HistoryRow, outcome_: Any) -> None:
        self._control_pending -= 1
        self.committed(outcome_, row, None)

    def _take_signal(self) -> bool:
        """Record one signal that a parked call waits for; only with nothing else of the run on its way."""
        match = self._matching_signal() if self.unread else None
        if match is None:
            self._unhold()
            return False
        if self.port.in_flight:
            if self._held is None:  # else steps that commit all the time would hold up the signal for ever
                self._held = deque()
            return False
        call, entry = match
        self.unread.remove(entry)
        held, self._held = self._held, None
        now = self.clock.now()
        call.record(
            now=now,
            started_at=call.started_at,
            result=entry.payload,
            taken=(entry.id,),
            cleared=self.stored_wait(call.key),
        )
        self._held = held
        self._unhold()
        return True

    def record(self, submit: Callable[[], None]) -> None:
        """Call ``submit``, which takes a seq and writes; later, if a signal is waiting for its turn."""
        if self._held is None:
            submit()
        else:
            self._held.append(submit)

    def _unhold(self) -> None:
        held, self._held = self._held, None
        for submit in held or ():
            submit()

    def _matching_signal(self) -> tuple[Call, MailboxEntry] | None:
        for entry in self.unread:
            if entry.kind != "signal":
                continue
            for call in self.calls.values():
                if (
                    call.waits_for == entry.name
                    and call.is_live
                    and not call.is_sealed
                    and call.raise_cancel is None
                    and (call.due_at is None or entry.created_at <= call.due_at)
                ):
                    return call, entry
        return None

    def stored_wait(self, key: Key) -> tuple[Key, ...]:
        """Return the keys to clear for a call that ends: its own if something of it is stored."""
        if key not in self.waits:
            return ()
        self._new_waits = [wait for wait in self._new_waits if wait.key != key]
        return (key,)

    def _fire_due(self) -> bool:
        if not self._timers and self._ttl_at is None:
            return False
        now = self.clock.now()
        if self.is_live and not self.expired and not self._control_pending:
            self._take_ttl(now)
        fired = False
        while self._timers and self._timers[0][0] <= now:
            due_at, key = heapq.heappop(self._timers)
            call = self.calls.get(key)
            if call is None or call.is_sealed or call.raise_cancel is not None or call.due_at != due_at:
                continue
            call.fire(now)
            fired = True
        return fired

    # ---- rest --------------------------------------------------------------------------------------------------

    def _rest(self) -> None:
        """Nothing more to deliver now: store new waits, set the alarm, and say so if the run only waits."""
        while self._timers and self._is_stale(*self._timers[0]):
            heapq.heappop(self._timers)
        due_at = self._timers[0][0] if self._timers else None
        quiet = not (self._wave or self._cancelled or self._ready or self._held)
        if quiet and not self.port.in_flight and not self.busy_count and self.calls and self._leaves_are_durable():
            names = sorted({call.waits_for for call in self.calls.values() if call.waits_for is not None})
            if self._ttl_at is not None:
                due_at = self._ttl_at if due_at is None else min(due_at, self._ttl_at)
            waits, self._new_waits = tuple(self._new_waits), []
            self._host.idle(due_at, tuple(names), waits)
        else:
            self._flush_waits()
        if due_at is not None and not self.is_leaving:
            self._raise_alarm(due_at)

    def _flush_waits(self) -> None:
        if self._new_waits:
            waits, self._new_waits = tuple(self._new_waits), []
            self.port.advance(self.check, waits=waits, now=self.clock.now())

    def _is_stale(self, due_at: int, key: Key) -> bool:
        call = self.calls.get(key)
        return call is None or call.is_sealed or call.due_at != due_at

    def _leaves_are_durable(self) -> bool:
        return len(self.tasks) == len(self.calls) or not self.foreign_waits()

    def _raise_alarm(self, due_at: int) -> None:
        if self._alarm_at is None or due_at < self._alarm_at or self._alarm_at <= self.clock.now():
            self._alarm_at = due_at
            self._host.alarm(due_at)

    # ---- the end -----------------------------------------------------------------------------------------------

    def remaining(self) -> HistoryRow | None:
        """Return the next row that the body did not ask for, if any; a control row that came too late is none."""
        for row in self._history[self._next :]:
            if row.kind not in _CONTROL_KINDS:
                return row
        return None

    # ---- detach ------------------------------------------------------------------------------------------------

    def throw_detached(self) -> None:
        """End the durable waits that are still blocked; the port is cut and the body's scope cancelled before."""
        calls, self.calls = list(self.calls.values()), {}
        extended, self._extended = self._extended, set()
        for task in [call.task for call in calls] + list(extended):
            trio.lowlevel.reschedule(task, outcome.Error(Detached()))
