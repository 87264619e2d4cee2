"""The same start again, and a copy of a run with children."""

from __future__ import annotations

import pytest
import trio

from durable_trio import Context, RunConflict, workflow
from tests.engine.harness import PATIENCE_SECONDS, serving


@workflow
async def counting(ctx: Context, number: int) -> int:
    if number < 3:
        await ctx.continue_as_new(number + 1)
    return number


@workflow
async def child(ctx: Context) -> str:
    return str(await ctx.wait_signal("go", str))


@workflow
async def parent(ctx: Context) -> str:
    await ctx.start_child(child, id="child")
    if await ctx.wait_signal("fail?", bool):
        raise ValueError("as asked")
    return "done"


async def test_the_same_start_again_is_the_same_run_also_generations_later(store_path: str) -> None:
    async with serving(store_path, counting) as engine:
        run = await engine.start(counting, 0, id="r")
        assert await run.result() == 3
        assert await (await engine.start(counting, 0, id="r")).result() == 3
        with pytest.raises(RunConflict):
            await engine.start(counting, 3, id="r")


async def test_a_fork_leaves_the_children_of_the_original_alone(store_path: str) -> None:
    async with serving(store_path, parent, child) as engine:
        original = await engine.start(parent, id="original")
        await original.signal("fail?", False)
        with trio.fail_after(PATIENCE_SECONDS):
            while len(await original.steps()) < 2:  # noqa: ASYNC110  # a step alone is no change of a run
                await trio.sleep(0.002)
        fork = await engine.fork("original", before="fail?#0")
        await fork.signal("fail?", True)
        with trio.fail_after(PATIENCE_SECONDS):
            with pytest.raises(Exception, match="as asked"):
                await fork.result()
            await engine.send_signal("child", "go", "on")
            assert await engine.get("child").result() == "on"
            assert await original.result() == "done"
