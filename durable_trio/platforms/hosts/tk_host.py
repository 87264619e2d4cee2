"""Tk's event loop as a host of trio.

All is asked of Tcl itself, by one command with numbers, and not of ``tkinter``'s ``after``: that makes a new command
for each call, and does nothing any more once its window is destroyed, when a guest may still have to drain.
"""

from __future__ import annotations

import math
import tkinter
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import attrs

__all__ = ["TkHost"]

# Where Tk watches no descriptors, so often it is looked whether a thread has asked for a call. Tk has a way to be told
# by threads, which waits for ``mainloop``: not before, and not at the end of a program.
_POLL_SECONDS: Final = 0.01


@attrs.frozen
class TkTimer:
    """A call that is due later."""

    _host: TkHost
    _number: str
    _identity: Any

    def cancel(self) -> None:
        """Have it not be made; nothing if it was."""
        self._host.forget(self._number, self._identity)


class TkHost:
    """See ``Host``. Made in the thread of the window."""

    def __init__(self, root: tkinter.Misc) -> None:
        self._tk: Any = root.tk
        self._calls: dict[str, Callable[[], object]] = {}
        self._count = 0
        self._command = f"durable_trio_{id(self)}"
        self._tk.createcommand(self._command, self._fire)
        self._from_threads: deque[Callable[[], object]] = deque()
        self._is_polling = False

    def call_soon(self, fn: Callable[[], object]) -> object:
        """Not by ``after idle``: what asks for itself again there has Tk draw nothing any more."""
        return self._after(0, fn)

    def call_later(self, seconds: float, fn: Callable[[], object]) -> TkTimer:
        return self._after(max(1, math.ceil(seconds * 1000)), fn)

    def add_reader(self, fd: int, fn: Callable[[], object]) -> object:
        if not hasattr(self._tk, "createfilehandler"):  # on Windows
            if not self._is_polling:
                self._is_polling = True
                self._poll()
            raise NotImplementedError("this Tk watches no descriptors")
        return self._tk.createfilehandler(fd, tkinter.READABLE, lambda *_: fn())

    def remove_reader(self, fd: int) -> object:
        return self._tk.deletefilehandler(fd)

    def call_soon_threadsafe(self, fn: Callable[[], object]) -> None:
        self._from_threads.append(fn)  # only trio's own ticks ask for it: where no descriptor can be watched

    def has_work(self) -> bool | None:
        return None

    def outside(self, fn: Callable[[], None]) -> None:
        fn()

    def forget(self, number: str, identity: Any) -> None:
        """Make a call no more."""
        if self._calls.pop(number, None) is not None:
            self._tk.call("after", "cancel", identity)

    def _after(self, milliseconds: int, fn: Callable[[], object]) -> TkTimer:
        self._count += 1
        number = str(self._count)
        self._calls[number] = fn
        return TkTimer(self, number, self._tk.call("after", milliseconds, self._command, number))

    def _fire(self, number: str) -> None:
        fn = self._calls.pop(str(number), None)
        if fn is not None:
            fn()

    def _poll(self) -> None:
        self.call_later(_POLL_SECONDS, self._poll)
        for _ in range(len(self._from_threads)):
            self._from_threads.popleft()()
