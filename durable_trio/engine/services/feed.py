"""The feed service: notices commits, this process's and others', and passes them on.

One look at the store serves all: mailbox entries go to resident runs, changes of runs to every watcher, final statuses
to those who wait for results. Others' commits are noticed by a counter that costs microseconds to read. So a hundred
watchers cost the store no more than one, and nobody who wants to know costs it nothing.

A watcher is *behind* or *live*. Behind, it reads the store by itself, page by page; so it begins, and so it goes on
after it was too slow. Live, it is offered what the feed reads. It becomes live before its last read, so that each
commit is in that read or is offered after it. What is in both the watcher knows by the change number of the run.

How far the feed has come, and each watcher, are cursors, which only the store can read (``stores.cursors``).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final, NoReturn, Protocol

import attrs
import trio

from durable_trio.doors import guarded
from durable_trio.engine.services.service import Service
from durable_trio.errors import RunNotFound
from durable_trio.limits import FEED_IDLE_INTERVAL_SECONDS, FEED_INTERVAL_SECONDS
from durable_trio.rows import RunEnd, RunRow
from durable_trio.stores.contract import Sent
from durable_trio.stores.cursors import Cursor, CursorLost
from durable_trio.stores.news_questions import Change, FindCursor, ListNews, ListSent
from durable_trio.stores.questions import FindEnded, FindMissing, FindRun
from durable_trio.stores.writer import Writer
from durable_trio.turns.port import Port

# Rows of one read: a page is passed on in one go, and watchers can take it before the next.
_ROWS_MAX: Final = 500
# What a watcher may leave untaken before it falls behind: some seconds of a busy engine, and no more than a few
# payloads of the largest kind. The rows are shared among watchers.
_UNTAKEN_RUNS_MAX: Final = 5000
_UNTAKEN_CHARACTERS_MAX: Final = 32 * 1024 * 1024
# How often it is asked whether runs that are waited for have been removed by others, while others commit.
_REMOVAL_CHECK_SECONDS: Final = 1.0
# Whoever has rung may commit soon: it is looked often for so long.
_RINGING_SECONDS: Final = 2.0
_BELL_BYTES: Final = 64 * 1024
# Others are taken for idle after so long.
_IDLE_AFTER_SECONDS: Final = 1.0


@attrs.define(eq=False)
class Subscription:
    """What one watcher has not taken yet: the newest state of each run that changed.

    Args:
        accepts: whether the watcher wants to see a run in this state.
        run_id: the one run that is watched. Its states that are not accepted are kept too: one may be its end.
    """

    accepts: Callable[[RunRow], bool]
    run_id: str | None = None
    #: Up to this point the watcher has been given everything, or holds it in its hands; ``None``: nothing yet.
    cursor: Cursor | None = None
    is_behind: bool = True
    is_removed: bool = False  # the run that is watched is stored no more
    is_closed: bool = False
    fault: BaseException | None = None  # offering something to it has failed
    changed: trio.Event = attrs.Factory(trio.Event)
    # By run, and whether it is accepted: a state that is not shown does not displace one that is still to be shown.
    pending: dict[tuple[int, bool], Change] = attrs.Factory(dict)
    _characters: int = 0
    _offered: Cursor | None = None  # up to this point it was offered everything, since it is live

    def read_by_itself(self) -> None:
        """The watcher is about to read from its cursor on: whatever is committed after that is offered."""
        self.is_behind = False
        self._offered = None

    def passed(self, cursor: Cursor) -> None:
        """All that it may want was offered up to that point."""
        if not self.is_behind:
            self._offered = cursor

    def offer(self, change: Change) -> None:
        """Take a newer state of a run, in place of an older one that was not taken yet."""
        row = change.row
        if self.is_behind:
            return
        is_accepted = self.accepts(row)
        if not is_accepted and self.run_id is None:
            return
        key = (row.run, is_accepted)
        older = self.pending.pop(key, None)  # the newer one goes to the end: the order is that of changes
        self._characters += _size(change) - (0 if older is None else _size(older))
        self.pending[key] = change
        if len(self.pending) > _UNTAKEN_RUNS_MAX or self._characters > _UNTAKEN_CHARACTERS_MAX:
            self.fall_behind()
        self.changed.set()

    def take(self) -> list[Change]:
        """Return what is pending, in order, as given to the watcher."""
        taken = list(self.pending.values())
        self._forget()
        self.cursor = self._offered or self.cursor
        return taken

    def fall_behind(self) -> None:
        """Let the watcher read by itself what it was not given yet."""
        self.is_behind = True
        self._forget()
        self.changed.set()

    def remove(self) -> None:
        """Tell the watcher that its run is stored no more."""
        self.is_removed = True
        self.changed.set()

    def close(self) -> None:
        """Tell the watcher that nothing more is offered."""
        self.is_closed = True
        self.changed.set()

    def failed(self, error: BaseException) -> None:
        """Raise what was met while something was offered to the watcher in the watcher, and in nobody else."""
        self.fault = error
        self.changed.set()

    def _forget(self) -> None:
        self.pending.clear()
        self._characters = 0


class Stay(Protocol):
    """A run in memory: once its port is cut it has ended, or leaves."""

    port: Port


class Feed(Service):
    """Passes on what has been committed.

    While somebody waits for what is committed it has the writer tell it of this process's own commits.

    Args:
        residents: the runs in memory in this process, by id; when one leaves, ``left`` is called for it.
        message_came: told about each message that waits in a mailbox, of whoever it is.
        others_committed: told that others have committed something.
        mail_was_lost: told that something was perhaps put into mailboxes, and nobody can tell into which.
    """

    def __init__(
        self,
        writer: Writer,
        *,
        residents: Mapping[str, Stay],
        message_came: Callable[[Sent], None],
        others_committed: Callable[[], None],
        mail_was_lost: Callable[[], None],
    ) -> None:
        self._writer = writer
        self._residents = residents
        self._message_came = message_came
        self._others_committed = others_committed
        self._mail_was_lost = mail_was_lost
        # Under the id of the run that is watched, or None: what changes is offered only to those whom it may concern.
        self._subscriptions: dict[str | None, set[Subscription]] = {}
        self._waiters: dict[str, set[trio.Event]] = {}
        self._ends: dict[trio.Event, RunEnd] = {}
        # Up to which points it has come; they stay when the service is started again.
        self._cursor = self._mail_cursor = Cursor("")
        self._has_cursor = False
        self._own_commits = -1
        self._skips: list[trio.Event] = []  # of those who wait until it has come to the present
        self._removal_check_at = math.inf
        self._last_removal_check_at = -math.inf
        self._nudged = trio.Event()
        self._rang_at = -math.inf
        self._is_closed = False

    # ---- for watchers ------------------------------------------------------------------------------------------

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits for what is committed."""
        return bool(self._subscriptions or self._waiters)

    def nudge(self) -> None:
        """Something was committed here."""
        if self._subscriptions or self._waiters:
            self._nudged.set()

    def _await_commits(self) -> None:
        """Be told of the next commit, if somebody watches; who only waits for a run's end is told of it directly."""
        self._writer.set_at_commit(self._nudged if self._subscriptions else None)

    async def subscribe(self, subscription: Subscription) -> None:
        """Offer it all changes from now on, whenever it is not behind.

        What was committed while nobody wanted to know is passed over: the watcher reads that by itself. Without it the
        first watcher of an engine that has executed a million runs would have them all read once more.
        """
        if not self._subscriptions:
            cursor = await self._writer.ask_patiently(FindCursor())
            if not self._subscriptions:
                self._cursor = cursor
        subscription.is_closed = self._is_closed
        self._subscriptions.setdefault(subscription.run_id, set()).add(subscription)
        self._await_commits()

    async def skip(self) -> None:
        """Wait until nothing is offered any more that is committed by now: all watchers read that by themselves."""
        if self._is_closed:
            return
        done = trio.Event()
        self._skips.append(done)
        self._nudged.set()
        await done.wait()

    def unsubscribe(self, subscription: Subscription) -> None:
        """Offer it nothing any more."""
        found = self._subscriptions.get(subscription.run_id, set())
        found.discard(subscription)
        if not found and subscription.run_id in self._subscriptions:
            del self._subscriptions[subscription.run_id]
            self._await_commits()

    def left(self, run_id: str, end: RunEnd | None) -> None:
        """A run of this process has ended: tell who waits for it. Or it has left memory: have them look."""
        for event in self._waiters.get(run_id, ()):
            if end is not None:
                self._ends[event] = end
            event.set()

    async def wait_ended(
        self, run_id: str, *, is_new: bool = False, has_waited: bool = False, waits: trio.Event | None = None
    ) -> RunEnd:
        """Return how a run has ended, once it has. ``is_new``: it was stored in this very step of the task.

        ``has_waited``: somebody waits for it already. He waits on, also while the store is away. ``waits`` is set once
        that is so.

        Raises:
            StoreAway: it is away, and nobody has waited yet.
            RunNotFound: there is no such run, or it was removed meanwhile.
            trio.ClosedResourceError: the engine has ended before.
        """
        while True:
            event = trio.Event()
            waiters = self._waiters.setdefault(run_id, set())
            waiters.add(event)
            try:
                stay = self._residents.get(run_id)
                if not (is_new or (stay is not None and not stay.port.is_cut)):
                    ask = self._writer.ask_patiently if has_waited else self._writer.ask
                    row = await ask(FindRun(run_id))
                    if row is None and event not in self._ends:
                        raise RunNotFound(f"there is no run {run_id!r}", run_id=run_id)
                    if row is not None and row.status.is_final:
                        return RunEnd(row.status, row.result, row.error, row.damage)
                elif stay is None:  # others may have ended it, and the feed may have looked before anybody waited
                    self.recheck()
                is_new, has_waited = False, True
                if waits is not None:
                    waits.set()
                if not self._is_closed:
                    await event.wait()
                if event in self._ends:
                    return self._ends[event]
                if self._is_closed:
                    raise trio.ClosedResourceError("the engine was closed before the run has ended; the run goes on")
            finally:
                self._ends.pop(event, None)
                waiters.discard(event)
                if not waiters:
                    self._waiters.pop(run_id, None)

    def close(self) -> None:
        """Nothing is passed on any more: whoever waits gets ``trio.ClosedResourceError``."""
        self._is_closed = True
        guarded(self._wake_waiters)
        for done in self._skips:
            done.set()
        for subscription in self._every_subscription():
            guarded(subscription.close)

    def recheck(self) -> None:
        """A commit of this process may have ended a run that nobody executes."""
        self._own_commits = -1
        self.nudge()

    def recheck_removed(self) -> None:
        """A commit of this process may have removed runs: who waits for one of them would wait for ever."""
        self._removal_check_at = -math.inf
        self.nudge()

    # ---- the task ----------------------------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection  # Ctrl-C is for the user's tasks
    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> NoReturn:
        """Serve until cancelled. Started again after a crash it goes on where it was, so nothing is missed."""
        writer, store = self._writer, self._writer.store
        is_behind = self._has_cursor  # what was noticed before the crash was perhaps not passed on
        if not self._has_cursor:
            writer.foreign_changes()  # before the reads: what comes between is noticed again
            self._cursor = self._mail_cursor = await writer.ask_patiently(FindCursor())
            self._has_cursor = True
        active_at = -math.inf
        task_status.started()
        while True:
            if is_behind:
                await trio.lowlevel.checkpoint()
            elif not store.is_shared:
                await self._nudged.wait()
            else:
                await self._wait_for_others(active_at)
            self._nudged = trio.Event()
            self._await_commits()
            if writer.foreign_changes() or is_behind:
                is_behind = False
                active_at = trio.current_time()
                # A short while after the last check: others remove runs seldom, but commit often.
                check_at = self._last_removal_check_at + _REMOVAL_CHECK_SECONDS
                self._removal_check_at = min(self._removal_check_at, check_at)
                await self._pass_entries()
                self._others_committed()
                is_behind = await self._pass_changes()
            elif self._is_to_look():
                is_behind = await self._pass_changes()
            if self._skips:
                await self._skip()
            if self._removal_check_at <= trio.current_time():
                await self._pass_removals()

    async def _wait_for_others(self, active_at: float) -> None:
        """Wait until it is time to look. Own commits are looked at only when somebody wants to know."""
        now = trio.current_time()
        seconds = self._writer.store.poll_seconds
        bell = self._writer.store.doorbell
        if bell is None or seconds <= FEED_INTERVAL_SECONDS or now < self._rang_at + _RINGING_SECONDS:
            # Each look costs microseconds.
            is_idle = now - active_at > _IDLE_AFTER_SECONDS
            await trio.sleep(FEED_IDLE_INTERVAL_SECONDS if is_idle else FEED_INTERVAL_SECONDS)
            return
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen, bell, nursery.cancel_scope)
                await self._nudged.wait()
                await trio.sleep(FEED_INTERVAL_SECONDS)  # what is committed in a row is looked at together
                nursery.cancel_scope.cancel()

    async def _listen(self, bell: int, scope: trio.CancelScope) -> None:
        """End the wait when the bell rings."""
        await trio.lowlevel.wait_readable(bell)
        with suppress(BlockingIOError):
            while os.read(bell, _BELL_BYTES):
                pass
        self._rang_at = trio.current_time()
        scope.cancel()

    def _every_subscription(self) -> list[Subscription]:
        return [subscription for found in self._subscriptions.values() for subscription in found]

    def _wake_waiters(self) -> None:
        for waiters in self._waiters.values():
            for event in waiters:
                event.set()

    def _is_to_look(self) -> bool:
        """Return whether own commits are to be looked at; who only waits for a run's end is told of it directly."""
        commit_count = self._writer.commit_count
        if self._own_commits == commit_count:
            return False
        if self._subscriptions or (self._waiters and self._own_commits < 0):
            return True
        self._own_commits = commit_count
        return False

    async def _pass_entries(self) -> None:
        is_last = False
        while not is_last:
            try:
                page = await self._writer.ask_patiently(ListSent(self._mail_cursor, limit=_ROWS_MAX))
            except CursorLost:
                self._mail_cursor = await self._writer.ask_patiently(FindCursor())
                self._mail_was_lost()
                return
            for sent in page.sent:
                if sent.created:
                    self._message_came(sent)
            self._mail_cursor, is_last = page.cursor, page.is_last

    async def _pass_changes(self) -> bool:
        """Pass on a page of changes, and return whether there may be more: messages go before those."""
        writer = self._writer
        self._own_commits = writer.commit_count
        if not self.is_wanted:
            return False
        if not self._subscriptions:
            await self._pass_ends()
            return False
        try:
            page = await writer.ask_patiently(ListNews(after=self._cursor, limit=_ROWS_MAX))
        except CursorLost:
            await self._skip()
            return False
        for change in page.changes:
            for concerned in (None, change.row.id):
                for subscription in self._subscriptions.get(concerned, ()):
                    guarded(subscription.offer, change)
            if change.row.status.is_final:
                # Only a hint to look again: the run may have been resumed since this row was read.
                for event in self._waiters.get(change.row.id, ()):
                    event.set()
        self._cursor = page.cursor
        for subscription in self._every_subscription():
            subscription.passed(page.cursor)
        return not page.is_last

    async def _pass_ends(self) -> None:
        """Wake those who wait for runs that have ended, where nobody watches: what else has changed need not be read.

        Others may start thousands meanwhile, and each row that is read keeps the reads of runs waiting.
        """
        waited_for = list(self._waiters)
        for first in range(0, len(waited_for), _ROWS_MAX):
            for run_id in await self._writer.ask_patiently(FindEnded(waited_for[first : first + _ROWS_MAX])):
                for event in self._waiters.get(run_id, ()):
                    event.set()

    async def _skip(self) -> None:
        """Go on from the present. What was committed before all who want it look for by themselves."""
        skips, self._skips = self._skips, []
        try:
            self._cursor = await self._writer.ask_patiently(FindCursor())
        except BaseException:
            self._skips = skips + self._skips
            raise
        self._wake_waiters()
        for subscription in self._every_subscription():
            subscription.fall_behind()
        for done in skips:
            done.set()

    async def _pass_removals(self) -> None:
        """Tell those who wait for runs that were removed before their end was seen here."""
        self._last_removal_check_at = trio.current_time()
        self._removal_check_at = math.inf
        watchers = self._every_subscription()
        wanted = {*self._waiters, *(watcher.run_id for watcher in watchers if watcher.run_id is not None)}
        if not wanted:
            return
        missing = set(await self._writer.ask_patiently(FindMissing(sorted(wanted))))
        for watcher in watchers:
            if watcher.run_id in missing:
                watcher.remove()
        for run_id in missing:
            for event in self._waiters.get(run_id, ()):
                event.set()


def _size(change: Change) -> int:
    row = change.row
    return sum(map(len, (row.args, row.result or "", row.error or "", *change.values.values())))
