"""Runs over time: changed code, forks, generations, and a start that comes with a signal."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from durable_trio import (
    Context,
    Engine,
    Run,
    RunCancelled,
    RunConflict,
    RunFailed,
    RunFinished,
    RunNotFound,
    RunStatus,
    StepKind,
    StepStatus,
    Workflow,
    current_step,
    workflow,
)
from durable_trio.stores.questions import FindRun, ListUnread
from durable_trio.testing import VirtualClock
from tests.engine.harness import serving, wait_passivated

from .crash_points import at_every_commit, crashing_store, live_once, live_through

pytestmark = pytest.mark.usefixtures("no_leaks")

S = RunStatus
effects: list[str] = []
_LONG_SECONDS = 86400.0


@pytest.fixture(autouse=True)
def _no_effects() -> None:
    effects.clear()


async def note(text: str) -> str:
    effects.append(text)
    return text


async def fail(text: str) -> None:
    raise ValueError(text)


async def undo(text: str) -> None:
    effects.append(f"undo {text}")


def virtual(*workflows: Workflow[..., Any], **options: Any) -> Any:
    """Serve the workflows in memory and in virtual time."""
    return serving(":memory:", *workflows, clock=VirtualClock(), **options)


async def ended(run: Run[Any]) -> RunStatus:
    """Return the final status of a run."""
    with trio.fail_after(_LONG_SECONDS):
        async with run.watch() as changes:
            async for record in changes:
                status = record.status
    return status


# ---- patched -------------------------------------------------------------------------------------------------------


@workflow(name="flow")
async def flow_before(ctx: Context) -> list[str]:
    first = await ctx.step("first", note, "first")
    await ctx.wait_signal("go")
    return [first, await ctx.step("last", note, "old last")]


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
            ("check#0", StepKind.PATCH),
            ("check#1", StepKind.STEP),
            ("go#0", StepKind.SIGNAL),
            ("last#0", StepKind.PATCH),
            ("last#1", StepKind.STEP),
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


async def test_once_no_old_run_is_left_the_question_can_be_taken_out(autojump_clock: MockClock) -> None:
    @workflow(name="flow")
    async def asking(ctx: Context) -> str:
        if ctx.patched("change"):
            await ctx.step("new", note, "new")
        return str(await ctx.wait_signal("go"))

    @workflow(name="flow")
    async def not_asking(ctx: Context) -> str:
        await ctx.step("new", note, "new")
        return str(await ctx.wait_signal("go"))

    async def go(engine: Engine) -> str:
        await engine.send_signal("old", "go", "gone")
        return str(await engine.get("old").result())

    async with crashing_store() as store:
        await live_once(store, [asking], start_and_leave)
        assert await live_once(store, [not_asking], go) == "gone"
    assert effects == ["new"]


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
        with trio.fail_after(_LONG_SECONDS):
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


# ---- fork ----------------------------------------------------------------------------------------------------------


async def tell_key(name: str) -> list[str]:
    effects.append(name)
    return [name, current_step().idempotency_key]


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
        with trio.fail_after(_LONG_SECONDS):
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


# ---- continue_as_new -----------------------------------------------------------------------------------------------


@workflow
async def counting(ctx: Context, number: int, until: int) -> list[int]:
    await ctx.step("count", note, f"{number}")
    await ctx.publish(f"seen {number}", ctx.generation)
    if number < until:
        await ctx.continue_as_new(number + 1, until)
    return [number, ctx.generation]


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


# ---- signal_with_start ---------------------------------------------------------------------------------------------


@workflow
async def collecting(ctx: Context, count: int) -> list[Any]:
    return [await ctx.wait_signal("item") for _ in range(count)]


async def test_the_first_call_starts_the_run_and_the_others_find_it(autojump_clock: MockClock) -> None:
    async with virtual(collecting) as engine:
        for number in range(3):
            run = await engine.signal_with_start(collecting, 3, signal="item", payload=number, id="basket")
            await wait_passivated(engine)
        assert await run.result() == [0, 1, 2]
        assert len((await engine.list_runs()).runs) == 1


async def test_it_takes_the_options_of_a_start(autojump_clock: MockClock) -> None:
    async with virtual(collecting) as engine:
        began = trio.current_time()
        run = await engine.signal_with_start(
            collecting, 1, signal="item", id="basket", delay=50, tags={"kind": "test"}, queue="slow"
        )
        assert await run.result() == [None]
        record = await run.record()
        assert (dict(record.tags), record.queue) == ({"kind": "test"}, "slow")
        assert trio.current_time() - began >= 50


async def test_a_refused_start_leaves_no_signal(autojump_clock: MockClock) -> None:
    async with virtual(collecting) as engine:
        run = await engine.signal_with_start(collecting, 2, signal="item", payload="first", id="basket")
        with pytest.raises(RunConflict):
            await engine.signal_with_start(collecting, 3, signal="item", payload="refused", id="basket")
        await run.signal("item", "second")
        assert await run.result() == ["first", "second"]
        with pytest.raises(RunFinished):
            await engine.signal_with_start(collecting, 2, signal="item", payload="late", id="basket")


async def test_a_refused_signal_leaves_no_run(autojump_clock: MockClock) -> None:
    async with virtual(collecting) as engine:
        refused: list[dict[str, Any]] = [
            {"signal": " item", "id": "x"},
            {"signal": "item", "payload": object(), "id": "x"},
            {"signal": "item", "signal_id": "", "id": "x"},
            {"signal": "item", "id": ""},
        ]
        for options in refused:
            with pytest.raises(Exception, match=r"signal|run id"):
                await engine.signal_with_start(collecting, 1, **options)
        assert (await engine.list_runs()).runs == ()


async def test_the_same_signal_id_is_one_signal(autojump_clock: MockClock) -> None:
    async with virtual(collecting) as engine:
        for _ in range(3):
            run = await engine.signal_with_start(collecting, 2, signal="item", payload=1, id="b", signal_id="one")
        await run.signal("item", 2)
        assert await run.result() == [1, 2]


async def test_many_at_once_start_one_run(autojump_clock: MockClock) -> None:
    async with virtual(collecting) as engine:

        async def send(number: int) -> None:
            await engine.signal_with_start(collecting, 20, signal="item", payload=number, id="basket")

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(send, number)
        assert sorted(await engine.get("basket", collecting).result()) == list(range(20))


async def test_both_or_neither_are_stored_whatever_commit_crashes(autojump_clock: MockClock) -> None:
    seen_in_between: set[tuple[int, int]] = set()

    async def scenario(engine: Engine) -> Any:
        runs = (await engine.list_runs()).runs
        writer = engine._client.services_in_use().writer  # the mailbox is nowhere in the public API
        row = writer.store.ask(FindRun("basket"))
        if row is not None and row.status is S.PENDING:
            seen_in_between.add((len(runs), len(writer.store.ask(ListUnread(row.run)))))
        run = await engine.signal_with_start(
            collecting, 1, signal="item", payload=7, id="basket", signal_id="one", delay=5
        )
        return await run.result(), [(step.key, step.status) for step in await run.steps()]

    found, crash_count = await at_every_commit([collecting], scenario)
    assert found == ([7], [("item#0", StepStatus.COMPLETED)])
    assert seen_in_between == {(1, 1)}
    assert crash_count > 5


async def test_a_client_may_start_and_signal_what_it_does_not_know(file_path: str) -> None:
    async with Engine(file_path) as client:
        await client.signal_with_start("collecting", 1, signal="item", payload="hello", id="basket")
    async with serving(file_path, collecting) as engine:
        with trio.fail_after(20):
            assert await engine.get("basket", collecting).result() == ["hello"]


async def test_a_scenario_that_never_crashes_needs_one_life(autojump_clock: MockClock) -> None:
    """The harness itself: without a crash it is one engine, with one it is two."""
    lives: list[int] = []

    async def scenario(engine: Engine) -> int:
        lives.append(1)
        await engine.run(counting, 0, 1)
        return len(lives)

    async with crashing_store() as store:
        assert await live_through(store, [counting], scenario) == 1
    async with crashing_store() as store:
        store.crash_after(5)
        assert await live_through(store, [counting], scenario) == 3
