"""trio's own deadline around a durable call: not durable, but no divergence either."""

from __future__ import annotations

import pytest
import trio

from durable_trio import Context, workflow
from tests.engine.harness import PATIENCE_SECONDS, serving, wait_parked, wait_passivated


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


@workflow
async def waits_too_long(ctx: Context, how: str) -> str:
    if how == "a scope":
        with trio.move_on_after(0.1) as scope:
            await ctx.wait_signal("never")
    elif how == "around a sleep":
        with trio.move_on_after(0.1) as scope:
            await ctx.sleep(3600)
    elif how == "around a nursery":
        with trio.move_on_after(0.1) as scope:
            async with ctx.open_nursery() as nursery:
                nursery.start_soon(wait_for_ever)
                nursery.start_soon(wait_for_ever)
    else:
        async with ctx.open_nursery() as nursery:
            scope = nursery.cancel_scope
            scope.deadline = trio.current_time() + 0.1
            nursery.start_soon(wait_for_ever)
    return "gave up" if scope.cancelled_caught else "went on"


async def wait_for_ever(ctx: Context) -> None:
    await ctx.wait_signal("never")


@pytest.mark.parametrize("how", ["a scope", "around a sleep", "around a nursery", "of a nursery"])
async def test_such_a_scope_around_a_durable_wait_keeps_the_run_in_memory_and_is_told(
    store_path: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Else the deadline would be lost with the body, and the run would wait for ever."""
    async with serving(store_path, waits_too_long) as engine:
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.run(waits_too_long, how) == "gave up"
    assert "the deadline of a trio scope around " in caplog.text
    assert "ctx.move_on_after" in caplog.text


async def test_where_the_engine_is_strict_such_a_run_is_parked(store_path: str) -> None:
    async with serving(store_path, waits_too_long, strict=True) as engine:
        record = await wait_parked(await engine.start(waits_too_long, "a scope"))
    assert record.problem is not None
    assert (record.problem.kind, "the deadline of a trio scope around never#0" in record.problem.text) == (
        "foreign_wait",
        True,
    )


async def test_a_deadline_around_the_whole_engine_is_none_of_the_run(
    store_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    @workflow
    async def patient(ctx: Context) -> str:
        with ctx.move_on_after(3600):
            return await ctx.wait_signal("go", str)
        raise AssertionError

    with trio.fail_after(PATIENCE_SECONDS):
        async with serving(store_path, patient) as engine:
            run = await engine.start(patient)
            await wait_passivated(engine)
            await run.signal("go", "gone")
            assert await run.result() == "gone"
    assert "deadline" not in caplog.text
