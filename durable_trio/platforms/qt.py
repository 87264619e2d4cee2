"""The engine in programs with Qt: ``with host(app, open_engine(…)) as engine: app.exec()``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

try:
    from PySide6.QtCore import QCoreApplication, QEventLoop
except ImportError as error:
    raise ImportError("durable_trio.platforms.qt needs PySide6: pip install 'durable-trio[qt]'") from error

from durable_trio.engine.engine import Engine
from durable_trio.platforms.desktop import DesktopEngine, Toolkit
from durable_trio.platforms.hosts.qt_host import QtHost

__all__ = ["host"]


def host(app: QCoreApplication, engine: AbstractAsyncContextManager[Engine]) -> DesktopEngine:
    """Have an engine in an application's own loop: ``with host(app, open_engine("app.db")) as engine: app.exec()``.

    trio is a guest of the loop, in the same thread. When ``app.exec`` has returned, because the last window was closed
    or by ``app.quit()``, the engine drains at the block's end. To have a window stay meanwhile, let its ``closeEvent``
    call ``event.ignore()`` and ``engine.close()``: that drains, and ends ``app.exec`` then.

    Args:
        app: the program's ``QApplication``, or one without windows; the calling thread is its own.
        engine: ``open_engine(…)`` to serve, or ``Engine(…)`` to be a client of a store that others serve.
    """

    def call(fn: Callable[[], object]) -> None:
        fn()

    def report(error: BaseException) -> None:
        sys.excepthook(type(error), error, error.__traceback__)  # as Qt does with what comes out of a slot

    def run_until(condition: Callable[[], bool]) -> None:
        events = QEventLoop()
        while not condition():
            events.processEvents(QEventLoop.ProcessEventsFlag.WaitForMoreEvents)

    def leave(is_failed: bool) -> None:
        app.exit(int(is_failed))  # `quit` would ask the windows again whether they want to be closed

    def take_closing(close: Callable[[], object]) -> Callable[[], object]:
        """Take nothing: the last window that is closed ends ``app.exec``, and so the block."""
        return lambda: None

    return DesktopEngine(
        Toolkit(
            make_host=QtHost,
            call=call,
            report=report,
            run_until=run_until,
            leave=leave,
            take_closing=take_closing,
            name="app",
            run="app.exec()",
            from_thread="QTimer.singleShot(0, app, {})",
        ),
        engine,
    )
