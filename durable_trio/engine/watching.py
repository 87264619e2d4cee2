"""``engine.watch``: the present state first, then each change, of one run never back, always the final one.

The present state is what a read of the store gives that begins before all commits, everything later is read or offered
from there on (``feed``). What was both read and offered is known by its run's change number, which only rises.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

import trio

from durable_trio.engine.runs.lending import lending_place
from durable_trio.engine.services.feed import Feed, Subscription
from durable_trio.errors import RunNotFound
from durable_trio.records import RunRecord
from durable_trio.rows import RunRow
from durable_trio.stores.cursors import Cursor, CursorLost
from durable_trio.stores.news_questions import Change, FindCursor, ListChanges
from durable_trio.stores.questions import RunFilter
from durable_trio.stores.writer import Writer

# Runs of one read of a watcher's own: it holds no more of them than these in its hands.
_PAGE_RUNS: Final = 200
# Runs that have not ended of which a watcher remembers what it was shown last, some 100 bytes each. Of more of them
# it may be shown the same twice, where states between have merged.
_SHOWN_RUNS_MAX: Final = 100_000


class Since(NamedTuple):
    """Where a watch begins: behind a state that another one was given; ``None``: behind the present. And as given."""

    after: Cursor | None
    cursor: str


class Changes:
    """An async iterator of ``RunRecord``, for one task. Made by ``engine.watch`` and ``run.watch``."""

    def __init__(
        self,
        writer: Writer,
        feed: Feed,
        subscription: Subscription,
        which: RunFilter,
        convert: Callable[[Change], RunRecord],
    ) -> None:
        self._writer = writer
        self._feed = feed
        self._subscription = subscription
        self._which = which
        self._convert = convert
        self._given: Change | None = None  # what was given last
        self._is_present = False
        # Of the states in hand so many, the first ones, are what the watch has found when it was opened.
        self._present_count = 0
        self._is_beginning = True  # until it has found all of that
        self._since: Since | None = None
        self._run: int | None = None  # of a watch of one run: another one may get its id once it is removed
        self._waiting: deque[Change] = deque()
        # By run: the change that was shown last, and a hash of what that has shown.
        self._shown: OrderedDict[int, tuple[int, int]] = OrderedDict()
        self._has_ended = False

    def __aiter__(self) -> Changes:
        return self

    @property
    def cursor(self) -> str | None:
        """Where another watch goes on after the record that was given last (``since``); ``None`` before the first."""
        return None if self._given is None else self._given.cursor

    @property
    def is_present(self) -> bool:
        """Whether the watch has found the state that was given last when it was opened: no change of now."""
        return self._is_present

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
                is_present, self._present_count = self._present_count > 0, max(0, self._present_count - 1)
                record = self._give(self._waiting.popleft(), is_present)
                if record is not None:
                    return record
            elif subscription.is_behind and not subscription.is_closed:
                await self.read_on(has_waited=True)
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

    async def read_on(self, *, has_waited: bool = False) -> bool:
        """Read a page of what the watcher was not given yet, and return whether there was anything.

        ``has_waited``: somebody watches already. He waits on, also while the store is away.
        """
        subscription = self._subscription
        subscription.read_by_itself()  # before the read: what is committed after it is offered
        try:
            question = ListChanges(self._which, after=subscription.cursor, limit=_PAGE_RUNS)
            page = await (self._writer.ask_patiently if has_waited else self._writer.ask)(question)
        except CursorLost as error:
            subscription.fall_behind()
            if self._since is not None and self._is_beginning:
                raise ValueError(f"{error}; begin anew, without a cursor") from error
            subscription.cursor = None  # it is all looked at once more: what was shown is known
            return True
        except BaseException:
            subscription.fall_behind()
            raise
        subscription.cursor = page.cursor
        self._waiting.extend(page.changes)
        if self._is_beginning:
            self._present_count += len(page.changes)
            self._is_beginning = not page.is_last
        if not page.is_last:
            subscription.fall_behind()
        return bool(page.changes)

    def _give(self, change: Change, is_present: bool) -> RunRecord | None:
        """Return a record, unless the watcher does not want it or was shown the same before."""
        row = change.row
        if self._which.run_id is not None:
            self._run = self._run or row.run
            if row.run != self._run:
                raise self._removed()
            self._has_ended = row.status.is_final
            if not self._subscription.accepts(row):
                return None
        shown = row.changed, _visible(change)
        before = self._shown.pop(row.run, (-1, 0))
        if before[0] >= shown[0]:  # it was read, and offered
            self._shown[row.run] = before
            return None
        self._shown[row.run] = shown
        if len(self._shown) > _SHOWN_RUNS_MAX:
            self._shown.popitem(last=False)
        if before[1] == shown[1] and before[0] >= 0 and not row.status.is_final:
            return None
        self._given, self._is_present = change, is_present
        return self._convert(change)

    async def begin(self, since: Since | None) -> None:
        """With ``since`` give only what comes after a state that another watcher was given.

        Raises:
            ValueError: no state of this store has its cursor yet.
        """
        if since is None:
            return
        self._since = since
        # What comes before the present was perhaps given to the other one, and the feed may be on its way to offer it.
        await self._feed.skip()
        self._subscription.cursor = since.after or await self._writer.ask(FindCursor())

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
    changes = Changes(writer, feed, subscription, which, convert)
    try:
        await feed.subscribe(subscription)
        await changes.begin(since)
        if not await changes.read_on() and which.run_id is not None:
            raise RunNotFound(f"there is no run {which.run_id!r}", run_id=which.run_id)
        yield changes
    finally:
        feed.unsubscribe(subscription)
