"""The life of an engine that a program in asyncio has open: from its opening to its end, whoever ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TypeAlias

import durable_trio.engine.engine as native
from durable_trio.calls.current_step import CURRENT
from durable_trio.platforms.hosts.bridges import Bridge, open_bridge
from durable_trio.platforms.hosts.calls import Held, unanswered_cancels

__all__ = ["Life", "Manager"]

Manager: TypeAlias = Callable[[], AbstractAsyncContextManager[native.Engine]]

# Of the cancels of a task that leaves: the first one lets the engine drain.
_STOPS_AT_ONCE = 2


class Life:
    """One engine of trio's, open on one bridge."""

    def __init__(self, bridge: Bridge, manager: Manager, failed: Callable[[], object]) -> None:
        self.bridge = bridge
        self.native: native.Engine
        self._held = Held(bridge, manager, self._has_ended)
        #: It has ended by itself, or is being closed.
        self.is_over = asyncio.Event()
        #: A task that closes it when the loop ends, if it is in no block.
        self.guard: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self._cancel_count = 0
        self._is_leaving = False
        #: Why it has ended by itself, if it has.
        self.failure: BaseException | None = None
        self._failed = failed

    @classmethod
    async def open(cls, host: str, manager: Manager, failed: Callable[[], object]) -> Life:
        """Open an engine; raise what it raises. ``failed`` is called in the loop if it ends by itself."""
        bridge = await open_bridge(host)
        life = cls(bridge, manager, failed)
        try:
            life.native = await life._held.enter()
        except BaseException:
            await bridge.end()
            raise
        return life

    def check_may_wait(self) -> None:
        """Refuse whoever cannot wait for the end: what runs elsewhere, and a step that this engine waits for.

        Raises:
            RuntimeError: from where it comes, and what to write there.
        """
        if self._ended.is_set():
            return
        self.bridge.check_place()
        current = CURRENT.get()
        if current is not None and current[0].engine is self.native:
            raise RuntimeError(
                "a step cannot wait for the end of its own engine, which waits for the step: let it tell the task that "
                "has opened the engine, by an asyncio.Event"
            )

    async def close(self, cancel_count: int = 0) -> None:
        """Drain and close it, whatever cancels the calling task; raise what has ended it, if it has failed.

        Args:
            cancel_count: how often that task was cancelled before, because of which it leaves.
        """
        if self._is_leaving:
            await self.wait_closed()
            return
        self._is_leaving = True
        self.is_over.set()
        self._cancel_count = cancel_count
        try:
            # A scope of anyio's has told it already, and would do so again: that is no second cancel.
            with unanswered_cancels() if cancel_count else nullcontext():
                await self._held.leave(self._cancelled)
        except Exception as error:
            self.failure = error
            raise
        finally:
            try:
                await self.bridge.end()
            finally:
                self._ended.set()

    async def wait_closed(self) -> None:
        """Wait until it is closed; raise what has ended it, if it has failed."""
        await self._ended.wait()
        if self.failure is not None:
            raise self.failure

    def _cancelled(self, count: int) -> None:
        if self._cancel_count + count >= _STOPS_AT_ONCE:
            self.bridge.to_trio(self.native._serving.hurry)

    def _has_ended(self) -> None:
        if self._is_leaving:
            return
        self.is_over.set()
        self._failed()
