"""Virtual time: the engine's wall clock follows trio's clock, so that a mock clock moves both."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import trio

from durable_trio.clock import Clock, from_datetime

_NANOSECONDS = 1_000_000_000


class VirtualClock(Clock):
    """The engine's clock under ``trio.testing.MockClock``: use it with a store in memory.

    Args:
        start: the wall clock's time when trio's clock shows zero.

    Raises:
        RuntimeError: trio runs with its own clock, under which nothing would leap.
    """

    nap_seconds_max = math.inf

    def __init__(self, start: datetime = datetime(2030, 1, 1, tzinfo=UTC)) -> None:
        self._start_ns = from_datetime(start) * 1000
        super().__init__(wall=self._read, monotonic=self._read)

    def _read(self) -> int:
        try:
            elapsed = trio.current_time()
        except RuntimeError:  # outside of trio.run nothing moves
            return self._start_ns
        _check_that_time_can_leap()
        # MockClock starts at 0; trio's own clock at a random large number, whose whole is as good as any.
        return self._start_ns + round(elapsed * _NANOSECONDS)


def _check_that_time_can_leap() -> None:
    if type(trio.lowlevel.current_clock()).__name__ == "SystemClock":  # trio does not export it
        raise RuntimeError(
            "a VirtualClock follows trio's clock, and here that is the real one, under which a sleep of a week takes a "
            "week: write trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0)). Under pytest-trio the "
            "test itself has to ask for the fixture autojump_clock: that another fixture asks for it is not enough"
        )
