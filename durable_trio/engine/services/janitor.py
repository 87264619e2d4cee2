"""The janitor service: what there is time for. It has the store tidy itself up, removes what is left of removed runs,
and has sleeping runs forget which code has refused them that is no more.

And once, it looks ahead: whether code that the store has not seen before would refuse runs (``rehearsal.preview``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import NoReturn

import trio

from durable_trio.clock import MICROSECONDS, Clock
from durable_trio.engine.services.dead_codes import forget_dead_codes
from durable_trio.errors import PASSING, StoreError
from durable_trio.limits import DRAFT_SECONDS_MAX
from durable_trio.logger import Logger
from durable_trio.stores.contract import Stuck, Sweep
from durable_trio.stores.writer import Writer

_LOGGER = Logger("durable_trio.store")
_LOOK_SECONDS = 60.0
_FIRST_LOOK_SECONDS = 1.0  # a process that begins has better things to do
# Only runs that were removed: copies that somebody is making are left alone.
_REMOVED = 1
_NAMED_MAX = 10
# Things that cannot be removed that people are told of; more are no news.
_TOLD_MAX = 1000


async def sweep(writer: Writer, *, hidden_before: int = _REMOVED) -> list[Stuck]:
    """Remove the rows of runs that were removed, piece by piece (see ``Sweep``); return which cannot be removed."""
    stuck: list[Stuck] = []
    after = None
    while outcome := await writer.write(Sweep(hidden_before=hidden_before, after=after)):
        if isinstance(outcome, Stuck):
            stuck.append(outcome)
            after = outcome.position
    return stuck


def warn_of_stuck(stuck: Sequence[Stuck]) -> None:
    """Tell people of runs that cannot be removed, of the first ones by name."""
    for item in stuck[:_NAMED_MAX]:
        _LOGGER.warning("run %r cannot be removed, and is passed over: %s", item.run_id, item.why)
    if len(stuck) > _NAMED_MAX:
        _LOGGER.warning("%d more runs cannot be removed, and are passed over", len(stuck) - _NAMED_MAX)


class Janitor:
    """Has the store tidy itself up once in a while, where something was committed, and finishes removals.

    Args:
        look_ahead: what is done once, beside that.
    """

    def __init__(self, writer: Writer, clock: Clock, look_ahead: Callable[[], Awaitable[None]]) -> None:
        self._look_ahead = look_ahead
        self._writer = writer
        self._clock = clock
        self._tidied_at = writer.commit_count
        self._told: set[str] = set()  # what people were told of, once

    @trio.lowlevel.enable_ki_protection  # Ctrl-C is for the user's tasks
    async def run(self) -> NoReturn:
        """Serve until cancelled."""
        writer = self._writer
        if not writer.store.is_shared:  # nothing is left of it, and nothing in it grows untidy
            await trio.sleep_forever()
        await trio.sleep(_FIRST_LOOK_SECONDS)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look_ahead)  # bodies run there, which may take their time
            await self._tidy()
        raise AssertionError("unreachable")

    async def _tidy(self) -> NoReturn:
        writer = self._writer
        while True:
            await self._sweep()
            await self._forget()
            await trio.sleep(_LOOK_SECONDS)
            if writer.commit_count == self._tidied_at:
                continue
            await writer.tidy()  # only tidiness: a real fault shows at the next commit
            self._tidied_at = writer.commit_count

    async def _sweep(self) -> None:
        """Finish removals. What one of them meets never ends the engine; an error of the store does so by itself."""
        try:
            stuck = await sweep(self._writer, hidden_before=self._clock.stamp() - int(DRAFT_SECONDS_MAX * MICROSECONDS))
        except PASSING:
            return  # the next look will do
        except StoreError as error:
            if self._is_news(str(error)):
                _LOGGER.warning("what is left of removed runs could not be removed: %s", error)
            return
        warn_of_stuck([item for item in stuck if self._is_news(item.run_id)])

    async def _forget(self) -> None:
        """Forget dead codes. It is tidiness, too: what fails of it is done at the next look."""
        with suppress(StoreError):
            await forget_dead_codes(self._writer, now=self._clock.stamp())

    def _is_news(self, what: str) -> bool:
        is_news = what not in self._told and len(self._told) < _TOLD_MAX
        if is_news:
            self._told.add(what)
        return is_news
