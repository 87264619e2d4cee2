"""Between asyncio and trio: calls one way, tasks the other way, and what each side makes of the other's cancellation.

Two kinds. A *guest* shares the loop's thread, where a call is a system task and its answer a future, without a queue or
a lock. In a *thread* of its own trio is not disturbed by a loop that blocks, and each way passes a queue. Which one it
is nobody above can tell.

asyncio → trio: cancelling the task that waits for a call cancels the call, and then waits for its end: what it had
handed to the store is committed. Only what came of that cancel is a cancel again; anything else comes out as itself.

trio → asyncio: the task of a step's function is cancelled with the step, and waited for.
"""

from __future__ import annotations

import abc
import asyncio
import atexit
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

import trio
from outcome import Error, Outcome, Value, capture

from durable_trio.logger import Logger
from durable_trio.platforms.hosts.asyncio_host import AsyncioHost
from durable_trio.platforms.hosts.calls import Call, unanswered_cancels
from durable_trio.platforms.hosts.driver import Driver
from durable_trio.platforms.hosts.loop_tasks import AsyncioTask

__all__ = ["BRIDGE", "Bridge", "open_bridge"]

T = TypeVar("T")

_LOGGER: Final = Logger("durable_trio.processes")


class Bridge(abc.ABC):
    """One trio run, as one loop of asyncio's uses it. Shared by all engines of that loop and kind, and counted."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop: Final = loop
        self.users = 0
        self.is_ending = False
        self._thread_id = threading.get_ident()
        self._nobody_is_left: trio.Event | None = None  # once trio runs
        self._begun: asyncio.Future[None] = loop.create_future()
        self._ended: asyncio.Future[Outcome[Any]] = loop.create_future()

    @abc.abstractmethod
    def to_trio(self, fn: Callable[[], object]) -> None:
        """Call ``fn`` where trio is; from the loop's thread.

        Raises:
            trio.RunFinishedError: the run has ended.
        """

    @abc.abstractmethod
    def to_loop(self, fn: Callable[[], object]) -> None:
        """Call ``fn`` soon in the loop; from where trio is. Nothing if the loop is closed."""

    @abc.abstractmethod
    def begin(self) -> None:
        """Begin the trio run; ``told_begun`` says that it is there."""

    async def join(self) -> None:
        """One user more, once the run has begun. Raise what has come of it, if it could not."""
        self.users += 1
        cancelled = await _outlast(self._begun)
        if self._ended.done():
            self.users -= 1
            if isinstance(outcome := self._ended.result(), Error):  # each who has waited is told
                raise outcome.error
        if cancelled is not None:
            await self.end()
            raise cancelled

    async def end(self) -> None:
        """One user less; with the last one the run ends, and has ended on return."""
        self.users -= 1
        if self.users:
            return
        self.is_ending = True
        nobody_is_left = self._nobody_is_left
        assert nobody_is_left is not None
        with suppress(trio.RunFinishedError):
            self.to_trio(nobody_is_left.set)
        cancelled = await _outlast(self._ended)
        self._ended.result().unwrap()
        if cancelled is not None:
            raise cancelled

    async def wait_ended(self) -> None:
        """Wait until the run has ended, whatever came of it."""
        await asyncio.wait([self._ended])

    async def main(self) -> None:
        """Be there until nobody is left: the main task of the trio run."""
        BRIDGE.set(self)
        assert self._nobody_is_left is not None
        await self._nobody_is_left.wait()

    def told_begun(self) -> None:
        """The trio run is there. In the loop."""
        if not self._begun.done():
            self._begun.set_result(None)

    def told_end(self, outcome: Outcome[Any]) -> None:
        """The trio run has ended. In the loop."""
        key = self.loop, type(self)
        if _BRIDGES.get(key) is self:
            del _BRIDGES[key]
        if not self._ended.done():
            self._ended.set_result(outcome)
        self.told_begun()  # it never will be

    # ---- asyncio → trio ----------------------------------------------------------------------------------------

    def check(self) -> None:
        """Refuse a call from anywhere but a task of the loop, and one when there is nobody to call.

        Raises:
            RuntimeError: see ``check_place``.
            trio.ClosedResourceError: the engine is closed.
        """
        self.check_place()
        if self.users == 0:
            raise trio.ClosedResourceError("the engine is closed")

    def check_place(self) -> None:
        """Refuse a call from anywhere but a task of the loop.

        Raises:
            RuntimeError: from where it comes, and what to write there.
        """
        if trio.lowlevel.in_trio_task():
            raise RuntimeError(
                "this engine is for asyncio, and was called from trio, in a body or a step that is no from_asyncio: "
                "use ctx there, or in a step current_step().engine, which has the same methods for trio"
            )
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is self.loop:
            return
        if self.loop.is_closed():
            raise RuntimeError(
                "the event loop in which this engine was opened is closed, and the engine with it: open it in the "
                "asyncio.run that uses it, with `async with open_engine(…) as engine:`"
            )
        if threading.get_ident() != self._thread_id:
            raise RuntimeError(
                "the engine belongs to the event loop of another thread: write "
                "asyncio.run_coroutine_threadsafe(engine.start(…), loop).result(), with the loop that opened it"
            )
        raise RuntimeError(
            "the engine belongs to another event loop of this thread: use it in the one that opened it, or open "
            "another engine here, with `async with open_engine(…) as engine:`"
        )

    async def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """Return what ``work`` returns, called as a task of trio's with a copy of the caller's context variables.

        *Cancellation:* cancels it, and waits for its end.

        Raises:
            Whatever it raises, as itself.
        """
        self.check()
        call = Call(self, work)
        call.begin()
        return await call.result()

    # ---- trio → asyncio ----------------------------------------------------------------------------------------

    async def run_task(self, fn: Callable[[], Any], *, name: str, left_alone: Callable[[], object]) -> Any:
        """Return what ``fn`` returns, awaited in a task of the loop with a copy of the caller's context variables.

        *Cancellation:* cancels that task and waits for it. If it returns all the same, that is the outcome.

        Args:
            left_alone: called if somebody else cancels the task, as the end of ``asyncio.run`` does: then it has no
                outcome.
        """
        asked = AsyncioTask(self, fn, name)
        self.to_loop(asked.begin)
        outcome = await asked.wait()
        if outcome is not None:
            return outcome.unwrap()
        left_alone()
        return await trio.sleep_forever()


#: Of a trio run: the bridge that has made it.
BRIDGE: Final[trio.lowlevel.RunVar[Bridge | None]] = trio.lowlevel.RunVar("durable_trio_bridge", default=None)
_BRIDGES: Final[dict[tuple[asyncio.AbstractEventLoop, type[Bridge]], Bridge]] = {}


class GuestBridge(Bridge):
    """trio in the loop's own thread."""

    _driver: Driver | None = None

    def to_trio(self, fn: Callable[[], object]) -> None:
        if self._ended.done():
            raise trio.RunFinishedError
        if self._driver is not None:
            self._driver.wake()
        fn()

    def to_loop(self, fn: Callable[[], object]) -> None:
        with suppress(RuntimeError):
            self.loop.call_soon(fn)

    def begin(self) -> None:
        self._nobody_is_left = trio.Event()
        self.told_begun()
        if any(isinstance(other, GuestBridge) and other._thread_id == self._thread_id for other in _BRIDGES.values()):
            raise RuntimeError(
                "another event loop of this thread has an engine open as its guest, and a thread has one trio: open "
                'this one with host="thread", or close that one first'
            )
        if trio.lowlevel.in_trio_run():  # somebody else has made trio this loop's guest: there can only be one
            try:
                trio.lowlevel.spawn_system_task(self._be_beside)
            except RuntimeError as error:
                raise RuntimeError("the trio run that is this loop's guest is ending: open the engine later") from error
            return
        self._driver = Driver(AsyncioHost(self.loop))
        self._driver.start(self.main, self.told_end)

    def abandon(self) -> None:
        """Give trio up: the loop is closed, and nothing in it goes on."""
        if self._driver is not None:
            self._driver.abandon()

    async def _be_beside(self) -> None:
        outcome: Outcome[Any] = Value(None)
        with trio.CancelScope(shield=True):  # the run's end is told to its engines, which drain: they need the bridge
            await self.main()
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
        except trio.Cancelled as error:
            outcome = Error(RuntimeError("the trio run that was this loop's guest has ended, with the engine in it"))
            outcome.error.__cause__ = error
            raise
        finally:
            BRIDGE.set(None)
            self.to_loop(lambda: self.told_end(outcome))


class ThreadBridge(Bridge):
    """trio in a thread of its own."""

    _token: trio.lowlevel.TrioToken | None = None

    def to_trio(self, fn: Callable[[], object]) -> None:
        assert self._token is not None
        self._token.run_sync_soon(fn)

    def to_loop(self, fn: Callable[[], object]) -> None:
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(fn)

    def begin(self) -> None:
        async def main() -> None:
            self._nobody_is_left = trio.Event()
            self._token = trio.lowlevel.current_trio_token()
            self.to_loop(self.told_begun)
            await self.main()

        def run() -> None:
            outcome = capture(trio.run, main)
            self.to_loop(lambda: self.told_end(outcome))

        # A daemon: a program that ends without closing its engine is not kept from ending.
        threading.Thread(target=run, name="durable_trio", daemon=True).start()


_KINDS: Final[dict[str, type[Bridge]]] = {"guest": GuestBridge, "thread": ThreadBridge}


async def open_bridge(kind: str) -> Bridge:
    """Return the bridge of the running loop, with one user more; to be ended by ``Bridge.end``.

    Raises:
        ValueError: there is no such kind.
        RuntimeError: no loop of asyncio's runs here, or another one of this thread was closed with an engine in it.
    """
    if kind not in _KINDS:
        raise ValueError(f"host is {kind!r}; choose 'guest' (in the loop's thread) or 'thread' (in one of its own)")
    if trio.lowlevel.in_trio_task():
        raise RuntimeError(
            "durable_trio.asyncio opens engines in programs of asyncio's, and this is trio: write "
            "`async with durable_trio.open_engine(…) as engine:`, or in a step from_asyncio"
        )
    loop = asyncio.get_running_loop()
    key = loop, _KINDS[kind]
    while (bridge := _BRIDGES.get(key)) is not None and bridge.is_ending:
        await bridge.wait_ended()
    if bridge is None:
        _forget_closed()
        bridge = _KINDS[kind](loop)
        bridge.begin()
        _BRIDGES[key] = bridge
    await bridge.join()
    return bridge


async def _outlast(future: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Wait for what comes soon, whatever cancels the waiting task; return what did."""
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            with unanswered_cancels():
                await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled


@atexit.register
def _tell_left_open() -> None:
    """The process ends. Of an engine in a loop that was run by hand nobody else would learn that it was open."""
    if any(bridge.users for bridge in _BRIDGES.values()):
        _LOGGER.warning(
            "the program ends with an engine open in an event loop: steps in hand are not waited for, and run again "
            "in the next process; leave its `async with open_engine(…)`, or await engine.aclose(), before the loop is "
            "closed",
            extra={"event": "left_open"},
        )


def _forget_closed() -> None:
    """Forget the bridges of loops that are closed; say so where one of them leaves a guest in this thread.

    Raises:
        RuntimeError: the first time; then trio is free.
    """
    for key, bridge in list(_BRIDGES.items()):
        if key[0].is_closed():
            del _BRIDGES[key]
            if isinstance(bridge, GuestBridge) and bridge._thread_id == threading.get_ident():
                bridge.abandon()
                raise RuntimeError(
                    "an event loop of this thread was closed with an engine open in it, which went on in it as trio's "
                    "guest: leave its `async with open_engine(…)`, or await engine.aclose(), before the loop is closed"
                )
