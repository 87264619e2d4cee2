"""One id is one run, however often and by how many it is started."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from durable_trio import Context, RunConflict, RunStatus, workflow
from tests.engine.flows import CART, echo, waiting
from tests.engine.harness import noted, serving

pytestmark = pytest.mark.usefixtures("no_leaks")


# ---- many ------------------------------------------------------------------------------------------------------------


@pytest.mark.unmeasured
@pytest.mark.parametrize("count", [5, 500])
async def test_concurrent_runs_do_not_disturb_each_other(store_path: str, count: int) -> None:
    @workflow
    async def apart(ctx: Context, number: int) -> list[Any]:
        first = await ctx.step("first", lambda: number * 2)
        await ctx.publish("number", number)
        got = await ctx.wait_signal("go")
        second = await ctx.step("second", lambda: number * 3)
        return [number, first, got, second, ctx.run_id]

    async with serving(store_path, apart) as engine:
        runs = [engine.get(f"r{number}", apart) for number in range(count)]

        async def one(number: int) -> None:
            await engine.start(apart, number, id=f"r{number}")
            await runs[number].signal("go", number * 5)

        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(one, number)
        for number, run in enumerate(runs):
            assert await run.result() == [number, number * 2, number * 5, number * 3, f"r{number}"]
            assert await run.value("number") == number
        counts = (await engine.status()).runs_by_status
    assert counts == {RunStatus.COMPLETED: count}


# ---- identity --------------------------------------------------------------------------------------------------------


async def test_the_same_id_and_arguments_are_the_same_run(store_path: str) -> None:
    calls: list[str] = []

    @workflow
    async def once(ctx: Context, options: dict[str, Any]) -> int:
        return await ctx.step("once", lambda: noted(calls, "x", len(calls)))

    async with serving(store_path, once) as engine:
        first = await engine.start(once, {"a": 1, "b": [2.5]}, id="r")
        again = await engine.start(once, {"b": [2.5], "a": 1}, id="r")
        assert await first.result() == await again.result() == 0
        assert await engine.run(once, {"a": 1, "b": [2.5]}, id="r") == 0  # also after its end
        assert len((await engine.list_runs()).runs) == 1
    assert calls == ["x"]


async def test_many_starts_of_one_id_at_once_are_one_run(store_path: str) -> None:
    calls: list[str] = []

    @workflow
    async def once(ctx: Context) -> int:
        return await ctx.step("once", lambda: noted(calls, "x", len(calls)))

    results: list[int] = []
    async with serving(store_path, once) as engine:

        async def start() -> None:
            results.append(await engine.run(once, id="r"))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(start)
    assert results == [0] * 20


async def test_the_same_id_with_other_arguments_or_workflow_is_a_conflict(store_path: str) -> None:
    async with serving(store_path, echo, waiting) as engine:
        assert await engine.run(echo, 1, id="r") == 1
        for other in (2, "1", True, None, [1]):
            with pytest.raises(RunConflict, match="'r'"):
                await engine.start(echo, other, id="r")
        with pytest.raises(RunConflict):
            await engine.start(waiting, CART, id="r")
        record = await engine.get("r").record()
    assert (record.status, record.result, record.args) == (RunStatus.COMPLETED, 1, (1,))


async def test_a_run_of_an_unknown_workflow_waits_for_who_knows_it(file_path: str) -> None:
    async with serving(file_path, echo) as engine:
        run = await engine.start("order", "{}", id="unfit")
        await engine.start("stranger", 1, "two", id="r")
        assert (await engine.get("r").record()).status is RunStatus.PENDING
        assert (await engine.status()).unknown_workflows == {"stranger": 1, "order": 1}
        assert await run.cancel()

    @workflow
    async def stranger(ctx: Context, one: int, two: str) -> str:
        return f"{one} {two}"

    async with serving(file_path, stranger) as engine:
        assert await engine.get("r", stranger).result() == "1 two"
