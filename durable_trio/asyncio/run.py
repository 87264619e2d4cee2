"""``Run``: a handle to one run, for asyncio."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Generic, Literal, TypeVar, overload

import durable_trio.engine.run as native
from durable_trio.asyncio.iterating import Watch
from durable_trio.platforms.hosts.bridges import Bridge
from durable_trio.records import GenerationRecord, RunRecord, StepInHand, StepRecord, UnreadRecord, WaitRecord

__all__ = ["Run"]

R = TypeVar("R")
T = TypeVar("T")


class Run(Generic[R]):
    """One run of a workflow, by its id. Made by ``Engine.start`` and ``Engine.get``.

    Each method is the one of ``durable_trio.Run`` of that name, and raises what that does. What ``Engine`` says of
    cancellation, durability and calls from elsewhere holds here, too.
    """

    def __init__(self, bridge: Bridge, run: native.Run[R]) -> None:
        self._bridge = bridge
        self._native = run
        self.id = run.id

    def __repr__(self) -> str:
        return f"Run({self.id!r})"

    async def result(self) -> R:
        """Wait until the run has ended, and return its result.

        *Cancellation:* ends the wait, not the run.
        """
        return await self._bridge.call(self._native.result)

    async def record(self) -> RunRecord:
        """Return the run as it is stored now."""
        return await self._bridge.call(self._native.record)

    @overload
    async def steps(self, *, open: Literal[False] = False, generation: int | None = None) -> tuple[StepRecord, ...]: ...
    @overload
    async def steps(self, *, open: Literal[True]) -> tuple[StepInHand, ...]: ...
    async def steps(
        self, *, open: bool = False, generation: int | None = None
    ) -> tuple[StepRecord, ...] | tuple[StepInHand, ...]:
        """Return the rows of the run's history, in order; with ``open`` the steps that are executing now."""
        work: Any = partial(self._native.steps, open=open, generation=generation)
        found: tuple[StepRecord, ...] | tuple[StepInHand, ...] = await self._bridge.call(work)
        return found

    async def generations(self, *, before: int | None = None, limit: int = 100) -> tuple[GenerationRecord, ...]:
        """Return the run's earlier generations that are kept, the last one first."""
        return await self._bridge.call(partial(self._native.generations, before=before, limit=limit))

    async def waits(self) -> tuple[WaitRecord, ...]:
        """Return what the run waits for."""
        return await self._bridge.call(self._native.waits)

    async def unread(self) -> tuple[UnreadRecord, ...]:
        """Return the signals and the request to cancel that the run has not taken yet."""
        return await self._bridge.call(self._native.unread)

    async def signal(self, name: str, payload: Any = None, *, id: str | None = None) -> None:
        """Send a signal to the run."""
        await self._bridge.call(partial(self._native.signal, name, payload, id=id))

    async def cancel(self, reason: str | None = None, *, wait: bool = False) -> bool:
        """Ask the run to cancel. With ``wait``, return once its final status is durable."""
        return await self._bridge.call(partial(self._native.cancel, reason, wait=wait))

    def watch(self) -> Watch:
        """Watch the run until it has ended: its present state first, its final one last."""
        return Watch(self._bridge, self._native.watch)

    @overload
    async def value(self, key: str, type: type[T]) -> T | None: ...
    @overload
    async def value(self, key: str, type: Callable[..., T]) -> T | None: ...
    @overload
    async def value(  # type: ignore[overload-cannot-match]  # it is, where the result is to be another
        self, key: str, type: type[object]
    ) -> object: ...
    @overload
    async def value(self, key: str, type: Any = Any) -> Any: ...
    async def value(self, key: str, type: Any = Any) -> Any:
        """Return what the run has published under ``key``, or ``None``."""
        return await self._bridge.call(partial(self._native.value, key, type))

    async def values(self) -> dict[str, Any]:
        """Return all that the run has published."""
        return await self._bridge.call(self._native.values)
