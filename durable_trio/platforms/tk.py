"""The engine in programs with Tk: ``with host(root, open_engine(…)) as engine: root.mainloop()``."""

from __future__ import annotations

import re
import tkinter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from durable_trio.engine.engine import Engine
from durable_trio.platforms.desktop import DesktopEngine, Toolkit
from durable_trio.platforms.hosts.tk_host import TkHost

__all__ = ["host"]

# The handler that tkinter gives each new window: its `destroy`. Commands are named after their functions.
_OF_TKINTER: Final = re.compile(r"\d+destroy")


def host(root: tkinter.Tk, engine: AbstractAsyncContextManager[Engine]) -> DesktopEngine:
    """Have an engine in a window's own loop: ``with host(root, open_engine("app.db")) as engine: root.mainloop()``.

    trio is a guest of the loop, in the same thread. Closing the window is ``engine.close``, unless the program has a
    handler of its own for that: the engine drains, with the window still there, and then the window is destroyed, which
    ends ``mainloop``. If the program destroys the window by itself, or leaves ``mainloop`` by ``root.quit()``, the
    engine drains at the block's end.

    Args:
        root: the program's ``tkinter.Tk``; the calling thread is its own.
        engine: ``open_engine(…)`` to serve, or ``Engine(…)`` to be a client of a store that others serve.
    """

    def window_is_there() -> bool:
        try:
            return bool(root.winfo_exists())
        except tkinter.TclError:  # not even the program "." is
            return False

    def call(fn: Callable[[], object]) -> None:
        if window_is_there():  # no callback can mean anything to a window that is gone
            fn()

    def report(error: BaseException) -> None:
        root.report_callback_exception(type(error), error, error.__traceback__)

    def run_until(condition: Callable[[], bool]) -> None:
        while not condition():
            root.tk.dooneevent(0)

    def leave(is_failed: bool) -> None:
        if is_failed:
            root.quit()  # the window stays, so that the program can say what has happened
        elif window_is_there():
            root.destroy()

    def take_closing(close: Callable[[], object]) -> Callable[[], object]:
        before: Any = root.protocol("WM_DELETE_WINDOW")  # the name of a command
        if before and not _OF_TKINTER.fullmatch(str(before)):
            return lambda: None
        root.protocol("WM_DELETE_WINDOW", close)

        def give_back() -> None:
            if window_is_there():
                root.protocol("WM_DELETE_WINDOW", before)

        return give_back

    return DesktopEngine(
        Toolkit(
            make_host=lambda: TkHost(root),
            call=call,
            report=report,
            run_until=run_until,
            leave=leave,
            take_closing=take_closing,
            name="root",
            run="root.mainloop()",
            from_thread="root.after(0, {})",
        ),
        engine,
    )
