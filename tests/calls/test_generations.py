"""Generations: one history ends, the next begins, under one id."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from durable_trio import CodecError, Context, Engine, RunCancelled, RunConflict, RunFinished, RunStatus, workflow
from tests.engine.harness import wait_passivated
from tests.kit.crash_points import at_every_commit
from tests.kit.traces import counting, effects, ended, note, tell_key, undo, virtual

pytestmark = pytest.mark.usefixtures("no_leaks", "no_effects")


S = RunStatus


async def test_generations_follow_each_other_under_one_id_with_a_history_that_does_not_grow(
    autojump_clock: MockClock,
) -> None:
    async with virtual(counting) as engine:
        run = await engine.start(counting, 0, 50)
        assert await run.result() == [50, 50]
        record = await run.record()
        assert (record.generation, record.args, record.status) == (50, (50, 50), S.COMPLETED)
        assert [step.key for step in await run.steps()] == ["count#0"]
        assert effects == [str(number) for number in range(51)]
        assert await run.value("seen 0") == 0
        assert len(await run.values()) == 51


async def test_keys_and_random_values_are_others_in_each_generation(autojump_clock: MockClock) -> None:
    @workflow
    async def telling(ctx: Context, found: list[Any]) -> list[Any]:
        pair = await ctx.step("tell", tell_key, "tell")
        found = [*found, [pair[1], str(ctx.random()), str(ctx.uuid4())]]
        if len(found) < 3:
            await ctx.continue_as_new(found)
        return found

    async with virtual(telling) as engine:
        found = await engine.run(telling, [])
        for column in zip(*found, strict=True):
            assert len(set(column)) == 3


@workflow
async def typed(ctx: Context, day: int, notes: list[str], note: str = "", *rest: float) -> list[Any]:
    if day:
        return [day, notes, note, *rest]
    wrong: dict[str, tuple[Any, ...]] = {
        "parameter 'day', annotated int": ("1", []),
        r"\[1\]\[0\]: int is no str \(parameter 'notes', annotated list\[str\]\)": (1, [2]),
        "parameter 'note', annotated str": (1, [], None),
        "parameter 'rest', annotated float": (1, [], "", 2.5, "x"),
        "got 1: 'notes' is missing": (1,),
        "got 0: 'day', 'notes' is missing": (),
    }
    for text, args in wrong.items():
        with pytest.raises((CodecError, TypeError), match=text):
            await ctx.continue_as_new(*args)
    with pytest.raises(ValueError, match=r"the run's own workflow, 'typed', not .*counting"):
        await ctx.continue_as_new(0, 1, workflow=counting)
    return await ctx.continue_as_new(1, ["a"], workflow=typed)


async def test_arguments_that_do_not_fit_are_refused_at_once_and_named(autojump_clock: MockClock) -> None:
    """The body goes on after that, in the same generation."""
    async with virtual(typed) as engine:
        run = await engine.start(typed, 0, [])
        assert await run.result() == [1, ["a"], ""]
        assert (await run.record()).generation == 1
        with pytest.raises(CodecError, match="parameter 'day'"):
            await engine.start(typed, "0", [])
        with pytest.raises(TypeError, match="'notes' is missing"):
            await engine.start("typed", 0)


async def test_unread_signals_carry_over_in_order_and_consumed_ones_do_not(autojump_clock: MockClock) -> None:
    @workflow
    async def one_each(ctx: Context, found: list[int]) -> list[int]:
        found = [*found, await ctx.wait_signal("number")]
        if len(found) < 5:
            await ctx.continue_as_new(found)
        return found

    async with virtual(one_each) as engine:
        run = await engine.start(one_each, [], delay=10)
        for number in range(5):
            await run.signal("number", number, id=f"{number}")
        await run.signal("number", 0, id="0")  # the same one again
        assert await run.result() == [0, 1, 2, 3, 4]


async def test_a_signal_id_is_known_again_in_a_later_generation(autojump_clock: MockClock) -> None:
    @workflow
    async def one_each(ctx: Context, found: list[int]) -> list[int]:
        found = [*found, await ctx.wait_signal("number")]
        if len(found) < 2:
            await ctx.continue_as_new(found)
        return found

    async with virtual(one_each) as engine:
        run = await engine.start(one_each, [])
        await run.signal("number", 1, id="same")
        await wait_passivated(engine)
        await run.signal("number", 1, id="same")
        await wait_passivated(engine)
        assert (await run.record()).generation == 1
        await run.signal("number", 2, id="other")
        assert await run.result() == [1, 2]


async def test_registered_compensations_are_dropped(autojump_clock: MockClock) -> None:
    @workflow
    async def failing_later(ctx: Context, number: int) -> None:
        await ctx.step("do", note, f"{number}", compensate=undo)
        if number < 2:
            await ctx.continue_as_new(number + 1)
        raise ValueError("at last")

    async with virtual(failing_later) as engine:
        assert await ended(await engine.start(failing_later, 0)) is S.FAILED
        assert effects == ["0", "1", "2", "undo 2"]


async def test_it_is_refused_in_branches_and_while_a_nursery_is_open(autojump_clock: MockClock) -> None:
    @workflow
    async def misplaced(ctx: Context) -> list[str]:
        found: list[str] = []

        async def branch(branch_ctx: Context) -> None:
            try:
                await branch_ctx.continue_as_new()
            except RuntimeError:
                found.append("in a branch")

        async with ctx.open_nursery() as nursery:
            try:
                await ctx.continue_as_new()
            except RuntimeError:
                found.append("with a nursery")
            nursery.start_soon(branch)
        try:
            await ctx.continue_as_new("too", "many")
        except TypeError:
            found.append("other arguments")
        return found

    async with virtual(misplaced) as engine:
        run = await engine.start(misplaced)
        assert await run.result() == ["with a nursery", "in a branch", "other arguments"]
        assert (await run.record()).generation == 0


async def test_a_time_to_live_counts_from_the_first_start(autojump_clock: MockClock) -> None:
    @workflow(ttl=100)
    async def for_ever(ctx: Context) -> None:
        await ctx.sleep(30)
        await ctx.continue_as_new()

    async with virtual(for_ever) as engine:
        began = trio.current_time()
        run = await engine.start(for_ever)
        assert await ended(run) is S.FAILED
        assert 100 <= trio.current_time() - began < 101
        assert (await run.record()).generation == 3


async def test_a_cancel_reaches_whichever_generation_there_is(autojump_clock: MockClock) -> None:
    @workflow
    async def for_ever(ctx: Context) -> None:
        await ctx.sleep(0.5)
        await ctx.continue_as_new()

    async with virtual(for_ever) as engine:
        run = await engine.start(for_ever)
        await trio.sleep(10.2)
        assert await run.cancel("enough", wait=True)
        assert (await run.record()).status is S.CANCELLED


async def test_a_cancel_cannot_be_escaped_into_a_new_generation(autojump_clock: MockClock) -> None:
    @workflow
    async def stubborn(ctx: Context, number: int) -> int:
        if number < 3:
            try:
                await ctx.wait_signal("never")
            finally:
                with trio.CancelScope(shield=True):
                    await ctx.continue_as_new(number + 1)
        return number

    async with virtual(stubborn) as engine:
        run = await engine.start(stubborn, 0)
        await wait_passivated(engine)
        assert await run.cancel()
        assert await ended(run) is S.CANCELLED
        with pytest.raises(RunCancelled):
            await run.result()


async def test_a_cancel_that_is_recorded_while_the_body_is_on_its_way_is_not_lost(autojump_clock: MockClock) -> None:
    cancel: list[Callable[[], Awaitable[bool]]] = []

    @workflow
    async def busy(ctx: Context, number: int) -> int:
        await ctx.step("do", note, f"{number}")
        if number == 0:
            await cancel[0]()  # as somebody else would at this moment
            for _ in range(50):
                await trio.lowlevel.checkpoint()
        if number < 5:
            await ctx.continue_as_new(number + 1)
        return number

    async with virtual(busy) as engine:
        run = engine.get("busy")
        cancel.append(run.cancel)
        await engine.start(busy, 0, id="busy")
        assert await ended(run) is S.CANCELLED


async def test_generations_survive_a_crash_at_any_commit(autojump_clock: MockClock) -> None:
    @workflow
    async def two_of_each(ctx: Context, found: list[Any]) -> list[Any]:
        found = [*found, await ctx.wait_signal("number"), ctx.generation]
        await ctx.sleep(10)
        await ctx.publish("found", found)
        if len(found) < 6:
            await ctx.continue_as_new(found)
        return found

    async def scenario(engine: Engine) -> Any:
        run = await engine.start(two_of_each, [], id="run", delay=1)
        for number in range(3):
            await run.signal("number", number, id=f"{number}")
        result = await run.result()
        record = await run.record()
        return result, record.generation, record.values, [step.key for step in await run.steps()]

    # The first start is known again by its id only while it has its first arguments.
    async def restartable(engine: Engine) -> Any:
        try:
            return await scenario(engine)
        except RunConflict:
            run = engine.get("run")
            for number in range(3):
                with contextlib.suppress(RunFinished):
                    await run.signal("number", number, id=f"{number}")
            result = await run.result()
            record = await run.record()
            return result, record.generation, record.values, [step.key for step in await run.steps()]

    (result, generation, values, keys), crash_count = await at_every_commit([two_of_each], restartable)
    assert (result, generation, keys) == ([0, 0, 1, 1, 2, 2], 2, ["number#0", "sleep#0"])
    assert values == {"found": result}
    assert crash_count > 10


async def test_starting_it_again_by_its_id_is_the_same_run_in_every_generation(autojump_clock: MockClock) -> None:
    async with virtual(counting) as engine:
        run = await engine.start(counting, 0, 3, id="run")
        await run.result()
        assert await (await engine.start(counting, 0, 3, id="run")).result() == [3, 3]
        with pytest.raises(RunConflict):
            await engine.start(counting, 1, 3, id="run")
