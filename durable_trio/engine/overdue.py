"""A watch of runs that become overdue: due for half a minute, and taken by nobody.

Nothing changes in the store when that happens, so this has a clock of its own. It asks for what was due since the last
look, and when the next can be overdue; what is stored meanwhile is due at that time at the earliest, and overdue half a
minute later. So it looks no more than twice a minute while nothing is due, and never at what it has told.

A run is told when it has become overdue, in the order in which those were due; the place in that order is the cursor.
One that comes free with an older due time stands before it, and is not told: it was parked, or in an executor that has
hung, and its time came meanwhile. ``list_runs(overdue=True)`` has those, too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import attrs
import trio

from durable_trio.clock import MICROSECONDS
from durable_trio.engine.awaited import awaited_of
from durable_trio.engine.client import Client
from durable_trio.engine.filters import make_overdue_cursor
from durable_trio.engine.runs.lending import lending_place
from durable_trio.errors import StoreAway
from durable_trio.limits import OVERDUE_SECONDS, STORE_RETRY_SECONDS
from durable_trio.records import RunRecord
from durable_trio.rows import RunRow
from durable_trio.stores.overdue_questions import ListOverdue
from durable_trio.stores.questions import RunFilter

__all__ = ["OverdueRuns", "watch_overdue"]

_PAGE_RUNS: Final = 200
# Nobody wakes this watch when the engine is closed.
_LOOK_SECONDS: Final = 1.0


class OverdueRuns:
    """An async iterator of ``RunRecord``, for one task. Made by ``engine.watch(overdue=True)``."""

    def __init__(self, client: Client, which: RunFilter, after: tuple[int, int] | None) -> None:
        self._client = client
        self._which = which
        self._matches = client.matcher(which)
        self._opened_at = client.overdue_at
        self._position = (self._opened_at, 2**62) if after is None else after  # ``None``: from now on
        self._waiting: deque[tuple[RunRow, RunRecord]] = deque()
        self._look_at = 0  # when there can be something new
        self._given: RunRow | None = None

    def __aiter__(self) -> OverdueRuns:
        return self

    @property
    def cursor(self) -> str | None:
        """Where another watch goes on after the record that was given last (``since``); ``None`` before the first."""
        return None if self._given is None else make_overdue_cursor(self._given)

    @property
    def is_present(self) -> bool:
        """Whether the run that was given last was overdue before the watch was opened."""
        return self._given is not None and (self._given.wake_at or 0) <= self._opened_at

    async def __anext__(self) -> RunRecord:
        """Return the next run that is overdue, with why nobody takes it in ``waits_for``.

        *Cancellation:* nothing is lost.

        Raises:
            trio.ClosedResourceError: the engine was closed.
        """
        await trio.lowlevel.checkpoint()
        while not self._waiting:
            now = self._client.settings.clock.stamp()
            if now < self._look_at:
                with lending_place():
                    await trio.sleep(min(_LOOK_SECONDS, (self._look_at - now) / MICROSECONDS))
                self._client.services_in_use()  # it may have been closed
            else:
                try:
                    await self._look()
                except StoreAway:
                    if not self._look_at:  # nobody has waited yet
                        raise
                    await trio.sleep(STORE_RETRY_SECONDS)
        self._given, record = self._waiting.popleft()
        return record

    async def _look(self) -> None:
        until = self._client.overdue_at
        services = self._client.services_in_use()
        asked = ListOverdue(workflow=self._which.workflow, after=self._position, until=until, limit=_PAGE_RUNS)
        found = await services.writer.ask(asked)
        rows = [row for row in found.rows if self._matches(row)]
        records = await self._client.records(rows) if rows else []
        awaited = await awaited_of(services, rows, self._client.settings.clock.stamp())
        if found.rows:
            last = found.rows[-1]
            self._position = (last.wake_at or until, last.run)
        for row, record, each in zip(rows, records, awaited, strict=True):
            self._waiting.append((row, attrs.evolve(record, waits_for=each)))
        if len(found.rows) < _PAGE_RUNS:  # else there may be more
            overdue = OVERDUE_SECONDS * MICROSECONDS
            next_due_at = until + overdue if found.next_due_at is None else found.next_due_at
            self._look_at = min(next_due_at + 1, until + overdue) + overdue


@asynccontextmanager
async def watch_overdue(client: Client, which: RunFilter, after: tuple[int, int] | None) -> AsyncIterator[Any]:
    """Open a watch of what is overdue, and becomes so: an ``OverdueRuns``, to its user as good as a ``Changes``."""
    await trio.lowlevel.checkpoint()
    yield OverdueRuns(client, which, after)
