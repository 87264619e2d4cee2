"""Is told by the kernel when the wall clock is set, or the machine has slept: so that a wait needs no look in between.

A timer of Linux (``timerfd_create(2)``) on the wall clock, which can be waited for like a socket: it is readable when
its instant has come, also if the machine has slept meanwhile, while the event loop's own timeouts stand still; and with
``TFD_TIMER_CANCEL_ON_SET``, as soon as the clock has jumped, which it also does when the machine wakes up.

Where there is none, whoever waits looks now and then (``Clock.nap_seconds_max``).
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import trio

from durable_trio.clock import Clock

__all__ = ["ClockWatch", "open_clock_watch"]

# Of <linux/timerfd.h> and <linux/time.h>; ``os`` has these since Python 3.13, with the calls.
_CLOCK_REALTIME: Final = 0
_ABSTIME: Final = 1
_CANCEL_ON_SET: Final = 2
# Whoever waits for nothing in particular waits for so long.
_FAR_SECONDS: Final = 10 * 365 * 86_400.0
_TICKS_BYTES: Final = 8


class ClockWatch:
    """Such a timer, for one task to wait for.

    Args:
        descriptor: of the timer; closed by whoever has opened it.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._armed_at = 0.0
        self.arm(_FAR_SECONDS)

    def arm(self, seconds: float) -> None:
        """Be told in so many seconds by the wall clock, beside whenever it is set."""
        at = time.time() + min(seconds, _FAR_SECONDS)
        if abs(at - self._armed_at) > 0.001:  # else it is, and a call of the system is saved
            _set(self._descriptor, at)
            self._armed_at = at

    async def wait(self) -> None:
        """Return when there may be something to look at.

        *Cancellation:* leaves nothing behind.
        """
        await trio.lowlevel.wait_readable(self._descriptor)
        with suppress(OSError):  # ECANCELED: the clock was set
            os.read(self._descriptor, _TICKS_BYTES)
        self._armed_at = 0.0  # it is not armed any more


@contextmanager
def open_clock_watch(clock: Clock) -> Iterator[ClockWatch | None]:
    """Have a watch inside the block; ``None`` where the kernel has no such timer, or it is not the clock of the kernel.

    What a test has put in its place, for instance, is set without a word.
    """
    descriptor = _create() if clock.is_of_system and _is_real_time() else None
    if descriptor is None:
        yield None
        return
    try:
        yield ClockWatch(descriptor)
    finally:
        trio.lowlevel.notify_closing(descriptor)
        os.close(descriptor)


def _is_real_time() -> bool:
    return type(trio.lowlevel.current_clock()).__name__ == "SystemClock"  # trio does not export it


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


def _create() -> int | None:
    """Return a new timer, or ``None`` if there is no such thing, or no descriptor is left."""
    if sys.platform != "linux" or sys.maxsize < 2**32:  # there the fields have another size
        return None
    try:
        if hasattr(os, "timerfd_create"):
            create: Any = os.timerfd_create
            return int(create(_CLOCK_REALTIME, flags=os.O_NONBLOCK | os.O_CLOEXEC))
        descriptor = int(_libc().timerfd_create(_CLOCK_REALTIME, os.O_NONBLOCK | os.O_CLOEXEC))
    except (OSError, AttributeError):
        return None
    return None if descriptor < 0 else descriptor


def _set(descriptor: int, at: float) -> None:
    flags = _ABSTIME | _CANCEL_ON_SET
    if hasattr(os, "timerfd_settime"):
        set_time: Any = os.timerfd_settime
        set_time(descriptor, flags=flags, initial=at)
        return
    seconds = int(at)
    value = _Timespec(seconds, int((at - seconds) * 1e9))
    _libc().timerfd_settime(descriptor, flags, ctypes.byref(_Itimerspec(_Timespec(0, 0), value)), None)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
