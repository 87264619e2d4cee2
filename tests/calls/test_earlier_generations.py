"""Histories that a run has ended to begin anew: how many are kept, and how they are looked at."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from trio.testing import MockClock

from durable_trio import Context, Engine, GenerationRecord, RunConflict, RunNotFound, StepRecord, workflow
from tests.kit.crash_points import at_every_commit
from tests.kit.traces import counting, note, virtual

pytestmark = pytest.mark.usefixtures("no_leaks", "no_effects")


async def told(number: int) -> int:
    return number


@workflow
async def rounds(ctx: Context, number: int, until: int) -> int:
    for place in range(number + 1):
        await ctx.step("round", told, 10 * number + place)
    await ctx.sleep(5)
    if number < until:
        await ctx.continue_as_new(number + 1, until)
    return number


def results(steps: tuple[StepRecord, ...]) -> list[Any]:
    return [step.result for step in steps if step.key.startswith("round")]


async def numbers(engine: Engine, run_id: str) -> list[int]:
    return [each.generation for each in await engine.get(run_id).generations()]


async def test_the_last_ten_are_kept_with_their_steps_arguments_and_times(autojump_clock: MockClock) -> None:
    async with virtual(rounds) as engine:
        run = await engine.start(rounds, 0, 14, id="run")
        assert await run.result() == 14
        found = await run.generations()
        assert [each.generation for each in found] == [13, 12, 11, 10, 9, 8, 7, 6, 5, 4]
        assert [each.args for each in found] == [(each.generation, 14) for each in found]
        for later, earlier in pairwise(found):
            assert earlier.started_at is not None
            assert later.started_at is not None
            assert earlier.started_at < earlier.finished_at <= later.started_at
        for each in found:
            steps = await run.steps(generation=each.generation)
            assert results(steps) == [10 * each.generation + place for place in range(each.generation + 1)]
            assert steps[-1].key == "sleep#0"
            assert each.left_out == 0
        assert await run.steps(generation=14) == await run.steps()


@pytest.mark.parametrize(("kept", "shown"), [(None, 20), (0, 0), (1, 1), (3, 3), (10**30, 20)])
async def test_as_many_are_kept_as_the_engine_is_told(autojump_clock: MockClock, kept: int | None, shown: int) -> None:
    async with virtual(counting, generations_kept=kept) as engine:
        run = await engine.start(counting, 0, 20, id="run")
        await run.result()
        assert await numbers(engine, "run") == list(range(19, 19 - shown, -1))


@pytest.mark.parametrize("kept", [-1, True, 1.0, "3"])
def test_a_number_of_generations_that_is_none_is_refused(kept: Any) -> None:
    with pytest.raises(ValueError, match="generations_kept must be a whole number of at least 0, or None to keep all"):
        Engine(":memory:", generations_kept=kept)


async def test_a_generation_that_is_not_there_is_an_error_that_says_which_are(autojump_clock: MockClock) -> None:
    async with virtual(counting, generations_kept=2) as engine:
        run = await engine.start(counting, 0, 5, id="run")
        await run.result()
        with pytest.raises(ValueError, match="generation 2 of run 'run' is not kept; 2 earlier ones are, from 3 to 4"):
            await run.steps(generation=2)
        with pytest.raises(ValueError, match="run 'run' is in its generation 5: 6 has not begun"):
            await run.steps(generation=6)
        for number in (-1, True, 1.5, "1"):
            with pytest.raises(ValueError, match="generation must be a whole number of at least 0"):
                await run.steps(generation=number)
        with pytest.raises(ValueError, match="has not begun"):
            await run.steps(generation=10**30)
        with pytest.raises(ValueError, match="leave out generation="):
            await run.steps(open=True, generation=1)
        with pytest.raises(ValueError, match="limit must be between 1 and 1000"):
            await run.generations(limit=0)
        for call in (engine.get("other").generations(), engine.get("other").steps(generation=0)):
            with pytest.raises(RunNotFound):
                await call
        single = await engine.start(counting, 5, 5, id="single")
        await single.result()
        assert await single.generations() == ()
        with pytest.raises(ValueError, match="is in its generation 0: 1 has not begun"):
            await single.steps(generation=1)


async def test_they_come_in_pages(autojump_clock: MockClock) -> None:
    async with virtual(counting, generations_kept=None) as engine:
        run = await engine.start(counting, 0, 7, id="run")
        await run.result()
        found: list[GenerationRecord] = []
        while page := await run.generations(before=found[-1].generation if found else None, limit=3):
            assert len(page) <= 3
            found += page
        assert tuple(found) == await run.generations()


async def test_arguments_of_earlier_ones_are_of_the_workflows_types(autojump_clock: MockClock) -> None:
    @workflow
    async def paths(ctx: Context, seen: set[int]) -> int:
        if len(seen) < 3:
            await ctx.continue_as_new(seen | {len(seen)})
        return len(seen)

    async with virtual(paths) as engine:
        run = await engine.start(paths, {7}, id="run")
        await run.result()
        assert [each.args for each in await run.generations()] == [({1, 7},), ({7},)]


async def test_a_fork_points_to_its_original_for_those_before_it(autojump_clock: MockClock) -> None:
    async with virtual(rounds) as engine:
        run = await engine.start(rounds, 0, 2, id="run")
        await run.result()
        fork = await engine.fork("run", before="round#2", id="fork")
        assert await fork.result() == 2
        record = await fork.record()
        assert (record.forked_from, record.forked_before, record.generation) == ("run", "round#2", 2)
        assert await fork.generations() == ()
        with pytest.raises(ValueError, match="no earlier one is; those before the fork are of run 'run'"):
            await fork.steps(generation=1)
        again = await engine.fork("fork", before="round#0", id="again")
        await again.result()
        assert (await again.record()).forked_from == "fork"
        assert (await run.record()).forked_from is None
        await engine.delete("run")
        assert (await fork.record()).forked_from == "run"


async def test_they_go_with_the_run(autojump_clock: MockClock, file_path: str) -> None:
    async with virtual(counting) as engine:
        for run_id in ("one", "two"):
            run = await engine.start(counting, 0, 3, id=run_id)
            await run.result()
        await engine.delete("one")
        await (await engine.start(counting, 3, 3, id="one")).result()
        assert await numbers(engine, "one") == []
        assert await numbers(engine, "two") == [2, 1, 0]


async def test_what_is_kept_is_right_whatever_commit_crashes(autojump_clock: MockClock) -> None:
    @workflow
    async def noting(ctx: Context, number: int) -> int:
        await ctx.step("note", note, f"{number}")
        await ctx.sleep(1)
        if number < 4:
            await ctx.continue_as_new(number + 1)
        return number

    async def scenario(engine: Engine) -> Any:
        try:
            run = await engine.start(noting, 0, id="run", delay=1)
        except RunConflict:  # known again by its id only while it has its first arguments
            run = engine.get("run")
        await run.result()
        found = await run.generations()
        steps = [[step.key for step in await run.steps(generation=each.generation)] for each in found]
        return [each.args for each in found], steps

    (args, steps), crash_count = await at_every_commit([noting], scenario, generations_kept=2)
    assert args == [(3,), (2,)]
    assert steps == [["note#0", "sleep#0"]] * 2
    assert crash_count > 8
