"""One durable call of a body, from the moment its task waits to the moment its outcome is delivered."""

from __future__ import annotations

import abc
import math
from collections import deque
from collections.abc import Callable, MutableMapping
from contextvars import Context as TaskContext
from functools import partial
from itertools import repeat
from typing import Any, Protocol

import outcome
import trio

from durable_trio.clock import Due
from durable_trio.errors import RunConflict
from durable_trio.records import StepKind, StepStatus
from durable_trio.rows import HistoryRow, Key, MailboxEntry
from durable_trio.turns.quiet import go
from durable_trio.turns.stage import SUBMIT, Stage
from durable_trio.turns.state import RunState


class LastCall(Protocol):
    """A call that ends the history instead of adding to it."""

    @property
    def key(self) -> Key: ...

    def end_history(self) -> None:
        """Do it now."""


class WaitingPlace(Protocol):
    """Where calls wait: what one may ask of it for itself and for its parts."""

    # What one cause has cancelled, and was not told yet.
    wave: deque[Call]
    # How many calls something of the user's runs for.
    busy_count: int

    @property
    def calls(self) -> MutableMapping[Key, Call]:
        """All that wait there."""

    def add(self, call: Call) -> None:
        """Take a call that waits for its outcome."""

    def withdraw(self, call: Call) -> None:
        """Cancel a call that no task waits for; its cancellation is delivered in its turn."""

    def let_begin(self, call: Call) -> None:
        """Begin a call; not before the expiry of a deadline whose time is over."""

    def is_overdue(self) -> bool:
        """Return whether the time of a durable deadline is over, whose expiry is not delivered yet."""

    def raise_in(self, call: Call, error: Exception) -> None:
        """Have a call that has no outcome raise ``error``, in its turn."""

    def busy(self, call: Call) -> None:
        """Something of the user's begins to run for ``call``."""

    def emerged(self, call: Call, *, goes_on: bool = False) -> None:
        """What ran for ``call`` has come out; if it ``goes_on`` at once, the run must not look idle in between."""

    def end_with(self, call: LastCall) -> None:
        """Have ``call.end_history`` called once nothing else of the run is undelivered or on its way."""


class Call(abc.ABC):
    """A durable call whose task waits. Subclasses say what happens when it goes live.

    The body's task does nothing but wait: all live work is done by step tasks and callbacks, so that cancelling
    the body and detaching the run are told apart, and the body moves only when its turn has come.
    """

    kind: StepKind
    # A cancelled scope does not end it: it has to clean up first, and ends with a row of its own.
    is_unabortable = False
    #: What it does when it is due is to begin something.
    begins_when_due = False
    #: When it must be looked at next (microseconds, as it is stored), the signal and the child that it waits for.
    due_at: int | None = None
    waits_for: str | None = None
    waits_for_child: str | None = None

    state: RunState
    lobby: WaitingPlace
    due: Due  # if it has a ``due_at``
    #: The task of the body that waits; none for an item of a map, whose map waits.
    task: trio.lowlevel.Task | None = None
    task_context: TaskContext
    started_at = 0
    stage = Stage.WAITING
    #: Something of the user's runs for it and has not come out yet.
    is_busy = False
    raise_cancel: Callable[[], Any] | None = None
    #: Of trio's scopes around it, on trio's clock.
    scope_deadline = math.inf
    #: The value of a live outcome, so that it need not be decoded again.
    outcome: Any = None

    def __init__(self, key: Key) -> None:
        self.key = key

    @property
    def place_in_wave(self) -> tuple[str | int, ...]:
        """Where its cancellation comes among those with the same cause."""
        return (*self.key, 1)

    # ---- what subclasses say -----------------------------------------------------------------------------------

    @abc.abstractmethod
    def go_live(self, now: int) -> None:
        """Begin: the call has no recorded outcome, and all rows are delivered."""

    @abc.abstractmethod
    def fire(self, now: int) -> None:
        """The time ``due_at`` has come."""

    def arrived(self) -> None:  # noqa: B027  # most calls have nothing to do before they begin
        """The call has arrived; at replay its outcome may be recorded."""

    def cancel(self) -> None:  # noqa: B027  # most calls have nothing running to cancel
        """The body's scope is cancelled: stop what runs. ``is_busy`` tells when it has come out."""

    def dropped(self) -> None:  # noqa: B027  # most calls leave nothing behind
        """The call was cancelled without an outcome: remove what it left in the store."""

    def child_ended(self) -> None:  # noqa: B027  # few calls wait for a child
        """The child ``waits_for_child`` has ended."""

    def can_take(self, entry: MailboxEntry) -> bool:
        """Whether the call may consume the signal; not one that cannot be read, for which the run is parked."""
        return True

    def conflicted(self, error: RunConflict) -> bool:
        """The store refused the row because of a conflict; return whether the call deals with it."""
        return False

    def failed(self, error: BaseException) -> None:
        """Something of ours has failed for this call: its run leaves, and is parked."""
        self.state.failed(error)

    # ---- delivery ----------------------------------------------------------------------------------------------

    def deliver(self, row: HistoryRow) -> None:
        """Wake the body with the outcome."""
        assert self.task is not None
        if not self.state.is_afoot:
            go(self.state)
        trio.lowlevel.reschedule(self.task, outcome.Value(row))

    def deliver_cancellation(self) -> None:
        """Wake the body with the cancellation that it asked for."""
        assert self.raise_cancel is not None
        del self.lobby.calls[self.key]
        self.dropped()
        self.wake(outcome.capture(self.raise_cancel))

    def wake(self, result: outcome.Outcome[Any]) -> None:
        """Let the body's task go on."""
        assert self.task is not None
        if not self.state.is_afoot:
            go(self.state)
        trio.lowlevel.reschedule(self.task, result)

    def record(
        self,
        *,
        now: int,
        started_at: int,
        status: StepStatus = StepStatus.COMPLETED,
        attempt: int = 1,
        result: str | None = None,
        error: str | None = None,
        compensates: bool = False,
        earlier: str | None = None,
        taken: tuple[int, ...] = (),
        cleared: tuple[Key, ...] | None = None,
        **fields: Any,
    ) -> None:
        """Record the outcome and, once it is committed, have it delivered in its turn.

        While a signal waits for its turn the row is kept back, for it takes its seq when it is submitted.

        Args:
            taken: mailbox entries that this row consumes.
            cleared: stored waits that it ends; default the call's own, if there is one.
            fields: of the ``Advance``.
        """
        self.stage = SUBMIT[self.stage]
        state = self.state
        if cleared is None:
            agenda = state.agenda
            is_stored = self.key in agenda.waits and (not agenda.new or agenda.is_stored(self.key))
            cleared = (self.key,) if is_stored else ()
        if state.held is not None:
            state.held.append(
                partial(
                    self.record,
                    now=now,
                    started_at=started_at,
                    status=status,
                    attempt=attempt,
                    result=result,
                    error=error,
                    compensates=compensates,
                    earlier=earlier,
                    taken=taken,
                    cleared=cleared,
                    **fields,
                )
            )
            return
        state.last_seq += 1
        row = HistoryRow(
            seq=state.last_seq,
            key=self.key,
            kind=self.kind,
            status=status,
            attempt=attempt,
            result=result,
            error=error,
            compensates=compensates,
            started_at=started_at,
            finished_at=now,
            earlier=earlier,
        )
        consumed = tuple(zip(taken, repeat(row.seq), strict=False)) if taken else ()
        committed = partial(state.committed, row=row, call=self)
        state.port.advance(committed, rows=(row,), taken=consumed, cleared=cleared, now=now, **fields)
