"""Children: one run per call, results in both directions, and the memory of a parent that waits."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from durable_trio import (
    Context,
    RunCancelled,
    RunConflict,
    RunExpired,
    RunFailed,
    RunStatus,
    StepKind,
    StepStatus,
    workflow,
)
from durable_trio.calls.child import ChildEndCall
from tests.calls.kit import children_of, double, history_at_end, waiting
from tests.engine.harness import PATIENCE_SECONDS, serving, wait_passivated
from tests.kit.traces import effects, virtual

pytestmark = pytest.mark.usefixtures("no_leaks", "no_effects")


S = RunStatus


class OutOfStockError(Exception):
    """What a child fails with: here, for an exception is built again if it is of the module of the run's workflow."""


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


async def fail(text: str) -> None:
    raise OutOfStockError(text)


@workflow
async def failing(ctx: Context, text: str) -> None:
    await ctx.step("fail", fail, text)


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
        (child,) = [step.result for step in await history_at_end(run) if step.kind is StepKind.CHILD]
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
        (child,) = [step.result for step in await history_at_end(run) if step.kind is StepKind.CHILD]
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


async def test_a_child_that_ends_while_it_is_looked_at_is_looked_at_again(
    file_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read is of before the end, and word of that has come during the read."""
    run, looks = ChildEndCall.run, []

    async def run_and_be_told(self: ChildEndCall, scope: trio.CancelScope) -> None:
        await run(self, scope)
        child = self._child
        assert child is not None
        looks.append(child.status)
        if len(looks) < 4:
            self._child = attrs.evolve(child, status=RunStatus.RUNNING, finished_at=None)
            self.child_ended()

    monkeypatch.setattr(ChildEndCall, "run", run_and_be_told)

    @workflow
    async def quick(ctx: Context, number: int) -> int:
        return 2 * number

    @workflow
    async def parent(ctx: Context) -> int:
        return await ctx.run_child(quick, 21)

    with trio.fail_after(PATIENCE_SECONDS):
        async with serving(file_path, parent, quick) as engine:
            assert await engine.run(parent) == 42
    assert len(looks) >= 4
