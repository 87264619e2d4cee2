"""Who is taken for dead because it does not renew, and by whom: observers go by what they see, and by no clock."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio

from durable_trio.clock import MICROSECONDS, Clock
from durable_trio.engine.services import recovery
from durable_trio.engine.services.recovery import Reaper
from durable_trio.stores.contract import ReapExecutor, RenewLease, Store
from durable_trio.stores.questions import ListExecutors, Question
from durable_trio.stores.sqlite import SqliteStore
from durable_trio.stores.writer import Writer
from durable_trio.testing.store_contract.kit import one, owned, register, row_of, start
from durable_trio.testing.wrapping import WrappedStore
from tests.engine.harness import PATIENCE_SECONDS, wait_until
from tests.kit.stores import store_at
from tests.stores.away import CutOffStore

pytestmark = pytest.mark.usefixtures("no_leaks")

SECOND = MICROSECONDS
LOOK = SECOND // 4


@attrs.define
class Hands:
    """A clock that nobody sets, as an observer reads it."""

    now: int = 10**9


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    hands = Hands()
    monkeypatch.setattr(recovery, "monotonic_now", lambda: hands.now)
    return hands


@pytest.fixture
def observed(file_path: str) -> Any:
    """The store of executors whose locks are held, as of processes that are there."""
    store = store_at(file_path)
    store.open()
    yield store
    store.close()


@asynccontextmanager
async def looking(store: Any) -> AsyncIterator[Reaper]:
    """Have an observer, on a store of its own."""
    writer = Writer(store, failed=lambda: None, still_away=lambda: None, committed_untold=lambda _: None)
    writer.store.open()
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(writer.run)
            yield Reaper(writer, Clock())
            nursery.cancel_scope.cancel()
    finally:
        writer.store.close()


def living(store: Store) -> set[int]:
    return {row.id for row in store.ask(ListExecutors())}


async def look_for(reaper: Reaper, hands: Hands, microseconds: int, each: Callable[[], object] = lambda: None) -> None:
    """Look as observers do, for so long; before each look ``each`` is called."""
    for _ in range(microseconds // LOOK):
        hands.now += LOOK
        each()
        await reaper.reap_dead()


async def test_who_hangs_is_reaped_after_its_own_lease_whatever_others_have(
    observed: Store, hands: Hands, file_path: str
) -> None:
    hung = register(observed, lease=5 * SECOND)
    start(observed, "r", owner=hung)
    hasty, patient = register(observed, lease=2 * SECOND), register(observed, lease=10 * SECOND)
    async with looking(store_at(file_path)) as reaper:
        await reaper.reap_dead()
        for microseconds, left in (
            (2 * SECOND - LOOK, {hung, hasty, patient}),
            (LOOK, {hung, patient}),
            (3 * SECOND - LOOK, {hung, patient}),
            (LOOK, {patient}),
            (5 * SECOND - LOOK, {patient}),
            (LOOK, set()),
        ):
            await look_for(reaper, hands, microseconds)
            assert living(observed) == left
            assert (row_of(observed, "r").owner is None) is (hung not in left)


async def test_who_renews_lives(observed: Store, hands: Hands, file_path: str) -> None:
    executor = register(observed, lease=3 * SECOND)
    async with looking(store_at(file_path)) as reaper:
        for _ in range(8):
            await look_for(reaper, hands, 3 * SECOND - LOOK)
            one(observed, RenewLease(executor=executor))
        assert living(observed) == {executor}
        assert reaper.others_count == 1


async def test_who_renews_as_it_is_taken_for_dead_is_spared(observed: Store, hands: Hands, file_path: str) -> None:
    executor = register(observed, lease=SECOND)

    class Late(WrappedStore):
        def apply(self, batch: Any, *, block: bool = True) -> Any:
            if block and any(type(operation) is ReapExecutor for operation in batch):
                one(observed, RenewLease(executor=executor))
            return self.inner.apply(batch, block=block) if block else None

    async with looking(Late(store_at(file_path))) as reaper:
        await reaper.reap_dead()
        await look_for(reaper, hands, 5 * SECOND)
        assert living(observed) == {executor}


async def test_an_observer_that_was_stopped_kills_nobody(observed: Store, hands: Hands, file_path: str) -> None:
    """Nor one of a machine that was suspended: all others were with it, and it may look before they can renew."""
    executors = {register(observed, lease=lease * SECOND) for lease in (1, 3, 30)}
    async with looking(store_at(file_path)) as reaper:
        await reaper.reap_dead()
        hands.now += 3600 * SECOND
        await reaper.reap_dead()
        assert living(observed) == executors
        for executor in executors:
            one(observed, RenewLease(executor=executor))
        hands.now += 3600 * SECOND
        await reaper.reap_dead()
        assert living(observed) == executors


@pytest.mark.parametrize("waits", [True, False])
async def test_while_the_store_is_away_nobody_is_silent(
    observed: Store, hands: Hands, file_path: str, waits: bool
) -> None:
    """``waits``: the look goes on until the store is back; else it is broken off, and another one comes then."""
    executor = register(observed, lease=3 * SECOND)
    store = CutOffStore(store_at(file_path))
    async with looking(store) as reaper:
        await reaper.reap_dead()
        for _ in range(6):
            store.is_away, store.vain_count = True, 0
            with trio.fail_after(PATIENCE_SECONDS):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(reaper.reap_dead)
                    await wait_until(lambda: store.vain_count > 0)
                    hands.now += SECOND
                    store.is_away = not waits
                    if not waits:
                        nursery.cancel_scope.cancel()
            store.is_away = False
            await reaper.reap_dead()
        assert living(observed) == {executor}


async def test_of_observers_that_see_the_same_one_says_so(
    observed: Store, hands: Hands, file_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    owned(observed, "r")
    caplog.set_level(logging.WARNING, "durable_trio")
    async with looking(store_at(file_path)) as one_of_them, looking(store_at(file_path)) as other:
        for _ in range(8):
            hands.now += LOOK
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one_of_them.reap_dead)
                nursery.start_soon(other.reap_dead)
    assert living(observed) == set()
    assert [vars(record).get("event") for record in caplog.records] == ["process_silent"]


async def test_one_of_which_it_cannot_be_told_whether_it_is_there_has_its_lease(
    observed: Store, hands: Hands, file_path: str
) -> None:
    """As on another machine. One that has certainly ended has none."""
    unknown, ended = register(observed, lease=2 * SECOND), register(observed, lease=2 * SECOND)

    class Elsewhere(WrappedStore):
        def ask(self, question: Question[Any]) -> Any:
            answer = self.inner.ask(question)
            if isinstance(question, ListExecutors):
                judged = {unknown: None, ended: False}
                return tuple(attrs.evolve(row, is_locked=judged[row.id]) for row in answer)
            return answer

    async with looking(Elsewhere(store_at(file_path))) as reaper:
        await reaper.reap_dead()
        assert living(observed) == {unknown}
        await look_for(reaper, hands, 2 * SECOND - LOOK)
        assert living(observed) == {unknown}
        await look_for(reaper, hands, LOOK)
        assert living(observed) == set()


async def test_one_that_may_come_back_is_spared_until_it_was_gone_for_longer_than_there_is_doubt(
    observed: Store, hands: Hands, file_path: str
) -> None:
    """As on a server, which knows of a process by its connection."""
    cut, ended = register(observed, lease=30 * SECOND), register(observed, lease=30 * SECOND)
    judged = {cut: False, ended: False}

    class Server(WrappedStore):
        doubt_seconds = 1.0

        def ask(self, question: Question[Any]) -> Any:
            answer = self.inner.ask(question)
            if isinstance(question, ListExecutors):
                return tuple(attrs.evolve(row, is_locked=judged[row.id]) for row in answer)
            return answer

    async with looking(Server(store_at(file_path))) as reaper:
        await reaper.reap_dead()
        await look_for(reaper, hands, SECOND - LOOK)
        assert living(observed) == {cut, ended}
        judged[cut] = True  # connected anew
        await look_for(reaper, hands, LOOK)
        assert living(observed) == {cut}
        judged[cut] = False  # and cut again
        await look_for(reaper, hands, SECOND)
        assert living(observed) == {cut}
        await look_for(reaper, hands, LOOK)
        assert living(observed) == set()


@pytest.mark.on_sqlite("writes into its tables what no engine would")
async def test_a_row_that_cannot_be_read_is_left_until_its_process_has_ended(
    observed: Store, hands: Hands, file_path: str
) -> None:
    executor = register(observed, lease=2 * SECOND)
    with observed.connect() as connection:
        connection.execute("UPDATE executors SET lease = -1")
    async with looking(store_at(file_path)) as reaper:
        await reaper.reap_dead()
        await look_for(reaper, hands, 60 * SECOND)
        assert living(observed) == {executor}
        assert isinstance(observed, SqliteStore)
        observed._locks.release(executor)
        await reaper.reap_dead()
        assert living(observed) == set()
