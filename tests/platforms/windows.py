"""A window of each toolkit, as tests of the engine in it need one."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, Protocol

import pytest

from durable_trio import Engine
from durable_trio.platforms.desktop import DesktopEngine
from tests.engine.harness import PATIENCE_SECONDS
from tests.kit.displays import display

with suppress(ImportError):  # some are built without; see `must_be_there`
    import tkinter

__all__ = ["TOOLKITS", "TkWindow", "Window", "environment_of", "must_be_there"]


class Window(Protocol):
    """What tests do with a window and its loop."""

    #: What the toolkit has reported: what callbacks raise.
    reported: list[BaseException]
    #: The line that a program writes.
    line: str

    def host(self, engine: AbstractAsyncContextManager[Engine]) -> DesktopEngine: ...
    def run(self) -> None: ...
    def after(self, milliseconds: int, fn: Callable[[], object]) -> None: ...
    def close(self) -> None:
        """Close it as its user does."""

    def leave(self) -> None:
        """End its loop as a program does, without a word to the engine."""

    def pause(self) -> None:
        """End its loop, such that it can be run again."""

    def open_dialog(self) -> None:
        """Be in the nested loop of a modal dialog, until it is closed."""

    def close_dialog(self) -> None:
        """Close it; it was opened before."""

    def is_there(self) -> bool: ...
    def end(self) -> None: ...


class TkWindow:
    """Tk's, on a display of the tests' own."""

    line = "with host(root, open_engine(…)) as engine:"

    def __init__(self) -> None:
        from durable_trio.platforms.tk import host

        self.reported: list[BaseException] = []
        self.root = tkinter.Tk(screenName=display())
        self.root.report_callback_exception = lambda kind, error, traceback: self.reported.append(error)
        self._host = host
        self._dialog: tkinter.Toplevel | None = None
        self._late = self.root.after(int(PATIENCE_SECONDS * 1000), self.root.quit)

    def host(self, engine: AbstractAsyncContextManager[Engine]) -> DesktopEngine:
        return self._host(self.root, engine)

    def run(self) -> None:
        self.root.mainloop()

    def after(self, milliseconds: int, fn: Callable[[], object]) -> None:
        self.root.after(milliseconds, fn)

    def close(self) -> None:
        handler: Any = self.root.protocol("WM_DELETE_WINDOW")
        self.root.tk.call(handler) if handler else self.root.destroy()

    def leave(self) -> None:
        self.root.destroy()

    def pause(self) -> None:
        self.root.quit()

    def open_dialog(self) -> None:
        self._dialog = tkinter.Toplevel(self.root)
        with suppress(tkinter.TclError):  # it may be closed while it is still coming up
            self._dialog.wait_visibility()
            self._dialog.grab_set()
            self.root.wait_window(self._dialog)

    def close_dialog(self) -> None:
        assert self._dialog is not None
        self._dialog.destroy()

    def is_there(self) -> bool:
        try:
            return bool(self.root.winfo_exists())
        except tkinter.TclError:
            return False

    def end(self) -> None:
        with suppress(tkinter.TclError):
            self.root.tk.call("after", "cancel", self._late)
            self.root.destroy()


class QtWindow:
    """Qt's, without a display."""

    line = "with host(app, open_engine(…)) as engine:"

    def __init__(self) -> None:
        from PySide6.QtCore import QTimer
        from PySide6.QtWidgets import QApplication, QDialog, QLabel

        from durable_trio.platforms.qt import host

        self.reported: list[BaseException] = []
        self.app: Any = QApplication.instance() or QApplication(["tests", "-platform", "offscreen"])
        self._hook, sys.excepthook = sys.excepthook, lambda kind, error, traceback: self.reported.append(error)
        self._label = QLabel("a window")
        self._label.show()
        self._dialog = QDialog(self._label)
        self._host, self._timer = host, QTimer
        self._late = QTimer(self._label)
        self._late.timeout.connect(self.leave)
        self._late.start(int(PATIENCE_SECONDS * 1000))

    def host(self, engine: AbstractAsyncContextManager[Engine]) -> DesktopEngine:
        return self._host(self.app, engine)

    def run(self) -> None:
        self.app.exec()

    def after(self, milliseconds: int, fn: Callable[[], object]) -> None:
        self._timer.singleShot(milliseconds, fn)

    def close(self) -> None:
        self._label.close()

    def leave(self) -> None:
        self.app.exit(0)

    def pause(self) -> None:
        self.app.exit(0)

    def open_dialog(self) -> None:
        self._dialog.exec()

    def close_dialog(self) -> None:
        self._dialog.accept()

    def is_there(self) -> bool:
        return bool(self._label.isVisible())

    def end(self) -> None:
        sys.excepthook = self._hook
        self._label.close()
        self._late.stop()


TOOLKITS: dict[str, type[Window]] = {"tk": TkWindow, "qt": QtWindow}


def must_be_there(toolkit: str) -> None:
    """Skip the test where the toolkit is not."""
    if toolkit == "tk":
        if importlib.util.find_spec("_tkinter") is None:
            pytest.skip("this Python has no tkinter (Debian's package python3-tk)")
        display()
    else:
        pytest.importorskip("PySide6.QtWidgets", exc_type=ImportError)


def environment_of(toolkit: str) -> dict[str, str]:
    """Return what a program with that toolkit needs in its environment."""
    return {"DISPLAY": display()} if toolkit == "tk" else {"QT_QPA_PLATFORM": "offscreen"}
