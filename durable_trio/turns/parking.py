"""The body's side of a run's turns: how its tasks park in durable calls, and ask to be let out of them."""

from __future__ import annotations

import abc
import math
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import Any

import outcome
import trio

from durable_trio.doors import guarded
from durable_trio.errors import Detached, RunExpired
from durable_trio.records import StepKind
from durable_trio.turns.call import Call
from durable_trio.turns.deadlines import DeadlineScope
from durable_trio.turns.leaving import Exit
from durable_trio.turns.state import Extension, Recording


class Parking(Recording):
    """Where the tasks of a body wait."""

    @property
    def is_replaying(self) -> bool:
        """Whether recorded rows are still to be delivered."""
        return not self.history.is_over

    @property
    def is_repeating(self) -> bool:
        """Whether the body does again what it has done before: it had begun already, and no call of it begins yet."""
        return self._had_begun and not self.is_live

    # Ctrl-C between taking a call in and parking its task would leave a row to be delivered to a task that is gone.
    @trio.lowlevel.enable_ki_protection
    async def perform(self, call: Call) -> Any:
        """Park the calling task until the call's row is delivered; return the row.

        Raises:
            trio.Cancelled: a scope around the call was cancelled, and the call has no outcome.
            RunExpired: the run's time to live is over, and the call is shielded from that cancellation.
            Detached: the run leaves this process.
        """
        if self.port.is_cut:
            await self.lane.refuse()
        call.task = trio.lowlevel.current_task()
        call.task_context = copy_context()
        try:
            self.add(call)
            # A call in a cancelled scope must not begin; trio asks for its abort as soon as it is parked.
            call.deadline = trio.current_effective_deadline()
            if not call.is_sealed and (call.is_unabortable or call.deadline != -math.inf):
                if self._is_refused(call):
                    self._refuse_expired(call)
                elif self.is_live and not self.is_held:
                    if self.deadlines:
                        self.let_begin(call)
                    else:
                        self._begin(call)
        except BaseException as error:  # not to be taken for an error of the body's own
            self.failed(error)
            await self.lane.refuse()
        call.task.custom_sleep_data = self  # until it goes on: so it is found again, whatever has gone wrong
        return await trio.lowlevel.wait_task_rescheduled(partial(self._abort, call))

    def add(self, call: Call) -> None:
        """Take a call that waits for its outcome."""
        call.turns = self
        call.is_sealed = self.history.has(call.key)
        self.calls[call.key] = call
        call.parked()

    @trio.lowlevel.enable_ki_protection
    async def extend(self, submit: Callable[[Callable[[Any], None]], None]) -> Any:
        """Wait for a commit inside the running turn: nothing is delivered meanwhile. Not a cancel point.

        It goes on when the other tasks of the turn are blocked, however long the commit took.
        """
        if self.port.is_cut:
            await self.lane.refuse()
        extension = Extension(trio.lowlevel.current_task())

        def done(result: Any) -> None:
            extension.result = outcome.Value(result)
            self.pump()

        self._extended.append(extension)
        submit(done)
        extension.task.custom_sleep_data = self

        def abort(_: object) -> trio.lowlevel.Abort:
            guarded(self._host.is_left_undecided)
            return trio.lowlevel.Abort.FAILED

        return await trio.lowlevel.wait_task_rescheduled(abort)

    def next_position(self) -> tuple[int, int]:
        """Return where the body publishes something now: later than all before, and the same at replay."""
        self.position = self.coming_position
        return self.position

    @property
    def coming_position(self) -> tuple[int, int]:
        """What ``next_position`` will return."""
        seq, count = self.position
        return (seq, count + 1)

    def announce_start(self) -> int:
        """Return the place of a branch in the order of starts."""
        self._start_count += 1
        return self._start_count

    @trio.lowlevel.enable_ki_protection
    async def await_start(self, place: int) -> None:
        """Park a new branch until its start is delivered. Not a cancel point: trio starts such a task, too."""
        if self.port.is_cut:
            await self.lane.refuse()
        task = self._starts[place] = trio.lowlevel.current_task()
        task.custom_sleep_data = self
        await trio.lowlevel.wait_task_rescheduled(_no_abort)

    def failed(self, error: BaseException) -> None:
        """Something of ours has failed in this run: it leaves, and nobody else is touched."""
        self._host.failed(error)

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
        try:
            self._note_cancel(call)
        except BaseException as error:  # trio itself would end with it
            self.failed(error)
        return trio.lowlevel.Abort.FAILED

    def _note_cancel(self, call: Call) -> None:
        if not call.is_sealed:
            if call.is_live or call.is_unabortable:
                call.cancel()
            if not call.is_unabortable:
                self._cancelled.append(call)
                self.pump()
        elif call.is_undecided:
            self._cancelled.append(call)
            self._host.is_left_undecided()

    def abandon(self, call: Call) -> None:
        """Cancel a call that no task waits for; its cancellation is delivered in its turn."""
        if call.raise_cancel is None and (call.is_undecided or not call.is_sealed):
            call.raise_cancel = _no_raise
            if not call.is_sealed:
                call.cancel()
            self._cancelled.append(call)

    def enter_deadline(self, scope: DeadlineScope) -> None:
        """A durable deadline begins."""
        self.deadlines[scope.key] = scope
        scope.due = self.clock.due(scope.due_at, stamped_at=self.last_stamp)
        self.agenda.set_timer(scope.key, scope.due)
        if self.port.is_cut:  # in a ``finally`` block of a run that is leaving
            scope.shield = False

    def exit_deadline(self, scope: DeadlineScope) -> None:
        """A durable deadline's block has ended; a row of its expiry is void from now on."""
        del self.deadlines[scope.key]
        if not self.is_live:
            self._left_deadlines.add(scope.key)

    def is_overdue(self) -> bool:
        """Return whether the time of a durable deadline is over, whose expiry is not delivered yet."""
        return bool(self.deadlines) and self._overdue_at() is not None

    def _overdue_at(self) -> int | None:
        """Return when the first of the deadlines was due whose time is over, as it is stored."""
        now = self.clock.now()
        if not self._expiring and not self.agenda.is_due(now):
            return None
        over = (
            scope.due_at
            for scope in self.deadlines.values()
            if not scope.cancel_called and self.clock.comes_at(scope.due) <= now
        )
        return min(over, default=None)

    def let_begin(self, call: Call) -> None:
        """Begin a call; not before the expiry of a deadline whose time is over, for the call may be inside of it."""
        if self.deadlines and not self._is_in_time(call):
            self._late.append(call)
        else:
            self._begin(call)

    @abc.abstractmethod
    def _is_in_time(self, call: Call) -> bool:
        """Return whether a call may go on now: no deadline is over, or what it waits for came before."""

    def _begin(self, call: Call) -> None:
        call.is_live = True
        call.go_live()

    def throw_detached(self) -> None:
        """End the durable waits that are still blocked; the port is cut and the body's scope cancelled before."""
        self.lane = Exit(self.lane, len(self.tasks), self._host.abandoned)
        self.calls, self._extended, self._starts = {}, deque(), {}
        for task in list(self.tasks):
            if task.custom_sleep_data is self:
                trio.lowlevel.reschedule(task, outcome.Error(Detached()))
        for scope in self.deadlines.values():  # a wait in memory inside a shielded one
            scope.shield = False


def _no_abort(_: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED


def _no_raise() -> None:
    """Stands for the cancellation of a call that no task waits for."""
