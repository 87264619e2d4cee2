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
7. due times; then the calls that have waited for the expiry of deadlines.

A deadline whose time is over lets nothing begin before its expiry is delivered: neither at the barrier nor at a call
that the body makes later. What is inside of it is cancelled then, and never begins; what is not begins a little later,
which is cheaper than to know which is which. What was to come before the deadline does: a signal that was sent in time,
a sleep that was due before.

Nothing here waits: it is all synchronous, on the event loop. A fault of ours ends the run's stay, and nothing else.
"""

from __future__ import annotations

import math
from collections import deque

import trio

from durable_trio.clock import Clock, Due
from durable_trio.records import HistoryRow, Key, StepKind
from durable_trio.stores.contract import Loaded, MailLook
from durable_trio.turns.call import Call
from durable_trio.turns.deadlines import DeadlineScope
from durable_trio.turns.history import CONTROL_KINDS
from durable_trio.turns.host import Host
from durable_trio.turns.mailbox import Mail
from durable_trio.turns.parking import Parking
from durable_trio.turns.port import Port
from durable_trio.turns.quiet import foreign_wait


class Turns(Parking):
    """The turns of one resident run. See the module's docstring."""

    def __init__(
        self,
        loaded: Loaded,
        *,
        port: Port,
        host: Host,
        clock: Clock,
        ttl_at: Due | None,
        started_at: int,
        had_begun: bool = False,
    ) -> None:
        super().__init__(loaded, port=port, host=host, clock=clock, started_at=started_at, had_begun=had_begun)
        self.mail = Mail(self, loaded, ttl_at)
        #: That of the scopes around the body itself, on trio's clock; an inline body's deadlines are its own business.
        self.base_deadline = -math.inf

    # ---- for the host ------------------------------------------------------------------------------------------

    def message(self, look: MailLook) -> None:
        """Take what was found in the run's mailbox."""
        for call in self.calls.values():
            if call.waits_for is not None and call.due_at is not None:  # one that is due was told to look first
                self.agenda.set_timer(call.key, call.due)
        self.mail.take(look)
        if not look.is_all:
            self.look()
        self.pump()

    def is_past_due(self) -> bool:
        """Return whether the time of something around the body, or a part of it, is over, and it has not ended yet."""
        ttl_at = self.mail.ttl_at
        return self.is_overdue() or (ttl_at is not None and self.clock.now() >= self.clock.comes_at(ttl_at))

    def look(self) -> None:
        """Have the mailbox read again."""
        self._host.look()

    def hold(self) -> None:
        """Let nothing begin and deliver nothing any more; functions that run may finish and are recorded."""
        self.is_held = True
        self._unhold()
        self.pump()

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

    # ---- the pump ----------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Deliver what can be delivered until the body moves or nothing is left. Never raises."""
        if self._is_pumping or self.port.is_cut:
            return
        self._is_pumping = True
        try:
            if self._extended and self.runnable_count == 0:
                self._end_extension()
            elif self.is_held:
                self._flush_waits()
                if not self.busy_count and not self.port.in_flight:
                    self._host.quiesced()
            else:
                while self.runnable_count == 0 and not self.port.is_cut and self._deliver():
                    self.lane.delivered()
                if self.runnable_count == 0 and not self.port.is_cut and self.is_live:
                    self._rest()
        except BaseException as error:
            self.failed(error)
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
        return (
            self._take_signal() or self._fire_due() or (bool(self._late) and self._begin_late()) or self._end_history()
        )

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
        if row.kind is not StepKind.PATCH:  # which no turn delivers while it is new: it rides with the next row
            self.last_stamp = row.finished_at
            self.position = (row.seq, 0)
        self.delivered.append(row)
        if call is not None:
            del self.calls[row.key]
            self.agenda.forget(row.key)
            call.deliver(row)
        elif row.kind is StepKind.DEADLINE:
            self._expiring.discard(row.key)
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
            self._raise_alarm(self.clock.comes_at(self.mail.ttl_at))
        for call in sorted(self.calls.values(), key=lambda call: call.key):
            if call.raise_cancel is not None and not call.is_unabortable:
                continue
            if self._is_refused(call):
                self._refuse_expired(call)
            else:
                self.let_begin(call)
        return True

    def _begin_late(self) -> bool:
        """Begin what has waited for expiries, and was not cancelled by them."""
        if self._expiring:
            return False
        late, self._late = self._late, []
        for call in late:
            if self.calls.get(call.key) is call and (call.raise_cancel is None or call.is_unabortable):
                self.let_begin(call)
        return len(self._late) < len(late)

    def _is_in_time(self, call: Call) -> bool:
        due_at = self._overdue_at()
        if due_at is None:
            return True
        if call.begins_when_due:
            return False
        wait = self.agenda.waits.get(call.key)
        if wait is not None and wait.due_at is not None and wait.due_at <= due_at:
            return True
        return call.waits_for is not None and self.mail.has_signal(call.waits_for, due_at)

    def _take_signal(self) -> bool:
        """Record one signal that a parked call waits for; only with nothing else of the run on its way."""
        match = self.mail.matching_signal()
        if match is not None and self.deadlines and not self._is_in_time(match[0]):
            match = None  # the expiry comes first
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
            if call is not None and self.deadlines and not self._is_in_time(call):
                self._late.append(call)
            elif call is not None:
                call.fire(self.clock.stamp())
            else:
                self._expire(self.deadlines[due[1]], self.clock.stamp())
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
        self._expiring.add(scope.key)

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
                ttl_at = self.clock.comes_at(self.mail.ttl_at)
                due_at = ttl_at if due_at is None else min(due_at, ttl_at)
            self._host.idle(due_at, tuple(names), self.agenda.take_new())
        else:
            self._flush_waits()
        if due_at is not None and not self.is_leaving:
            self._raise_alarm(due_at)

    def _only_waits(self) -> bool:
        if (
            self.port.in_flight
            or self.busy_count
            or self._wave
            or self._cancelled
            or self._ready
            or self._held
            or self._late
        ):
            return False
        foreign = [*self.foreign_waits(), *self._foreign_deadlines()]
        if foreign:
            self._host.foreign(foreign)
        return bool(self.calls) and not foreign

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

    def _foreign_deadlines(self) -> list[str]:
        """Return which durable calls stand in a deadline of trio's own, which is lost when the run leaves memory."""
        return [
            f"the deadline of a trio scope around {call.key} (ctx.move_on_after and ctx.fail_after are durable)"
            for call in self.calls.values()
            if -math.inf < call.deadline < self.base_deadline
        ]

    def _raise_alarm(self, due_at: int) -> None:
        if self._alarm_at is None or due_at < self._alarm_at or self._alarm_at <= self.clock.now():
            self._alarm_at = due_at
            self._host.alarm(due_at)
