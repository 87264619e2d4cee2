"""When a run must be looked at next, and what its open calls must remember over a crash.

Due times are kept as they are stored, with what the clock will say when they have come (see ``clock``).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

import attrs

from durable_trio.clock import Clock, Due
from durable_trio.rows import Key, WaitRow


@attrs.define(eq=False)
class Agenda:
    """Due times by key, and the wait rows that are stored, or are to be stored before the run rests.

    Args:
        era: the clock's; what is due is sorted by what that said.
    """

    _clock: Clock
    _era: int
    waits: dict[Key, WaitRow] = attrs.Factory(dict)
    timers: list[tuple[int, Key, Due]] = attrs.Factory(list)  # a heap: when it comes, whose, as it is stored
    new: list[WaitRow] = attrs.Factory(list)  # not stored yet

    def set_timer(self, key: Key, due: Due) -> None:
        """Have the key come up when it is due."""
        heapq.heappush(self.timers, (self._clock.comes_at(due), key, due))

    def set_new_timer(self, key: Key, due_at: int) -> Due:
        """Have the key come up at a time that is set now, and return that."""
        due, comes_at = self._clock.due_from_now(due_at)
        heapq.heappush(self.timers, (comes_at, key, due))
        return due

    def _keep_up(self) -> None:
        """Sort anew, for the wall clock was set."""
        self._era = self._clock.era
        self.timers = [(self._clock.comes_at(due), key, due) for _, key, due in self.timers]
        heapq.heapify(self.timers)

    def remember(self, wait: WaitRow) -> None:
        """Have a wait row stored before the run rests."""
        self.waits[wait.key] = wait
        self.new.append(wait)

    def take_new(self) -> tuple[WaitRow, ...]:
        """Return the wait rows that are to be stored now."""
        new, self.new = tuple(self.new), []
        return new

    def is_stored(self, key: Key) -> bool:
        """Return whether the store has, or will have, a wait row of that key; one not sent yet is forgotten."""
        if key not in self.waits:
            return False
        if not self.new:
            return True
        before = len(self.new)
        self.new = [wait for wait in self.new if wait.key != key]
        return len(self.new) == before

    def forget(self, key: Key) -> None:
        """The call has ended."""
        self.waits.pop(key, None)

    def pop_due(self, now: int) -> tuple[int, Key] | None:
        """Return a key that has come up, with its stored time."""
        if self._era != self._clock.era:
            self._keep_up()
        if self.timers and self.timers[0][0] <= now:
            _, key, due = heapq.heappop(self.timers)
            return due.instant, key
        return None

    def next_due(self, is_stale: Callable[[int, Key], bool]) -> int | None:
        """Return when the earliest comes that still means something."""
        if self._era != self._clock.era:
            self._keep_up()
        while self.timers and is_stale(self.timers[0][2].instant, self.timers[0][1]):
            heapq.heappop(self.timers)
        return self.timers[0][0] if self.timers else None

    def is_due(self, now: int) -> bool:
        """Return whether something may have come up."""
        if self._era != self._clock.era:
            self._keep_up()
        return bool(self.timers) and self.timers[0][0] <= now
