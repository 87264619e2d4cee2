"""What cannot be written for now: who is told, what is kept, and when it is tried again. Knows no store and no trio.

*No room.* A full disk fails the caller's operation, but not those of a run's owner (``precedence.OWNERS``): their
outcomes happened and must not be lost, so they are kept and tried again until there is room, each run's in order. What
is too large for the room that is left holds up no other run.

*Held.* The same goes for a store that somebody else holds, where nothing can be written at all.

*Away.* A store that is away has perhaps committed the batch, and perhaps not: the same batch is applied again until it
is back, and the store sees to it that it is applied once. All else waits in its order behind that one. After
``away_seconds_max`` callers are told, and one that is cancelled at the next try; what runs have done waits on, and so
does ``serve``.

Instants are seconds of any clock that does not go back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Final

from durable_trio.doors import guarded
from durable_trio.errors import StoreAway, StoreError, StoreFull, StoreInUse
from durable_trio.limits import STORE_RETRY_SECONDS
from durable_trio.stores.obstacles import Obstacle
from durable_trio.stores.outage import Outage, tell_away
from durable_trio.stores.precedence import CALLERS, OWNERS, SERVICES
from durable_trio.stores.submitted import Entry, Submitted

__all__ = ["PROBES_MAX", "Kept"]

#: Runs whose writes are tried again each time while nothing at all has room. They take turns.
PROBES_MAX: Final = 8


class Kept:
    """What keeps a writer from writing, and what waits for that to be over: nothing, mostly.

    Args:
        submitted: where all that is kept waits, but for what is in doubt.
        away_seconds_max: how long callers wait for a store that is away.
        still_away: called each time the store was tried in vain, while it is away. Must not raise.
        committed_untold: given what comes of an operation after all, whose caller was told that it is in doubt.
    """

    def __init__(
        self,
        submitted: Submitted,
        *,
        away_seconds_max: float,
        still_away: Callable[[], None],
        committed_untold: Callable[[Any], None],
    ) -> None:
        #: Whether there was no room, when something was written last.
        self.is_full = False
        #: Whether nothing at all can be written.
        self.is_blocked = False
        #: When to try again; never, while nothing is kept.
        self.retry_at = math.inf
        #: Perhaps committed: nothing else may be applied before these are again.
        self.in_doubt: list[Entry] = []
        self.obstacle = Obstacle()
        #: While the store is away.
        self.outage: Outage | None = None
        #: Whether this process is leaving: then nobody waits for a store that is away.
        self.is_leaving = False
        self._submitted = submitted
        self._away_seconds_max = away_seconds_max
        self._still_away = still_away
        self._committed_untold = committed_untold

    def without_room(self, items: list[Entry], error: StoreFull, now: float) -> None:
        """There is no room for this: each is tried by itself, for perhaps only one is too large.

        Then an owner's is kept, and what comes of the same run waits behind it. Others are told.
        """
        self.is_full = True
        if len(items) > 1:
            self._submitted.put_back(items)
            self._submitted.alone_count = len(items)
            return
        for operation, callback in items:
            if isinstance(operation, OWNERS):
                self._submitted.keep((operation, callback))
                self.met(error, now)
            else:
                guarded(callback, error)

    def while_held(self, waited: list[Entry], error: StoreInUse, now: float) -> None:
        """Nothing can be written: owners' writes are kept, others are told, for they may decide.

        So are those that have waited behind this attempt: each caller waits for one.
        """
        kept = [entry for entry in waited if isinstance(entry[0], OWNERS)]
        self._submitted.put_back(kept)
        self.is_blocked = bool(kept)
        if kept:
            self.met(error, now)
        for operation, callback in waited:
            if not isinstance(operation, OWNERS):
                guarded(callback, error)

    def while_away(self, items: list[Entry], error: StoreAway, now: float) -> None:
        """It is not known whether this was committed: nothing else is, before it was applied again."""
        if self.outage is None:
            self.outage = Outage(now)
        self.in_doubt = items
        is_over = self.is_leaving or self.outage.is_over_patience(now, self._away_seconds_max)
        kinds = (*CALLERS, *SERVICES) if self.is_leaving else CALLERS

        def waits_no_more(entry: Entry) -> bool:
            operation, callback = entry
            return isinstance(operation, kinds) and (is_over or getattr(callback, "is_cancelled", False))

        tell_away(items, self._submitted, waits_no_more, error, self._committed_untold)
        self.is_blocked = True
        self.obstacle.met(error, now)
        self.retry_at = now + self.outage.next_pause()
        guarded(self._still_away)

    def met(self, error: StoreError, now: float) -> None:
        """Something waits because of this: it is tried again soon."""
        self.obstacle.met(error, now)
        if self.retry_at == math.inf:
            self.retry_at = now + STORE_RETRY_SECONDS

    def try_again(self, under_way: Iterable[Entry], now: float) -> None:
        """Let what was kept be tried again: before what came later, for it may be of the same run.

        ``under_way``: transactions that a store commits beside the batches.
        """
        submitted = self._submitted
        self.is_blocked = False
        if self.obstacle.error is not None and not self.is_leaving:  # who leaves says what is left by then
            waiting = [*self.in_doubt, *under_way, *submitted.all()]
            self.obstacle.still_there(len([item for item, _ in waiting if isinstance(item, OWNERS)]))
        submitted.release_held(PROBES_MAX if self.is_full else None)
        self.retry_at = now + STORE_RETRY_SECONDS if submitted.held else math.inf

    def forget(self) -> list[Entry]:
        """The writer ends: keep nothing any more. Returns what is in doubt."""
        perhaps, self.in_doubt, self.outage = self.in_doubt, [], None
        self.is_blocked, self.retry_at = False, math.inf
        return perhaps
