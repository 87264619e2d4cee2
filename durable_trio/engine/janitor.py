"""The janitor service: keeps the log short, and removes what is left of removed runs, while there is time for it."""

from __future__ import annotations

from contextlib import suppress
from typing import NoReturn

import trio

from durable_trio.clock import MICROSECONDS, Clock
from durable_trio.errors import StoreFull, StoreInUse
from durable_trio.limits import DRAFT_SECONDS_MAX
from durable_trio.stores.base import Sweep
from durable_trio.stores.front import StoreFront

_LOOK_SECONDS = 60.0
_FIRST_LOOK_SECONDS = 1.0  # a process that begins has better things to do
# Only runs that were removed: copies that somebody is making are left alone.
_REMOVED = 1


async def sweep(front: StoreFront, *, hidden_before: int = _REMOVED) -> None:
    """Remove the rows of runs that were removed, piece by piece; see ``Sweep``."""
    while await front.write(Sweep(hidden_before=hidden_before)):
        pass


class Janitor:
    """Moves the log into the database once in a while, where something was committed, and finishes removals."""

    def __init__(self, front: StoreFront, clock: Clock) -> None:
        self._front = front
        self._clock = clock
        self._tidied_at = front.commit_count

    @trio.lowlevel.enable_ki_protection  # Ctrl-C is for the user's tasks
    async def run(self) -> NoReturn:
        """Serve until cancelled."""
        front = self._front
        if front.store.is_memory:
            await trio.sleep_forever()
        await trio.sleep(_FIRST_LOOK_SECONDS)
        while True:
            with suppress(StoreFull, StoreInUse):  # the next look will do
                await sweep(front, hidden_before=self._clock.stamp() - int(DRAFT_SECONDS_MAX * MICROSECONDS))
            await trio.sleep(_LOOK_SECONDS)
            if front.commit_count == self._tidied_at:
                continue
            await front.tidy()  # only tidiness: a real fault shows at the next commit
            self._tidied_at = front.commit_count
