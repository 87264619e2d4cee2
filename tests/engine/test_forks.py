"""Forks: a new run with the beginning of another's history."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from durable_trio import Context, Engine, RunConflict, RunNotFound, RunStatus, workflow
from tests.engine.harness import PATIENCE_SECONDS, serving, wait_passivated
from tests.kit.crash_points import at_every_commit
from tests.kit.traces import LONG_SECONDS, effects, ended, flow_before, note, tell_key, undo, virtual

pytestmark = pytest.mark.usefixtures("no_leaks", "no_effects")


S = RunStatus


async def fail(text: str) -> None:
    raise ValueError(text)


async def undo_first(pair: list[str]) -> None:
    await undo(pair[0])


@workflow
async def three_steps(ctx: Context, ends: str = "") -> list[Any]:
    found: list[Any] = [str(ctx.random()), str(ctx.uuid4())]
    for name in ("a", "b", "c"):
        found.append(await ctx.step(name, tell_key, name, compensate=undo_first))
    if ends:
        await ctx.step("end", fail, ends)
    return found


async def test_a_fork_has_the_history_before_a_row_and_goes_on_by_itself(autojump_clock: MockClock) -> None:
    async with virtual(three_steps) as engine:
        run = await engine.start(three_steps)
        original = await run.result()
        fork = await engine.fork(run.id, before="c#0", id="fork")
        copy = await fork.result()
        assert fork.id == "fork"
        assert effects == ["a", "b", "c", "c"]
        assert copy[:2] == original[:2]  # random values are the same
        assert copy[2:4] == original[2:4]
        assert copy[4][0] == "c"
        assert copy[4][1] != original[4][1]  # an outside service must not take it for the original
        assert await run.result() == original
        first, second = await run.steps(), await fork.steps()
        assert [step.key for step in first] == [step.key for step in second]
        assert first[:2] == second[:2]


async def test_a_fork_before_the_first_row_begins_anew(autojump_clock: MockClock) -> None:
    async with virtual(three_steps) as engine:
        run = await engine.start(three_steps)
        await run.result()
        await (await engine.fork(run.id, before="a#0")).result()
        assert effects == ["a", "b", "c", "a", "b", "c"]


async def test_what_is_wrong_with_a_fork_is_said_and_nothing_is_stored(autojump_clock: MockClock) -> None:
    async with virtual(three_steps) as engine:
        run = await engine.start(three_steps)
        await run.result()
        for before in ("d#0", "a#1", "a", "", "branch#0/a#0"):
            with pytest.raises(ValueError, match="row"):
                await engine.fork(run.id, before=before)
        with pytest.raises(RunNotFound):
            await engine.fork("nobody", before="a#0")
        with pytest.raises(RunConflict):
            await engine.fork(run.id, before="a#0", id=run.id)
        with pytest.raises(ValueError, match="run id"):
            await engine.fork(run.id, before="a#0", id=" ")
        assert len((await engine.list_runs()).runs) == 1


async def test_copied_steps_are_not_compensated_by_the_fork(autojump_clock: MockClock) -> None:
    async with virtual(three_steps) as engine:
        run = await engine.start(three_steps, "broken")
        assert await ended(run) is S.FAILED
        assert effects == ["a", "b", "c", "undo c", "undo b", "undo a"]
        effects.clear()
        assert await ended(await engine.fork(run.id, before="c#0")) is S.FAILED
        assert effects == ["c", "undo c"]


async def test_the_original_of_a_fork_can_still_run(autojump_clock: MockClock) -> None:
    async with virtual(flow_before) as engine:
        run = await engine.start(flow_before)
        await run.signal("go")
        await run.result()
        waiting = await engine.start(flow_before)
        await wait_passivated(engine)
        fork = await engine.fork(waiting.id, before="first#0")
        await fork.signal("go")
        assert await fork.result() == ["first", "old last"]
        assert (await waiting.record()).status is S.SUSPENDED
        await waiting.signal("go")
        assert await waiting.result() == ["first", "old last"]


async def test_a_fork_may_take_another_way_from_its_row_on(autojump_clock: MockClock) -> None:
    prices = [10]

    async def price() -> int:
        return prices[0]

    @workflow
    async def buying(ctx: Context) -> str:
        await ctx.step("look", note, "looked")
        found = await ctx.step("price", price)
        if found > 5:
            return await ctx.step("decline", note, "declined")
        await ctx.sleep(10)
        return await ctx.step("buy", note, "bought")

    async with virtual(buying) as engine:
        run = await engine.start(buying)
        assert await run.result() == "declined"
        prices[0] = 3
        fork = await engine.fork(run.id, before="price#0")
        assert await fork.result() == "bought"
        assert effects == ["looked", "declined", "bought"]


async def test_a_fork_of_a_run_that_waits_for_a_child_learns_of_its_end(autojump_clock: MockClock) -> None:
    @workflow
    async def slow(ctx: Context) -> str:
        return str(await ctx.wait_signal("go"))

    @workflow
    async def parent(ctx: Context) -> str:
        child = await ctx.start_child(slow, id="child")
        await ctx.step("between", note, "between")
        return await child.result()

    async with virtual(parent, slow) as engine:
        run = await engine.start(parent)
        await wait_passivated(engine)
        fork = await engine.fork(run.id, before="between#0")
        await trio.sleep(60)
        await engine.send_signal("child", "go", "gone")
        with trio.fail_after(LONG_SECONDS):
            assert await run.result() == "gone"
            assert await fork.result() == "gone"


@pytest.mark.parametrize("ends", ["completed", "failed", "cancelled"])
async def test_a_fork_leaves_the_children_of_the_original_alone(autojump_clock: MockClock, ends: str) -> None:
    @workflow
    async def slow(ctx: Context) -> str:
        return str(await ctx.wait_signal("go"))

    @workflow
    async def parent(ctx: Context) -> str:
        await ctx.start_child(slow, id="child")
        await ctx.step("between", note, "between")
        how = await ctx.wait_signal("how", str)
        if how == "failed":
            raise ValueError(how)
        return how

    async with virtual(parent, slow) as engine:
        run = await engine.start(parent)
        await wait_passivated(engine)
        fork = await engine.fork(run.id, before="between#0")
        await wait_passivated(engine)
        if ends == "cancelled":
            await fork.cancel()
        else:
            await fork.signal("how", ends)
        assert (await ended(fork)).value == ends
        assert (await engine.get("child").record()).status is S.SUSPENDED
        await run.signal("how", "completed")
        await engine.send_signal("child", "go")
        assert await run.result() == "completed"


async def test_a_fork_is_made_once_whatever_commit_crashes(autojump_clock: MockClock) -> None:
    async def scenario(engine: Engine) -> Any:
        run = await engine.start(three_steps, "", id="run")
        await run.result()
        try:
            fork = await engine.fork("run", before="b#0", id="fork")
        except RunConflict:  # the process died before it was told
            fork = engine.get("fork")
        await fork.result()
        runs = [record.id for record in (await engine.list_runs()).runs]
        return sorted(runs), [step.key for step in await fork.steps()]

    await at_every_commit([three_steps], scenario)


async def test_a_fork_with_signals_takes_what_was_sent_to_the_other(file_path: str) -> None:
    @workflow
    async def taking(ctx: Context) -> list[Any]:
        return [await ctx.wait_signal("go") for _ in range(3)]

    async with serving(file_path, taking) as engine:
        run = await engine.start(taking, id="run")
        for number in (1, 2, 3):
            await engine.send_signal("run", "go", number, id=str(number))
        assert await run.result() == [1, 2, 3]
        copy = await engine.fork("run", before="go#1", id="copy", signals=True)
        with trio.fail_after(PATIENCE_SECONDS):
            assert await copy.result() == [1, 2, 3]
