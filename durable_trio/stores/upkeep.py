"""How many pieces of upkeep go into one transaction: more while they are short.

A piece is a few statements, or some milliseconds of them; which, nobody can tell before. Whoever has a step to store
waits for all that is in the batch before. So of what comes in numbers (many runs resumed, abandoned or removed by one
call) the first is alone, and there are twice as many in the next batch as long as the one before was quick, by the time
of the processor: a slow disk makes no piece longer, and is the reason to let many share its sync.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

__all__ = ["UpkeepPace"]

T = TypeVar("T")

# Of the processor, for a transaction: no more than the largest piece alone takes.
_QUICK_SECONDS: Final = 0.002
_LONG_SECONDS: Final = 0.004


class UpkeepPace:
    """How many pieces of upkeep the next batch may have, at least one."""

    def __init__(self, thread_seconds: Callable[[], float] = time.thread_time) -> None:
        self._thread_seconds = thread_seconds
        self.count_max = 1

    def measured(self, apply: Callable[[], T], count: int) -> Callable[[], T]:
        """Return ``apply``, which measures itself, of a batch with so many pieces."""

        def measure() -> T:
            began = self._thread_seconds()
            result = apply()
            seconds = self._thread_seconds() - began
            if count < self.count_max:  # no more were waiting: what comes next may be something else
                self.count_max = 1
            elif seconds <= _QUICK_SECONDS:
                self.count_max *= 2
            elif seconds > _LONG_SECONDS:
                self.count_max = max(1, self.count_max // 2)
            return result

        return measure
