"""No parent ends before its children: how they are cancelled, compensated and deleted."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from durable_trio import (
    Context,
    Engine,
    RunCancelled,
    RunExpired,
    RunFailed,
    RunNotFound,
    RunStatus,
    StepKind,
    workflow,
)
from tests.calls.kit import double, history_at_end, undo_with, waiting
from tests.engine.harness import wait_passivated
from tests.kit.crash_points import at_every_commit
from tests.kit.traces import effects, note, virtual

pytestmark = pytest.mark.usefixtures("no_leaks", "no_effects")


S = RunStatus


class OutOfStockError(Exception):
    """What a child fails with."""


async def undo_and_tell(result: Any) -> None:
    effects.append(f"undo {result!r}")


async def fail(text: str) -> None:
    raise OutOfStockError(text)


@workflow
async def failing(ctx: Context, text: str) -> None:
    await ctx.step("fail", fail, text)


# ---- how a parent ends ---------------------------------------------------------------------------------------------


async def test_a_run_does_not_end_before_the_children_it_has_started(autojump_clock: MockClock) -> None:
    @workflow
    async def parent(ctx: Context) -> str:
        await ctx.start_child(double, 1, id="one")
        await ctx.start_child(failing, "unnoticed", id="two")
        return "done"

    async with virtual(parent, double, failing) as engine:
        run = await engine.start(parent)
        assert await run.result() == "done"
        ended_at = (await run.record()).finished_at
        one, two = await engine.get("one").record(), await engine.get("two").record()
        assert (one.status, two.status) == (S.COMPLETED, S.FAILED)
        assert ended_at is not None
        assert one.finished_at is not None
        assert ended_at >= one.finished_at


async def test_a_detached_child_outlives_its_parent(autojump_clock: MockClock) -> None:
    @workflow
    async def parent(ctx: Context, ends: str) -> None:
        await ctx.start_child(double, 1, id=f"of {ends}", detached=True)
        if ends == "failure":
            raise OutOfStockError
        if ends == "cancel":
            await ctx.wait_signal("never")

    async with virtual(parent, double) as engine:
        runs = [await engine.start(parent, ends, id=ends) for ends in ("success", "failure", "cancel")]
        await wait_passivated(engine)
        await runs[2].cancel()
        for run, status in zip(runs, (S.COMPLETED, S.FAILED, S.CANCELLED), strict=True):
            await history_at_end(run)
            assert (await run.record()).status is status
        for run in runs:
            child = engine.get(f"of {run.id}", double)
            assert not (await child.record()).status.is_final
            assert (await child.record()).parent_id == run.id
        for run in runs:
            assert await engine.get(f"of {run.id}", double).result() == 2


async def test_a_detached_child_can_still_be_waited_for(autojump_clock: MockClock) -> None:
    @workflow
    async def parent(ctx: Context) -> int:
        child = await ctx.start_child(double, 3, detached=True)
        return await child.result()

    async with virtual(parent, double) as engine:
        assert await engine.run(parent) == 6


async def test_a_failing_parent_cancels_its_children_and_awaits_them_before_it_compensates(
    autojump_clock: MockClock,
) -> None:
    @workflow
    async def parent(ctx: Context) -> None:
        await ctx.step("reserve", note, "reserved", compensate=undo_with("parent undone"))
        await ctx.start_child(waiting, id="child")
        await ctx.sleep(10)
        raise OutOfStockError("gone")

    async with virtual(parent, waiting) as engine:
        run = await engine.start(parent)
        with pytest.raises(RunFailed):
            await run.result()
        assert effects == ["reserved", "prepared", "child undone", "parent undone"]
        child = await engine.get("child").record()
        assert child.status is S.CANCELLED
        undone = [step for step in await run.steps() if step.kind is StepKind.COMPENSATION]
        assert child.finished_at is not None
        assert undone[0].finished_at >= child.finished_at


async def test_a_cancelled_parent_cancels_all_children_that_have_not_ended(autojump_clock: MockClock) -> None:
    @workflow
    async def parent(ctx: Context) -> None:
        for number in range(3):
            await ctx.start_child(waiting, id=f"child {number}")
        await (await ctx.start_child(double, 1, id="ended")).result()
        await ctx.wait_signal("never")

    async with virtual(parent, waiting, double) as engine:
        run = await engine.start(parent)
        await wait_passivated(engine)
        await history_at_end(engine.get("ended"))
        await wait_passivated(engine)
        await run.cancel("enough", wait=True)
        assert (await run.record()).status is S.CANCELLED
        for number in range(3):
            assert (await engine.get(f"child {number}").record()).status is S.CANCELLED
        assert (await engine.get("ended").record()).status is S.COMPLETED


async def test_an_expired_parent_cancels_its_children(autojump_clock: MockClock) -> None:
    @workflow(ttl=30)
    async def parent(ctx: Context) -> None:
        await ctx.start_child(waiting, id="child")
        await ctx.wait_signal("never")

    async with virtual(parent, waiting) as engine:
        with pytest.raises(RunExpired):
            await engine.run(parent)
        assert (await engine.get("child").record()).status is S.CANCELLED


async def test_cancelling_a_parent_whose_body_has_ended_cancels_the_children_it_waits_for(
    autojump_clock: MockClock,
) -> None:
    @workflow
    async def parent(ctx: Context) -> str:
        await ctx.start_child(waiting, id="child")
        return "done"

    async def scenario(engine: Engine) -> tuple[str, str]:
        run = await engine.start(parent, id="parent")
        await wait_passivated(engine)
        await run.cancel("enough", wait=True)
        return str((await run.record()).status), str((await engine.get("child").record()).status)

    async with virtual(parent, waiting) as engine:
        assert await scenario(engine) == ("cancelled", "cancelled")
    found, _ = await at_every_commit([parent, waiting], scenario)
    assert found == ("cancelled", "cancelled")


# ---- cancellation of the wait --------------------------------------------------------------------------------------


async def test_run_child_in_a_cancelled_scope_cancels_the_child_and_waits_for_its_end(
    autojump_clock: MockClock,
) -> None:
    @workflow
    async def slow_to_stop(ctx: Context) -> None:
        await ctx.step("prepare", note, "prepared", compensate=_undo_slowly)
        await ctx.wait_signal("never")

    @workflow
    async def parent(ctx: Context) -> str:
        with ctx.move_on_after(10) as scope:
            await ctx.run_child(slow_to_stop, id="child")
        await ctx.step("after", note, "after")
        return f"{scope.cancelled_caught}"

    async with virtual(parent, slow_to_stop) as engine:
        began = trio.current_time()
        assert await engine.run(parent) == "True"
        assert effects == ["prepared", "undone", "after"]
        assert 17 <= trio.current_time() - began < 18
        assert (await engine.get("child").record()).status is S.CANCELLED


async def test_a_child_that_completes_although_it_was_cancelled_gives_its_result_to_nobody(
    autojump_clock: MockClock,
) -> None:
    @workflow
    async def stubborn(ctx: Context) -> str:
        await ctx.step("long", _long)
        return "done"

    @workflow
    async def parent(ctx: Context) -> bool:
        with ctx.move_on_after(10) as scope:
            await ctx.run_child(stubborn, id="child")
        return scope.cancelled_caught

    async with virtual(parent, stubborn) as engine:
        assert await engine.run(parent) is True
        assert (await engine.get("child").record()).status is S.CANCELLED


async def test_cancelling_the_wait_for_a_started_child_leaves_the_child_alone(autojump_clock: MockClock) -> None:
    @workflow
    async def parent(ctx: Context) -> list[Any]:
        child = await ctx.start_child(double, 5)
        with ctx.move_on_after(10) as scope:
            await child.result()
        return [scope.cancelled_caught, await child.result()]

    async with virtual(parent, double) as engine:
        assert await engine.run(parent) == [True, 10]


async def test_cancelling_a_parent_in_run_child_ends_both_and_the_child_first(autojump_clock: MockClock) -> None:
    @workflow
    async def parent(ctx: Context) -> None:
        await ctx.step("reserve", note, "reserved", compensate=undo_with("parent undone"))
        await ctx.run_child(waiting, id="child")

    async with virtual(parent, waiting) as engine:
        run = await engine.start(parent)
        await wait_passivated(engine)
        await run.cancel(wait=True)
        assert effects == ["reserved", "prepared", "child undone", "parent undone"]
        assert [(await engine.get(run_id).record()).status for run_id in (run.id, "child")] == [S.CANCELLED] * 2


async def test_a_failing_branch_cancels_its_siblings_child_and_waits_for_it(autojump_clock: MockClock) -> None:
    @workflow
    async def parent(ctx: Context) -> str:
        async def child(branch: Context) -> None:
            await branch.run_child(waiting, id="child")

        async def failing_branch(branch: Context) -> None:
            await branch.sleep(10)
            raise OutOfStockError("gone")

        try:
            async with ctx.open_nursery() as nursery:
                nursery.start_soon(child)
                nursery.start_soon(failing_branch)
        except* OutOfStockError as group:
            found = len(group.exceptions)
        return f"{found} {effects}"

    async with virtual(parent, waiting) as engine:
        assert await engine.run(parent) == "1 ['prepared', 'child undone']"


async def test_child_cancel_asks_once_and_tells_whether_it_came_in_time(autojump_clock: MockClock) -> None:
    @workflow
    async def parent(ctx: Context) -> list[Any]:
        early, late = await ctx.start_child(waiting), await ctx.start_child(failing, "x")
        await ctx.sleep(10)
        found: list[Any] = [await early.cancel(), await late.cancel()]
        for child in (early, late):
            try:
                await child.result()
            except (RunCancelled, RunFailed) as error:
                found.append(type(error).__name__)
        return found

    async with virtual(parent, waiting, failing) as engine:
        assert await engine.run(parent) == [True, False, "RunCancelled", "RunFailed"]


async def test_a_childs_end_and_a_cancelled_child_carry_the_reason(autojump_clock: MockClock) -> None:
    @workflow
    async def parent(ctx: Context) -> str:
        child = await ctx.start_child(waiting)
        await ctx.sleep(1)
        await child.cancel()
        try:
            return await child.result()
        except RunCancelled as error:
            return str(error.reason)

    async with virtual(parent, waiting) as engine:
        assert await engine.run(parent) == "its parent cancelled it"


# ---- compensation --------------------------------------------------------------------------------------------------


async def test_run_child_is_compensated_with_its_result_in_the_order_of_completion(autojump_clock: MockClock) -> None:
    @workflow
    async def parent(ctx: Context) -> None:
        await ctx.step("first", note, "first", compensate=undo_with("undo first"))
        await ctx.run_child(double, 21, compensate=undo_and_tell)
        await ctx.step("last", note, "last", compensate=undo_with("undo last"))
        await ctx.sleep(60)
        raise OutOfStockError

    async with virtual(parent, double) as engine:
        with pytest.raises(RunFailed):
            await engine.run(parent)
        assert effects == ["first", "last", "undo last", "undo 42", "undo first"]


async def test_a_child_that_failed_is_not_compensated(autojump_clock: MockClock) -> None:
    @workflow
    async def parent(ctx: Context) -> None:
        await ctx.run_child(failing, "no", compensate=undo_with("undone"))

    async with virtual(parent, failing) as engine:
        with pytest.raises(RunFailed):
            await engine.run(parent)
        assert effects == []


# ---- deleted children ----------------------------------------------------------------------------------------------


async def test_a_child_that_was_deleted_raises_run_not_found(autojump_clock: MockClock) -> None:
    @workflow
    async def parent(ctx: Context) -> str:
        child = await ctx.start_child(failing, "x", id="child")
        await ctx.wait_signal("look")
        try:
            await child.result()
        except RunNotFound as error:
            return str(error.run_id)
        return "found"

    async with virtual(parent, failing) as engine:
        run = await engine.start(parent)
        await wait_passivated(engine)
        await engine.delete("child")
        await run.signal("look")
        assert await run.result() == "child"


async def test_deleting_a_parent_leaves_its_detached_children(autojump_clock: MockClock) -> None:
    @workflow
    async def parent(ctx: Context) -> None:
        await ctx.start_child(double, 2, id="child", detached=True)

    async with virtual(parent, double) as engine:
        run = await engine.start(parent)
        await run.result()
        await engine.delete(run.id)
        assert await engine.get("child", double).result() == 4


async def test_nothing_is_said_of_children_that_end_as_they_should(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    @workflow
    async def parent(ctx: Context, number: int) -> int:
        with ctx.move_on_after(number / 10):
            return await ctx.run_child(double, number)
        return -1

    async with virtual(parent, double) as engine:
        runs = [await engine.start(parent, number) for number in range(40)]
        assert [await run.result() for run in runs] == [-1] * 40
    assert [record.getMessage() for record in caplog.records] == []


async def _undo_slowly(_: Any) -> None:
    await trio.sleep(7)
    effects.append("undone")


async def _long() -> None:
    with trio.CancelScope(shield=True):
        await trio.sleep(20)
