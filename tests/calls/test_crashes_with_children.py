"""One child for each call, and no parent that ends before, whatever is crashed."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from durable_trio import ChildRun, Context, Engine, RunFailed, workflow
from tests.calls.kit import children_of, double, history_at_end, waiting
from tests.engine.harness import PATIENCE_SECONDS, serving, wait_passivated
from tests.kit.crash_points import at_every_commit
from tests.kit.traces import effects, note

pytestmark = pytest.mark.usefixtures("no_leaks", "no_effects")


class OutOfStockError(Exception):
    """What a child fails with."""


async def fail(text: str) -> None:
    raise OutOfStockError(text)


@workflow
async def failing(ctx: Context, text: str) -> None:
    await ctx.step("fail", fail, text)


async def test_exactly_one_child_for_each_call_and_the_same_result_whatever_commit_crashes(
    autojump_clock: MockClock,
) -> None:
    @workflow
    async def parent(ctx: Context) -> list[Any]:
        found: list[Any] = [await ctx.run_child(double, 1)]
        started: list[ChildRun[Any]] = [await ctx.start_child(double, 2), await ctx.start_child(failing, "x")]
        for child in started:
            try:
                found.append(await child.result())
            except RunFailed as error:
                found.append(str(error.error))
        await ctx.start_child(double, 3, detached=True)
        with ctx.move_on_after(5):
            await ctx.run_child(waiting)
        return found

    async def scenario(engine: Engine) -> Any:
        run = await engine.start(parent, id="parent")
        result = await run.result()
        for child in await children_of(engine, "parent"):
            await history_at_end(child)
        ends = [(record.workflow, str(record.status)) for record in (await engine.list_runs()).runs]
        return result, sorted(ends), [(step.key, step.kind, step.status) for step in await run.steps()]

    (result, ends, _), crash_count = await at_every_commit([parent, double, failing, waiting], scenario)
    assert result == [2, 4, "x"]
    assert [name for name, _ in ends] == ["double"] * 3 + ["failing", "parent", "waiting"]
    assert crash_count > 25


async def test_children_of_a_failing_parent_have_ended_before_compensation_whatever_commit_crashes(
    autojump_clock: MockClock,
) -> None:
    engines: list[Engine] = []

    async def undo(_: Any) -> None:
        effects.append(f"undone while the child is {(await engines[-1].get('child').record()).status}")

    @workflow
    async def parent(ctx: Context) -> None:
        await ctx.step("reserve", note, "reserved", compensate=undo)
        await ctx.start_child(waiting, id="child")
        await ctx.sleep(10)
        raise OutOfStockError("gone")

    async def scenario(engine: Engine) -> Any:
        engines.append(engine)
        run = await engine.start(parent, id="parent")
        with pytest.raises(RunFailed):
            await run.result()
        return [(step.key, str(step.status)) for step in await run.steps()], (await engine.get("child").record()).status

    _, crash_count = await at_every_commit([parent, waiting], scenario)
    assert crash_count > 10
    assert set(effects) == {"reserved", "prepared", "child undone", "undone while the child is cancelled"}


async def test_a_cancelled_run_child_is_waited_for_whatever_commit_crashes(autojump_clock: MockClock) -> None:
    @workflow
    async def parent(ctx: Context) -> str:
        with ctx.move_on_after(10) as scope:
            await ctx.run_child(waiting, id="child")
        return f"{scope.cancelled_caught}"

    async def scenario(engine: Engine) -> Any:
        run = await engine.start(parent, id="parent")
        result = await run.result()
        child = await engine.get("child").record()
        kinds = [str(step.kind) for step in await run.steps()]
        return result, str(child.status), kinds, json.dumps(child.args)

    (result, status, kinds, _), _ = await at_every_commit([parent, waiting], scenario)
    assert (result, status) == ("True", "cancelled")
    assert kinds == ["child", "deadline", "child_end"]


async def test_the_end_of_a_child_is_noticed_at_once_whatever_commit_crashes(autojump_clock: MockClock) -> None:
    """Its notice is consumed before the end is recorded: a crash in between must not leave the run asleep."""

    @workflow
    async def short(ctx: Context) -> None:
        await ctx.sleep(0.125)

    @workflow
    async def parent(ctx: Context) -> None:
        child = await ctx.start_child(short)
        with ctx.move_on_after(0.5):  # so near that it stays in memory, suspended
            await child.result()

    async def scenario(engine: Engine) -> Any:
        run = await engine.start(parent, id="parent")
        await run.result()
        began_at = (await run.record()).created_at
        return [(step.key, (step.finished_at - began_at).total_seconds()) for step in await run.steps()]

    found, _ = await at_every_commit([parent, short], scenario)
    assert found == [("short#0", 0.0), ("short result#0", 0.125)]


async def test_a_killed_parent_finds_its_child_where_it_was(file_path: str) -> None:
    @workflow
    async def parent(ctx: Context) -> str:
        return await ctx.run_child(waiting, id="child")

    async with serving(file_path, parent, waiting) as engine:
        await engine.start(parent, id="parent")
        await wait_passivated(engine)
    async with serving(file_path, parent, waiting) as engine:
        await engine.send_signal("child", "go", "went")
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.get("parent", parent).result() == "went"
    assert effects == ["prepared"]
