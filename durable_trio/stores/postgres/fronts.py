"""Where the lines of runs that are due begin, as far as this store knows: what stands before that was claimed.

While somebody has an old snapshot open in this database, for a report or a copy, the entries of runs that were claimed
stay in the index, and each look at the head of a line walks over all of them: 70 ms after 35,000 claims. So once a
store has claimed many, and the server takes long for a look, the next ones begin behind what was claimed before. What
others let go of, or put before that with an earlier time, is found by one from the beginning, once a second. As long as
looks are short each begins there.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from durable_trio.stores.lines import Due, Group

__all__ = ["Fronts", "Line", "Stretch"]

# Of the server's time: what a round trip takes does not count.
_SLOW_MICROSECONDS: Final = 10_000
# Claims that this store has made: before, a look is long for another reason, and each is to be exact.
_MANY: Final = 2000
_WHOLE_SECONDS: Final = 1.0
# Of one line: each is a seek of its own.
_PRIORITIES_MAX: Final = 16
_LOWEST, _HIGHEST = -(2**63), 2**63 - 1

#: A group, and which of its lines.
Line = tuple[Group, int]


class Stretch(NamedTuple):
    """A part of a line: priorities from ``high`` down to ``low``, from a place on."""

    high: int = _HIGHEST
    low: int = _LOWEST
    wake_at: int = _LOWEST
    run: int = _LOWEST


class Fronts:
    """What this store remembers of lines. It belongs to whoever applies batches."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, ...], list[Group]] = {}
        self._fronts: dict[Line, dict[int, tuple[int, int]]] = {}
        self._is_slow = False
        self._taken_count = 0
        self._looked_at = -_WHOLE_SECONDS

    def groups(self, workflows: tuple[str, ...]) -> Sequence[Group] | None:
        """Return the groups of some workflows that are in line; ``None``: it is time to look from the beginning."""
        if not self._is_slow or time.monotonic() - self._looked_at >= _WHOLE_SECONDS:
            return None
        return self._groups.get(workflows)

    def stretches(self, line: Line) -> Sequence[Stretch]:
        """Return where to look in a line, so that what was claimed is passed over."""
        found: list[Stretch] = []
        high = _HIGHEST
        for priority, place in sorted(self._fronts.get(line, {}).items(), reverse=True):
            if priority < high:
                found.append(Stretch(high, priority + 1))
            found.append(Stretch(priority, priority, *place))
            high = priority - 1
        if high >= _LOWEST:
            found.append(Stretch(high))
        return found

    def looked_for_groups(self, workflows: tuple[str, ...], groups: Sequence[Group]) -> Sequence[Group]:
        """Note which groups were found in line, from the beginning, and return them."""
        self._is_slow = False  # until it is known how long that took
        self._looked_at = time.monotonic()
        self._groups[workflows] = list(groups)
        return self._groups[workflows]

    def note_microseconds(self, took: int) -> None:
        """Note how long a look took that began at the beginning."""
        self._is_slow = self._is_slow or (took > _SLOW_MICROSECONDS and self._taken_count >= _MANY)

    def put(self, line: Line, due: Due) -> None:
        """Note that a run stands in line."""
        for groups in self._groups.values():
            if line[0] not in groups and any(each.workflow == line[0].workflow for each in groups):
                groups.append(line[0])
        fronts = self._fronts.get(line, {})
        priority, place = -due.descending, (due.wake_at, due.run)
        if priority in fronts and place < fronts[priority]:
            fronts[priority] = place

    def took(self, line: Line, due: Due) -> None:
        """Note that a run was claimed, after all that stood before it with its priority."""
        self._taken_count += 1
        fronts = self._fronts.setdefault(line, {})
        priority, place = -due.descending, (due.wake_at, due.run)
        if priority not in fronts and len(fronts) >= _PRIORITIES_MAX:
            fronts.clear()
        fronts[priority] = max(place, fronts.get(priority, place))
