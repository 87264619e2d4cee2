"""The only wall clock of the library, and conversions of times.

Inside, every instant is an ``int`` of microseconds since 1970 UTC; every duration in seconds. ``Clock`` follows the
system's wall clock but never goes back: after a step back of the wall clock it advances by the monotonic clock from
its last value, until the wall clock has caught up. So a timer never fires twice or before its time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

__all__ = ["MICROSECONDS", "Clock", "from_datetime", "seconds_of", "to_datetime", "to_microseconds"]

MICROSECONDS: Final = 1_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
# The first and the last instant that a datetime can hold in every time zone; an offset is less than a day. "For ever"
# is stored as the last. What lies beyond is taken for these, so that whatever is stored can be shown anywhere.
INSTANT_MIN: Final = (datetime(1, 1, 2, tzinfo=UTC) - _EPOCH) // _MICROSECOND
INSTANT_MAX: Final = (datetime(9999, 12, 31, tzinfo=UTC) - _EPOCH) // _MICROSECOND - 1


class Clock:
    """A wall clock that never goes back.

    Args:
        wall: nanoseconds since 1970 UTC; default the system's.
        monotonic: nanoseconds of a clock that cannot be set; default the system's.
    """

    # Longest nap of a service that waits for a due time: the wall clock may be set forward meanwhile.
    nap_seconds_max: float = 1.0

    def __init__(
        self, wall: Callable[[], int] = time.time_ns, monotonic: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._last_wall = wall()
        self._last_monotonic = monotonic()

    def now(self) -> int:
        """Return the present instant in microseconds since 1970 UTC; never less than before."""
        monotonic = self._monotonic()
        wall = self._wall()
        if wall < self._last_wall:
            wall = self._last_wall + max(0, monotonic - self._last_monotonic)
        self._last_wall = wall
        self._last_monotonic = monotonic
        return wall // 1000


def seconds_of(duration: float | timedelta, *, what: str = "duration") -> float:
    """Return a duration in seconds; negative ones count as zero, one that is too large for a float as endless.

    Raises:
        TypeError: neither a number nor a ``timedelta``.
        ValueError: not a number (NaN).
    """
    if isinstance(duration, timedelta):
        return max(0.0, duration.total_seconds())
    if isinstance(duration, bool) or not isinstance(duration, int | float):
        raise TypeError(f"{what} must be seconds or a timedelta, not {type(duration).__name__}")
    try:
        seconds = float(duration)
    except OverflowError:  # an int of hundreds of digits
        seconds = math.inf if duration > 0 else 0.0
    if math.isnan(seconds):
        raise ValueError(f"{what} is NaN")
    return max(0.0, seconds)


def to_microseconds(seconds: float) -> int:
    """Return seconds as whole microseconds, rounded up so that nothing happens early; at most ``INSTANT_MAX``."""
    if seconds * MICROSECONDS >= INSTANT_MAX:
        return INSTANT_MAX
    return math.ceil(seconds * MICROSECONDS)


def due_after(now: int, seconds: float) -> int:
    """Return the instant ``seconds`` after ``now``, capped at ``INSTANT_MAX``."""
    return min(INSTANT_MAX, now + to_microseconds(seconds))


def from_datetime(when: datetime, *, what: str = "time") -> int:
    """Return an aware ``datetime`` as microseconds since 1970 UTC, capped at ``INSTANT_MIN`` and ``INSTANT_MAX``.

    ``datetime.max`` west of Greenwich is of the year 10000 in UTC: it means "for ever", and is stored as that.

    Raises:
        ValueError: it has no time zone.
    """
    if not isinstance(when, datetime):
        raise TypeError(f"{what} must be a datetime, not {type(when).__name__}")
    if when.utcoffset() is None:
        raise ValueError(f"{what} {when!r} has no time zone; use for example datetime.now(UTC)")
    return max(INSTANT_MIN, min(INSTANT_MAX, (when - _EPOCH) // _MICROSECOND))


def to_datetime(instant: int) -> datetime:
    """Return microseconds since 1970 UTC as an aware ``datetime`` in UTC."""
    return _EPOCH + timedelta(microseconds=instant)
