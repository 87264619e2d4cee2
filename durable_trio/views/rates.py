"""How fast runs and steps end, from looks at the engine's status. Pure."""

from __future__ import annotations

from collections import deque
from typing import Final

import attrs

from durable_trio.records import EngineStatus

__all__ = ["Rates", "unfinished_count"]

# Long enough for a steady number, short enough to see a change.
_WINDOW_SECONDS: Final = 5.0


@attrs.frozen
class _Look:
    at: float
    ended_count: int
    recorded_count: int


class Rates:
    """Runs ended and outcomes recorded per second, over the last seconds."""

    def __init__(self) -> None:
        self._looks: deque[_Look] = deque()

    def add(self, status: EngineStatus, at: float) -> None:
        """Take a look into account; ``at`` in seconds, on a clock that never goes back."""
        ended = sum(count for name, count in status.runs_by_status.items() if name.is_final)
        self._looks.append(_Look(at, ended, status.recorded_count))
        while len(self._looks) > 2 and self._looks[1].at <= at - _WINDOW_SECONDS:
            self._looks.popleft()

    @property
    def runs(self) -> float:
        """Runs ended per second; runs that were removed meanwhile are missing from it."""
        return self._rate("ended_count")

    @property
    def steps(self) -> float:
        """Outcomes recorded per second: of steps, and of waits that are over."""
        return self._rate("recorded_count")

    def _rate(self, name: str) -> float:
        if not self._looks or self._looks[-1].at <= self._looks[0].at:
            return 0.0
        first, last = self._looks[0], self._looks[-1]
        count: int = getattr(last, name) - getattr(first, name)
        return max(0.0, count / (last.at - first.at))


def unfinished_count(status: EngineStatus) -> int:
    """Return how many runs have not ended."""
    return sum(count for name, count in status.runs_by_status.items() if not name.is_final)
