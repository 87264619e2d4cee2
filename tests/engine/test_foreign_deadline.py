"""trio's own deadline around a durable call: not durable, but no divergence either."""

from __future__ import annotations

import trio
from harness import PATIENCE_SECONDS, serving, wait_passivated

from durable_trio import Context, workflow


async def never() -> None:
    await trio.sleep_forever()


@workflow
async def impatient(ctx: Context) -> str:
    with trio.move_on_after(0.05):
        await ctx.step("slow", never)
    first: str = await ctx.step("first", lambda: "one", returns=str)
    return first + await ctx.wait_signal("more", str)


async def test_a_call_that_such_a_scope_has_ended_is_ended_by_it_at_replay_too(file_path: str) -> None:
    async with serving(file_path, impatient) as engine:
        await engine.start(impatient, id="r")
        await wait_passivated(engine)
    async with serving(file_path, impatient) as engine:
        await engine.send_signal("r", "more", "two")
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.get("r").result() == "onetwo"
