"""The feed by itself, on a store that answers what a test says, when it says so; and who waits for a run's end."""

from __future__ import annotations

from typing import Any, cast

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import durable_trio
from durable_trio import RunStatus
from durable_trio.engine.services.feed import Feed, Subscription
from durable_trio.engine.watching import Since, watch
from durable_trio.limits import FEED_INTERVAL_SECONDS
from durable_trio.rows import RunRow
from durable_trio.stores.cursors import Cursor
from durable_trio.stores.news_questions import Change, ChangePage, FindCursor, ListChanges, ListNews
from durable_trio.stores.questions import FindEnded, FindMissing, FindRun, RunFilter
from tests.engine.harness import PATIENCE_SECONDS, serving, wait_until

pytestmark = pytest.mark.usefixtures("no_leaks")

S = RunStatus


def stored(status: RunStatus, changed: int) -> RunRow:
    """Return run ``r`` as a store would."""
    return RunRow(
        run=1,
        id="r",
        workflow="w",
        status=status,
        args="[]",
        result='"done"' if status is S.COMPLETED else None,
        error=None,
        problem=None,
        queue=None,
        priority=0,
        tags="{}",
        parent=None,
        parent_id=None,
        seed=b"",
        generation=0,
        created_at=0,
        started_at=None,
        finished_at=None,
        wake_at=None,
        ttl_at=None,
        recoveries=0,
        compensation_errors="[]",
        owner=None,
        token=0,
        changed=changed,
    )


class ManualStore:
    """Answers what the test has set."""

    is_shared = may_block = False
    poll_seconds, doorbell = FEED_INTERVAL_SECONDS, None

    def __init__(self, present: RunRow) -> None:
        self.present = present
        self.changed: tuple[RunRow, ...] = ()

    def ask(self, question: Any) -> Any:
        match question:
            case FindRun():
                return self.present
            case ListChanges() | ListNews():
                found, self.changed = self.changed, ()
                place = Cursor(str(self.present.changed))
                return ChangePage(tuple(Change(row, {}, place) for row in found), place, is_last=True)
            case FindMissing():
                return ()
            case FindEnded():
                found, self.changed = self.changed, ()
                return tuple(row.id for row in (self.present, *found) if row.status.is_final)
            case FindCursor():
                return Cursor(str(self.present.changed))
        raise AssertionError(question)


class ManualWriter:
    """Reads at once, except while a test holds the answer to ``FindCursor``."""

    def __init__(self, store: ManualStore) -> None:
        self.store = store
        self.commit_count = 0
        self.feeds: list[Feed] = []
        self.hold: trio.Event | None = None
        self.awaited: trio.Event | None = None

    def make_feed(self) -> Feed:
        """Return a feed that has nobody else to tell."""
        writer: Any = self
        self.feeds.append(Feed(writer, residents={}, message_came=print, others_committed=print, mail_was_lost=print))
        return self.feeds[-1]

    async def ask(self, question: Any) -> Any:
        await trio.lowlevel.checkpoint()
        if self.hold is not None and isinstance(question, FindCursor):
            await self.hold.wait()
        return self.store.ask(question)

    ask_patiently = ask

    def foreign_changes(self) -> bool:
        return False

    def set_at_commit(self, event: trio.Event | None) -> None:
        self.awaited = event

    def commit(self, *changed: RunRow) -> None:
        self.store.changed = changed
        self.commit_count += 1
        if self.awaited is not None:
            self.awaited.set()


async def test_word_of_a_former_end_does_not_end_the_wait_for_a_resumed_run() -> None:
    """It was read before the run was resumed, and is passed on after somebody began to wait for the new end."""
    writer: Any = ManualWriter(ManualStore(stored(S.PENDING, 5)))
    feed = writer.make_feed()
    endings: list[RunStatus] = []

    async def wait() -> None:
        endings.append((await feed.wait_ended("r")).status)

    async with trio.open_nursery() as nursery:
        await nursery.start(feed.run)
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        writer.commit(stored(S.FAILED, 4))
        feed.recheck()
        await wait_all_tasks_blocked()
        assert endings == []
        writer.store.present = stored(S.COMPLETED, 6)
        writer.commit(stored(S.COMPLETED, 6))
        feed.recheck()
        await wait_all_tasks_blocked()
        assert endings == [S.COMPLETED]
        nursery.cancel_scope.cancel()


async def test_who_waits_for_a_new_run_is_told_though_others_have_ended_it_already() -> None:
    """The feed had looked at their commits before; nobody commits anything afterwards."""
    writer: Any = ManualWriter(ManualStore(stored(S.COMPLETED, 5)))
    feed = writer.make_feed()
    async with trio.open_nursery() as nursery:
        await nursery.start(feed.run)
        await wait_all_tasks_blocked()
        with trio.fail_after(PATIENCE_SECONDS):
            assert (await feed.wait_ended("r", is_new=True)).status is S.COMPLETED
        nursery.cancel_scope.cancel()


async def test_of_two_watchers_that_come_after_commits_nobody_looked_at_none_is_passed_over_for_the_other() -> None:
    """Each asks where the stream is; what is committed once the first one is there goes to both."""
    writer: Any = ManualWriter(ManualStore(stored(S.RUNNING, 5)))
    writer.store.is_shared = writer.store.may_block = True  # the feed looks by itself
    feed = writer.make_feed()
    watchers = [Subscription(lambda row: True), Subscription(lambda row: True)]
    async with trio.open_nursery() as nursery:
        await nursery.start(feed.run)
        writer.commit_count += 1
        await wait_until(lambda: feed._own_commits == 1)  # nobody wanted to know
        writer.hold = trio.Event()
        async with trio.open_nursery() as comers:
            for watcher in watchers:
                comers.start_soon(feed.subscribe, watcher)
            await wait_all_tasks_blocked()
            writer.hold.set()
        for watcher in watchers:
            watcher.read_by_itself()
        writer.commit(stored(S.COMPLETED, 6))
        with trio.fail_after(PATIENCE_SECONDS):
            for watcher in watchers:
                await watcher.changed.wait()
                assert [change.row.changed for change in watcher.take()] == [6]
        nursery.cancel_scope.cancel()


async def test_who_goes_on_behind_a_cursor_is_offered_nothing_of_before() -> None:
    """The feed was on its way to offer it when the watch was opened: it skips that, and everybody reads by himself."""
    writer: Any = SlowNews(ManualStore(stored(S.RUNNING, 5)))
    writer.store.is_shared = writer.store.may_block = True
    feed = writer.make_feed()
    watcher = Subscription(lambda row: True)
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            await nursery.start(feed.run)
            await feed.subscribe(watcher)
            watcher.read_by_itself()
            writer.commit(stored(S.COMPLETED, 6))
            await writer.is_asked.wait()
            async with trio.open_nursery() as skipping:
                skipping.start_soon(feed.skip)
                await wait_until(lambda: feed._skips)
                writer.may_answer.set()
            assert watcher.is_behind
            assert watcher.pending == {}
            nursery.cancel_scope.cancel()


async def test_an_end_that_is_passed_over_is_still_told_to_who_waits_for_it() -> None:
    """Commits that nobody looked at are passed over, if they are many; the run has ended among them."""
    writer: Any = ManualWriter(ManualStore(stored(S.RUNNING, 5)))
    writer.store.is_shared = writer.store.may_block = True
    feed = writer.make_feed()
    endings: list[RunStatus] = []

    async def wait() -> None:
        endings.append((await feed.wait_ended("r")).status)

    async with trio.open_nursery() as nursery:
        await nursery.start(feed.run)
        writer.commit_count += 1
        await wait_until(lambda: feed._own_commits == 1)  # nobody wanted to know
        with trio.move_on_after(PATIENCE_SECONDS):
            async with trio.open_nursery() as waiters:
                waiters.start_soon(wait)
                await wait_until(lambda: feed._waiters)
                await trio.sleep(0.05)
                writer.store.present = stored(S.COMPLETED, 9_000)
                feed.recheck()
        assert endings == [S.COMPLETED]
        nursery.cancel_scope.cancel()


class SlowNews(ManualWriter):
    """Holds back the answer to what is new."""

    def __init__(self, store: ManualStore) -> None:
        super().__init__(store)
        self.is_asked, self.may_answer = trio.Event(), trio.Event()

    async def ask(self, question: Any) -> Any:
        found = await super().ask(question)
        if isinstance(question, ListNews):
            self.is_asked.set()
            await self.may_answer.wait()
        return found

    ask_patiently = ask


class SlowAnswers(ManualWriter):
    """Holds back the answer to the first reading of changes, until a test lets it go."""

    def __init__(self, store: ManualStore) -> None:
        super().__init__(store)
        self.answer: trio.Event | None = trio.Event()

    async def ask(self, question: Any) -> Any:
        found = await super().ask(question)
        if isinstance(question, ListChanges) and self.answer is not None:
            answer, self.answer = self.answer, None
            await answer.wait()
        return found


async def test_a_commit_during_the_first_read_of_a_watcher_is_given_after_it() -> None:
    """The read does not show it, and the feed has passed it on before the read came back."""
    writer: Any = SlowAnswers(ManualStore(stored(S.RUNNING, 5)))
    feed = writer.make_feed()
    seen: list[RunStatus] = []

    async def look() -> None:
        def give(change: Change) -> Any:
            return change.row

        async with watch(writer, feed, RunFilter(run_id="r"), convert=give, matches=lambda _row: True) as changes:
            async for row in changes:
                seen.append(row.status)

    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            await nursery.start(feed.run)
            answer = writer.answer
            writer.store.changed = (writer.store.present,)
            async with trio.open_nursery() as lookers:
                lookers.start_soon(look)
                await wait_all_tasks_blocked()
                writer.commit(stored(S.COMPLETED, 6))
                await wait_all_tasks_blocked()
                answer.set()
            nursery.cancel_scope.cancel()
    assert seen == [S.RUNNING, S.COMPLETED]


def test_a_watcher_that_falls_behind_reads_on_behind_what_it_has_taken() -> None:
    """Not from where it became live: in between may be a million changes."""
    watcher = Subscription(lambda _row: True, cursor=Cursor("read"))
    watcher.passed(Cursor("while it was behind"))
    watcher.read_by_itself()
    watcher.offer(Change(stored(S.RUNNING, 6), {}, Cursor("6")))
    watcher.passed(Cursor("first page"))
    assert watcher.cursor == "read"
    assert len(watcher.take()) == 1
    assert watcher.cursor == "first page"
    watcher.offer(Change(stored(S.COMPLETED, 7), {}, Cursor("7")))
    watcher.passed(Cursor("second page"))
    watcher.fall_behind()
    assert watcher.pending == {}
    assert watcher.cursor == "first page"


async def test_an_end_that_was_read_and_is_offered_too_is_given_once() -> None:
    """The feed is behind what the watcher has read by itself."""
    writer: Any = SlowNews(ManualStore(stored(S.COMPLETED, 6)))
    feed = writer.make_feed()
    seen: list[int] = []

    def give(change: Change) -> Any:
        return change.row

    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            await nursery.start(feed.run)
            writer.store.changed = (stored(S.COMPLETED, 6),)
            async with watch(writer, feed, RunFilter(), convert=give, matches=lambda _row: True) as changes:
                seen.append(cast(Any, await anext(changes)).changed)
                writer.commit(stored(S.COMPLETED, 6), attrs.evolve(stored(S.FAILED, 7), run=2, id="s"))
                await writer.is_asked.wait()
                writer.may_answer.set()
                seen.append(cast(Any, await anext(changes)).changed)
            nursery.cancel_scope.cancel()
    assert seen == [6, 7]


async def test_a_watch_that_goes_on_behind_a_cursor_is_not_given_what_the_feed_was_about_to_offer() -> None:
    writer: Any = SlowNews(ManualStore(stored(S.COMPLETED, 6)))
    writer.store.is_shared = writer.store.may_block = True
    feed = writer.make_feed()
    seen: list[str] = []

    def give(change: Change) -> Any:
        return change.row

    async def look() -> None:
        since = Since(Cursor("6"), "6")
        watching = watch(writer, feed, RunFilter(), convert=give, matches=lambda _row: True, since=since)
        async with watching as changes:
            is_open.set()
            seen.append((await anext(changes)).id)

    is_open = trio.Event()
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            await nursery.start(feed.run)
            await feed.subscribe(Subscription(lambda _row: True))
            writer.commit(stored(S.COMPLETED, 6))
            await writer.is_asked.wait()  # it has read the end, and has not offered it yet
            async with trio.open_nursery() as lookers:
                lookers.start_soon(look)
                await wait_until(lambda: feed._skips or is_open.is_set())
                writer.may_answer.set()
                await is_open.wait()
                writer.commit(attrs.evolve(stored(S.COMPLETED, 7), run=2, id="s"))
            nursery.cancel_scope.cancel()
    assert seen == ["s"]


async def test_a_closed_feed_wakes_up_whoever_waits_and_lets_nobody_wait() -> None:
    writer: Any = ManualWriter(ManualStore(stored(S.PENDING, 5)))
    feed = writer.make_feed()

    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await feed.wait_ended("r")

    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            await nursery.start(feed.run)
            subscription = Subscription(lambda row: True)
            await feed.subscribe(subscription)
            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            feed.close()
            assert subscription.is_closed
            await subscription.changed.wait()
            await wait()
            nursery.cancel_scope.cancel()


async def test_a_pending_run_that_is_cancelled_ends_the_wait_of_this_process_at_once(store_path: str) -> None:
    """No executor ends it: the request itself does."""
    async with serving(store_path) as engine:
        run = await engine.start("unknown here")
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(durable_trio.RunCancelled):
                    await run.result()

            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            with trio.fail_after(PATIENCE_SECONDS):
                await run.cancel()
