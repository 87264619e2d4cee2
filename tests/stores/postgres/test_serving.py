"""An engine whose server goes, or whose connection: it goes on, and runs nothing again because of it."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import trio

from durable_trio import Context, RunConflict, RunStatus, open_engine, workflow
from durable_trio.engine.runs import inline
from durable_trio.rows import ServedCode
from durable_trio.stores.contract import ClaimRun
from durable_trio.stores.postgres.session import DOUBT_SECONDS, Session
from durable_trio.stores.postgres.store import PostgresStore
from durable_trio.stores.postgres.wire import Wire
from durable_trio.stores.questions import ListExecutors
from durable_trio.testing.store_contract.kit import register
from durable_trio.workflows import INLINE_NAME
from tests.engine.services.test_observers import looking
from tests.kit.postgres import server
from tests.stores.postgres.kit import Rows, connect, wait_until

_RUNS = 8


@pytest.mark.skipif("DURABLE_TRIO_TEST_PG" in os.environ, reason="the server is not ours to stop")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["stopped", "crashed"])
def test_what_was_done_while_the_server_was_away_is_committed_and_not_done_again(url: str, how: signal.Signals) -> None:
    calls: Counter[str] = Counter()
    are_held: list[trio.Event] = []
    is_over: list[trio.Event] = []

    async def hold(key: str) -> str:
        calls[key] += 1
        if len(calls) == _RUNS:
            are_held[0].set()
        await is_over[0].wait()
        return key

    async def work(key: str) -> str:
        calls[key] += 1
        return key

    def pay(connection: Any, key: str) -> None:
        connection.execute("INSERT INTO account VALUES (%s)", [key])

    @workflow
    async def shop(ctx: Context, key: str) -> str:
        await ctx.step("hold", hold, f"{key} hold")
        await ctx.step("work", work, f"{key} work")
        await ctx.transaction("pay", pay, key)
        return await ctx.step("end", work, f"{key} end")

    async def main() -> None:
        are_held.append(trio.Event())
        is_over.append(trio.Event())
        async with open_engine(url, workflows=[shop]) as engine:
            runs = [await engine.start(shop, f"order {number}") for number in range(_RUNS)]
            with trio.fail_after(30):
                await are_held[0].wait()
            await trio.to_thread.run_sync(server().stop, how)
            is_over[0].set()  # all that is done now cannot be written
            with trio.move_on_after(0.2):
                await runs[0].result()
                raise AssertionError("there is no server")
            await trio.to_thread.run_sync(server().start)
            for number, run in enumerate(runs):
                assert await run.result() == f"order {number} end"

    with connect(url) as connection:
        Rows(connection).execute("CREATE TABLE public.account (key text)")
    trio.run(main)
    assert set(calls.values()) == {1}
    assert len(calls) == 3 * _RUNS
    with connect(url) as connection:
        found = Rows(connection).all("SELECT key FROM public.account ORDER BY key")
    assert found == [(f"order {number}",) for number in range(_RUNS)]


def test_who_has_lost_its_session_for_a_moment_is_not_taken_for_dead(
    url: str, store: PostgresStore, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock is free until it has it again, as that of a process that was killed."""
    executor = register(store)
    may_come_back = threading.Event()
    take_lock = Session._take_lock

    def take_later(self: Session, wire: Wire) -> bool:
        return (self is not store._session or may_come_back.is_set()) and take_lock(self, wire)

    def is_there() -> bool | None:
        (row,) = store.ask(ListExecutors())
        return row.is_locked

    async def main() -> None:
        async with looking(PostgresStore(url)) as reaper:
            await reaper.reap_dead()
            assert is_there() is False
            may_come_back.set()
            await trio.to_thread.run_sync(wait_until, lambda: is_there() is True)
            await reaper.reap_dead()

    monkeypatch.setattr(Session, "_take_lock", take_later)
    rows.execute("SELECT pg_terminate_backend(pid, 10000) FROM pg_locks WHERE locktype = 'advisory'")
    wait_until(lambda: is_there() is False)
    trio.run(main)
    assert [row.id for row in store.ask(ListExecutors())] == [executor]


async def test_the_block_of_a_script_that_has_died_is_waited_for_until_that_is_certain(
    url: str, open_store: Callable[[], PostgresStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine it takes its time. Of one that lives it is told sooner: here without any patience."""
    monkeypatch.setattr(inline, "_TAKEOVER_SECONDS_MAX", -DOUBT_SECONDS)
    store = open_store()
    async with open_engine(url) as engine:
        with pytest.raises(ZeroDivisionError):
            async with engine.inline("script"):
                raise ZeroDivisionError
        code, now = ServedCode(INLINE_NAME, 0, 0), store.read_clock()
        store.apply([ClaimRun(owner=register(store), run_id="script", codes=(code,), is_asked_for=True, now=now)])
        with pytest.raises(RunConflict, match="which is alive"):
            async with engine.inline("script"):
                raise AssertionError("entered")
        store.close()
        async with engine.inline("script"):
            pass
        assert (await engine.get("script").record()).status is RunStatus.COMPLETED
