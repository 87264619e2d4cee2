"""Qt's event loop as a host of trio."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

from PySide6.QtCore import QCoreApplication, QEvent, QObject, QSocketNotifier, Qt, QTimer

__all__ = ["QtHost"]

_CALL = QEvent.Type(QEvent.registerEventType())


class _Receiver(QObject):
    """Is sent an event for each call. Qt delivers what was posted when its pass began: no call starves its timers."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: deque[Callable[[], object]] = deque()

    def customEvent(self, event: QEvent) -> None:  # noqa: N802  # Qt's name
        self.calls.popleft()()


class QtTimer:
    """A call that is due later."""

    def __init__(self, parent: QObject, seconds: float, fn: Callable[[], object]) -> None:
        self._timer = QTimer(parent)
        self._timer.setSingleShot(True)
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(self._fire)
        self._fn: Callable[[], object] | None = fn
        self._timer.start(max(1, math.ceil(seconds * 1000)))

    def cancel(self) -> None:
        """Have it not be made; nothing if it was."""
        if self._fn is not None:
            self._fn = None
            self._timer.stop()
            self._timer.deleteLater()

    def _fire(self) -> None:
        fn = self._fn
        self.cancel()
        if fn is not None:
            fn()


class QtHost:
    """See ``Host``. Made in the application's thread."""

    def __init__(self) -> None:
        self._receiver = _Receiver()
        self._notifiers: dict[int, QSocketNotifier] = {}

    def call_soon(self, fn: Callable[[], object]) -> object:
        self._receiver.calls.append(fn)
        return QCoreApplication.postEvent(self._receiver, QEvent(_CALL))

    def call_later(self, seconds: float, fn: Callable[[], object]) -> QtTimer:
        return QtTimer(self._receiver, seconds, fn)

    def add_reader(self, fd: int, fn: Callable[[], object]) -> object:
        notifier = self._notifiers[fd] = QSocketNotifier(fd, QSocketNotifier.Type.Read, self._receiver)
        return notifier.activated.connect(lambda *_: fn())

    def remove_reader(self, fd: int) -> None:
        notifier = self._notifiers.pop(fd)
        notifier.setEnabled(False)
        notifier.deleteLater()

    def call_soon_threadsafe(self, fn: Callable[[], object]) -> object:
        return self.call_soon(fn)

    def has_work(self) -> bool | None:
        return None

    def outside(self, fn: Callable[[], None]) -> None:
        fn()
