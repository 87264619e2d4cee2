"""The janitor service: keeps the write-ahead log short while the engine has time for it."""

from __future__ import annotations

from typing import NoReturn

import trio

from durable_trio.stores.front import StoreFront

_LOOK_SECONDS = 60.0


class Janitor:
    """Moves the log into the database once in a while, where something was committed."""

    def __init__(self, front: StoreFront) -> None:
        self._front = front
        self._tidied_at = front.commit_count

    @trio.lowlevel.enable_ki_protection  # Ctrl-C is for the user's tasks
    async def run(self) -> NoReturn:
        """Serve until cancelled."""
        front = self._front
        if front.store.is_memory:
            await trio.sleep_forever()
        while True:
            await trio.sleep(_LOOK_SECONDS)
            if front.commit_count == self._tidied_at:
                continue
            await front.tidy()  # only tidiness: a real fault shows at the next commit
            self._tidied_at = front.commit_count
