"""Changed code beside runs that were begun before."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from durable_trio import Context, Engine, RunConflict, RunFailed, StepKind, Workflow, workflow
from tests.engine.harness import wait_parked, wait_passivated
from tests.kit.crash_points import at_every_commit, crashing_store, live_once
from tests.kit.traces import LONG_SECONDS, effects, flow_before, note, virtual

pytestmark = pytest.mark.usefixtures("no_leaks", "no_effects")


@workflow(name="flow")
async def flow_after(ctx: Context) -> list[str]:
    found = [await ctx.step("first", note, "first")]
    if ctx.patched("check"):
        found.append(await ctx.step("check", note, "checked"))
    await ctx.wait_signal("go")
    return [*found, await ctx.step("last", note, "new last" if ctx.patched("last") else "old last")]


async def start_and_leave(engine: Engine) -> None:
    await engine.start("flow", id="old")
    await wait_passivated(engine)


async def signal_both(engine: Engine) -> dict[str, Any]:
    new = await engine.start("flow", id="new")
    await wait_passivated(engine)
    found: dict[str, Any] = {}
    for run in (engine.get("old"), new):
        await engine.send_signal(run.id, "go", id="go")
        found[run.id] = await run.result()
    return found


async def test_old_and_new_runs_of_changed_code_live_side_by_side(autojump_clock: MockClock) -> None:
    async with crashing_store() as store:
        await live_once(store, [flow_before], start_and_leave)
        found = await live_once(store, [flow_after], signal_both)
    # The old run has nothing recorded beyond its wait, so a change after it is for it, too.
    assert found == {"old": ["first", "new last"], "new": ["first", "checked", "new last"]}
    assert effects.count("checked") == 1


async def test_a_new_run_takes_the_new_way_and_records_so_with_its_next_row(autojump_clock: MockClock) -> None:
    async with virtual(flow_after) as engine:
        run = await engine.start(flow_after)
        await run.signal("go")
        assert await run.result() == ["first", "checked", "new last"]
        rows = [(step.key, step.kind) for step in await run.steps()]
        assert rows == [
            ("first#0", StepKind.STEP),
            (" check#0", StepKind.PATCH),  # a name that no call can have
            ("check#0", StepKind.STEP),
            ("go#0", StepKind.SIGNAL),
            (" last#0", StepKind.PATCH),
            ("last#0", StepKind.STEP),
        ]


async def test_a_run_that_waits_beyond_the_change_takes_the_old_way(autojump_clock: MockClock) -> None:
    @workflow(name="flow")
    async def before(ctx: Context) -> str:
        await ctx.sleep(3600)
        return "old"

    @workflow(name="flow")
    async def after(ctx: Context) -> str:
        is_new = ctx.patched("longer")
        await ctx.sleep(3600)
        if is_new:
            await ctx.sleep(3600)
        return "new" if is_new else "old"

    async def results(engine: Engine) -> list[str]:
        new = await engine.start("flow", id="new")
        return [await engine.get("old").result(), await new.result()]

    async with crashing_store() as store:
        await live_once(store, [before], start_and_leave)
        assert await live_once(store, [after], results) == ["old", "new"]


async def test_each_call_in_a_loop_decides_by_itself(autojump_clock: MockClock) -> None:
    @workflow(name="flow")
    async def before(ctx: Context) -> list[str]:
        return [await ctx.wait_signal("go") for _ in range(3)]

    @workflow(name="flow")
    async def after(ctx: Context) -> list[Any]:
        found: list[Any] = []
        for _ in range(3):
            found.append(ctx.patched("in the loop"))
            found.append(await ctx.wait_signal("go"))
        return found

    async def two_rounds(engine: Engine) -> None:
        run = await engine.start("flow", id="old")
        await run.signal("go", 1)
        await run.signal("go", 2)
        await wait_passivated(engine)

    async def last_round(engine: Engine) -> Any:
        run = engine.get("old")
        await run.signal("go", 3)
        new = await engine.start("flow", id="new")
        for number in (1, 2, 3):
            await new.signal("go", number)
        return await run.result(), await new.result()

    async with crashing_store() as store:
        await live_once(store, [before], two_rounds)
        old, new = await live_once(store, [after], last_round)
    # The third wait had begun with the old code.
    assert old == [False, 1, False, 2, False, 3]
    assert new == [True, 1, True, 2, True, 3]


async def test_a_change_in_a_branch_is_told_apart_by_branch(autojump_clock: MockClock) -> None:
    @workflow
    async def branches(ctx: Context) -> list[Any]:
        found: list[Any] = []

        async def one(branch: Context, number: int) -> None:
            await branch.sleep(10 * number)
            found.append([number, branch.patched("change")])
            await branch.sleep(100)

        async with ctx.open_nursery() as nursery:
            for number in (1, 2):
                nursery.start_soon(one, number)
        return found

    async with virtual(branches) as engine:
        run = await engine.start(branches)
        assert await run.result() == [[1, True], [2, True]]
        assert len([step for step in await run.steps() if step.kind is StepKind.PATCH]) == 2


@workflow(name="flow")
async def asking(ctx: Context) -> str:
    if ctx.patched("change"):
        await ctx.step("new", note, "new")
    return str(await ctx.wait_signal("go"))


async def go(engine: Engine) -> str:
    await engine.send_signal("old", "go", "gone")
    return str(await engine.get("old").result())


async def test_once_no_old_run_is_left_the_question_can_be_taken_out(autojump_clock: MockClock) -> None:
    @workflow(name="flow", retired=("change",))
    async def not_asking(ctx: Context) -> str:
        await ctx.step("new", note, "new")
        return str(await ctx.wait_signal("go"))

    async with crashing_store() as store:
        await live_once(store, [asking], start_and_leave)
        assert await live_once(store, [not_asking], go) == "gone"
    assert effects == ["new"]


@pytest.mark.parametrize("is_recorded", [False, True])
async def test_a_fork_of_a_run_on_the_old_way_says_that_the_change_is_retired(
    is_recorded: bool, autojump_clock: MockClock
) -> None:
    """Such a run may have ended long ago; its fork is one of now."""

    @workflow(name="flow")
    async def old_way(ctx: Context) -> str:
        await ctx.step("old", note, "old")
        await ctx.wait_signal("go")
        return str(await ctx.step("last", note, "last"))

    @workflow(name="flow")
    async def either_way(ctx: Context) -> str:
        await ctx.step("old", note, "old")
        await ctx.step("new", note, "new") if ctx.patched("change") else await ctx.wait_signal("go")
        return str(await ctx.step("last", note, "last"))

    @workflow(name="flow", retired=("change",))
    async def new_way(ctx: Context) -> str:
        await ctx.step("old", note, "old")
        await ctx.step("new", note, "new")
        return str(await ctx.step("last", note, "last"))

    async def fork_is_refused(engine: Engine) -> str:
        fork = await engine.fork("old", before="last#0")
        problem = (await wait_parked(fork)).problem
        assert problem is not None
        return problem.text

    async with crashing_store() as store:
        await live_once(store, [old_way], start_and_leave)
        await live_once(store, [either_way if is_recorded else old_way], go)
        text = await live_once(store, [new_way], fork_is_refused)
    if is_recorded:
        assert "The run has taken the old way of 'change', which this code has retired" in text
    else:
        assert "This code has retired 'change': a run from before such a change, or a fork of one" in text


@pytest.mark.parametrize("calls_it", [False, True])
async def test_code_that_does_not_ask_for_an_answer_does_not_execute_the_run(
    calls_it: bool, autojump_clock: MockClock
) -> None:
    """It is from before the change, even where all that it calls is what the run has recorded."""

    @workflow(name="flow")
    async def not_asking(ctx: Context) -> str:
        if calls_it:
            await ctx.step("new", note, "new")
        return str(await ctx.wait_signal("go"))

    async def is_refused(engine: Engine) -> str:
        await engine.send_signal("old", "go", "gone")
        problem = (await wait_parked(engine.get("old"))).problem
        assert problem is not None
        return problem.text

    async with crashing_store() as store:
        await live_once(store, [asking], start_and_leave)
        assert "@workflow(retired=('change',))" in await live_once(store, [not_asking], is_refused)

        async def resume(engine: Engine) -> str:
            with contextlib.suppress(RunConflict):  # it has gone on by itself, for the code is another
                await engine.resume("old")
            return str(await engine.get("old").result())

        assert await live_once(store, [asking], resume) == "gone"
    assert effects == ["new"]


async def test_a_run_with_an_answer_that_is_never_asked_for_does_not_end(autojump_clock: MockClock) -> None:
    @workflow(name="flow")
    async def asking_at_the_end(ctx: Context) -> None:
        await ctx.sleep(1)
        ctx.patched("change")
        await ctx.publish("asked", True)  # the answer rides with it
        await ctx.sleep(1)

    @workflow(name="flow")
    async def not_asking(ctx: Context) -> None:
        await ctx.sleep(1)

    async def is_refused(engine: Engine) -> None:
        await wait_parked(engine.get("old"))

    async def leave_in_second_sleep(engine: Engine) -> None:
        await engine.start("flow", id="old")
        await trio.sleep(1.5)

    async with crashing_store() as store:
        await live_once(store, [asking_at_the_end], leave_in_second_sleep)
        await live_once(store, [not_asking], is_refused)


async def test_a_question_that_was_moved_behind_its_place_is_told_apart_from_lost_ownership(
    autojump_clock: MockClock,
) -> None:
    """It is refused, as what is not asked for; with its change retired the answer stands, and is not written again."""

    def moved(retired: tuple[str, ...]) -> Workflow[[], Any]:
        @workflow(name="flow", retired=retired)
        async def asking_late(ctx: Context) -> list[object]:
            new = await ctx.step("new", note, "new")
            return [new, ctx.patched("change"), await ctx.wait_signal("go")]

        return asking_late

    async def is_refused(engine: Engine) -> None:
        await engine.send_signal("old", "go", "gone")
        await wait_parked(engine.get("old"))

    async def resume(engine: Engine) -> object:
        with contextlib.suppress(RunConflict):  # it has gone on by itself, for the code is another
            await engine.resume("old")
        return await engine.get("old").result()

    async with crashing_store() as store:
        await live_once(store, [asking], start_and_leave)
        await live_once(store, [moved(())], is_refused)
        assert await live_once(store, [moved(("change",))], resume) == ["new", True, "gone"]


@pytest.mark.parametrize("is_over", [True, False])
@pytest.mark.parametrize("kind", ["step", "sleep", "signal"])
async def test_the_id_of_a_change_may_be_the_name_of_a_call(
    kind: str, is_over: bool, autojump_clock: MockClock
) -> None:
    """Whether that call is recorded or open; nothing is done twice."""

    async def call(ctx: Context) -> None:
        if kind == "step":
            await ctx.step("same", note, "done")
        elif kind == "sleep":
            await ctx.sleep(60 if is_over else 7200, name="same")
        else:
            await ctx.wait_signal("same")

    @workflow(name="flow")
    async def before(ctx: Context) -> str:
        await call(ctx)
        await ctx.sleep(3600)
        return "old"

    @workflow(name="flow")
    async def after(ctx: Context) -> str:
        is_new = ctx.patched("same")
        await call(ctx)
        await ctx.sleep(3600)
        return f"{'new' if is_new else 'old'} {ctx.patched('same')}"

    async def leave(engine: Engine) -> None:
        run = await engine.start("flow", id="old")
        if kind == "signal" and is_over:
            await run.signal("same")
        await trio.sleep(600)

    async def results(engine: Engine) -> list[Any]:
        new = await engine.start("flow", id="new")
        if kind == "signal":
            await engine.send_signal("old", "same", id="again")
            await new.signal("same")
        return [await engine.get("old").result(), await new.result()]

    async with crashing_store() as store:
        await live_once(store, [before], leave)
        assert await live_once(store, [after], results) == ["old True", "new True"]
    assert effects.count("done") == (2 if kind == "step" else 0)


async def test_a_change_survives_a_crash_at_any_commit(autojump_clock: MockClock) -> None:
    async def scenario(engine: Engine) -> Any:
        run = await engine.start(flow_after, id="run")
        await run.signal("go", id="go")
        return await run.result(), [step.key for step in await run.steps()]

    (result, _), crash_count = await at_every_commit([flow_after], scenario)
    assert result == ["first", "checked", "new last"]
    assert crash_count > 6


async def test_questions_that_nothing_recorded_follows_survive_a_crash_at_any_commit(
    autojump_clock: MockClock,
) -> None:
    """A marker that rode with a published value is all there is of the history, and none of it is still to come."""

    @workflow
    async def asking_twice(ctx: Context) -> list[bool]:
        first = ctx.patched("change")
        await ctx.publish("asked", first)
        second = ctx.patched("change")
        await ctx.publish("asked", [first, second])
        return [first, second]

    async def scenario(engine: Engine) -> Any:
        run = await engine.start(asking_twice, id="run")
        with trio.fail_after(LONG_SECONDS):
            return await run.result(), (await run.record()).problem

    found, crash_count = await at_every_commit([asking_twice], scenario)
    assert found == ([True, True], None)
    assert crash_count > 5


async def test_the_marker_is_kept_when_the_next_write_is_refused(autojump_clock: MockClock) -> None:
    @workflow
    async def starts_a_taken_child(ctx: Context) -> list[Any]:
        is_new = ctx.patched("change")
        with contextlib.suppress(RunConflict):
            await ctx.start_child(flow_before, id="taken")
        await ctx.sleep(3600)  # leaves memory, and comes back
        return [is_new]

    async with virtual(starts_a_taken_child, flow_before) as engine:
        await engine.start(flow_before, id="taken")
        run = await engine.start(starts_a_taken_child)
        assert await run.result() == [True]
        kinds = [step.kind for step in await run.steps()]
        assert kinds == [StepKind.PATCH, StepKind.CHILD, StepKind.SLEEP]


async def test_names_of_changes_are_checked(autojump_clock: MockClock) -> None:
    @workflow
    async def badly_named(ctx: Context) -> None:
        ctx.patched("")

    async with virtual(badly_named) as engine:
        with pytest.raises(RunFailed) as caught:
            await engine.run(badly_named)
        assert isinstance(caught.value.error, ValueError)
