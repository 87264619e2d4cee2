"""Which of the runs that only wait stay in memory. Pure.

A run that takes signals one after the other would replay its whole history at each, had it left memory in between. So
one that waits stays for a moment; it takes no place of those that have something to do. Beyond a number of runs in
memory, those that have waited longest go first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from durable_trio.clock import MICROSECONDS

__all__ = ["IDLE_SECONDS", "SOON", "leave_at", "leaving_count"]

#: How long a run that only waits stays in memory.
IDLE_SECONDS: float = 1.0
#: A wait that ends within this time (microseconds) is not worth a reload: the run stays in any case.
SOON: Final = MICROSECONDS


def leave_at(idle_since: float) -> float:
    """Return when a run that has only waited since then leaves (seconds of a clock that nobody sets)."""
    return idle_since + IDLE_SECONDS


def leaving_count(idle_since: Iterable[float], *, now: float, resident_count: int, resident_max: int) -> int:
    """Return how many of the runs that only wait leave now.

    Args:
        idle_since: since when each has only waited, the longest first.
        resident_count: runs in memory, with those that have something to do.
        resident_max: how many there may be.
    """
    count = 0
    for since in idle_since:
        if resident_count - count <= resident_max and leave_at(since) > now:
            break
        count += 1
    return count
