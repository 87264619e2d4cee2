"""Two servers, of which the second follows the first, and takes over when that is lost with its machine."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

import attrs
import psycopg
import pytest
import trio
from private_postgres import Server

from durable_trio import Context, open_engine, workflow
from durable_trio.errors import OwnershipLost
from durable_trio.stores.contract import Advance
from durable_trio.stores.kinds import make_reader
from durable_trio.stores.postgres.store import PostgresStore
from durable_trio.stores.questions import CountRuns, FindRun, ListHistory
from durable_trio.testing.store_contract.kit import add, fence_of, one, owned, row_of, start_operation, step
from tests.kit.postgres import must_be_installed
from tests.stores.postgres.kit import Doing, wait_until
from tests.stores.postgres.test_outages import again_until_it_is_back

_RUNS = 8
_STEPS = 5


@attrs.define
class Pair:
    """The two; both stand in the URL, as a user would write it."""

    leader: Server
    standby: Server

    @property
    def url(self) -> str:
        places = f"127.0.0.1:{self.leader.port},127.0.0.1:{self.standby.port}"
        return f"postgresql://postgres@{places}/postgres"

    def on_leader(self, sql: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.leader.url, autocommit=True) as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def wait_for_the_standby(self) -> None:
        """From now on a commit is acknowledged once the standby has it."""
        self.on_leader("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
        self.on_leader("SELECT pg_reload_conf()")
        wait_until(lambda: self.on_leader("SELECT sync_state FROM pg_stat_replication") == [("sync",)])

    def let_it_catch_up(self) -> None:
        wait_until(
            lambda: self.on_leader("SELECT pg_current_wal_lsn() = replay_lsn FROM pg_stat_replication") == [(True,)]
        )

    def cut_the_standby_off(self) -> None:
        """From now on it is sent nothing more, and nobody is told."""
        self.leader.pause_senders()

    def fail_over(self) -> None:
        self.leader.kill()
        self.standby.promote()


@pytest.fixture
def pair() -> Iterator[Pair]:
    must_be_installed()
    # Who looks for a leader that is gone is told only then that it is to take over itself.
    settings = {"shared_buffers": "16MB", "wal_retrieve_retry_interval": "20ms"}
    leader = Server(settings=settings)
    standby = None
    try:
        standby = Server(of=leader, settings=settings)
        yield Pair(leader, standby)
    finally:
        if standby is not None:
            standby.close()
        leader.close()


def told_of_losses(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if getattr(record, "event", "") == "store_rewound"]


def test_what_the_standby_never_had_is_missed_and_said(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    """The owner writes nothing behind what is there; the run goes on from that with whoever takes it."""
    store = PostgresStore(pair.url)
    store.open()
    try:
        row, fence = owned(store)
        add(store, fence, step(1))
        pair.let_it_catch_up()
        reader = make_reader(pair.standby.url)  # who only reads may do so there
        reader.open()
        assert reader.ask(ListHistory(row.run)) == (step(1),)
        reader.close()
        pair.cut_the_standby_off()
        add(store, fence, step(2, "lost"))
        one(store, start_operation("lost"))
        pair.fail_over()
        refused, started = again_until_it_is_back(
            store, [Advance(fence=fence, rows=(step(3, "late"),), now=20), start_operation("other")]
        )
        assert isinstance(refused, OwnershipLost)
        assert started.created
        assert [each.lost_count for each in told_of_losses(caplog)] == [2]  # type: ignore[attr-defined]
        assert store.ask(ListHistory(row.run)) == (step(1),)
        assert row_of(store).owner is None
        assert store.ask(FindRun("lost")) is None
        _, new = owned(store, "third")
        assert fence_of(row_of(store, "third")) == new
    finally:
        store.close()


def test_a_commit_that_waits_for_a_standby_that_is_cut_off_is_never_taken_for_done(pair: Pair) -> None:
    """It is committed on a server that is lost: on the other one it is done, once, when it is sent again."""
    store = PostgresStore(pair.url)
    store.open()
    try:
        row, fence = owned(store)
        assert store.ask(CountRuns()).store_version.endswith(", no standby must answer")
        pair.wait_for_the_standby()
        add(store, fence, step(1))
        seen = store.ask(CountRuns())
        assert seen.store_version.endswith(", a standby must answer")
        assert not any("standby" in each for each in seen.warnings)
        pair.cut_the_standby_off()
        batch = [Advance(fence=fence, rows=(step(2, "in doubt"),), now=20)]
        doing = Doing(lambda: again_until_it_is_back(store, batch))
        wait_until(lambda: pair.on_leader("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'") == [(1,)])
        assert not doing.is_done
        pair.fail_over()
        assert doing.result() == [True]
        assert [each.seq for each in store.ask(ListHistory(row.run))] == [1, 2]
    finally:
        store.close()


@pytest.mark.parametrize("must_answer", [True, False], ids=["synchronous", "cut off"])
def test_an_engine_goes_on_at_the_server_that_takes_over(
    pair: Pair, must_answer: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """With a standby that must answer each step is done once; else those again that it never had."""
    calls: Counter[str] = Counter()
    is_arranged: list[trio.Event] = []

    async def work(key: str, n: int) -> str:
        calls[f"{key} {n}"] += 1
        if n:
            await is_arranged[0].wait()
            await trio.sleep(0.02)
        return key

    @workflow
    async def shop(ctx: Context, key: str) -> list[str]:
        return [await ctx.step(f"step {n}", work, key, n) for n in range(_STEPS)]

    async def main() -> None:
        is_arranged.append(trio.Event())
        async with open_engine(pair.url, workflows=[shop], lease_seconds=60) as engine:
            runs = [await engine.start(shop, f"order {number}") for number in range(_RUNS)]
            await trio.to_thread.run_sync(wait_until, lambda: len(calls) == 2 * _RUNS)
            await trio.to_thread.run_sync(pair.let_it_catch_up)
            await trio.to_thread.run_sync(pair.wait_for_the_standby if must_answer else pair.cut_the_standby_off)
            is_arranged[0].set()
            await trio.to_thread.run_sync(wait_until, lambda: len(calls) >= 3 * _RUNS)
            await trio.to_thread.run_sync(pair.fail_over)
            with trio.fail_after(60):
                for number, run in enumerate(runs):
                    assert await run.result() == [f"order {number}"] * _STEPS

    trio.run(main)
    assert set(calls) == {f"order {number} {n}" for number in range(_RUNS) for n in range(_STEPS)}
    losses = told_of_losses(caplog)
    if must_answer:
        assert set(calls.values()) == {1}
        assert not losses
    else:
        assert max(calls.values()) == 2
        assert len(losses) == 1
