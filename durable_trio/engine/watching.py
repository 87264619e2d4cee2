"""``engine.watch``: the present state first, then each change, never back, always the final one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import trio

from durable_trio.engine.feed import Feed, Subscription
from durable_trio.errors import RunNotFound
from durable_trio.records import RunRecord, RunRow
from durable_trio.stores.base import RunFilter
from durable_trio.stores.front import StoreFront

Convert = Callable[[Sequence[RunRow]], Awaitable[list[RunRecord]]]
_PRESENT_RUNS_PAGE = 500


class Changes:
    """An async iterator of ``RunRecord``. Intermediate states may merge; the last one is always given."""

    def __init__(
        self,
        subscription: Subscription,
        present: Sequence[RunRow],
        convert: Convert,
        matches: Callable[[RunRow], bool],
        *,
        one: bool,
    ) -> None:
        self._subscription = subscription
        self._convert = convert
        self._matches = matches
        self._one = one
        # What was read at first may be offered again as a change; later changes come once and in order.
        self._seen: dict[int, int] = {}
        self._read_up_to = max((row.changed for row in present), default=0)
        self._waiting: list[RunRow] = list(reversed(present))
        self._has_ended = False

    def __aiter__(self) -> Changes:
        return self

    async def __anext__(self) -> RunRecord:
        """Return the next state.

        *Cancellation:* nothing is lost: the next call gives the newest state.
        """
        await trio.lowlevel.checkpoint()
        while not self._has_ended:
            while self._waiting:
                row = self._waiting[-1]
                if row.changed <= self._seen.get(row.run, -1):
                    self._waiting.pop()
                    continue
                records = await self._convert([row]) if self._matches(row) else []
                self._waiting.pop()
                if row.changed <= self._read_up_to:
                    self._seen[row.run] = row.changed
                else:
                    self._seen.clear()
                self._has_ended = self._one and row.status.is_final
                if records:
                    return records[0]
                if self._has_ended:
                    raise StopAsyncIteration
            subscription = self._subscription
            if not subscription.pending:
                if subscription.is_closed:
                    raise trio.ClosedResourceError("the engine was closed; nothing more is to be seen")
                subscription.changed = trio.Event()
                await subscription.changed.wait()
            self._waiting = list(reversed(subscription.pending.values()))
            subscription.pending.clear()
        raise StopAsyncIteration


@asynccontextmanager
async def watch(
    front: StoreFront,
    feed: Feed,
    which: RunFilter,
    *,
    convert: Convert,
    matches: Callable[[RunRow], bool],
) -> AsyncIterator[Changes]:
    """Open a watch. With a run's id it ends after the final status, also if that does not match."""
    one = which.run_id is not None
    subscription = Subscription((lambda row: row.id == which.run_id) if one else matches)
    feed.subscribe(subscription)
    try:
        present: list[RunRow] = []
        if which.run_id is not None:
            row = await front.read(front.store.run, which.run_id)
            if row is None:
                raise RunNotFound(f"there is no run {which.run_id!r}", run_id=which.run_id)
            present.append(row)
        before: tuple[int, int] | None = None
        while not one and (
            page := await front.read(front.store.list_runs, which, limit=_PRESENT_RUNS_PAGE, before=before)
        ):
            present.extend(page)
            before = (page[-1].created_at, page[-1].run)
        present.sort(key=lambda row: (row.changed, row.run))
        yield Changes(subscription, present, convert, matches, one=one)
    finally:
        feed.unsubscribe(subscription)
