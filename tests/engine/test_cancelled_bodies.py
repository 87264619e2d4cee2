"""A cancelled body cleans up and swallows nothing; the reason stays, over restarts, too."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import pytest
import trio

from durable_trio import Context, RunCancelled, RunConflict, RunFinished, RunStatus, StepKind, StepStatus, workflow
from tests.engine.flows import gated, sleeper, waiter
from tests.engine.harness import PATIENCE_SECONDS, serving, stored, wait_passivated, wait_status

pytestmark = pytest.mark.usefixtures("no_leaks")


S = RunStatus


# ---- clean-up --------------------------------------------------------------------------------------------------------


async def test_finally_and_except_blocks_of_the_body_run(store_path: str) -> None:
    seen: list[str] = []

    @workflow
    async def careful(ctx: Context) -> None:
        try:
            try:
                await ctx.step("hang", trio.sleep_forever)
            except trio.Cancelled:
                seen.append("except")
                raise
        finally:
            seen.append("finally")

    async with serving(store_path, careful) as engine:
        run = await engine.start(careful)
        await run.cancel(wait=True)
    assert seen == ["except", "finally"]


async def test_a_shielded_durable_step_of_the_clean_up_runs_and_is_recorded(store_path: str) -> None:
    done: list[str] = []

    @workflow
    async def careful(ctx: Context) -> None:
        try:
            await ctx.sleep(3600)
        finally:
            with trio.CancelScope(shield=True):
                await ctx.step("tidy", done.append, "tidied")

    async with serving(store_path, careful) as engine:
        run = await engine.start(careful)
        await wait_passivated(engine)
        with trio.fail_after(PATIENCE_SECONDS):
            await run.cancel(wait=True)
        assert [step.kind for step in await run.steps()] == [StepKind.CANCEL, StepKind.STEP]
        assert (await run.record()).status is S.CANCELLED
    assert done == ["tidied"]


async def test_completed_steps_are_compensated_in_reverse_order(store_path: str) -> None:
    undone: list[str] = []

    @workflow
    async def saga(ctx: Context) -> None:
        for name in ("a", "b", "c"):
            await ctx.step(name, lambda name: name, name, compensate=undone.append, returns=str)
        await ctx.sleep(3600)

    async with serving(store_path, saga) as engine:
        run = await engine.start(saga)
        await wait_passivated(engine)
        with trio.fail_after(PATIENCE_SECONDS):
            await run.cancel(wait=True)
        assert (await run.record()).status is S.CANCELLED
        kinds = [step.kind for step in await run.steps()]
        assert kinds == [StepKind.STEP] * 3 + [StepKind.CANCEL] + [StepKind.COMPENSATION] * 3
    assert undone == ["c", "b", "a"]


async def test_a_sync_function_is_waited_for_and_its_outcome_recorded(store_path: str) -> None:
    working, begun, go = gated()
    async with serving(store_path, working) as engine:
        run = await engine.start(working)
        await trio.to_thread.run_sync(begun.wait)
        assert await run.cancel()
        await trio.sleep(0.02)
        assert (await run.record()).status is S.RUNNING
        go.set()
        await wait_status(run, S.CANCELLED)
        steps = {step.key: step for step in await run.steps()}
        assert steps["work#0"].result == "worked"


async def test_wait_returns_only_after_the_clean_up(store_path: str) -> None:
    begun, go = trio.Event(), trio.Event()

    async def undo(_: object) -> None:
        begun.set()
        await go.wait()

    @workflow
    async def saga(ctx: Context) -> None:
        await ctx.step("a", lambda: None, compensate=undo)
        await ctx.sleep(3600)

    async with serving(store_path, saga) as engine, trio.open_nursery() as nursery:
        run = await engine.start(saga)
        await wait_passivated(engine)
        has_returned = False

        async def cancel() -> None:
            nonlocal has_returned
            await run.cancel(wait=True)
            has_returned = True

        nursery.start_soon(cancel)
        await begun.wait()
        assert not has_returned
        go.set()
        assert (await wait_status(run, S.CANCELLED)).status is S.CANCELLED


# ---- not to be swallowed ---------------------------------------------------------------------------------------------


async def test_a_body_that_swallows_the_cancellation_still_ends_cancelled(store_path: str) -> None:
    @workflow
    async def stubborn(ctx: Context) -> str:
        with contextlib.suppress(trio.Cancelled):
            await ctx.sleep(3600)
        return "I do not care"

    async with serving(store_path, stubborn) as engine:
        run = await engine.start(stubborn)
        await wait_passivated(engine)
        with trio.fail_after(PATIENCE_SECONDS):
            await run.cancel(wait=True)
        record = await run.record()
        assert (record.status, record.result) == (S.CANCELLED, None)


async def test_every_durable_call_after_a_swallowed_cancellation_is_cancelled_again(store_path: str) -> None:
    ran: list[str] = []
    cancelled: list[int] = []

    @workflow
    async def stubborn(ctx: Context) -> None:
        for number in range(3):
            try:
                if number:
                    await ctx.step("more", ran.append, "more")
                else:
                    await ctx.sleep(3600)
            except trio.Cancelled:
                if not ctx.detaching:
                    cancelled.append(number)

    async with serving(store_path, stubborn) as engine:
        run = await engine.start(stubborn)
        await wait_passivated(engine)
        with trio.fail_after(PATIENCE_SECONDS):
            await run.cancel(wait=True)
        assert (await run.record()).status is S.CANCELLED
    assert (ran, cancelled) == ([], [0, 1, 2])


async def test_a_body_that_raises_something_else_after_cancel_ends_cancelled(store_path: str) -> None:
    @workflow
    async def angry(ctx: Context) -> None:
        try:
            await ctx.sleep(3600)
        finally:
            raise ValueError("instead")

    async with serving(store_path, angry) as engine:
        run = await engine.start(angry)
        await wait_passivated(engine)
        with trio.fail_after(PATIENCE_SECONDS):
            await run.cancel(wait=True)
        record = await run.record()
        assert record.status is S.CANCELLED
        assert isinstance(record.error, RunCancelled)


# ---- the reason, and asking again ------------------------------------------------------------------------------------


async def test_the_reason_is_kept(store_path: str) -> None:
    async with serving(store_path, sleeper) as engine:
        run = await engine.start(sleeper, 3600.0)
        await run.cancel("out of stock", wait=True)
        with pytest.raises(RunCancelled, match="out of stock") as caught:
            await run.result()
        assert caught.value.reason == "out of stock"
        assert caught.value.run_id == run.id
        error = (await run.record()).error
        assert isinstance(error, RunCancelled)
        assert error.reason == "out of stock"


async def test_the_reason_is_kept_for_a_run_that_never_began(store_path: str) -> None:
    async with serving(store_path, sleeper) as engine:
        run = await engine.start(sleeper, 3600.0, delay=3600)
        await run.cancel("out of stock", wait=True)
        with pytest.raises(RunCancelled, match="out of stock") as caught:
            await run.result()
        assert caught.value.reason == "out of stock"
        error = (await run.record()).error
        assert isinstance(error, RunCancelled)
        assert error.reason == "out of stock"


async def test_a_cancel_without_reason_has_none(store_path: str) -> None:
    async with serving(store_path, sleeper) as engine:
        for delay in (0, 3600):
            run = await engine.start(sleeper, 3600.0, delay=delay)
            await run.cancel()
            with pytest.raises(RunCancelled) as caught:
                await run.result()
            assert caught.value.reason is None


async def test_asking_again_is_also_true_and_the_first_reason_stays(store_path: str) -> None:
    begun, go = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        assert go.wait(PATIENCE_SECONDS)

    @workflow
    async def working(ctx: Context) -> None:
        await ctx.step("work", work)

    async with serving(store_path, working) as engine:
        run = await engine.start(working)
        await trio.to_thread.run_sync(begun.wait)
        assert await run.cancel("first")
        assert await run.cancel("second")
        go.set()
        await wait_status(run, S.CANCELLED)
        with pytest.raises(RunCancelled, match="first"):
            await run.result()
        assert [step.kind for step in await run.steps()].count(StepKind.CANCEL) == 1


async def test_many_cancels_and_signals_at_once_are_one_cancel(file_path: str) -> None:
    """The mailbox is read while what it shows is being consumed."""
    async with serving(file_path, waiter) as engine:
        for _ in range(10):
            run = await engine.start(waiter)
            with trio.fail_after(PATIENCE_SECONDS):
                async with trio.open_nursery() as nursery:
                    for _ in range(8):
                        nursery.start_soon(run.cancel)
                        nursery.start_soon(send_unless_finished, run)
                async with run.watch() as changes:
                    async for record in changes:
                        last = record.status
            assert last in (S.CANCELLED, S.COMPLETED)


async def send_unless_finished(run: Any) -> None:
    with contextlib.suppress(RunFinished):
        await run.signal("other")


# ---- replay, restarts, resume ----------------------------------------------------------------------------------------


async def test_a_cancel_is_delivered_at_the_same_place_after_a_restart(file_path: str) -> None:
    """The process is lost while the cancelled run compensates; the next one goes on where it stopped."""
    begun = trio.Event()
    undone: list[str] = []
    hangs = True

    async def undo(name: str) -> None:
        if name == "a" and hangs:
            begun.set()
            await trio.sleep_forever()
        undone.append(name)

    @workflow
    async def saga(ctx: Context) -> None:
        for name in ("a", "b"):
            await ctx.step(name, lambda name: name, name, compensate=undo, returns=str)
        await ctx.sleep(3600)

    async with serving(file_path, saga, grace_seconds=0) as engine:
        run = await engine.start(saga, id="r")
        await wait_passivated(engine)
        await run.cancel("stop it")
        await begun.wait()
    hangs = False
    async with serving(file_path, saga) as engine:
        with trio.fail_after(PATIENCE_SECONDS), pytest.raises(RunCancelled) as caught:
            await engine.get("r").result()
        assert caught.value.reason == "stop it"
    assert undone == ["b", "a"]


async def test_a_cancelled_run_without_compensation_can_be_resumed(store_path: str) -> None:
    async with serving(store_path, waiter) as engine:
        run = await engine.start(waiter)
        await wait_passivated(engine)
        await run.cancel("by mistake", wait=True)
        resumed = await engine.resume(run.id)
        assert resumed.id == run.id
        await run.signal("go", "at last")
        with trio.fail_after(PATIENCE_SECONDS):
            assert await run.result() == "at last"
        record = await run.record()
        assert (record.status, record.error) == (S.COMPLETED, None)


async def test_a_pending_run_that_was_cancelled_can_be_resumed(store_path: str) -> None:
    async with serving(store_path, waiter) as engine:
        run = await engine.start(waiter, delay=3600)
        await run.cancel(wait=True)
        await engine.resume(run.id)
        await run.signal("go", 1)
        with trio.fail_after(PATIENCE_SECONDS):
            assert await run.result() == 1


async def test_a_resumed_run_can_be_cancelled_again(store_path: str) -> None:
    async with serving(store_path, waiter) as engine:
        run = await engine.start(waiter)
        for reason in ("first", "second", "third"):
            await wait_passivated(engine)
            with trio.fail_after(PATIENCE_SECONDS):
                assert await run.cancel(reason, wait=True)
            with pytest.raises(RunCancelled) as caught:
                await run.result()
            assert caught.value.reason == reason
            await engine.resume(run.id)


async def test_a_compensated_run_cannot_be_resumed(store_path: str) -> None:
    @workflow
    async def saga(ctx: Context) -> None:
        await ctx.step("a", lambda: None, compensate=lambda _: None)
        await ctx.sleep(3600)

    async with serving(store_path, saga) as engine:
        run = await engine.start(saga)
        await wait_passivated(engine)
        await run.cancel(wait=True)
        with pytest.raises(RunConflict):
            await engine.resume(run.id)
        assert (await run.record()).status is S.CANCELLED


async def test_a_cancelled_wait_for_the_result_does_not_cancel_the_run(store_path: str) -> None:
    async with serving(store_path, waiter) as engine:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: engine.run(waiter, id="r"))
            await stored(engine, "r")
            nursery.cancel_scope.cancel()
        run = engine.get("r")
        assert (await run.record()).status is not S.CANCELLED
        await run.signal("go", 1)
        assert await run.result() == 1


async def test_a_signal_that_came_before_the_cancel_stays_recorded(store_path: str) -> None:
    @workflow
    async def twice(ctx: Context) -> None:
        await ctx.wait_signal("go")
        await ctx.wait_signal("go")

    async with serving(store_path, twice) as engine:
        run = await engine.start(twice)
        await run.signal("go", "first")
        await wait_passivated(engine)
        await run.cancel(wait=True)
        first, second = await run.steps()
        assert (first.kind, first.status, first.result) == (StepKind.SIGNAL, StepStatus.COMPLETED, "first")
        assert second.kind is StepKind.CANCEL
