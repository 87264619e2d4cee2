"""``engine.inline``: durable steps in an ordinary trio block, for scripts that are killed and started again."""

# ruff: noqa: PT012  # what comes out of a block with several statements is what is tested here

from __future__ import annotations

import time
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from durable_trio import (
    Context,
    Engine,
    NonDeterminismError,
    OwnershipLost,
    RunCancelled,
    RunConflict,
    RunFinished,
    RunStatus,
    SignalTimeout,
    workflow,
)
from tests.engine.harness import PATIENCE_SECONDS, serving
from tests.kit.traces import effects, note, undo, virtual

pytestmark = pytest.mark.usefixtures("no_leaks", "no_effects")


S = RunStatus


class MishapError(Exception):
    """What goes wrong in a block."""


class StopScriptError(BaseException):
    """Stands for ``KeyboardInterrupt`` and its like."""


async def square(number: int) -> int:
    effects.append(f"{number}")
    return number * number


async def kinds(engine: Engine, run_id: str) -> list[str]:
    return [f"{step.key} {step.kind}" for step in await engine.get(run_id).steps()]


# ---- one stay ------------------------------------------------------------------------------------------------------


async def test_what_is_published_after_a_deadline_is_over_waits_for_its_expiry(store_path: str) -> None:
    async with serving(store_path) as engine:
        for _ in range(2):
            with pytest.raises(MishapError), trio.fail_after(PATIENCE_SECONDS):
                async with engine.inline("script") as ctx:
                    with ctx.move_on_after(0.001) as scope:
                        time.sleep(0.01)  # noqa: ASYNC251  # the deadline is over, and nobody could notice
                        await ctx.publish("late", 1)
                    assert scope.cancelled_caught
                    await ctx.publish("after", 2)
                    raise MishapError
        assert await engine.get("script").values() == {"after": 2}


async def test_an_answer_of_patched_is_kept_by_a_transaction_that_follows(store_path: str) -> None:
    answers = []
    async with serving(store_path) as engine:
        for _ in range(2):
            with pytest.raises(MishapError):
                async with engine.inline("script") as ctx:
                    answers.append(ctx.patched("new way"))
                    await ctx.transaction("pay", lambda connection: 1)
                    raise MishapError
    assert answers == [True, True]


async def test_what_a_block_has_begun_elsewhere_goes_on_after_it(store_path: str) -> None:
    """Also one that waits for the run itself: a run's tasks go one at a time, and that ends with the block."""
    told = []

    async def wait_for(engine: Engine) -> None:
        told.append(await engine.get("script").result())
        await trio.lowlevel.checkpoint()
        told.append("went on")

    async with serving(store_path) as engine, trio.open_nursery() as nursery:
        async with engine.inline("script") as ctx:
            nursery.start_soon(wait_for, engine)
            await ctx.step("one", note, "first")
        with trio.move_on_after(PATIENCE_SECONDS):
            while len(told) < 2:  # noqa: ASYNC110
                await trio.sleep(0.002)
        assert told == [None, "went on"]


async def test_a_block_that_is_left_normally_completes_its_run(autojump_clock: MockClock) -> None:
    async with virtual() as engine:
        async with engine.inline("script") as ctx:
            assert await ctx.step("one", note, "first") == "first"
            assert (await engine.get("script").record()).status is S.RUNNING
            assert (ctx.run_id, ctx.generation) == ("script", 0)
        record = await engine.get("script").record()
        assert (record.status, record.result) == (S.COMPLETED, None)
        assert await kinds(engine, "script") == ["one#0 step"]
        assert await engine.get("script").result() is None


async def test_an_empty_block_is_a_run_too(autojump_clock: MockClock) -> None:
    async with virtual() as engine:
        async with engine.inline("script"):
            pass
        assert (await engine.get("script").record()).status is S.COMPLETED


async def test_an_exception_leaves_it_resumable_and_uncompensated(autojump_clock: MockClock) -> None:
    async with virtual() as engine:
        with pytest.raises(MishapError) as caught:
            async with engine.inline("script") as ctx:
                await ctx.step("one", note, "first", compensate=undo)
                raise MishapError("half way")
        assert str(caught.value) == "half way"
        record = await engine.get("script").record()
        assert (record.status, record.error, record.problem) == (S.SUSPENDED, None, None)
        assert effects == ["first"]


async def test_entered_again_it_gives_recorded_outcomes_back_and_goes_on(autojump_clock: MockClock) -> None:
    async with virtual() as engine:
        for attempt in range(3):
            try:
                async with engine.inline("script") as ctx:
                    assert ctx.replaying is (attempt > 0)
                    found = [await ctx.step("one", note, "first"), str(ctx.random())]
                    for number in range(attempt):
                        found.append(await ctx.step("more", note, f"more {number}"))
                    if attempt < 2:
                        raise MishapError
            except MishapError:
                continue
        assert effects == ["first", "more 0", "more 1"]
        assert await kinds(engine, "script") == ["one#0 step", "more#0 step", "more#1 step"]


async def test_a_recorded_failure_is_given_back_as_itself(autojump_clock: MockClock) -> None:
    async def fail() -> None:
        effects.append("tried")
        raise ZeroDivisionError("recorded")

    async with virtual() as engine:
        for _ in range(2):
            with pytest.raises(ZeroDivisionError, match="recorded"):
                async with engine.inline("script") as ctx:
                    await ctx.step("fail", fail)
        assert effects == ["tried"]


async def test_a_completed_one_is_not_entered_again(autojump_clock: MockClock) -> None:
    async with virtual() as engine:
        async with engine.inline("script"):
            pass
        with pytest.raises(RunFinished):
            async with engine.inline("script"):
                raise AssertionError("entered")


async def test_the_input_must_be_the_same_each_time(autojump_clock: MockClock) -> None:
    async with virtual() as engine:
        with pytest.raises(MishapError):
            async with engine.inline("script", input={"rows": 10}):
                raise MishapError
        for other in ({"rows": 11}, None):
            with pytest.raises(RunConflict):
                async with engine.inline("script", input=other):
                    raise AssertionError("entered")
        async with engine.inline("script", input={"rows": 10}):
            pass
        assert (await engine.get("script").record()).args == ({"rows": 10},)


async def test_an_id_of_a_workflows_run_is_a_conflict(autojump_clock: MockClock) -> None:
    @workflow
    async def other(ctx: Context) -> None:
        await ctx.wait_signal("never")

    async with virtual(other) as engine:
        await engine.start(other, id="taken")
        with pytest.raises(RunConflict):
            async with engine.inline("taken"):
                raise AssertionError("entered")


async def test_a_second_holder_is_a_conflict_while_the_first_one_lives(autojump_clock: MockClock) -> None:
    async with virtual() as engine:
        async with engine.inline("script") as ctx:
            await ctx.step("one", note, "first")
            with pytest.raises(RunConflict):
                async with engine.inline("script"):
                    raise AssertionError("entered")
            await ctx.step("two", note, "second")
        assert (await engine.get("script").record()).status is S.COMPLETED


async def test_a_second_holder_in_another_engine_is_a_conflict(file_path: str) -> None:
    async with serving(file_path) as one, serving(file_path) as two, one.inline("script") as ctx:
        with pytest.raises(RunConflict):
            async with two.inline("script"):
                raise AssertionError("entered")
        await ctx.step("one", note, "first")


async def test_several_blocks_of_different_runs_live_side_by_side(autojump_clock: MockClock) -> None:
    async with virtual() as engine:

        async def one(name: str) -> None:
            async with engine.inline(name) as ctx:
                for number in range(3):
                    await ctx.step("note", note, f"{name}{number}")
                    await ctx.sleep(10)

        async with trio.open_nursery() as nursery:
            for name in ("a", "b", "c"):
                nursery.start_soon(one, name)
        assert sorted(effects) == [f"{name}{number}" for name in "abc" for number in range(3)]
        assert (await engine.status()).runs_by_status[S.COMPLETED] == 3


async def test_a_client_cannot_hold_one_and_names_are_checked(autojump_clock: MockClock) -> None:
    async with Engine(":memory:") as client:
        with pytest.raises(RuntimeError, match="executes"):
            async with client.inline("script"):
                raise AssertionError("entered")
    async with virtual() as engine:
        with pytest.raises(ValueError, match="run id"):
            engine.inline(" ")


# ---- what may be called --------------------------------------------------------------------------------------------


async def test_map_sleep_signals_deadlines_and_values_work_and_are_kept(autojump_clock: MockClock) -> None:
    async with virtual() as engine:
        began = trio.current_time()

        async def block(fails: bool) -> list[Any]:
            async with engine.inline("script") as ctx:
                found: list[Any] = [await ctx.map("square", square, range(5), limit=2)]
                await ctx.sleep(100)
                found.append(await ctx.wait_signal("colour", str))
                try:
                    await ctx.wait_signal("colour", timeout=50)
                except SignalTimeout:
                    found.append("too late")
                with ctx.move_on_after(30) as scope:
                    await ctx.wait_signal("never")
                found.append(scope.cancelled_caught)
                await ctx.publish("found", found)
                if fails:
                    raise MishapError
            return found

        async with trio.open_nursery() as nursery:

            async def send() -> None:
                await trio.sleep(10)
                await engine.send_signal("script", "colour", "red")

            nursery.start_soon(send)
            with pytest.raises(MishapError):
                await block(fails=True)
        assert 180 <= trio.current_time() - began < 181
        assert await block(fails=False) == [[0, 1, 4, 9, 16], "red", "too late", True]
        assert trio.current_time() - began < 182
        assert sorted(effects) == ["0", "1", "2", "3", "4"]
        assert await engine.get("script").value("found") == [[0, 1, 4, 9, 16], "red", "too late", True]


async def test_a_sleep_keeps_its_due_time_over_blocks(autojump_clock: MockClock) -> None:
    async with virtual() as engine:
        began = trio.current_time()
        with trio.move_on_after(40):
            async with engine.inline("script") as ctx:
                await ctx.sleep(100)
        assert 40 <= trio.current_time() - began < 41
        async with engine.inline("script") as ctx:
            await ctx.sleep(100)
        assert 100 <= trio.current_time() - began < 101


async def test_ordinary_waits_are_the_blocks_own_business(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with virtual() as engine:
        async with engine.inline("script") as ctx:
            await trio.sleep(5)
            await ctx.step("one", note, "first")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep, 5)
        assert caplog.records == []


async def test_children_are_started_waited_for_and_not_started_twice(autojump_clock: MockClock) -> None:
    @workflow
    async def child(ctx: Context, number: int) -> int:
        await ctx.sleep(10)
        return number

    async with virtual(child) as engine:
        for fails in (True, False):
            try:
                async with engine.inline("script") as ctx:
                    assert await ctx.run_child(child, 7) == 7
                    if fails:
                        raise MishapError
            except MishapError:
                continue
        assert len((await engine.list_runs(parent="script")).runs) == 1


# ---- how it is left ------------------------------------------------------------------------------------------------


async def test_cancelling_the_scripts_own_scope_leaves_it_resumable_at_once(autojump_clock: MockClock) -> None:
    async with virtual() as engine:
        with trio.move_on_after(10) as scope:
            async with engine.inline("script") as ctx:
                await ctx.step("one", note, "first")
                await ctx.wait_signal("never")
        assert scope.cancelled_caught
        assert (await engine.get("script").record()).status is S.SUSPENDED
        async with engine.inline("script") as ctx:
            assert await ctx.step("one", note, "again") == "first"
            with ctx.move_on_after(1):
                await ctx.wait_signal("never")
        assert effects == ["first"]


async def test_what_is_no_exception_leaves_it_resumable_too(autojump_clock: MockClock) -> None:
    async with virtual() as engine:
        with pytest.raises(StopScriptError):
            async with engine.inline("script") as ctx:
                await ctx.step("one", note, "first")
                raise StopScriptError
        async with engine.inline("script") as ctx:
            assert await ctx.step("one", note, "again") == "first"


async def test_an_exception_group_comes_out_as_it_is(autojump_clock: MockClock) -> None:
    async def fail() -> None:
        raise MishapError

    async with virtual() as engine:
        with pytest.raises(ExceptionGroup) as caught:
            async with engine.inline("script") as ctx:
                await ctx.step("one", note, "first")
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(fail)
        assert isinstance(caught.value.exceptions[0], MishapError)
        assert (await engine.get("script").record()).status is S.SUSPENDED


async def test_cancel_from_outside_cancels_the_block_compensates_and_says_so(autojump_clock: MockClock) -> None:
    async with virtual() as engine:
        async with trio.open_nursery() as nursery:

            async def cancel() -> None:
                await trio.sleep(5)
                assert await engine.cancel("script", reason="no more")

            nursery.start_soon(cancel)
            with pytest.raises(RunCancelled):
                async with engine.inline("script") as ctx:
                    await ctx.step("one", note, "first", compensate=undo)
                    await trio.sleep(100)
                    raise AssertionError("not cancelled")
        assert effects == ["first", "undo first"]
        assert (await engine.get("script").record()).status is S.CANCELLED
        with pytest.raises(RunFinished):
            async with engine.inline("script"):
                raise AssertionError("entered")


async def test_a_cancel_while_nobody_holds_it_meets_the_next_one_who_enters(autojump_clock: MockClock) -> None:
    async with virtual() as engine:
        with pytest.raises(MishapError):
            async with engine.inline("script") as ctx:
                await ctx.step("one", note, "first", compensate=undo)
                raise MishapError
        assert await engine.cancel("script")
        with pytest.raises(RunCancelled):
            async with engine.inline("script") as ctx:
                await ctx.step("one", note, "first", compensate=undo)
                await ctx.step("two", note, "second")
        assert effects == ["first", "undo first"]
        assert (await engine.get("script").record()).status is S.CANCELLED


async def test_a_cancel_just_before_an_exception_leaves_the_run_to_be_entered_again(
    autojump_clock: MockClock,
) -> None:
    async with virtual() as engine:
        with pytest.raises((MishapError, RunCancelled)):
            async with engine.inline("script") as ctx:
                await ctx.step("one", note, "first")
                await engine.cancel("script")
                raise MishapError
        if not (await engine.get("script").record()).status.is_final:
            with pytest.raises(RunCancelled):
                async with engine.inline("script") as ctx:
                    await ctx.step("one", note, "first")
                    await ctx.step("two", note, "second")
        assert (await engine.get("script").record()).status is S.CANCELLED
        assert effects == ["first"]


async def test_a_failure_while_the_block_is_being_cancelled_does_not_keep_it_from_ending(
    autojump_clock: MockClock,
) -> None:
    async def cleaning_up() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise MishapError("while cleaning up")

    async with virtual() as engine:
        async with trio.open_nursery() as outer:

            async def cancel() -> None:
                await trio.sleep(5)
                await engine.cancel("script")

            outer.start_soon(cancel)
            with pytest.raises((RunCancelled, ExceptionGroup)):
                async with engine.inline("script"), trio.open_nursery() as nursery:
                    nursery.start_soon(cleaning_up)
                    await trio.sleep_forever()
        assert (await engine.get("script").record()).status is S.CANCELLED


async def test_an_engine_that_closes_takes_the_block_down_and_the_run_goes_on_elsewhere(file_path: str) -> None:
    entered = trio.Event()
    left: list[str] = []

    async def script(engine: Engine) -> None:
        try:
            async with engine.inline("script") as ctx:
                await ctx.step("one", note, "first")
                entered.set()
                await ctx.sleep(3600)
        except OwnershipLost as error:
            left.append(str(error))

    async with trio.open_nursery() as nursery:
        async with serving(file_path, grace_seconds=0.1) as engine:
            nursery.start_soon(script, engine)
            await entered.wait()
    assert len(left) == 1
    assert "script" in left[0]
    async with serving(file_path) as engine, engine.inline("script") as ctx:
        assert await ctx.step("one", note, "again") == "first"
        with ctx.move_on_after(0):
            await ctx.sleep(3600)
    assert effects == ["first"]


async def test_an_engine_that_closes_while_the_block_is_in_its_own_code_takes_it_down(file_path: str) -> None:
    entered = trio.Event()
    left: list[str] = []

    async def script(engine: Engine) -> None:
        try:
            async with engine.inline("script"):
                entered.set()
                await trio.sleep_forever()
        except OwnershipLost:
            left.append("taken down")

    async with trio.open_nursery() as nursery:
        async with serving(file_path, grace_seconds=0.1) as engine:
            nursery.start_soon(script, engine)
            await entered.wait()
    assert left == ["taken down"]


async def test_code_that_differs_from_the_history_is_refused(autojump_clock: MockClock) -> None:
    async with virtual() as engine:
        with pytest.raises(MishapError):
            async with engine.inline("script") as ctx:
                await ctx.step("one", note, "first")
                raise MishapError
        with pytest.raises(NonDeterminismError) as caught:
            async with engine.inline("script") as ctx:
                await ctx.step("another", note, "other")
        record = await engine.get("script").record()
        assert record.problem is not None
        assert "one#0" in record.problem.text
        assert str(caught.value) == record.problem.text
        assert (caught.value.run_id, "another#0" in caught.value.diff) == ("script", True)
        async with engine.inline("script") as ctx:  # with the right code again
            await ctx.step("one", note, "first")
        assert effects == ["first"]
