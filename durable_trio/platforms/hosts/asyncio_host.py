"""An event loop of asyncio's, or uvloop, as a host of trio."""

from __future__ import annotations

import asyncio
import contextvars
from asyncio import events
from collections.abc import Callable, Sized
from typing import Any

__all__ = ["AsyncioHost"]


class AsyncioHost:
    """See ``Host``. Made in the loop's thread, while the loop runs or before."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.call_soon_threadsafe: Callable[[Callable[[], object]], object] = loop.call_soon_threadsafe
        # Of its own: what is queued from the task of a request must not keep that one's variables.
        self._context = contextvars.Context()
        # asyncio's own loop tells what it has to do in this attribute; others are asked by how long they take.
        ready: Any = getattr(loop, "_ready", None)
        self._ready: Sized | None = ready if isinstance(ready, Sized) else None

    def call_soon(self, fn: Callable[[], object]) -> object:
        return self.loop.call_soon(fn, context=self._context)

    def call_later(self, seconds: float, fn: Callable[[], object]) -> asyncio.TimerHandle:
        return self.loop.call_later(seconds, fn, context=self._context)

    def add_reader(self, fd: int, fn: Callable[[], object]) -> object:
        return self._context.run(self.loop.add_reader, fd, fn)

    def remove_reader(self, fd: int) -> object:
        return self.loop.remove_reader(fd)

    def has_work(self) -> bool | None:
        return None if self._ready is None else len(self._ready) > 0

    def outside(self, fn: Callable[[], None]) -> None:
        """Call ``fn`` with no running loop: a body that awaits something of asyncio's is told so, as in ``trio.run``.

        It would get the loop otherwise, and yield one of its futures to trio, which can only give its task up.
        """
        running = events._get_running_loop()
        events._set_running_loop(None)
        try:
            fn()
        finally:
            events._set_running_loop(running)
