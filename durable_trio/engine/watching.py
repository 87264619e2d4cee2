"""``engine.watch``: the present state first, then each change, never back, always the final one.

What is given comes in the order of changes: the change number of what a watcher was given never falls. The present
state is the first read of the store from the beginning, everything later is read or offered from there on (``feed``).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

import trio

from durable_trio.engine.filters import make_change_cursor
from durable_trio.engine.runs.places import lending_place
from durable_trio.engine.services.feed import Feed, Subscription
from durable_trio.errors import RunNotFound
from durable_trio.records import RunRecord
from durable_trio.rows import RunRow
from durable_trio.stores.questions import Change, FindLastChange, ListChanges, RunFilter
from durable_trio.stores.writer import Writer

# Runs of one read of a watcher's own: it holds no more of them than these in its hands.
_PAGE_RUNS: Final = 200
# Runs that have not ended of which a watcher remembers what it was shown last, some 100 bytes each. Of more of them
# it may be shown the same twice, where states between have merged.
_SHOWN_RUNS_MAX: Final = 100_000


class Since(NamedTuple):
    """Where a watch begins: after a state, by its change and run; ``None``: after the present. And how it was given."""

    state: tuple[int, int] | None
    cursor: str


class Changes:
    """An async iterator of ``RunRecord``, for one task. Made by ``engine.watch`` and ``run.watch``."""

    def __init__(
        self, writer: Writer, subscription: Subscription, which: RunFilter, convert: Callable[[Change], RunRecord]
    ) -> None:
        self._writer = writer
        self._subscription = subscription
        self._which = which
        self._convert = convert
        self._since: tuple[int, int] = (0, 0)  # change and run: what comes up to there was given to another watcher
        self._given: RunRow | None = None  # what was given last
        self._before = 0  # the last change when the watch was opened
        self._run: int | None = None  # of a watch of one run: another one may get its id once it is removed
        self._waiting: deque[Change] = deque()
        self._shown: OrderedDict[int, int] = OrderedDict()
        self._has_ended = False

    def __aiter__(self) -> Changes:
        return self

    @property
    def cursor(self) -> str | None:
        """Where another watch goes on after the record that was given last (``since``); ``None`` before the first."""
        return None if self._given is None else make_change_cursor(self._given)

    @property
    def is_present(self) -> bool:
        """Whether the run was in the state that was given last before the watch was opened: no change of now."""
        return self._given is not None and self._given.changed <= self._before

    async def __anext__(self) -> RunRecord:
        """Return the next state.

        *Cancellation:* nothing is lost: the next call gives the newest state.

        Raises:
            StopAsyncIteration: the one run that is watched has ended, and its final state was given.
            RunNotFound: that run was removed before its final state was seen.
            trio.ClosedResourceError: the engine was closed.
        """
        await trio.lowlevel.checkpoint()
        subscription = self._subscription
        while not self._has_ended:
            if subscription.fault is not None:
                raise subscription.fault
            if self._waiting:
                record = self._give(self._waiting.popleft())
                if record is not None:
                    return record
            elif subscription.is_behind and not subscription.is_closed:
                await self.read_on()
            elif subscription.pending:
                self._waiting.extend(subscription.take())
            elif subscription.is_removed:
                raise self._removed()
            elif subscription.is_closed:
                raise trio.ClosedResourceError("the engine was closed; nothing more is to be seen")
            else:
                subscription.changed = trio.Event()
                with lending_place():
                    await subscription.changed.wait()
        raise StopAsyncIteration

    async def read_on(self) -> bool:
        """Read a page of what the watcher was not given yet, and return whether there was anything."""
        subscription = self._subscription
        subscription.is_behind = False  # before the read: what is committed after it is offered
        try:
            position = subscription.position
            page = await self._writer.ask(ListChanges(self._which, after=position, limit=_PAGE_RUNS))
        except BaseException:
            subscription.fall_behind()
            raise
        if page:
            subscription.position = page[-1].row.changed
            self._waiting.extend(page)
        if len(page) >= _PAGE_RUNS:
            subscription.fall_behind()  # there may be more
        return bool(page)

    def _give(self, change: Change) -> RunRecord | None:
        """Return a record, unless the watcher does not want it or was shown the same before."""
        row = change.row
        if (row.changed, row.run) <= self._since:
            return None
        if self._which.run_id is not None:
            self._run = self._run or row.run
            if row.run != self._run:
                raise self._removed()
            self._has_ended = row.status.is_final
            if not self._subscription.accepts(row):
                return None
        visible = _visible(change)
        if self._shown.pop(row.run, None) == visible and not row.status.is_final:
            self._shown[row.run] = visible
            return None
        if not row.status.is_final:
            self._shown[row.run] = visible
            if len(self._shown) > _SHOWN_RUNS_MAX:
                self._shown.popitem(last=False)
        self._given = row
        return self._convert(change)

    async def begin(self, since: Since | None) -> None:
        """Note what is the present; with ``since`` give only what comes after a state that another watcher was given.

        Raises:
            ValueError: no state of this store has its cursor yet.
        """
        self._before = last = await self._writer.ask(FindLastChange())
        if since is None:
            return
        if since.state is None:
            self._subscription.position = last
            return
        if since.state[0] > last:
            raise ValueError(
                f"the cursor {since.cursor!r} is of a later state than the store is in: it was restored from a copy,"
                " or is another one; begin anew, without a cursor"
            )
        self._since = since.state
        # What has changed with that state comes again, and is left out up to that run.
        self._subscription.position = since.state[0] - 1

    def _removed(self) -> RunNotFound:
        self._has_ended = True
        run_id = self._which.run_id
        return RunNotFound(f"run {run_id!r} was removed before its end was seen", run_id=run_id)


def _visible(change: Change) -> int:
    """Return a hash of what a record shows, as far as it can change."""
    row = change.row
    state = (row.status, row.result, row.error, row.problem, row.args, row.generation, row.recoveries, row.priority)
    times = (row.created_at, row.started_at, row.finished_at, row.wake_at, row.ttl_at)
    return hash((row.id, state, times, row.compensation_errors, tuple(sorted(change.values.items()))))


@asynccontextmanager
async def watch(
    writer: Writer,
    feed: Feed,
    which: RunFilter,
    *,
    convert: Callable[[Change], RunRecord],
    matches: Callable[[RunRow], bool],
    since: Since | None = None,
) -> AsyncIterator[Changes]:
    """Open a watch. With a run's id it ends after the final status, also if that does not match."""
    subscription = Subscription(matches, run_id=which.run_id)
    if which.run_id is not None:
        which = RunFilter(run_id=which.run_id)  # its end is wanted, whatever is to be shown
    changes = Changes(writer, subscription, which, convert)
    feed.subscribe(subscription)
    try:
        await changes.begin(since)
        if not await changes.read_on() and which.run_id is not None:
            raise RunNotFound(f"there is no run {which.run_id!r}", run_id=which.run_id)
        yield changes
    finally:
        feed.unsubscribe(subscription)
