"""What waits to be written, and in which order it goes. Knows no store and no trio.

Two queues: what runs have to say, and messages to them; and behind it starts of runs and pieces of upkeep, of which
each batch takes a few: what runs already have to say never waits behind those. What a run's owner writes goes in the
order in which it was submitted, whatever is in the way of the first of it: no room for it, or a transaction of the
user's that is under way beside the batches. What comes after it of the same run waits behind it, and holds up nobody
else. So a history is committed in the order of its seqs, also where transactions are not committed in turn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from durable_trio.limits import BATCH_BYTES_MAX, BATCH_OPERATIONS_MAX, BATCH_STARTS_MAX
from durable_trio.stores.precedence import ALONE, OWNERS, UPKEEP, Item, UserTransaction
from durable_trio.stores.sizes import size_of
from durable_trio.stores.upkeep import UpkeepPace

__all__ = ["Callback", "Entry", "Submitted"]

Callback = Callable[[Any], None]
Entry = tuple[Item, Callback]


class Submitted:
    """The queues of a writer. In each stand operations, with the callback that is to get the outcome.

    Args:
        commits_beside: whether a transaction of the user's is committed beside the batches, not between two of them.
    """

    def __init__(self, *, commits_beside: bool = False) -> None:
        self.waiting: Final[deque[Entry]] = deque()
        self.starts: Final[deque[Entry]] = deque()
        #: So many of the first had no room together: each is tried by itself.
        self.alone_count = 0
        #: By run: what had no room, and what came after it.
        self.held: Final[dict[int, list[Entry]]] = {}
        #: By run: what waits for the run's transaction beside the batches.
        self.behind: Final[dict[int, list[Entry]]] = {}
        #: Such transactions, in the order in which they are to begin.
        self.beside: Final[deque[Entry]] = deque()
        #: How many pieces of upkeep a batch may have, and how many the last one has.
        self.pace: Final = UpkeepPace()
        self.upkeep_count = 0
        self.commits_beside: Final = commits_beside
        #: Whether one that is committed alone was the last: then starts go first.
        self.is_turn_of_starts = False

    def __bool__(self) -> bool:
        """Whether something waits that may be written now."""
        return bool(self.waiting or self.starts)

    def take(self, items: list[Entry]) -> None:
        """Move the next batch to ``items``; nothing if all that waits has to wait behind something."""
        waiting, starts = self.waiting, self.starts
        tries_alone = self.alone_count > 0
        self.upkeep_count = 0
        count_max, room = 1 if tries_alone else BATCH_OPERATIONS_MAX, BATCH_BYTES_MAX
        gives_way = bool(starts and waiting) and self.is_turn_of_starts and type(waiting[0][0]) in ALONE
        while waiting and len(items) < count_max and not gives_way:
            operation = waiting[0][0]
            goes_beside = self.commits_beside and isinstance(operation, UserTransaction)
            is_alone = type(operation) in ALONE and not goes_beside
            room -= size_of(operation)
            if items and (is_alone or room < 0):
                break
            entry = waiting.popleft()
            self.alone_count = max(0, self.alone_count - 1)
            if (self.held or self.behind) and isinstance(operation, OWNERS):
                run = operation.fence.run
                before = self.held.get(run)
                before = self.behind.get(run) if before is None else before
                if before is not None:
                    before.append(entry)
                    continue
            if goes_beside:
                assert isinstance(operation, UserTransaction)
                self.behind[operation.fence.run] = []
                self.beside.append(entry)
                continue
            items.append(entry)
            if is_alone:
                self.is_turn_of_starts = True
                return
        if not tries_alone:
            self.is_turn_of_starts = False
            if starts:
                self._take_starts(items, room)

    def _take_starts(self, items: list[Entry], room: int) -> None:
        starts, count_max = self.starts, len(items) + BATCH_STARTS_MAX
        while starts and len(items) < count_max:
            is_upkeep = type(starts[0][0]) in UPKEEP
            room -= size_of(starts[0][0])
            if (is_upkeep and self.upkeep_count == self.pace.count_max) or (items and room < 0):
                break
            self.upkeep_count += is_upkeep
            items.append(starts.popleft())

    def put_back(self, entries: list[Entry]) -> None:
        """Have these go first: they were taken, and nothing came of it."""
        self.waiting.extendleft(reversed(entries))

    def keep(self, entry: Entry) -> None:
        """Have what an owner writes wait for room, and what comes of the same run behind it."""
        operation = entry[0]
        assert isinstance(operation, OWNERS)
        run = operation.fence.run
        self.held[run] = [entry, *self.behind.pop(run, ())]

    def release_held(self, count_max: int | None = None) -> None:
        """Have what had no room be tried again, of so many runs at most: before what came later."""
        self.put_back([entry for run in list(self.held)[:count_max] for entry in self.held.pop(run)])

    def release_behind(self, run: int) -> None:
        """The run's transaction has ended: what has waited for it goes first."""
        self.put_back(self.behind.pop(run, []))

    def take_out(self, is_meant: Callable[[Entry], bool]) -> list[Entry]:
        """Remove and return some of what waits, nothing of it an owner's."""
        found: list[Entry] = []
        for queued in (self.waiting, self.starts):
            entries = list(queued)
            queued.clear()
            for entry in entries:
                (found if is_meant(entry) else queued).append(entry)
        return found

    def all(self) -> list[Entry]:
        """Return all that waits."""
        behind = [entry for found in (self.held, self.behind) for entries in found.values() for entry in entries]
        return [*self.beside, *behind, *self.waiting, *self.starts]

    def clear(self) -> None:
        """Forget all that waits."""
        for queued in (self.waiting, self.starts, self.held, self.behind, self.beside):
            queued.clear()
        self.alone_count = 0
