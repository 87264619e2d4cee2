"""What is iterated over with ``async for``: watches, calls for many runs, events of the supervision tree."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from types import TracebackType
from typing import Generic, TypeVar

from durable_trio.engine import bulk, watching
from durable_trio.platforms.hosts.bridges import Bridge
from durable_trio.platforms.hosts.calls import Held
from durable_trio.records import BulkProgress, RunRecord
from supervisors import Event, EventStream

__all__ = ["Bulk", "Changes", "Events", "Watch"]

T = TypeVar("T")
S = TypeVar("S")


class _Source(Generic[T, S]):
    """An iterator of trio's, asked by a task of asyncio's.

    A cancel may come when the iterator has given something already, and will not give it again. It is kept for the next
    call then.

    Args:
        state: what the iterator says of itself; as it was when it gave what was given last.
    """

    def __init__(self, bridge: Bridge, native: AsyncIterator[T], state: Callable[[], S]) -> None:
        self._bridge = bridge
        self._native = native
        self._state = state
        self._kept: list[tuple[T, S]] = []
        self.state = state()

    async def next(self) -> T:
        """Return what comes next."""
        if not self._kept:
            await self._bridge.call(self._step)
        if not self._kept:
            raise StopAsyncIteration
        value, self.state = self._kept.pop()
        return value

    async def _step(self) -> None:
        with suppress(StopAsyncIteration):  # it would not survive a coroutine (PEP 479)
            value = await self._native.__anext__()
            self._kept.append((value, self._state()))


class Changes:
    """An async iterator of ``RunRecord``, for one task. Made by ``Engine.watch`` and ``Run.watch``."""

    def __init__(self, bridge: Bridge, native: watching.Changes) -> None:
        self._source = _Source(bridge, native, lambda: (native.cursor, native.is_present))

    def __aiter__(self) -> Changes:
        return self

    async def __anext__(self) -> RunRecord:
        """Return the next state; raise as the iterator of ``durable_trio.Engine.watch`` does.

        *Cancellation:* nothing is lost: the next call goes on after the state that was given last.
        """
        return await self._source.next()

    @property
    def cursor(self) -> str | None:
        """Where another watch goes on after the record that was given last (``since``); ``None`` before the first."""
        return self._source.state[0]

    @property
    def is_present(self) -> bool:
        """Whether the watch has found the state that was given last when it was opened: no change of now."""
        return self._source.state[1]


class Watch(AbstractAsyncContextManager[Changes]):
    """A watch that is open inside its block: ``async with engine.watch(…) as changes:``."""

    def __init__(self, bridge: Bridge, native: Callable[[], AbstractAsyncContextManager[watching.Changes]]) -> None:
        self._bridge = bridge
        self._held = Held(bridge, native, _ended)

    async def __aenter__(self) -> Changes:
        return Changes(self._bridge, await self._held.enter())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._held.leave()


def _ended() -> None:
    """Who iterates is told in its next call."""


class Bulk:
    """An async iterator of ``BulkProgress``, for one task; see ``durable_trio.Engine.cancel_runs``.

    What is wrong with its filter is said when it is asked for the first.
    """

    def __init__(self, bridge: Bridge, native: Callable[[], bulk.Bulk]) -> None:
        self._bridge = bridge
        self._make = native
        self._native: bulk.Bulk | None = None
        self._source: _Source[BulkProgress, None] | None = None
        self._only: Collection[str] | None = None

    @property
    def done_count(self) -> int:
        """How many runs were dealt with, also those that were not given yet."""
        return 0 if self._native is None else self._native.done_count

    @property
    def left_count(self) -> int:
        """How many were left as they are, each with a ``refusal``."""
        return 0 if self._native is None else self._native.left_count

    def only(self, run_ids: Collection[str]) -> Bulk:
        """Leave out all that are not among these, as what was shown to somebody before; return the same iterator."""
        self._only = run_ids
        return self

    async def find(self) -> tuple[str, ...]:
        """Return the ids of the runs that it would go over, the newest first; nothing is done to them."""
        return await self._bridge.call(partial(self._with_native, bulk.Bulk.find))

    def __aiter__(self) -> Bulk:
        return self

    async def __anext__(self) -> BulkProgress:
        """Return what has come of the next run; see ``durable_trio.Engine.cancel_runs``."""
        if self._native is None:
            await self._bridge.call(partial(self._with_native, _nothing))
        assert self._native is not None
        if self._source is None:
            self._source = _Source(self._bridge, self._native, _says_nothing)
        return await self._source.next()

    async def _with_native(self, fn: Callable[[bulk.Bulk], Awaitable[T]]) -> T:
        if self._native is None:
            self._native = self._make() if self._only is None else self._make().only(self._only)
        return await fn(self._native)


async def _nothing(_: object) -> None:
    pass


def _says_nothing() -> None:
    pass


class Events:
    """An async iterator of what happens in the supervision tree. Made by ``Engine.events``."""

    def __init__(self, bridge: Bridge, native: EventStream) -> None:
        self._source = _Source(bridge, native, _says_nothing)

    def __aiter__(self) -> Events:
        return self

    async def __anext__(self) -> Event:
        """Return the next event.

        Raises:
            StopAsyncIteration: the engine is closed.
        """
        return await self._source.next()
