"""The body's side of a run's turns: how its tasks wait in durable calls, and ask to be let out of them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import Any

import attrs
import outcome
import trio

from durable_trio.doors import guarded
from durable_trio.errors import Detached, RunExpired
from durable_trio.records import StepKind
from durable_trio.rows import HistoryRow, Key
from durable_trio.turns.call import Call, LastCall
from durable_trio.turns.deadlines import DeadlineScope
from durable_trio.turns.leaving import Exit
from durable_trio.turns.mode import Mode
from durable_trio.turns.quiet import go
from durable_trio.turns.stage import BEGIN, FIND, OPEN, Stage
from durable_trio.turns.state import RunState

# The body must not go by a call of this stage, for its commit is still to tell whether its outcome counts.
_UNDECIDED = Stage.SUBMITTED


@attrs.define(eq=False)
class Extension:
    """A task that waits inside the running turn, and what it waits for once that is known."""

    task: trio.lowlevel.Task
    result: outcome.Outcome[Any] | None = None


@attrs.define(eq=False)
class Lobby:
    """Where the tasks of one body wait.

    Args:
        calls: all that wait, by their keys.
        deadlines: those that the body is in, by theirs.
        has_signal: whether a signal of a name was sent until an instant, and is still unread.
    """

    state: RunState
    calls: dict[Key, Call]
    deadlines: dict[Key, DeadlineScope]
    _has_signal: Callable[[str, int], bool]
    busy_count: int = 0  # functions of the user's that run for calls
    expiring: set[Key] = attrs.Factory(set)  # deadlines whose rows are on their way
    late: list[Call] = attrs.Factory(list)  # calls that begin once those, and answers, are there
    left_deadlines: set[Key] = attrs.Factory(set)
    cancelled: list[Call] = attrs.Factory(list)
    wave: deque[Call] = attrs.Factory(deque)  # of those, what one cause has cancelled
    starts: dict[int, trio.lowlevel.Task] = attrs.Factory(dict)
    extended: deque[Extension] = attrs.Factory(deque)
    last_call: LastCall | None = None
    _start_count: int = 0

    # Ctrl-C between taking a call in and the wait of its task would leave a row to be delivered to a task that is gone.
    @trio.lowlevel.enable_ki_protection
    async def perform(self, call: Call) -> Any:
        """Have the calling task wait until the call's row is delivered; return the row.

        Raises:
            trio.Cancelled: a scope around the call was cancelled, and the call has no outcome.
            RunExpired: the run's time to live is over, and the call is shielded from that cancellation.
            Detached: the run leaves this process.
        """
        state = self.state
        if state.port.is_cut:
            await state.lane.raise_detached()
        call.task = trio.lowlevel.current_task()
        call.task_context = copy_context()
        try:
            if state.history.waiting:
                self.add(call)
            else:  # as ``add`` and ``let_begin`` do: each step passes here
                call.state, call.lobby = state, self
                self.calls[call.key] = call
            # A call in a cancelled scope must not begin; trio asks for its abort as soon as it waits.
            call.scope_deadline = trio.current_effective_deadline()
            if call.stage in OPEN and (call.is_unabortable or call.scope_deadline != -math.inf):
                if state.expired is not None and self.is_out_of_time(call):
                    self.raise_expired(call)
                elif state.mode is Mode.REPLAYING or state.is_held:
                    pass
                elif self.deadlines or state.answers_under_way:
                    self.let_begin(call)
                else:
                    call.stage = BEGIN[call.stage]
                    call.go_live(state.clock.stamp())
        except BaseException as error:  # not to be taken for an error of the body's own
            state.failed(error)
            await state.lane.raise_detached()
        call.task.custom_sleep_data = self  # until it goes on: so it is found again, whatever has gone wrong
        return await trio.lowlevel.wait_task_rescheduled(partial(self._abort, call))

    def add(self, call: Call) -> None:
        """Take a call that waits for its outcome."""
        call.state, call.lobby = self.state, self
        self.calls[call.key] = call
        if self.state.history.waiting:
            if call.key in self.state.history.waiting:
                call.stage = FIND[call.stage]
            call.arrived()

    @trio.lowlevel.enable_ki_protection
    async def extend(self, submit: Callable[[Callable[[Any], None]], None]) -> Any:
        """Wait for a commit inside the running turn: nothing is delivered meanwhile. Not a cancel point.

        It goes on when the other tasks of the turn are blocked, however long the commit took.
        """
        state = self.state
        if state.port.is_cut:
            await state.lane.raise_detached()
        extension = Extension(trio.lowlevel.current_task())

        def done(result: Any) -> None:
            extension.result = outcome.Value(result)
            state.pump()

        self.extended.append(extension)
        submit(done)
        extension.task.custom_sleep_data = self

        def abort(_: object) -> trio.lowlevel.Abort:
            guarded(state.resident.is_left_undecided)
            return trio.lowlevel.Abort.FAILED

        return await trio.lowlevel.wait_task_rescheduled(abort)

    def announce_start(self) -> int:
        """Return the place of a branch in the order of starts."""
        self._start_count += 1
        return self._start_count

    @trio.lowlevel.enable_ki_protection
    async def await_start(self, place: int) -> None:
        """Have a new branch wait until its start is delivered. Not a cancel point: trio starts such a task, too."""
        if self.state.port.is_cut:
            await self.state.lane.raise_detached()
        task = self.starts[place] = trio.lowlevel.current_task()
        task.custom_sleep_data = self
        await trio.lowlevel.wait_task_rescheduled(_no_abort)

    def is_out_of_time(self, call: Call) -> bool:
        """Return whether the time to live is over for a call."""
        return self.state.expired is not None and call.kind is not StepKind.COMPENSATION and not call.is_unabortable

    def raise_expired(self, call: Call) -> None:
        """Have a call raise that the time to live is over."""
        self.raise_in(call, RunExpired("the run's time to live is over; no durable call begins any more"))

    def raise_in(self, call: Call, error: Exception) -> None:
        """Have a call that has no outcome raise ``error``, in its turn."""

        def raise_error() -> None:
            raise error

        call.raise_cancel = raise_error
        self.cancelled.append(call)

    def _abort(self, call: Call, raise_cancel: Callable[[], Any]) -> trio.lowlevel.Abort:
        if self.state.port.is_cut:
            self.calls.pop(call.key, None)
            go(self.state)  # trio wakes it
            return trio.lowlevel.Abort.SUCCEEDED
        call.raise_cancel = raise_cancel
        try:
            self._note_cancel(call)
        except BaseException as error:  # trio itself would end with it
            self.state.failed(error)
        return trio.lowlevel.Abort.FAILED

    def _note_cancel(self, call: Call) -> None:
        if call.stage in OPEN:
            if call.stage is Stage.BEGUN or call.is_unabortable:
                call.cancel()
            if not call.is_unabortable:
                self.cancelled.append(call)
                self.state.pump()
        elif call.stage is _UNDECIDED:
            self.cancelled.append(call)
            self.state.resident.is_left_undecided()

    def withdraw(self, call: Call) -> None:
        """Cancel a call that no task waits for; its cancellation is delivered in its turn."""
        if call.raise_cancel is None and (call.stage is _UNDECIDED or call.stage in OPEN):
            call.raise_cancel = _no_raise
            if call.stage in OPEN:
                call.cancel()
            self.cancelled.append(call)

    def has_unmatched_waits(self) -> bool:
        """Return whether something is stored of a call that the body has not made yet in this stay."""
        return any(key not in self.calls for key in self.state.agenda.waits)

    def has_met(self, key: Key) -> bool:
        """Return whether the body has entered that deadline in this stay, if it is not over and forgotten."""
        return key in self.deadlines or key in self.left_deadlines

    def enter_deadline(self, scope: DeadlineScope) -> None:
        """A durable deadline begins."""
        state = self.state
        self.deadlines[scope.key] = scope
        scope.due = state.clock.due(scope.due_at, stamped_at=state.last_stamp)
        state.agenda.come_up(scope.key, scope.due)
        if state.port.is_cut:  # in a ``finally`` block of a run that is leaving
            scope.shield = False

    def exit_deadline(self, scope: DeadlineScope) -> None:
        """A durable deadline's block has ended; a row of its expiry is void from now on."""
        del self.deadlines[scope.key]
        if self.state.mode is Mode.REPLAYING:
            self.left_deadlines.add(scope.key)

    def is_overdue(self) -> bool:
        """Return whether the time of a durable deadline is over, whose expiry is not delivered yet."""
        return bool(self.deadlines) and self._overdue_at() is not None

    def _overdue_at(self) -> int | None:
        """Return when the first of the deadlines was due whose time is over, as it is stored."""
        state = self.state
        now = state.clock.now()
        if not self.expiring and not state.agenda.is_due(now):
            return None
        over = (
            scope.due_at
            for scope in self.deadlines.values()
            if not scope.cancel_called and state.clock.comes_at(scope.due) <= now
        )
        return min(over, default=None)

    def let_begin(self, call: Call) -> None:
        """Begin a call; not before the expiry of a deadline whose time is over, for the call may be inside of it.

        Nor before answers are recorded which it may follow from.
        """
        if self.state.answers_under_way or (self.deadlines and not self.is_in_time(call)):
            self.late.append(call)
        else:
            self._begin(call)

    def _begin(self, call: Call) -> None:
        call.stage = BEGIN[call.stage]
        call.go_live(self.state.clock.stamp())

    def busy(self, call: Call) -> None:
        """Something of the user's begins to run for ``call``."""
        call.is_busy = True
        self.busy_count += 1

    def emerged(self, call: Call, *, goes_on: bool = False) -> None:
        """What ran for ``call`` has come out; if it ``goes_on`` at once, the run must not look idle in between."""
        call.is_busy = False
        self.busy_count -= 1
        # What is on its way to the store comes back, and pumps then.
        if not goes_on and (self.wave or not (self.busy_count or self.state.port.in_flight)):
            self.state.pump()

    def end_with(self, call: LastCall) -> None:
        """Have ``call.end_history`` called once nothing else of the run is undelivered or on its way."""
        self.last_call = call

    # ---- deliveries: what the pump does with what waits here -----------------------------------------------------

    def end_extension(self) -> None:
        """Let the task go on that has waited inside the turn for longest, if its commit is done."""
        result = self.extended[0].result
        if result is not None:
            trio.lowlevel.reschedule(self.extended.popleft().task, result)

    def deliver_cancellation(self) -> bool:
        """Deliver the next cancellation of the present wave; return False if something must come out before."""
        if not self.wave:
            self.wave.extend(sorted(self.cancelled, key=lambda call: call.place_in_wave))
            self.cancelled.clear()
        call = self.wave[0]
        if call.stage is _UNDECIDED or (call.stage in OPEN and call.is_busy):
            self.state.unhold()  # what it waits for may be among it
            return False
        self.wave.popleft()
        if call.stage in OPEN and self.calls.get(call.key) is call:
            call.deliver_cancellation()
        return True

    def begin_late(self) -> bool:
        """Begin what has waited for expiries and answers, and was not cancelled."""
        if self.expiring or self.state.answers_under_way:
            return False
        late, self.late = self.late, []
        for call in late:
            if call.stage not in OPEN:  # one that was begun: it has got its signal meanwhile
                continue
            if self.calls.get(call.key) is call and (call.raise_cancel is None or call.is_unabortable):
                self.let_begin(call)
        return len(self.late) < len(late)

    def is_past_due(self) -> bool:
        """Return whether the time of something around the body, or a part of it, is over, and it has not ended yet."""
        state = self.state
        ttl_at = state.ttl_at
        return self.is_overdue() or (ttl_at is not None and state.clock.now() >= state.clock.comes_at(ttl_at))

    def is_in_time(self, call: Call) -> bool:
        """Return whether a call may go on now: no deadline is over, or what it waits for came before."""
        due_at = self._overdue_at()
        if due_at is None:
            return True
        if call.begins_when_due:
            return False
        wait = self.state.agenda.waits.get(call.key)
        if wait is not None and wait.due_at is not None and wait.due_at <= due_at:
            return True
        return call.waits_for is not None and self._has_signal(call.waits_for, due_at)

    def expire(self, scope: DeadlineScope, now: int) -> None:
        """Record that a deadline is over."""
        state = self.state
        scope.is_expiring = True
        self.expiring.add(scope.key)

        def submit() -> None:
            row = HistoryRow(
                seq=state.next_seq(),
                key=scope.key,
                kind=StepKind.DEADLINE,
                started_at=scope.due_at,
                finished_at=now,
            )
            state.port.advance(lambda result: state.committed(result, row, None), rows=(row,))

        state.record(submit)

    def end_history(self) -> bool:
        """Let a call end this history, with nothing of it on the way: a cancel that is would be lost with the rows."""
        call = self.last_call
        if call is None or self.state.port.in_flight or call.key not in self.calls:
            return False
        self.last_call = None
        call.end_history()
        return True

    def throw_detached(self) -> None:
        """End the durable waits that are still blocked; the port is cut and the body's scope cancelled before."""
        state = self.state
        state.lane = Exit(state.lane, len(state.tasks), state.resident.task_abandoned)
        for waiting in (self.calls, self.extended, self.starts):
            waiting.clear()
        for task in list(state.tasks):
            if task.custom_sleep_data is self:
                go(state)
                trio.lowlevel.reschedule(task, outcome.Error(Detached()))
        for scope in self.deadlines.values():  # a wait in memory inside a shielded one
            scope.shield = False


def _no_abort(_: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED


def _no_raise() -> None:
    """Stands for the cancellation of a call that no task waits for."""
