"""Children: one run per call whatever crashes, results and cancellations in both directions, no parent ends before."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from durable_trio import (
    ChildRun,
    Context,
    Engine,
    Run,
    RunCancelled,
    RunConflict,
    RunExpired,
    RunFailed,
    RunNotFound,
    RunStatus,
    StepKind,
    StepStatus,
    Workflow,
    workflow,
)
from durable_trio.testing import VirtualClock
from tests.engine.harness import PATIENCE_SECONDS, serving, wait_passivated

from .crash_points import at_every_commit

pytestmark = pytest.mark.usefixtures("no_leaks")

S = RunStatus
effects: list[str] = []
#: Virtual seconds: longer than any test lasts.
_LONG_SECONDS = 86400.0


class OutOfStockError(Exception):
    """What a child fails with."""


@pytest.fixture(autouse=True)
def _no_effects() -> None:
    effects.clear()


async def test_the_end_of_a_child_wakes_a_parent_that_has_left_memory() -> None:
    """In an engine with room for more, where nothing else tells that there is something to be claimed."""

    @workflow
    async def child(ctx: Context) -> int:
        return await ctx.wait_signal("answer", int)

    @workflow
    async def parent(ctx: Context) -> int:
        return 1 + await ctx.run_child(child, id="child")

    async with serving(":memory:", parent, child) as engine:
        run = await engine.start(parent)
        await wait_passivated(engine)
        await engine.send_signal("child", "answer", 41)
        with trio.fail_after(PATIENCE_SECONDS):
            assert await run.result() == 42


async def note(text: str) -> str:
    effects.append(text)
    return text


def undo_with(text: str) -> Callable[[Any], Awaitable[None]]:
    """Return a compensation. An async one: virtual time does not wait for threads."""

    async def undo(_: Any) -> None:
        effects.append(text)

    return undo


async def undo_and_tell(result: Any) -> None:
    effects.append(f"undo {result!r}")


async def fail(text: str) -> None:
    raise OutOfStockError(text)


@workflow
async def double(ctx: Context, number: int) -> int:
    await ctx.sleep(60)
    return number * 2


@workflow
async def failing(ctx: Context, text: str) -> None:
    await ctx.step("fail", fail, text)


@workflow
async def waiting(ctx: Context) -> str:
    """Waits for the signal "go"; its one step is undone if it does not come to its end."""
    await ctx.step("prepare", note, "prepared", compensate=undo_with("child undone"))
    return str(await ctx.wait_signal("go"))


def virtual(*workflows: Workflow[..., Any], **options: Any) -> Any:
    """Serve the workflows in memory and in virtual time."""
    return serving(":memory:", *workflows, clock=VirtualClock(), **options)


async def children_of(engine: Engine, run_id: str) -> list[Run[Any]]:
    return [engine.get(record.id) for record in (await engine.list_runs(parent=run_id)).runs]


# ---- results and failures ------------------------------------------------------------------------------------------


async def test_run_child_gives_the_result_and_records_the_start_and_the_end(autojump_clock: MockClock) -> None:
    @workflow
    async def parent(ctx: Context) -> int:
        return await ctx.run_child(double, 4)

    async with virtual(parent, double) as engine:
        run = await engine.start(parent)
        assert await run.result() == 8
        steps = await run.steps()
        assert [(step.key, step.kind, step.status) for step in steps] == [
            ("double#0", StepKind.CHILD, StepStatus.COMPLETED),
            ("double result#0", StepKind.CHILD_END, StepStatus.COMPLETED),
        ]
        (child,) = await children_of(engine, run.id)
        record = await child.record()
        assert (record.id, record.parent_id, record.status) == (steps[0].result, run.id, S.COMPLETED)


async def test_started_children_run_at_the_same_time_and_results_come_when_asked_for(
    autojump_clock: MockClock,
) -> None:
    @workflow
    async def parent(ctx: Context) -> list[int]:
        started = [await ctx.start_child(double, number) for number in range(5)]
        return [await child.result() for child in reversed(started)]

    async with virtual(parent, double) as engine:
        began = trio.current_time()
        run = await engine.start(parent)
        assert await run.result() == [8, 6, 4, 2, 0]
        assert trio.current_time() - began < 61
        assert len(await children_of(engine, run.id)) == 5


async def test_a_result_asked_for_twice_is_the_same(autojump_clock: MockClock) -> None:
    @workflow
    async def parent(ctx: Context) -> tuple[int, int]:
        child = await ctx.start_child(double, 1)
        return await child.result(), await child.result()

    async with virtual(parent, double) as engine:
        assert await engine.run(parent) == (2, 2)


async def test_a_childs_failure_reaches_the_parent_with_its_exception(autojump_clock: MockClock) -> None:
    @workflow
    async def parent(ctx: Context) -> list[str]:
        try:
            await ctx.run_child(failing, "no shoes")
        except RunFailed as error:
            return [type(error.error).__name__, str(error.error), error.run_id or ""]
        return []

    async with virtual(parent, failing) as engine:
        run = await engine.start(parent)
        (child,) = [step.result for step in await _ended(run) if step.kind is StepKind.CHILD]
        assert await run.result() == ["OutOfStockError", "no shoes", child]


async def test_a_failure_that_nobody_catches_fails_the_parent(autojump_clock: MockClock) -> None:
    @workflow
    async def parent(ctx: Context) -> None:
        await ctx.run_child(failing, "no shoes")

    async with virtual(parent, failing) as engine:
        with pytest.raises(RunFailed) as caught:
            await engine.run(parent)
        assert isinstance(caught.value.error, RunFailed)
        assert isinstance(caught.value.error.error, OutOfStockError)


async def test_a_child_that_was_cancelled_from_outside_raises_run_cancelled(autojump_clock: MockClock) -> None:
    @workflow
    async def parent(ctx: Context) -> str:
        try:
            return await ctx.run_child(waiting, id="child")
        except RunCancelled as error:
            return f"{error.run_id}: {error.reason}"

    async with virtual(parent, waiting) as engine:
        run = await engine.start(parent)
        await wait_passivated(engine)
        assert await engine.cancel("child", reason="no longer wanted")
        assert await run.result() == "child: no longer wanted"
        assert effects == ["prepared", "child undone"]


async def test_a_child_that_fails_with_anothers_cancellation_has_failed(autojump_clock: MockClock) -> None:
    @workflow
    async def middle(ctx: Context) -> None:
        grandchild = await ctx.start_child(waiting)
        await grandchild.cancel()
        await grandchild.result()

    @workflow
    async def parent(ctx: Context) -> str:
        try:
            await ctx.run_child(middle)
        except (RunFailed, RunCancelled) as error:
            return type(error).__name__
        return "through"

    async with virtual(parent, middle, waiting) as engine:
        run = await engine.start(parent)
        assert await run.result() == "RunFailed"
        (child,) = await children_of(engine, run.id)
        assert (await child.record()).status is S.FAILED
        with pytest.raises(RunFailed):
            await child.result()


async def test_a_child_that_fails_with_anothers_expiry_has_failed(autojump_clock: MockClock) -> None:
    @workflow
    async def middle(ctx: Context) -> None:
        await ctx.run_child(waiting, ttl=30)

    @workflow
    async def parent(ctx: Context) -> str:
        try:
            await ctx.run_child(middle)
        except (RunFailed, RunExpired) as error:
            return type(error).__name__
        return "through"

    async with virtual(parent, middle, waiting) as engine:
        assert await engine.run(parent) == "RunFailed"


async def test_a_child_with_a_ttl_expires_and_says_so(autojump_clock: MockClock) -> None:
    @workflow
    async def parent(ctx: Context) -> str:
        try:
            await ctx.run_child(waiting, ttl=30)
        except RunExpired as error:
            return str(error.run_id)
        return "through"

    async with virtual(parent, waiting) as engine:
        began = trio.current_time()
        run = await engine.start(parent)
        (child,) = [step.result for step in await _ended(run) if step.kind is StepKind.CHILD]
        assert await run.result() == child
        assert 30 <= trio.current_time() - began < 31
        assert effects == ["prepared", "child undone"]


async def test_grandchildren_report_to_their_own_parent(autojump_clock: MockClock) -> None:
    @workflow
    async def tree(ctx: Context, depth: int) -> list[Any]:
        await ctx.sleep(10)
        return [depth, *[await ctx.run_child(tree, depth - 1) for _ in range(2) if depth]]

    async with virtual(tree) as engine:
        run = await engine.start(tree, 3)
        assert await run.result() == [3, [2, [1, [0], [0]], [1, [0], [0]]], [2, [1, [0], [0]], [1, [0], [0]]]]
        assert len((await engine.list_runs()).runs) == 15
        assert len(await children_of(engine, run.id)) == 2
        (child, _) = await children_of(engine, run.id)
        assert len(await children_of(engine, child.id)) == 2


async def test_children_in_branches_report_in_completion_order(autojump_clock: MockClock) -> None:
    @workflow
    async def nap(ctx: Context, seconds: float) -> float:
        await ctx.sleep(seconds)
        return seconds

    @workflow
    async def parent(ctx: Context) -> list[float]:
        found: list[float] = []

        async def one(branch: Context, seconds: float) -> None:
            found.append(await branch.run_child(nap, seconds))

        async with ctx.open_nursery() as nursery:
            for seconds in (30.0, 10.0, 20.0):
                nursery.start_soon(one, seconds)
        return found

    async with virtual(parent, nap) as engine:
        assert await engine.run(parent) == [10.0, 20.0, 30.0]


# ---- names and options ---------------------------------------------------------------------------------------------


async def test_options_reach_the_child(autojump_clock: MockClock) -> None:
    @workflow
    async def parent(ctx: Context) -> None:
        await ctx.run_child(double, 1, id="child", queue="slow", priority=7, tags={"kind": "test"}, delay=100)

    async with virtual(parent, double) as engine:
        began = trio.current_time()
        await engine.run(parent)
        record = await engine.get("child").record()
        assert (record.queue, record.priority, dict(record.tags)) == ("slow", 7, {"kind": "test"})
        assert trio.current_time() - began >= 160


async def test_unknown_options_and_bad_names_are_refused_before_anything_is_written(
    autojump_clock: MockClock,
) -> None:
    @workflow
    async def parent(ctx: Context) -> list[str]:
        errors = []
        start: Any = ctx.start_child
        run: Any = ctx.run_child
        calls: list[Any] = [
            lambda: start(double, 1, detach=True),
            lambda: run(double, 1, detached=True),
            lambda: start(double),
            lambda: start(" double", 1),
            lambda: start(double, 1, id=""),
            lambda: start(double, 1, delay=float("nan")),
            lambda: start(double, object()),
        ]
        for call in calls:
            try:
                await call()
            except Exception as error:
                errors.append(type(error).__name__)
        return errors

    async with virtual(parent, double) as engine:
        run = await engine.start(parent)
        errors = await run.result()
        assert errors == ["TypeError", "TypeError", "TypeError", "ValueError", "ValueError", "ValueError", "CodecError"]
        assert await run.steps() == ()
        assert await children_of(engine, run.id) == []


async def test_an_id_that_is_taken_is_a_recorded_conflict(autojump_clock: MockClock) -> None:
    @workflow
    async def parent(ctx: Context) -> str:
        await ctx.sleep(5)
        try:
            await ctx.run_child(double, 4, id="taken")
        except RunConflict as error:
            await ctx.sleep(5)
            return str(error.run_id)
        return "through"

    async with virtual(parent, double) as engine:
        await engine.start(double, 4, id="taken")
        run = await engine.start(parent)
        assert await run.result() == "taken"
        assert [(step.kind, step.status) for step in await run.steps()] == [
            (StepKind.SLEEP, StepStatus.COMPLETED),
            (StepKind.CHILD, StepStatus.FAILED),
            (StepKind.SLEEP, StepStatus.COMPLETED),
        ]
        assert (await engine.get("taken").record()).parent_id is None


async def test_a_conflict_of_one_child_costs_the_others_nothing(autojump_clock: MockClock) -> None:
    @workflow
    async def parent(ctx: Context) -> list[str]:
        found: list[str] = []

        async def one(branch: Context, child_id: str) -> None:
            try:
                found.append(str(await branch.run_child(double, 1, id=child_id)))
            except RunConflict:
                found.append(child_id)

        async with ctx.open_nursery() as nursery:
            for child_id in ("a", "taken", "b"):
                nursery.start_soon(one, child_id)
        return found

    async with virtual(parent, double) as engine:
        await engine.start(double, 1, id="taken")
        assert await engine.run(parent) == ["taken", "2", "2"]


async def test_a_child_of_an_unknown_workflow_waits_for_an_engine_that_knows_it(file_path: str) -> None:
    @workflow
    async def parent(ctx: Context) -> Any:
        return await ctx.run_child("elsewhere", 20)

    @workflow(name="elsewhere")
    async def elsewhere(ctx: Context, number: int) -> int:
        return number + 1

    async with serving(file_path, parent) as engine:
        run = await engine.start(parent, id="parent")
        await wait_passivated(engine)
        (child,) = await children_of(engine, run.id)
        assert (await child.record()).status is S.PENDING
        assert (await engine.status()).unknown_workflows == {"elsewhere": 1}
        async with serving(file_path, elsewhere):
            with trio.fail_after(PATIENCE_SECONDS):
                assert await run.result() == 21


# ---- memory --------------------------------------------------------------------------------------------------------


async def test_a_parent_that_waits_for_its_child_leaves_memory_and_comes_back(autojump_clock: MockClock) -> None:
    @workflow
    async def parent(ctx: Context) -> str:
        return await ctx.run_child(waiting, id="child")

    async with virtual(parent, waiting) as engine:
        run = await engine.start(parent)
        await wait_passivated(engine)
        assert (await run.record()).status is S.SUSPENDED
        await engine.send_signal("child", "go", "went")
        assert await run.result() == "went"


async def test_a_parent_whose_body_has_ended_leaves_memory_while_it_waits_for_its_children(
    autojump_clock: MockClock,
) -> None:
    @workflow
    async def parent(ctx: Context) -> str:
        await ctx.start_child(waiting, id="child")
        return "done"

    async with virtual(parent, waiting) as engine:
        run = await engine.start(parent)
        await wait_passivated(engine)
        assert (await run.record()).status is S.SUSPENDED
        await engine.send_signal("child", "go", "went")
        assert await run.result() == "done"
        assert (await engine.get("child").record()).status is S.COMPLETED


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
            await _ended(run)
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
        await _ended(engine.get("ended"))
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


# ---- crashes -------------------------------------------------------------------------------------------------------


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
            await _ended(child)
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


# ---- pieces --------------------------------------------------------------------------------------------------------


async def _ended(run: Run[Any]) -> Any:
    """Return the history of a run once it has ended, however."""
    with trio.fail_after(_LONG_SECONDS):
        async with run.watch() as changes:
            async for _ in changes:
                pass
    return await run.steps()


async def _undo_slowly(_: Any) -> None:
    await trio.sleep(7)
    effects.append("undone")


async def _long() -> None:
    with trio.CancelScope(shield=True):
        await trio.sleep(20)
