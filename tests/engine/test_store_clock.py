"""A database with a clock of its own: what is stored and what is due goes by that, on each machine."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
import trio

from durable_trio import Context, Engine, StoreAway, open_engine, workflow
from durable_trio.engine import wiring
from durable_trio.stores.contract import Store
from durable_trio.testing.wrapping import WrappedStore
from tests.engine.harness import PATIENCE_SECONDS, wait_until
from tests.kit.stores import store_at

pytestmark = pytest.mark.usefixtures("no_leaks")

_OFF = timedelta(hours=5)


class ClockedStore(WrappedStore):
    """Has a clock that is some hours off; and another store's data."""

    def __init__(self, inner: Store, off: timedelta) -> None:
        super().__init__(inner)
        self.has_clock = True
        self.off = off
        self.read_count = 0
        self.is_away = False

    def read_clock(self) -> int:
        self.read_count += 1
        if self.is_away:
            raise StoreAway("no route to the database")
        return time.time_ns() // 1000 + self.off // timedelta(microseconds=1)


@workflow
async def sleeper(ctx: Context, seconds: float) -> datetime:
    await ctx.sleep(seconds)
    return ctx.now()


@pytest.mark.parametrize("off", [_OFF, -_OFF], ids=["ahead", "behind"])
async def test_what_is_stored_and_due_goes_by_the_databases_clock(file_path: str, off: timedelta) -> None:
    store = ClockedStore(store_at(file_path), off)
    async with open_engine(store, workflows=[sleeper]) as engine:
        run = await engine.start(sleeper, 0.05)
        with trio.fail_after(PATIENCE_SECONDS):
            ended = await run.result()
        record = await run.record()
    theirs = datetime.now(UTC) + off
    assert theirs - timedelta(seconds=PATIENCE_SECONDS) < record.created_at <= ended <= theirs + timedelta(seconds=1)


async def test_what_one_machine_has_stored_is_due_on_another_whose_own_clock_says_something_else(
    file_path: str,
) -> None:
    async with Engine(ClockedStore(store_at(file_path), _OFF), workflows=[sleeper]) as client:
        run = await client.start(sleeper, 0, delay=0.05)
        async with open_engine(ClockedStore(store_at(file_path), _OFF), workflows=[sleeper]):
            with trio.fail_after(PATIENCE_SECONDS):
                await run.result()
        record = await run.record()
    assert record.started_at is not None
    assert timedelta(seconds=0.05) <= record.started_at - record.created_at < timedelta(seconds=PATIENCE_SECONDS)


async def test_it_is_read_again_and_again_and_what_was_read_goes_on_while_the_store_is_away(
    file_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wiring, "CLOCK_READ_SECONDS", 0.01)
    store = ClockedStore(store_at(file_path), _OFF)
    async with open_engine(store, workflows=[sleeper]) as engine:
        await wait_until(lambda: store.read_count > 3)
        store.is_away = True
        before = store.read_count
        await wait_until(lambda: store.read_count > before + 2)
        assert (await engine.run(sleeper, 0)) > datetime.now(UTC) + _OFF - timedelta(seconds=PATIENCE_SECONDS)


async def test_who_opens_a_store_that_goes_away_meanwhile_waits_for_it_and_is_told_in_the_end(file_path: str) -> None:
    """As where the last connection is taken by others between its own first and second."""
    store = ClockedStore(store_at(file_path), _OFF)
    store.is_away = True

    async def be_back() -> None:
        await wait_until(lambda: store.read_count > 2)
        store.is_away = False

    with trio.fail_after(PATIENCE_SECONDS):
        with pytest.raises(StoreAway, match="no route"):
            async with Engine(store, away_seconds_max=0.02):
                pytest.fail("it is not open")
        with pytest.raises(StoreAway, match="no route"):
            await Engine(store, workflows=[sleeper], away_seconds_max=0.02).serve()
        store.read_count = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(be_back)
            async with Engine(store):
                pass
