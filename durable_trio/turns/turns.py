"""Delivers a run's rows to its body one at a time, each when the body is quiet; the same live and at replay.

The theory. Let a body be any number of tasks that share memory. If (1) its tasks are woken from outside only by
delivered rows, (2) a row is delivered only when all tasks are blocked, (3) the rows come in the recorded order, and
(4) tasks that are woken together go one at a time, the oldest first (``lane.Lane``), then each replay runs through
the same states, whatever trio's scheduler does.

``pump`` is the whole machine. It is called whenever something may have become possible (quiet, a commit, a message)
and delivers, in this order of precedence:

1. cancellations of waiting calls that a delivered row or the body itself has caused, one at a time in order of keys;
   a cancelled step function is waited for first, so that its call ends in this same turn; so is the commit of an
   outcome that came before, because a replay after a crash may not find it;
2. starts of branches, one at a time, in order of ``start_soon``;
3. at replay, the next row of the history; a row that nobody waits for is divergence;
4. when all rows are delivered (the barrier): control messages that are there; then the waiting calls go live;
5. rows committed since, in order of seq;
6. a signal, if nothing else of the run is undelivered or on its way;
7. due times; then the calls that have waited for the expiry of deadlines, or for an answer about changed code;
8. the end of the history, where a call ends it, once nothing is on its way.

Before all of these goes a task that waits for a commit inside the running turn (``Lobby.extend``).

A deadline whose time is over lets nothing begin before its expiry is delivered: neither at the barrier nor at a call
that the body makes later. What is inside of it is cancelled then, and never begins; what is not begins a little later,
which is cheaper than to know which is which. What was to come before the deadline does: a signal that was sent in time,
a sleep that was due before.

Nothing here waits: it is all synchronous, on the event loop. A fault of ours ends the run's stay, and nothing else.
"""

from __future__ import annotations

import math
import operator
from collections import deque
from collections.abc import Set
from typing import Any, Final

import trio

from durable_trio.clock import Clock, Due
from durable_trio.errors import RunConflict
from durable_trio.records import StepKind
from durable_trio.rows import HistoryRow, Key
from durable_trio.stores.questions import Loaded, MailboxLook
from durable_trio.turns.agenda import Agenda
from durable_trio.turns.call import Call
from durable_trio.turns.deadlines import DeadlineScope
from durable_trio.turns.foreign import foreign_wait
from durable_trio.turns.history import CONTROL_KINDS, NO_HISTORY, History
from durable_trio.turns.lobby import Lobby
from durable_trio.turns.mailbox import Mailbox
from durable_trio.turns.mode import GO_LIVE, MOVE, Mode
from durable_trio.turns.port import Port
from durable_trio.turns.quiet import rest
from durable_trio.turns.resident import Resident
from durable_trio.turns.stage import COMMIT, REOPEN
from durable_trio.turns.state import Recorded, RunState

# Asked again and again: a name of the enum's takes two looks.
_REPLAYING: Final = Mode.REPLAYING
_SIGNAL_OF: Final = operator.attrgetter("waits_for")


class Turns:
    """The turns of one resident run. See the module's docstring."""

    def __init__(
        self,
        loaded: Loaded,
        *,
        port: Port,
        resident: Resident,
        clock: Clock,
        ttl_at: Due | None,
        started_at: int,
        retired: Set[str] = frozenset(),
        had_begun: bool = False,
    ) -> None:
        history = History(loaded.history, retired=retired) if loaded.history else NO_HISTORY
        calls: dict[Key, Call] = {}
        deadlines: dict[Key, DeadlineScope] = {}
        agenda = Agenda(clock, clock.era, calls, deadlines)
        if loaded.waits:
            agenda.waits.update((wait.key, wait) for wait in loaded.waits)
        self.state = RunState(
            port=port,
            resident=resident,
            clock=clock,
            pump=self.pump,
            committed=self.committed,
            history=history,
            agenda=agenda,
            ttl_at=ttl_at,
            now=started_at,
            last_stamp=started_at,
            last_seq=history.last_seq,
            had_begun=had_begun or bool(loaded.history),
        )
        self.mailbox = Mailbox(self.state, calls)
        if loaded.unread or loaded.left_out is not None:
            self.mailbox.load(loaded)
        self.lobby = Lobby(self.state, calls, deadlines, self.mailbox.has_signal)
        #: That of the scopes around the body itself, on trio's clock; an inline body's deadlines are its own business.
        self.base_deadline = -math.inf
        self._is_pumping = False
        # Committed and not delivered yet.
        self._ready: deque[tuple[HistoryRow, Recorded | None]] = deque()
        # Calls that were due, but something has come in time: they are due again once that is looked at.
        self._reopened: list[Recorded] = []
        self._looked_at = 0  # what the clock said when something may have been due
        #: Whether the run has looked for something to deliver since it last had nothing to do but wait.
        self.has_looked = True

    # ---- for the resident run ----------------------------------------------------------------------------------

    def message(self, look: MailboxLook) -> None:
        """Take what was found in the run's mailbox."""
        state = self.state
        for call in self._reopened:
            if call.due_at is not None:
                state.agenda.come_up(call.key, call.due)
        self._reopened.clear()
        self.mailbox.take(look)
        if not look.is_all:
            state.resident.look_into_mailbox()
        self.pump()

    def hold(self) -> None:
        """Let nothing begin and deliver nothing any more; functions that run may finish and are recorded."""
        self.state.is_held = True
        self.state.unhold()
        self.pump()

    async def settle(self) -> None:
        """Take the controls that are recorded up to here, and those on their way, now that the body has ended."""
        state = self.state
        while True:
            row = state.history.next_row()
            while row is not None and row.kind in CONTROL_KINDS:
                state.history.advance()
                self._hand_over(row, None)
                row = state.history.next_row()
            while self._ready and self._ready[0][1] is None:
                self._hand_over(*self._ready.popleft())
            if not self.mailbox.is_on_the_way:
                return
            await self.lobby.extend(self.mailbox.when_recorded)

    # ---- what was written down ---------------------------------------------------------------------------------

    def committed(self, result: Any, row: HistoryRow, call: Recorded | None) -> None:
        """Take the outcome of the commit of ``row``: deliver it in its turn, or give the run up."""
        state = self.state
        if result is True:
            state.has_progressed = True
            if call is not None:
                call.stage = COMMIT[call.stage]
            self._ready.append((row, call))
            self.pump()
        elif result is False and call is not None:
            call.stage = REOPEN[call.stage]
            call.outcome = None
            self._reopened.append(call)
            state.resident.look_into_mailbox()
        elif not (isinstance(result, RunConflict) and call is not None and call.conflicted(result)):
            state.give_up(result)

    # ---- the pump ----------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Deliver what can be delivered until the body moves or nothing is left. Never raises."""
        state, lobby = self.state, self.lobby
        if self._is_pumping or state.port.is_cut:
            return
        self.has_looked = True
        # Nearly always, something is on its way and comes back by itself, and there is nothing to deliver before.
        if (
            (lobby.busy_count or state.port.in_flight)
            and state.mode is not _REPLAYING
            and not (self._ready or state.agenda.timers or state.agenda.new or lobby.cancelled or lobby.starts)
            and not (lobby.wave or lobby.extended or lobby.late or lobby.last_call or state.is_held)
            and state.held is None
            and state.ttl_at is None
            and self.mailbox.signals.is_empty
        ):
            return
        self._is_pumping = True
        try:
            if lobby.extended and state.runnable_count == 0:
                lobby.end_extension()
            elif state.is_held:
                state.flush_waits()
                if not lobby.busy_count and not state.port.in_flight:
                    state.resident.quiesced()
            else:
                while state.runnable_count == 0 and not state.port.is_cut and self._deliver():
                    if state.lane.woken:
                        state.lane.delivered()
                    if state.mode in MOVE:
                        state.mode = MOVE[state.mode]
                        state.resident.moved()
                    # Of a body with one task, nothing else can come before what is on its way is back.
                    if (
                        state.port.in_flight
                        and len(state.tasks) == len(lobby.calls) == 1
                        and state.mode is not _REPLAYING
                        and not (self._ready or lobby.cancelled or lobby.wave or lobby.starts or lobby.deadlines)
                    ):
                        break
                # What is on its way to the store pumps when it comes back. Until then there is no alarm to set, but a
                # wait is stored at once.
                may_rest = not state.port.in_flight or state.agenda.new
                if may_rest and state.runnable_count == 0 and not state.port.is_cut and state.mode is not _REPLAYING:
                    self._rest()
        except BaseException as error:
            state.failed(error)
        finally:
            self._is_pumping = False

    def _deliver(self) -> bool:
        """Make one delivery; return whether another look makes sense."""
        state, lobby = self.state, self.lobby
        if lobby.wave or lobby.cancelled:
            return lobby.deliver_cancellation()
        if lobby.starts:
            trio.lowlevel.reschedule(lobby.starts.pop(min(lobby.starts)))
            return True
        if state.mode is _REPLAYING:
            row = state.history.next_row()
            if row is not None:
                return self._replay(row)
        if self._ready and (state.mode is not _REPLAYING or self._ready[0][1] is None):
            self._hand_over(*self._ready.popleft())
            return True
        if state.mode is _REPLAYING:
            return self._pass_barrier()
        # Each is asked only if there is something of its kind.
        return (
            ((state.held is not None or not self.mailbox.signals.is_empty) and self._take_signal())
            or (bool(state.agenda.timers or state.ttl_at is not None) and self._fire_due())
            or (bool(lobby.late) and lobby.begin_late())
            or (lobby.last_call is not None and lobby.end_history())
        )

    def _replay(self, row: HistoryRow) -> bool:
        state = self.state
        call = self.lobby.calls.get(row.key)
        if call is not None and call.kind is not row.kind:
            call = None
        if call is not None or state.history.may_go_unasked(row):
            state.history.advance()
            self._hand_over(row, call)
            return True
        if row.kind is StepKind.DEADLINE and self.lobby.has_met(row.key):
            state.history.advance()
            self._hand_over(row, None)
            return True
        # A scope with trio's own deadline around a call may end it, as it did when the row was recorded.
        ends_by_itself = any(call.scope_deadline != math.inf for call in self.lobby.calls.values())
        state.resident.stuck(row, hopeless=not ends_by_itself and not self.foreign_waits(also_in_process=True))
        return False

    def _hand_over(self, row: HistoryRow, call: Recorded | None) -> None:
        state, lobby = self.state, self.lobby
        state.now = max(state.now, row.finished_at)
        if row.kind is not StepKind.PATCH:  # which no turn delivers while it is new: it rides with the next row
            state.last_stamp = row.finished_at
            state.position = (row.seq, 0)
        state.delivered.append(row)
        if call is not None:
            del lobby.calls[row.key]
            state.agenda.waits.pop(row.key, None)
            call.deliver(row)
        elif row.kind is StepKind.DEADLINE:
            lobby.expiring.discard(row.key)
            scope = lobby.deadlines.get(row.key)
            if scope is not None:
                scope.cancel("its durable deadline has expired")
        elif row.kind in CONTROL_KINDS:
            if row.kind is StepKind.TTL and state.expired is None:
                state.expired = row
            state.is_cancelled = state.is_cancelled or row.kind is StepKind.CANCEL
            self.mailbox.note_control(row)
            state.resident.control(row)

    def _pass_barrier(self) -> bool:
        """All rows are delivered: let control messages go first, then let the waiting calls begin."""
        state, lobby = self.state, self.lobby
        if not self.mailbox.is_settled():
            return False
        state.mode = GO_LIVE[state.mode]
        state.resident.went_live()
        if state.ttl_at is not None:
            state.resident.alarm(state.clock.comes_at(state.ttl_at), state.clock.now())
        for call in sorted(lobby.calls.values(), key=lambda call: call.key):
            if call.raise_cancel is not None and not call.is_unabortable:
                continue
            if lobby.is_out_of_time(call):
                lobby.raise_expired(call)
            else:
                lobby.let_begin(call)
        return True

    def _take_signal(self) -> bool:
        """Record one signal that a call waits for; only with nothing else of the run on its way."""
        state = self.state
        match = self.mailbox.matching_signal()
        if match is not None and self.lobby.deadlines and not self.lobby.is_in_time(match[0]):
            match = None  # the expiry comes first
        if match is None:
            if state.held is not None:
                state.unhold()
            return False
        if state.port.in_flight:
            if state.held is None:  # else steps that commit all the time would hold up the signal for ever
                state.held = deque()
            return False
        held, state.held = state.held, None
        self.mailbox.record_signal(*match)
        state.held = held
        if held is not None:
            state.unhold()
        return True

    def _fire_due(self) -> bool:
        state, lobby = self.state, self.lobby
        now = self._looked_at = state.clock.now()
        if state.ttl_at is not None:
            self.mailbox.take_ttl(now)
        fired = False
        while (key := state.agenda.pop_due(now)) is not None:
            fired = True
            call = lobby.calls.get(key)
            if call is not None and lobby.deadlines and not lobby.is_in_time(call):
                lobby.late.append(call)
            elif call is not None:
                call.fire(state.clock.stamp())
            else:
                lobby.expire(lobby.deadlines[key], state.clock.stamp())
        return fired

    # ---- rest --------------------------------------------------------------------------------------------------

    def _rest(self) -> None:
        """Nothing more to deliver now: store new waits, set the alarm, and say so if the run only waits."""
        state = self.state
        # It means something, for it was looked at just now (``_fire_due``); what is on its way has it looked at again.
        due_at = state.agenda.timers[0][0] if state.agenda.timers else None
        if self._only_waits():
            names = sorted(set(filter(None, map(_SIGNAL_OF, self.lobby.calls.values()))))
            if state.ttl_at is not None:
                ttl_at = state.clock.comes_at(state.ttl_at)
                due_at = ttl_at if due_at is None else min(due_at, ttl_at)
            self.has_looked = False
            if len(state.tasks) == 1 and next(iter(state.tasks)).custom_sleep_data is self.lobby:
                rest(state)
            new, state.agenda.new = tuple(state.agenda.new), []
            state.resident.idle(due_at, tuple(names), new, now=self._looked_at)
            return
        if state.agenda.new:
            state.flush_waits()
        if due_at is not None:
            state.resident.alarm(due_at, state.clock.now())

    @property
    def is_at_rest(self) -> bool:
        """Whether the run only waits, as it did when it began to rest."""
        state = self.state
        return state.mode is Mode.RESTING and not (
            state.port.is_cut or state.runnable_count or self._has_something_to_do()
        )

    def _has_something_to_do(self) -> bool:
        state, lobby = self.state, self.lobby
        return bool(
            state.port.in_flight
            or lobby.busy_count
            or lobby.wave
            or lobby.cancelled
            or self._ready
            or state.held
            or lobby.late
        )

    def _only_waits(self) -> bool:
        state, lobby = self.state, self.lobby
        if self._has_something_to_do():
            return False
        if len(state.tasks) == len(lobby.calls) == 1:  # nearly always, and in no scope of trio's with a deadline
            (call,) = lobby.calls.values()
            foreign = [] if call.scope_deadline == math.inf else self._foreign_deadlines()
        else:
            foreign = self.foreign_waits() + self._foreign_deadlines()
        if foreign:
            state.resident.foreign(foreign)
        return bool(lobby.calls) and not foreign

    def foreign_waits(self, *, also_in_process: bool = False) -> list[str]:
        """Return where tasks of the body are blocked in something that is not durable.

        ``also_in_process``: also where they wait for another task, which need not be one of the body's.
        """
        lobby = self.lobby
        if len(self.state.tasks) == len(lobby.calls) == 1:
            return []
        waiting = {call.task for call in lobby.calls.values() if call.task is not None}
        others = (
            self.state.tasks - waiting - {extension.task for extension in lobby.extended} - set(lobby.starts.values())
        )
        places = [foreign_wait(task, also_in_process=also_in_process) for task in others]
        return [place for place in places if place is not None]

    def _foreign_deadlines(self) -> list[str]:
        """Return which durable calls stand in a deadline of trio's own, which is lost when the run leaves memory."""
        places = []
        for call in self.lobby.calls.values():
            if -math.inf < call.scope_deadline < self.base_deadline:
                place = f"the deadline of a trio scope around {call.key}"
                places.append(f"{place} (ctx.move_on_after and ctx.fail_after are durable)")
        return places
