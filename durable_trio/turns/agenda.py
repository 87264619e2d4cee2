"""When a run must be looked at next, and what its open calls must remember over a crash.

Due times are kept as they are stored, with what the clock will say when they have come (see ``clock``).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import attrs

from durable_trio.clock import Clock, Due
from durable_trio.rows import Key, WaitRow
from durable_trio.turns.deadlines import DeadlineScope
from durable_trio.turns.stage import OPEN, Stage


class Waits(Protocol):
    """What is asked here of a call that waits."""

    key: Key
    due_at: int | None
    due: Due
    stage: Stage
    raise_cancel: Callable[[], Any] | None


@attrs.define(eq=False)
class Agenda:
    """Due times by key, and the wait rows that are stored, or are to be stored before the run rests.

    Args:
        era: the clock's; what is due is sorted by what that said.
        calls: all that wait, by their keys.
        deadlines: those that the body is in, by theirs.
    """

    _clock: Clock
    _era: int
    _calls: Mapping[Key, Waits]
    _deadlines: Mapping[Key, DeadlineScope]
    waits: dict[Key, WaitRow] = attrs.Factory(dict)
    timers: list[tuple[int, Key, Due]] = attrs.Factory(list)  # a heap: when it comes, whose, as it is stored
    new: list[WaitRow] = attrs.Factory(list)  # not stored yet

    def wait(self, call: Waits, wait: WaitRow) -> None:
        """Have a call that begins to wait come up when it is due, if it ever is; its row is stored before it rests.

        The due time was reckoned from what the clock has just said.
        """
        self.waits[wait.key] = wait
        self.new.append(wait)
        if wait.due_at is not None:
            call.due_at = wait.due_at
            call.due = due = Due(wait.due_at, self._clock.era)
            heapq.heappush(self.timers, (wait.due_at + self._clock.ahead, wait.key, due))

    def set_timer(self, call: Waits, due_at: int, *, stamped_at: int | None = None) -> None:
        """Have a call come up at ``due_at``, of which nothing is to be stored.

        Args:
            stamped_at: when that time was set; default now.
        """
        call.due_at = due_at
        call.due = self._clock.due(due_at, stamped_at=stamped_at)
        self.come_up(call.key, call.due)

    def come_up(self, key: Key, due: Due) -> None:
        """Have the key come up when it is due."""
        heapq.heappush(self.timers, (self._clock.comes_at(due), key, due))

    def _keep_up(self) -> None:
        """Sort anew, for the wall clock was set."""
        self._era = self._clock.era
        self.timers = [(self._clock.comes_at(due), key, due) for _, key, due in self.timers]
        heapq.heapify(self.timers)

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

    def pop_due(self, now: int) -> Key | None:
        """Return a key that has come up and still means something; else the first of ``timers``, if any, does."""
        if self._era != self._clock.era:
            self._keep_up()
        while self.timers:
            comes_at, key, due = self.timers[0]
            call = self._calls.get(key)
            if call is not None:
                is_stale = call.stage not in OPEN or call.raise_cancel is not None or call.due_at != due.instant
            else:
                scope = self._deadlines.get(key)
                is_stale = scope is None or scope.is_expiring or scope.cancel_called
            if is_stale or comes_at <= now:
                heapq.heappop(self.timers)
            if not is_stale:
                return key if comes_at <= now else None
        return None

    def is_due(self, now: int) -> bool:
        """Return whether something may have come up."""
        if self._era != self._clock.era:
            self._keep_up()
        return bool(self.timers) and self.timers[0][0] <= now
