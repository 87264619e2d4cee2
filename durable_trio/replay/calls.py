"""One durable call of a body, from the moment its task parks to the moment its outcome is delivered."""

from __future__ import annotations

import abc
from collections.abc import Callable
from contextvars import Context as TaskContext
from typing import TYPE_CHECKING, Any

import trio

from durable_trio.records import HistoryRow, Key, StepKind, StepStatus

if TYPE_CHECKING:
    from durable_trio.replay.turns import Turns


class Call(abc.ABC):
    """A parked durable call. Subclasses say what happens when it goes live.

    The body's task does nothing but wait: all live work is done by step tasks and callbacks, so that cancelling
    the body and detaching the run are told apart, and the body moves only when its turn has come.
    """

    kind: StepKind

    def __init__(self, key: Key) -> None:
        self.key = key
        self.turns: Turns
        self.task: trio.lowlevel.Task
        self.task_context: TaskContext
        self.is_live = False
        # Its outcome is recorded or on its way: it cannot be aborted any more.
        self.is_sealed = False
        # Something of the user's runs for it and has not come out yet.
        self.is_busy = False
        self.raise_cancel: Callable[[], Any] | None = None
        # The value of a live outcome, so that it need not be decoded again.
        self.outcome: Any = None

    #: When it must be looked at next (microseconds), and the signal it waits for; for passivation.
    due_at: int | None = None
    started_at: int = 0
    waits_for: str | None = None

    @abc.abstractmethod
    def go_live(self) -> None:
        """Begin: the call has no recorded outcome, and all rows are delivered."""

    @abc.abstractmethod
    def fire(self, now: int) -> None:
        """The time ``due_at`` has come."""

    def cancel(self) -> None:  # noqa: B027  # most calls have nothing running to cancel
        """The body's scope is cancelled: stop what runs. ``is_busy`` tells when it has come out."""

    def dropped(self) -> None:  # noqa: B027  # most calls leave nothing behind
        """The call was cancelled without an outcome: remove what it left in the store."""

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
        taken: tuple[int, ...] = (),
        **fields: Any,
    ) -> None:
        """Record the outcome and, once it is committed, have it delivered in its turn.

        ``taken`` are mailbox entries that this row consumes; ``fields`` go to the ``Advance``.
        """
        self.is_sealed = True

        def submit() -> None:
            turns = self.turns
            row = HistoryRow(
                seq=turns.next_seq(),
                key=self.key,
                kind=self.kind,
                status=status,
                attempt=attempt,
                result=result,
                error=error,
                compensates=compensates,
                started_at=started_at,
                finished_at=now,
            )
            turns.port.advance(
                lambda outcome: turns.committed(outcome, row, self),
                rows=(row,),
                taken=tuple((entry, row.seq) for entry in taken),
                now=now,
                **fields,
            )

        self.turns.record(submit)
