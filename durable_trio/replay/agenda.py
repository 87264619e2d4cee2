"""When a run must be looked at next, and what its open calls must remember over a crash."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable

from durable_trio.records import Key, WaitRow


class Agenda:
    """Due times by key, and the wait rows that are stored, or are to be stored before the run rests."""

    def __init__(self, waits: Iterable[WaitRow]) -> None:
        self.waits: dict[Key, WaitRow] = {wait.key: wait for wait in waits}
        self._heap: list[tuple[int, Key]] = []
        self._new: list[WaitRow] = []

    def set_timer(self, key: Key, due_at: int) -> None:
        """Have the key come up at that time."""
        heapq.heappush(self._heap, (due_at, key))

    def remember(self, wait: WaitRow) -> None:
        """Have a wait row stored before the run rests."""
        self.waits[wait.key] = wait
        self._new.append(wait)

    def take_new(self) -> tuple[WaitRow, ...]:
        """Return the wait rows that are to be stored now."""
        new, self._new = tuple(self._new), []
        return new

    def is_stored(self, key: Key) -> bool:
        """Return whether the store has, or will have, a wait row of that key; one not sent yet is forgotten."""
        if key not in self.waits:
            return False
        before = len(self._new)
        self._new = [wait for wait in self._new if wait.key != key]
        return len(self._new) == before

    def forget(self, key: Key) -> None:
        """The call has ended."""
        self.waits.pop(key, None)

    def pop_due(self, now: int) -> tuple[int, Key] | None:
        """Return a key that has come up, with its time."""
        if self._heap and self._heap[0][0] <= now:
            return heapq.heappop(self._heap)
        return None

    def next_due(self, is_stale: Callable[[int, Key], bool]) -> int | None:
        """Return the earliest time that still means something."""
        while self._heap and is_stale(*self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is due at any time."""
        return not self._heap
