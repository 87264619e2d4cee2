"""What trio does for tasks of asyncio's: calls, and context managers that are held."""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext, suppress
from typing import Any, Generic, TypeVar, cast

import trio
from outcome import Error, Outcome, Value

from durable_trio.platforms.hosts.links import Link

__all__ = ["Call", "Held", "unanswered_cancels"]

T = TypeVar("T")


class Call(Generic[T]):
    """Something that trio does for a task of asyncio's."""

    def __init__(self, bridge: Link, work: Callable[[], Awaitable[T]]) -> None:
        self._bridge = bridge
        self._work = work
        self._scope = trio.CancelScope()
        self._context = contextvars.copy_context()
        self._waiter: asyncio.Future[None] | None = None
        #: What has come of it; ``None``: nothing yet. A cancel of our own is no error.
        self.outcome: Outcome[T] | None = None
        self.was_cancelled = False

    def begin(self) -> None:
        """Begin it, in trio.

        Raises:
            trio.ClosedResourceError: that ends just now.
        """
        task = asyncio.current_task()
        name = getattr(self._work, "func", self._work)
        name = getattr(name, "__qualname__", repr(name))
        self._name = name if task is None else f"{name} ← {task.get_name()}"
        try:
            self._bridge.to_trio(self._spawn)
        except RuntimeError as error:  # it takes no new tasks; so may a run that is not of our making
            raise trio.ClosedResourceError("the trio run in which the engine was is ending") from error

    def cancel(self) -> None:
        """Cancel it, from asyncio's side."""
        with suppress(trio.RunFinishedError):
            self._bridge.to_trio(self._scope.cancel)

    def wake(self) -> None:
        """Have whoever waits look again, in the loop."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def result(self) -> T:
        """Wait for its end and return its result; see ``Bridge.call``."""
        cancelled = await self.wait(lambda: self.outcome is not None, lambda _: self.cancel())
        outcome, self.outcome = self.outcome, None  # no circle with the traceback of an error
        if isinstance(outcome, Error):
            raise outcome.error
        if cancelled is not None:
            raise cancelled
        if self.was_cancelled:
            raise asyncio.CancelledError
        assert outcome is not None
        return outcome.unwrap()

    async def wait(
        self, until: Callable[[], bool], cancelled: Callable[[int], object]
    ) -> asyncio.CancelledError | None:
        """Wait until that holds, whatever is cancelled meanwhile; return what has cancelled.

        Args:
            cancelled: called with each cancel of the waiting task, and told how many there were.
        """
        count = 0
        caught: asyncio.CancelledError | None = None
        while not until():
            self._waiter = self._bridge.loop.create_future()
            try:
                if caught is None:
                    await self._waiter
                else:
                    with unanswered_cancels():
                        await self._waiter
            except asyncio.CancelledError as error:
                caught = error
                count += 1
                cancelled(count)
        return caught

    # ---- in trio ----

    def _spawn(self) -> None:
        trio.lowlevel.spawn_system_task(self._run, name=self._name, context=self._context)

    async def _run(self) -> None:
        outcome: Outcome[Any] | None = None
        try:
            with self._scope:
                outcome = Value(await self._work())
        except BaseException as error:
            if _is_only_cancelled(error):  # the run is ending around it
                self._settle(Error(trio.ClosedResourceError("the engine was closed")))
                raise
            outcome = Error(error)
        self._settle(outcome)

    def _settle(self, outcome: Outcome[Any] | None) -> None:
        def told() -> None:
            self.was_cancelled = outcome is None
            self.outcome = Value(cast(T, None)) if outcome is None else outcome
            self.wake()

        self._bridge.to_loop(told)


class Held(Generic[T]):
    """An async context manager of trio's that a task of trio's is inside of, for asyncio.

    Args:
        ended: called in the loop as soon as it has ended, whoever has asked for that.
    """

    def __init__(
        self, bridge: Link, manager: Callable[[], AbstractAsyncContextManager[T]], ended: Callable[[], object]
    ) -> None:
        self._bridge = bridge
        self._manager = manager
        self._call: Call[None] | None = None
        self._opened: list[T] = []
        self._leave: trio.Event | None = None
        self._ended = ended

    async def enter(self) -> T:
        """Enter it, and return what it gives; raise what it raises."""
        self._bridge.check()
        call = self._call = Call(self._bridge, self._be_inside)
        call.begin()
        cancelled = await call.wait(lambda: bool(self._opened) or call.outcome is not None, lambda _: call.cancel())
        if cancelled is not None or call.outcome is not None:
            await self._end(lambda _: None)
            raise cancelled or asyncio.CancelledError
        return self._opened[0]

    async def leave(self, cancelled: Callable[[int], object] = lambda _: None) -> None:
        """Leave it, however often the leaving task is cancelled; raise what comes out of it.

        Args:
            cancelled: told of each cancel of the leaving task: the how manieth it is.
        """
        interrupted = await self._end(cancelled)
        if interrupted is not None:
            raise interrupted

    async def _end(self, cancelled: Callable[[int], object]) -> asyncio.CancelledError | None:
        call = self._call
        assert call is not None
        with suppress(trio.RunFinishedError):
            self._bridge.to_trio(self._ask_to_leave)
        interrupted = await call.wait(lambda: call.outcome is not None, cancelled)
        assert call.outcome is not None
        call.outcome.unwrap()
        return interrupted

    # ---- in trio ----

    def _ask_to_leave(self) -> None:
        if self._leave is not None:
            self._leave.set()

    async def _be_inside(self) -> None:
        call = self._call
        assert call is not None
        self._leave = trio.Event()

        def opened(value: T) -> None:
            self._opened.append(value)
            call.wake()

        try:
            async with self._manager() as value:
                self._bridge.to_loop(lambda: opened(value))
                await self._leave.wait()
        finally:
            self._bridge.to_loop(self._ended)


def _is_only_cancelled(error: BaseException) -> bool:
    rest = error.split(trio.Cancelled)[1] if isinstance(error, BaseExceptionGroup) else error
    return rest is None or isinstance(rest, trio.Cancelled)


def unanswered_cancels() -> AbstractContextManager[object]:
    """Return what keeps a scope of anyio's from cancelling again and again, in each pass, a task that waits on."""
    anyio = sys.modules.get("anyio")
    return nullcontext() if anyio is None else anyio.CancelScope(shield=True)
