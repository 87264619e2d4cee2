"""The janitor service: keeps the write-ahead log short while the engine has time for it."""

from __future__ import annotations

from typing import NoReturn

import trio

from durable_trio.stores.front import StoreFront

_LOOK_SECONDS = 60.0


async def run_janitor(front: StoreFront) -> NoReturn:
    """Serve until cancelled."""
    if front.store.is_memory:
        await trio.sleep_forever()
    tidied_at = front.commit_count
    while True:
        await trio.sleep(_LOOK_SECONDS)
        if front.commit_count == tidied_at:
            continue
        await front.tidy()  # only tidiness: a real fault shows at the next commit
        tidied_at = front.commit_count
