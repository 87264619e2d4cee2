"""A database that is gone for longer than callers wait, under load, with two engines on it.

Half a minute stands in half a second here: callers wait a tenth of it (``away_seconds_max``), and leases last longer.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from durable_trio import Context, Engine, Run, RunStatus, StoreAway, open_engine, workflow
from tests.engine.harness import PATIENCE_SECONDS, executor_of, wait_until
from tests.logstore import LogStore

pytestmark = pytest.mark.usefixtures("no_leaks")

_AWAY_SECONDS_MAX = 0.05
_OUTAGE_SECONDS = 0.5
_RUNS = 12

_DONE: Counter[tuple[str, str]] = Counter()


@pytest.fixture(autouse=True)
def forget() -> None:
    _DONE.clear()


async def work(run: str, what: str) -> str:
    """Do something outside, which must not be done twice."""
    _DONE[run, what] += 1
    await trio.sleep(0.01)
    return what


def deposit(tables: Any, run: str) -> int:
    """Add to an amount that all runs share, in the database."""
    amount = (tables.get("account", "amount") or 0) + 1
    tables.put("account", "amount", amount)
    return int(amount)


@workflow
async def part(ctx: Context, parent: str) -> str:
    return await ctx.step("part", work, parent, "part")


@workflow
async def order(ctx: Context) -> str:
    for number in range(4):
        await ctx.step(f"before {number}", work, ctx.run_id, f"before {number}")
    await ctx.transaction("deposit", deposit, ctx.run_id)
    child = await ctx.start_child(part, ctx.run_id)
    await ctx.sleep(0.05)
    await child.result()
    name = await ctx.wait_signal("name", str)
    for number in range(4):
        await ctx.step(f"after {number}", work, ctx.run_id, f"after {number}")
    return name


@attrs.define
class Asked:
    """What callers were told while the database was away."""

    done: list[str] = attrs.Factory(list)
    nothing_done: list[str] = attrs.Factory(list)
    in_doubt: list[str] = attrs.Factory(list)


async def ask(engine: Engine, run_id: str, told: Asked) -> None:
    """Start a run, and remember what came of that."""
    try:
        await engine.start(order, id=run_id)
    except StoreAway as away:
        (told.in_doubt if away.in_doubt else told.nothing_done).append(run_id)
    else:
        told.done.append(run_id)


@pytest.mark.parametrize("loses_replies", [False, True], ids=["requests lost", "replies lost"])
async def test_an_outage_under_load_costs_time_and_nothing_else(tmp_path: Path, loses_replies: bool) -> None:
    stores = [LogStore(tmp_path / "app.log") for _ in range(2)]
    dice, told = random.Random(5), Asked()
    options: dict[str, Any] = {"workflows": [order, part], "away_seconds_max": _AWAY_SECONDS_MAX}
    with trio.fail_after(PATIENCE_SECONDS):
        async with open_engine(stores[0], **options) as one, open_engine(stores[1], **options) as other:
            engines = (one, other)
            executors = [executor_of(engine).id for engine in engines]
            runs = [await dice.choice(engines).start(order, id=f"run-{number}") for number in range(_RUNS)]
            results: dict[str, str] = {}
            async with trio.open_nursery() as nursery:
                for run in runs:  # whoever waits for a result waits on
                    nursery.start_soon(_wait, run, results)
                for run in runs:  # behind their first looks
                    await run.record()
                await wait_until(lambda: sum(_DONE.values()) > _RUNS)
                for store in stores:
                    store.loses_replies, store.is_away = loses_replies, True
                over_at, number = trio.current_time() + _OUTAGE_SECONDS, 0
                while trio.current_time() < over_at or len(told.nothing_done) < 5 or not _are_in_vain(stores):
                    number += 1
                    nursery.start_soon(ask, dice.choice(engines), f"late-{number}", told)
                    await trio.sleep(0.02)
                with pytest.raises(StoreAway):
                    await runs[0].record()
                for store in stores:
                    store.is_away = False
                for engine in engines:  # the next try is not far: till then callers are told that it is away
                    await executor_of(engine).writer.wait_until_reached()
                for run in runs:
                    await run.signal("name", run.id)
            assert results == {run.id: run.id for run in runs}
            # Each engine is the executor that it was, so nobody has taken over anything.
            assert [executor_of(engine).id for engine in engines] == executors
            await _ends_what_was_asked_for(one, told)
    twice = {what: count for what, count in _DONE.items() if count != 1}
    assert not twice
    assert sum(store.known_count if loses_replies else store.repeated_count for store in stores)


def _are_in_vain(stores: list[LogStore]) -> bool:
    """Return whether both engines have tried again and again."""
    return all(store.vain_count > 3 for store in stores)


async def _wait(run: Run[str], results: dict[str, str]) -> None:
    results[run.id] = await run.result()


async def _ends_what_was_asked_for(engine: Engine, told: Asked) -> None:
    """What was told to be done is there, and what was not is not; and to ask again for what is in doubt is safe."""
    there = {record.id for record in (await engine.list_runs(limit=1000)).runs}
    assert there.issuperset(told.done)
    assert there.isdisjoint(told.nothing_done)
    for run_id in [*told.in_doubt, *told.nothing_done]:
        await engine.start(order, id=run_id)
    late = [engine.get(run_id) for run_id in [*told.done, *told.in_doubt, *told.nothing_done]]
    for run in late:
        await run.signal("name", run.id)
        assert await run.result() == run.id
    counts = (await engine.status()).runs_by_status
    assert counts == {RunStatus.COMPLETED: 2 * (_RUNS + len(late))}
    tables = engine.connect()
    assert tables.get("account", "amount") == _RUNS + len(late)
