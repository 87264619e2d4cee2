"""The only wall clock of the library, and conversions of times.

Inside, every instant is an ``int`` of microseconds since 1970 UTC; every duration in seconds.

The theory. The wall clock of a machine may be set, forward and back, by any amount, while runs wait, and each process
on the store may have been started before or after. Two things are asked of time, and no one clock gives both:

- What is *stored* (due times, stamps) must mean the same to every process, now and after a restart. So it is wall time
  as it was read: ``stamp()``. It goes back when the wall clock does.
- What is *due* is decided by ``now()``, which never goes back: it follows the wall clock and steps forward with it, and
  goes on from where it was when the wall clock is set back. From then on it is ahead of the wall clock. It need not
  wait for the wall clock, since nothing of it is stored; where the wall clock steps forward again, it lets it come up.

Between them stands ``Due``: a due time as it is stored, and the *era* in which it was stored, which a step of the wall
clock ends. It has come when the wall clock says so (then it would also have come to a process that has slept), or when
as much time has passed as was left when its era ended. So, whatever jumps, nothing is due before its time has passed by
the wall clock or by the monotonic one, and in the process that has seen the step nothing is due later than by both.

The era of what is read from the store is that in which the wall clock showed its stamp; if it showed it in several, the
one that is due last, for nothing may be early. A process that was started after the step knows no other era than its
own: it takes due times as they are written. Nor is anything early there.

Where machines share a database that has a clock, that one is the wall clock of all of them (``Clock.follow``): what one
of them has stored is due for the others when it says so, whatever their own say. It is read now and then, and the
monotonic clock counts in between.

Stamps of one run may go back; what a body sees as ``ctx.now()`` is the latest so far.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, cast

from durable_trio.looks import class_name, exact_number, is_a, look, short

__all__ = ["MICROSECONDS", "Clock", "Due", "from_datetime", "microseconds_of", "seconds_of", "to_datetime"]

MICROSECONDS: Final = 1_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# The wall clock was set if, from one look to the next, it has gone so much farther or less far than the monotonic one;
# what the system corrects smoothly is far below.
_STEP_NS: Final = 100_000_000
# Past eras that are remembered; a machine whose clock is set more often than that within a wait is not kept track of.
_ERAS_MAX: Final = 16
_MICROSECOND: Final = timedelta(microseconds=1)
# The first and the last instant that a datetime can hold in every time zone; an offset is less than a day. "For ever"
# is stored as the last. What lies beyond is taken for these, so that whatever is stored can be shown anywhere.
INSTANT_MIN: Final = (datetime(1, 1, 2, tzinfo=UTC) - _EPOCH) // _MICROSECOND
INSTANT_MAX: Final = (datetime(9999, 12, 31, tzinfo=UTC) - _EPOCH) // _MICROSECOND - 1


class Due(NamedTuple):
    """A due time as it is stored, and the era of the clock in which it was stored."""

    instant: int
    era: int


class _Era(NamedTuple):
    """A time without steps of the wall clock that has ended: what it showed, and how far it was from the monotonic."""

    begin: int
    end: int
    offset: int


class Clock:
    """A clock that never goes back, beside the wall clock that may.

    Args:
        wall: nanoseconds since 1970 UTC; default the system's.
        monotonic: nanoseconds of a clock that cannot be set; default the system's.
    """

    # Longest nap of a service that waits for a due time: the wall clock may be set forward meanwhile.
    nap_seconds_max: float = 1.0

    def __init_subclass__(cls) -> None:
        """Take a clock that says only what ``now`` is as one that is never set back."""
        if "now" in vars(cls) and "stamp" not in vars(cls):
            cls.stamp = cls.now  # type: ignore[method-assign]

    def __init__(
        self, wall: Callable[[], int] = time.time_ns, monotonic: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        #: Whether it is the system's: then the kernel tells when that is set. One of a subclass may show anything.
        self.is_of_system = type(self) is Clock and wall is time.time_ns and monotonic is time.monotonic_ns
        #: By how many microseconds the wall clock was set, or has gone on while the machine slept, in all.
        self.stepped = 0
        self._is_following = False
        # At the last look, of any thread: both clocks in nanoseconds; by how many microseconds steps back have left
        # ``now`` ahead of the wall clock; and what it said.
        self._last = (wall(), monotonic(), 0, 0)
        self._begin = self._last[0] // 1000  # of the present era
        self._past: dict[int, _Era] = {}
        # The number of the present era; another one tells that due times may come at another time than before. And by
        # how many microseconds ``now`` is ahead of the wall clock in it: as of the last look, as all else.
        self.era = self.ahead = 0

    def follow(self, instant: int, *, between: tuple[int, int]) -> None:
        """Take another clock for the wall clock from now on.

        Args:
            instant: what it has said, in microseconds since 1970 UTC.
            between: what the monotonic clock has said before and after, in nanoseconds.
        """
        monotonic, offset = self._monotonic, instant * 1000 - sum(between) // 2
        self._wall = lambda: monotonic() + offset
        if not self._is_following and not self.era:  # it is no step: nothing was stored yet by the machine's own
            self._last = (self._wall(), monotonic(), 0, 0)
            self._begin = self._last[0] // 1000
        self._is_following = True

    def monotonic_ns(self) -> int:
        """Return what the monotonic clock says, in nanoseconds."""
        return self._monotonic()

    def now(self) -> int:
        """Return the instant by which things are due, in microseconds; never less than before."""
        # As ``_look`` does, without a call: the turns ask this again and again.
        wall, monotonic = self._wall(), self._monotonic()
        last_wall, last_monotonic, ahead, now = self._last
        if not -_STEP_NS < (wall - last_wall) - (monotonic - last_monotonic) < _STEP_NS:
            return self._look()[3]
        now = max(now, wall // 1000 + ahead)
        self._last = (wall, monotonic, ahead, now)
        return now

    def stamp(self) -> int:
        """Return the instant that is stored for the present, in microseconds since 1970 UTC; it may go back."""
        # As ``_look`` does, without a call: this is asked several times a step.
        wall, monotonic = self._wall(), self._monotonic()
        last_wall, last_monotonic, ahead, now = self._last
        if not -_STEP_NS < (wall - last_wall) - (monotonic - last_monotonic) < _STEP_NS:
            return self._look()[0] // 1000
        instant = wall // 1000
        shown = instant + ahead
        self._last = (wall, monotonic, ahead, shown if shown > now else now)
        return instant

    def due(self, instant: int, *, stamped_at: int | None = None) -> Due:
        """Return a due time that was stored when the wall clock showed ``stamped_at``; default the present."""
        era = self.era
        if stamped_at is not None and self._past:
            fitting = [(past.offset, number) for number, past in self._past.items() if _shows(past, stamped_at)]
            wall, monotonic, _, _ = self._last
            if self._begin <= stamped_at <= wall // 1000:
                fitting.append((wall // 1000 - monotonic // 1000, era))
            era = min(fitting, default=(0, era))[1]
        return Due(instant, era)

    def comes_at(self, due: Due) -> int:
        """Return what ``now`` will say when ``due`` has come, unless the wall clock is set before."""
        wall, monotonic, ahead, _ = self._look()
        comes_at = due.instant + ahead
        past = self._past.get(due.era)
        if past is not None:
            left = due.instant - past.offset - monotonic // 1000
            comes_at = min(comes_at, wall // 1000 + ahead + left)
        return comes_at

    def _look(self) -> tuple[int, int, int, int]:
        """Return both clocks in nanoseconds, by how many microseconds ``now`` is ahead, and what it says."""
        wall, monotonic = self._wall(), self._monotonic()
        last_wall, last_monotonic, ahead, now = self._last
        step = (wall - last_wall) - (monotonic - last_monotonic)
        if not -_STEP_NS < step < _STEP_NS:
            self._end_era(last_wall, last_monotonic, wall)
            self.stepped += step // 1000
            self.ahead = ahead = max(0, ahead - step // 1000)
        self._last = looked = (wall, monotonic, ahead, max(now, wall // 1000 + ahead))
        return looked

    def _end_era(self, last_wall: int, last_monotonic: int, wall: int) -> None:
        offset = last_wall // 1000 - last_monotonic // 1000
        self._past[self.era] = _Era(self._begin, last_wall // 1000, offset)
        if len(self._past) > _ERAS_MAX:
            del self._past[min(self._past)]  # what is of that era comes when the wall clock says so
        self.era += 1
        self._begin = wall // 1000


def _shows(era: _Era, stamp: int) -> bool:
    return era.begin <= stamp <= era.end


def seconds_of(duration: float | timedelta, *, what: str = "duration") -> float:
    """Return a duration in seconds; negative ones count as zero, one that is too large for a float as endless.

    Raises:
        TypeError: neither a number nor a ``timedelta``.
        ValueError: not a number (NaN).
    """
    if type(duration) is float and duration > 0:
        return duration
    if is_a(duration, timedelta):
        return max(0.0, timedelta.total_seconds(cast(timedelta, duration)))
    number = exact_number(duration)
    if not (type(number) is int or type(number) is float):
        raise TypeError(f"{what} must be seconds or a timedelta, not {class_name(type(duration))}")
    try:
        seconds = float(number)
    except OverflowError:  # an int of hundreds of digits
        seconds = math.inf if number > 0 else 0.0
    if math.isnan(seconds):
        raise ValueError(f"{what} is NaN")
    return max(0.0, seconds)


def microseconds_of(duration: float | timedelta, *, what: str = "duration") -> int:
    """Return a duration in microseconds as ``due_after`` adds it; raise as ``seconds_of``."""
    return due_after(0, seconds_of(duration, what=what))


def due_after(now: int, seconds: float) -> int:
    """Return the instant ``seconds`` after ``now``, capped at ``INSTANT_MAX``; rounded up, so that nothing is early."""
    if seconds * MICROSECONDS >= INSTANT_MAX:
        return INSTANT_MAX
    return min(INSTANT_MAX, now + math.ceil(seconds * MICROSECONDS))


def from_datetime(when: datetime, *, what: str = "time") -> int:
    """Return an aware ``datetime`` as microseconds since 1970 UTC, capped at ``INSTANT_MIN`` and ``INSTANT_MAX``.

    ``datetime.max`` west of Greenwich is of the year 10000 in UTC: it means "for ever", and is stored as that.

    Raises:
        ValueError: it has no time zone.
    """
    if not is_a(when, datetime):
        raise TypeError(f"{what} must be a datetime, not {class_name(type(when))}")
    instant = look(_instant_of, when, instead=lambda _: None)
    if instant is None:
        raise ValueError(f"{what} {short(when)} has no time zone; use for example datetime.now(UTC)")
    return max(INSTANT_MIN, min(INSTANT_MAX, instant))


def _instant_of(when: datetime) -> int | None:
    return None if datetime.utcoffset(when) is None else datetime.__sub__(when, _EPOCH) // _MICROSECOND


def to_datetime(instant: int) -> datetime:
    """Return microseconds since 1970 UTC as an aware ``datetime`` in UTC."""
    return _EPOCH + timedelta(microseconds=instant)
