"""Keeps a host's Ctrl-C out of trio while that has its turn.

A host that takes SIGINT by itself, as ``asyncio.run`` does, knows nothing of trio's protection: its handler would raise
``KeyboardInterrupt`` wherever Python is, between two lines that belong together. So while a turn is under way the
host's handler is called at its end. A turn that does not end, for code in it blocks, is not to be deaf for ever: the
third Ctrl-C within one turn ends the process.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

from durable_trio.engine.os_signals import end_by

__all__ = ["CtrlC"]

# Of those that come within one turn.
_ENDS_PROCESS: Final = 3


class CtrlC:
    """Takes the place of the handler that there is, from ``install`` to ``remove``; in the main thread only."""

    def __init__(self) -> None:
        #: A turn is under way.
        self.is_held = False
        self._deferred_count = 0
        self._before: Callable[[int, FrameType | None], Any] | None = None
        self._arrived_method = self._arrived  # one object, so that it can be recognised

    def install(self) -> None:
        """Take the place of the host's handler, if it has one of Python's."""
        before = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is threading.main_thread() and callable(before):
            self._before = before
            signal.signal(signal.SIGINT, self._arrived_method)

    def remove(self) -> None:
        """Put the host's handler back, unless somebody has set another one since."""
        before, self._before = self._before, None
        if before is None or threading.current_thread() is not threading.main_thread():
            return
        if _is_over(before):
            before = signal.default_int_handler
        if signal.getsignal(signal.SIGINT) is self._arrived_method:
            signal.signal(signal.SIGINT, before)
        while self._deferred_count:
            self._deferred_count -= 1
            before(signal.SIGINT, None)

    def release(self) -> None:
        """The turn is over: what came in it comes now. May raise what the host's handler raises."""
        while self._deferred_count and self._before is not None:
            self._deferred_count -= 1
            self._before(signal.SIGINT, None)

    def _arrived(self, os_signal: int, frame: FrameType | None) -> None:
        if not self.is_held:
            if self._before is not None:
                self._before(os_signal, frame)
            return
        self._deferred_count += 1
        if self._deferred_count >= _ENDS_PROCESS:
            end_by(os_signal)


def _is_over(handler: Callable[[int, FrameType | None], Any]) -> bool:
    """Whether it is that of an ``asyncio.run`` whose main task has ended: it would have put Python's own one back."""
    main_task = getattr(handler, "keywords", {}).get("main_task")
    return main_task is not None and bool(main_task.done())
