"""The feed service: notices commits, this process's and others', and passes them on.

One look at the store serves all: mailbox entries go to resident runs, changes of runs to every watcher, final statuses
to those who wait for results. Others' commits are noticed by a counter that costs microseconds to read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import attrs
import trio

from durable_trio.errors import RunNotFound
from durable_trio.limits import FEED_INTERVAL_SECONDS
from durable_trio.records import RunRow, RunStatus
from durable_trio.stores.base import RunFilter
from durable_trio.stores.front import StoreFront

_EVERYTHING = RunFilter()
_ROWS_MAX = 1000


@attrs.frozen
class Ending:
    """How a run has ended, as it is stored."""

    status: RunStatus
    result: str | None
    error: str | None


@attrs.define(eq=False)
class Subscription:
    """What one watcher has not taken yet: the newest state of each run that changed."""

    accepts: Callable[[RunRow], bool]
    pending: dict[int, RunRow] = attrs.Factory(dict)
    changed: trio.Event = attrs.Factory(trio.Event)
    is_closed: bool = False

    def offer(self, row: RunRow) -> None:
        """Take a newer state of a run, in place of an older one that was not taken yet."""
        if self.accepts(row):
            self.pending.pop(row.run, None)  # to the end: the order is that of the newest change
            self.pending[row.run] = row
            self.changed.set()


class Feed:
    """Passes on what has been committed."""

    def __init__(self, front: StoreFront) -> None:
        # Set by the tree: told about a run with mail, and that others have committed something.
        self.on_mail: Callable[[int], None] = lambda _run: None
        self.on_foreign: Callable[[], None] = lambda: None
        self._front = front
        self._subscriptions: set[Subscription] = set()
        self._waiters: dict[str, set[trio.Event]] = {}
        self._endings: dict[trio.Event, Ending] = {}
        self._last_change = 0
        self._last_entry = 0
        self._own_commits = -1
        self._nudged = trio.Event()
        self._is_closed = False
        front.on_commit = self._nudge

    # ---- for watchers ------------------------------------------------------------------------------------------

    def subscribe(self, subscription: Subscription) -> None:
        """Offer it all changes from now on."""
        self._catch_up()
        subscription.is_closed = self._is_closed
        self._subscriptions.add(subscription)

    def unsubscribe(self, subscription: Subscription) -> None:
        """Offer it nothing any more."""
        self._subscriptions.discard(subscription)

    def ended(self, run_id: str, status: RunStatus, result: str | None, error: str | None) -> None:
        """A run of this process has ended: tell at once who waits for it."""
        for event in self._waiters.get(run_id, ()):
            self._endings[event] = Ending(status, result, error)
            event.set()

    async def wait_ended(self, run_id: str, *, is_new: bool = False) -> Ending:
        """Return how a run has ended, once it has. ``is_new``: it was stored in this very step of the task.

        Raises:
            RunNotFound: there is no such run.
            trio.ClosedResourceError: the engine has ended before.
        """
        self._catch_up()
        while True:
            event = trio.Event()
            waiters = self._waiters.setdefault(run_id, set())
            waiters.add(event)
            try:
                if not is_new:
                    row = await self._front.read(self._front.store.run, run_id)
                    if row is None and event not in self._endings:
                        raise RunNotFound(f"there is no run {run_id!r}", run_id=run_id)
                    if row is not None and row.status.is_final:
                        return Ending(row.status, row.result, row.error)
                is_new = False
                if not self._is_closed:
                    await event.wait()
                if event in self._endings:
                    return self._endings[event]
                if self._is_closed:
                    raise trio.ClosedResourceError("the engine was closed before the run has ended; the run goes on")
            finally:
                self._endings.pop(event, None)
                waiters.discard(event)
                if not waiters:
                    self._waiters.pop(run_id, None)

    def close(self) -> None:
        """Nothing is passed on any more: whoever waits gets ``trio.ClosedResourceError``."""
        self._is_closed = True
        for waiters in self._waiters.values():
            for event in waiters:
                event.set()
        for subscription in self._subscriptions:
            subscription.is_closed = True
            subscription.changed.set()

    # ---- the task ----------------------------------------------------------------------------------------------

    def _catch_up(self) -> None:
        """Pass over what was committed while nobody wanted to know; the loop does it for a store in a file."""
        if self._front.store.is_memory and not self._subscriptions and not self._waiters:
            self._last_change = self._front.store.last_change()

    def _is_to_look(self) -> bool:
        """Return whether own commits are to be looked at; who only waits for a run's end is told of it directly."""
        commit_count = self._front.commit_count
        if self._own_commits < 0 or self._subscriptions or not self._waiters:
            return self._own_commits != commit_count
        self._own_commits = commit_count
        return False

    def recheck(self) -> None:
        """A commit of this process may have ended a run that nobody executes."""
        self._own_commits = -1
        self._nudge()

    def _nudge(self) -> None:
        if self._subscriptions or self._waiters:
            self._nudged.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> NoReturn:
        """Serve until cancelled."""
        front, store = self._front, self._front.store
        self._last_change = await front.read(store.last_change)
        self._last_entry = await front.read(store.last_mailbox_id)
        front.foreign_changes()
        task_status.started()
        while True:
            if store.is_memory:
                await self._nudged.wait()
            else:
                # Each look costs microseconds; own commits are looked at only when somebody wants to know.
                await trio.sleep(FEED_INTERVAL_SECONDS)
            self._nudged = trio.Event()
            if front.foreign_changes():
                await self._pass_mail()
                self.on_foreign()
                await self._pass_changes()
            elif self._is_to_look():
                await self._pass_changes()

    async def _pass_mail(self) -> None:
        while entries := await self._front.read(self._front.store.mailbox_after, self._last_entry, limit=_ROWS_MAX):
            self._last_entry = entries[-1].id
            for run in {entry.run for entry in entries}:
                self.on_mail(run)

    async def _pass_changes(self) -> None:
        front = self._front
        self._own_commits = front.commit_count
        if not self._subscriptions and not self._waiters:
            last_change = await front.read(front.store.last_change)
            if not self._subscriptions and not self._waiters:  # one that came meanwhile has perhaps not seen it
                self._last_change = last_change
            return
        while rows := await front.read(front.store.changes, _EVERYTHING, after=self._last_change, limit=_ROWS_MAX):
            self._last_change = rows[-1].changed
            for row in rows:
                for subscription in self._subscriptions:
                    subscription.offer(row)
                if row.status.is_final:
                    # Only a hint to look again: the run may have been resumed since this row was read.
                    for event in self._waiters.get(row.id, ()):
                        event.set()
