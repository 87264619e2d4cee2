"""Nesting without end fails its run, as recorded, and nothing else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from durable_trio import Context, RunFailed, RunStatus, StepFailed, open_engine, workflow
from durable_trio.limits import NURSERY_DEPTH_MAX


async def fail() -> None:
    raise ValueError("deep")


async def nurseries(ctx: Context, depth: int, end: Callable[[], Any]) -> None:
    """Nurseries of one task in each other."""
    if depth:
        async with ctx.open_nursery():
            await nurseries(ctx, depth - 1, end)
    else:
        await ctx.step("end", end)


async def branches(ctx: Context, depth: int, end: Callable[[], Any]) -> None:
    """Branches of branches."""
    if depth:
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(branches, depth - 1, end)
    else:
        await ctx.step("end", end)


async def both(ctx: Context, depth: int, end: Callable[[], Any]) -> None:
    """A branch in the inner of two nurseries."""
    if depth:
        async with ctx.open_nursery(), ctx.open_nursery() as nursery:
            nursery.start_soon(both, depth - 2, end)
    else:
        await ctx.step("end", end)


async def scopes(ctx: Context, depth: int, end: Callable[[], Any]) -> None:
    """Deadlines in each other; they are bounded by Python's own recursion only."""
    if depth:
        with ctx.move_on_after(1000):
            await scopes(ctx, depth - 1, end)
    else:
        await ctx.step("end", end)


SHAPES: dict[str, Callable[..., Awaitable[None]]] = {
    "nurseries": nurseries,
    "branches": branches,
    "both": both,
    "scopes": scopes,
}


@workflow
async def nested(ctx: Context, shape: str, depth: int, fails: bool) -> str:
    await SHAPES[shape](ctx, depth, fail if fails else str)
    return "through"


@workflow
async def innocent(ctx: Context) -> str:
    await ctx.wait_signal("go")
    return "through"


def told_by(error: object) -> str:
    """Return what is told of the only failure in groups; the innermost of many are kept as text."""
    while isinstance(error, BaseExceptionGroup):
        (error,) = error.exceptions
    return str(error) if isinstance(error, StepFailed) else f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_run_may_nest_to_the_bound_and_fail_there(shape: str) -> None:
    async with open_engine(":memory:", workflows=[nested]) as engine:
        assert await engine.run(nested, shape, NURSERY_DEPTH_MAX, False) == "through"
        with pytest.raises(RunFailed) as caught:
            await engine.run(nested, shape, NURSERY_DEPTH_MAX, True)
    assert "ValueError: deep" in told_by(caught.value.error)


@pytest.mark.parametrize("shape", SHAPES)
async def test_nesting_deeper_fails_the_run_and_no_other(file_path: str, shape: str) -> None:
    async with open_engine(file_path, workflows=[nested, innocent]) as engine:
        run = await engine.start(innocent)
        with pytest.raises(RunFailed) as caught:
            await engine.run(nested, shape, 10_000, True, id="deep")
        text = told_by(caught.value.error)
        assert "RecursionError: " in text
        assert shape == "scopes" or f"at most {NURSERY_DEPTH_MAX}" in text
        assert (await engine.get("deep").record()).status is RunStatus.FAILED
        await run.signal("go")
        assert await run.result() == "through"


async def test_nurseries_side_by_side_do_not_count_and_a_body_can_go_on_after_the_refusal() -> None:
    @workflow
    async def many(ctx: Context) -> str:
        for _ in range(2 * NURSERY_DEPTH_MAX):
            async with ctx.open_nursery() as nursery:
                nursery.start_soon(branches, 1, str)
        try:
            await nurseries(ctx, NURSERY_DEPTH_MAX + 1, str)
        except* RecursionError:
            pass
        return await ctx.step("end", str)

    async with open_engine(":memory:", workflows=[many]) as engine:
        assert await engine.run(many) == ""
