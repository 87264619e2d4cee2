"""What a loop of asyncio's does for tasks of trio's."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import trio
from outcome import Error, Outcome, Value, capture

from durable_trio.platforms.hosts.links import Link

__all__ = ["AsyncioTask"]


class AsyncioTask:
    """A task of the loop's that a task of trio's waits for."""

    def __init__(self, bridge: Link, fn: Callable[[], Any], name: str) -> None:
        self._bridge = bridge
        self._fn = fn
        self._name = name
        self._context = contextvars.copy_context()
        self._waiter = trio.lowlevel.current_task()
        self._raise_cancel: Callable[[], Any] | None = None  # once the step is cancelled
        self._task: asyncio.Task[Any] | None = None
        self._is_cancelled = False  # by us

    async def wait(self) -> Outcome[Any] | None:
        """Wait for its outcome; ``None``: somebody else has cancelled it. In trio."""

        def abort(raise_cancel: Callable[[], Any]) -> trio.lowlevel.Abort:
            self._raise_cancel = raise_cancel
            self._bridge.to_loop(self._cancel)
            return trio.lowlevel.Abort.FAILED

        outcome: Outcome[Any] | None = await trio.lowlevel.wait_task_rescheduled(abort)
        return outcome

    # ---- in the loop ----

    def begin(self) -> None:
        """Make the task: here and not where trio is, for an eager one runs at once."""
        if self._is_cancelled:
            self._tell(None)
            return
        try:
            coroutine = self._context.run(self._fn)
            # Whoever finds the loop blocked by it finds so whose it is.
            self._waiter.custom_sleep_data = coroutine
            self._task = self._context.run(self._make, coroutine)
        except BaseException as error:
            self._tell(Error(_no_cancel(error)))
            return
        self._task.add_done_callback(self._done)

    def _make(self, coroutine: Any) -> asyncio.Task[Any]:
        try:
            return self._bridge.loop.create_task(coroutine, name=self._name)
        except BaseException:  # of the loop's task factory
            coroutine.close()
            raise

    def _cancel(self) -> None:
        self._is_cancelled = True
        if self._task is not None:
            self._task.cancel()

    def _done(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled():
            error = task.exception()
            self._tell(Value(task.result()) if error is None else Error(_no_cancel(error)))
        elif self._is_cancelled or task.cancelling() > 0:
            self._tell(None)
        else:
            self._tell(Error(_no_cancel(asyncio.CancelledError())))

    def _tell(self, outcome: Outcome[Any] | None) -> None:
        with suppress(trio.RunFinishedError):
            self._bridge.to_trio(lambda: self._go_on(outcome))

    # ---- in trio ----

    def _go_on(self, outcome: Outcome[Any] | None) -> None:
        if outcome is None and self._is_cancelled and self._raise_cancel is not None:
            trio.lowlevel.reschedule(self._waiter, capture(self._raise_cancel))
        else:
            trio.lowlevel.reschedule(self._waiter, Value(outcome))


def _no_cancel(error: BaseException) -> BaseException:
    """Return what a function has raised, with a failure for asyncio's cancel: nobody has cancelled its task.

    That is no ``Exception``, and means nothing to trio: it would stop the engine.
    """
    rest: BaseException | None = error
    if isinstance(error, BaseExceptionGroup):
        rest = error.split(asyncio.CancelledError)[1]
    elif isinstance(error, asyncio.CancelledError):
        rest = None
    return rest or RuntimeError("the step's function has awaited something that was cancelled, and was not itself")
