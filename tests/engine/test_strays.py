"""A ``trio.Cancelled`` that nobody has asked for is a failure where it is raised; no run is lost by it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import trio

from durable_trio import Context, Retry, RunFailed, RunStatus, StepFailed, Workflow, current_step, workflow
from durable_trio.calls.step import FunctionCall
from durable_trio.engine.runs.actor import RunActor
from durable_trio.errors import Detached
from durable_trio.failures import is_cancelled, without_strays
from durable_trio.rules import residency
from tests.engine.harness import PATIENCE_SECONDS, serving, wait_parked, wait_passivated, wait_status, wait_until

pytestmark = pytest.mark.usefixtures("no_leaks")


async def kept() -> trio.Cancelled:
    """Return the cancellation of a scope that is closed, as a cache of outcomes would keep it."""
    found: list[trio.Cancelled] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as error:
            found.append(error)
            raise
    return found[0]


STRAYS: dict[str, Callable[[trio.Cancelled], BaseException]] = {
    "cancelled": lambda kept: kept,
    "group": lambda kept: BaseExceptionGroup("both", [ValueError("mine"), kept]),
    "groups": lambda kept: BaseExceptionGroup("outer", [BaseExceptionGroup("inner", [kept])]),
    "detached": lambda kept: Detached(),
}
# By what the run fails with; a durable nursery makes a group of what comes out of it.
PLACES = ("body", "step", "sync step", "step with a timeout", "map", "transaction", "deadline")
GROUPED = ("branch", "block of a nursery", "step with a nursery")


def make_culprit(place: str, error: BaseException) -> Workflow[..., Any]:
    """Return a workflow whose code raises the error at that place."""

    def raises_at_once(*_: Any) -> None:
        raise error

    async def raises(*_: Any) -> None:
        raise error

    async def has_nursery() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.cancel_scope.cancel()
        raise error

    @workflow(name="culprit")
    async def culprit(ctx: Context) -> None:
        if place == "body":
            raise error
        if place == "step":
            await ctx.step("s", raises)
        if place == "sync step":
            await ctx.step("s", raises_at_once)
        if place == "step with a timeout":
            await ctx.step("s", raises, timeout=60)
        if place == "step with a nursery":
            await ctx.step("s", has_nursery)
        if place == "map":
            await ctx.map("m", raises, [1, 2])
        if place == "transaction":
            await ctx.transaction("t", raises_at_once)
        if place == "branch":
            async with ctx.open_nursery() as nursery:
                nursery.start_soon(raises)
                nursery.start_soon(Context.sleep, 3600)
        if place == "block of a nursery":
            async with ctx.open_nursery():
                raise error
        if place == "deadline":
            with ctx.move_on_after(3600):
                raise error

    return culprit


def is_told_of(error: object, name: str) -> bool:
    return f"{name} was raised where nothing was to end" in repr(error)


@pytest.mark.parametrize("kind", STRAYS)
@pytest.mark.parametrize("place", [*PLACES, *GROUPED])
async def test_what_nobody_has_asked_for_is_a_failure_wherever_it_is_raised(place: str, kind: str) -> None:
    if kind == "detached" and place in ("branch", "block of a nursery", "deadline"):
        kind = "cancelled"  # trio itself lets the other one through to the body, which is tried
    culprit = make_culprit(place, STRAYS[kind](await kept()))
    async with serving(":memory:", culprit) as engine:
        with trio.fail_after(PATIENCE_SECONDS), pytest.raises(RunFailed) as failed:
            await engine.run(culprit, id="run")
        record = await engine.get("run").record()
    assert (record.status, record.problem) == (RunStatus.FAILED, None)
    name = "durable_trio.errors.Detached" if kind == "detached" else "trio.Cancelled"
    assert is_told_of(failed.value.error, name)
    if kind == "group":
        assert "mine" in repr(failed.value.error)


async def test_it_is_tried_again_as_any_failure() -> None:
    stray = await kept()

    async def flaky() -> int:
        if current_step().attempt < 3:
            raise stray
        return current_step().attempt

    @workflow
    async def patient(ctx: Context) -> int:
        return await ctx.step("flaky", flaky, retry=Retry.fixed(3, 0))

    async with serving(":memory:", patient) as engine:
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.run(patient) == 3


async def test_the_body_may_catch_it_as_any_failure_of_a_step_and_goes_the_same_way_at_replay(file_path: str) -> None:
    stray = await kept()

    async def raises() -> None:
        raise stray

    @workflow
    async def wary(ctx: Context) -> str:
        try:
            await ctx.step("raises", raises)
        except StepFailed as error:
            await ctx.wait_signal("go")
            return error.type
        return "never"

    async with serving(file_path, wary) as engine:
        await engine.start(wary, id="run")
        await wait_passivated(engine)
    async with serving(file_path, wary) as engine:
        await engine.get("run").signal("go")
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.get("run").result() == "trio.Cancelled"


async def test_a_compensation_that_raises_it_has_failed_and_the_others_go_on() -> None:
    stray = await kept()
    undone: list[str] = []

    async def undo(what: str) -> None:
        undone.append(what)
        raise stray

    @workflow
    async def saga(ctx: Context) -> None:
        for what in ("first", "second"):
            await ctx.step("do", str, what, compensate=undo)
        raise ValueError("undo it all")

    async with serving(":memory:", saga) as engine:
        with trio.fail_after(PATIENCE_SECONDS), pytest.raises(RunFailed) as failed:
            await engine.run(saga)
    assert undone == ["second", "first"]
    assert len(failed.value.compensation_errors) == 2


async def test_an_inline_block_gets_it_as_a_failure_of_its_step_and_is_left_resumable(file_path: str) -> None:
    stray = await kept()

    async def raises() -> None:
        raise stray

    async with serving(file_path) as engine:
        with pytest.raises(StepFailed, match="was raised where nothing was to end"):
            async with engine.inline("of a step") as ctx:
                await ctx.step("raises", raises)
        with pytest.raises(trio.Cancelled):  # it is the script's own
            async with engine.inline("of the block"):
                raise stray
        assert (await engine.get("of the block").record()).status is RunStatus.SUSPENDED


async def test_a_genuine_cancellation_stays_one() -> None:
    """Of the run, of a deadline, of a branch that has lost, of an attempt's timeout, of a scope inside the function."""
    ways: list[str] = []

    async def works(name: str) -> None:
        ways.append(name)
        await trio.sleep_forever()

    async def has_a_scope() -> str:
        with trio.move_on_after(0):
            await trio.sleep_forever()
        return "own"

    def is_asked() -> None:
        while True:
            trio.from_thread.check_cancelled()

    @workflow
    async def orderly(ctx: Context) -> None:
        found: list[bool | str] = [await ctx.step("own", has_a_scope)]
        with ctx.move_on_after(0.01) as scope:
            await ctx.step("works", works, "late")
        found.append(scope.cancelled_caught)
        with ctx.move_on_after(0.01) as scope:
            await ctx.step("sync", is_asked)
        found.append(scope.cancelled_caught)
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(Context.step, "loses", works, "loses")
            await ctx.sleep(0.01)
            nursery.cancel_scope.cancel()
        assert found == ["own", True, True]
        await ctx.step("endless", works, "endless")

    async with serving(":memory:", orderly) as engine:
        run = await engine.start(orderly)
        await wait_until(lambda: ways[-1:] == ["endless"])  # the others began, unless their time was over before
        with trio.fail_after(PATIENCE_SECONDS):
            assert await run.cancel(wait=True)
        assert (await run.record()).status is RunStatus.CANCELLED
        assert [step.key for step in await run.steps() if step.error is not None] == []


# ---- the last guards: a way that nobody has thought of ---------------------------------------------------------------


@pytest.mark.parametrize("place", ["a step's task", "the body's task", "around the body"])
async def test_a_run_whose_task_ends_without_a_reason_is_parked(
    place: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stray = await kept()

    async def raises(*_: Any) -> None:
        raise stray

    owner, name = {
        "a step's task": (FunctionCall, "run"),
        "the body's task": (RunActor, "_execute_body"),
        "around the body": (RunActor, "__aenter__"),
    }[place]

    @workflow
    async def innocent(ctx: Context) -> str:
        return await ctx.wait_signal("go", str)

    @workflow
    async def lost(ctx: Context) -> None:
        await ctx.step("s", trio.lowlevel.checkpoint)

    async with serving(":memory:", lost, innocent) as engine:
        await engine.start(innocent, id="innocent")
        await wait_passivated(engine)
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, raises)
            await engine.start(lost, id="lost")
            with caplog.at_level(logging.CRITICAL):
                problem = (await wait_parked(engine.get("lost"))).problem
        assert problem is not None
        assert problem.kind == "internal_error"
        await engine.get("innocent").signal("go", "on")
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.get("innocent").result() == "on"
            await engine.resume("lost")
            await engine.get("lost").result()


async def test_what_is_no_stray_passes_untouched() -> None:
    stray = await kept()
    group = BaseExceptionGroup("both", [stray, KeyboardInterrupt()])
    assert without_strays(group, Detached) is group
    assert isinstance(without_strays(stray, trio.Cancelled), StepFailed)
    assert not is_cancelled()


begun: list[str] = []


@workflow
async def listens(ctx: Context) -> int:
    begun.append(ctx.run_id)
    await ctx.wait_signal("go")
    return begun.count(ctx.run_id)


async def fail_a_little_later() -> None:
    await trio.sleep(0.01)
    raise ValueError("mine")


@workflow
async def starts_beside_itself(ctx: Context, stays: bool) -> str:
    nursery = trio.lowlevel.current_task().parent_nursery
    assert nursery is not None
    nursery.start_soon(fail_a_little_later)
    return str(await ctx.wait_signal("never")) if stays else "ended"


async def test_a_task_that_a_body_starts_beside_its_own_concerns_no_other_run(
    store_path: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the same nursery are the tasks of all runs. If it fails, so does the run whose code it is, if it is there."""
    monkeypatch.setattr(residency, "IDLE_SECONDS", PATIENCE_SECONDS)
    async with serving(store_path, listens, starts_beside_itself) as engine:
        other = await engine.start(listens)
        assert await engine.run(starts_beside_itself, False) == "ended"
        await wait_until(lambda: "beside itself" in caplog.text)
        record = await wait_parked(await engine.start(starts_beside_itself, True))
        assert record.problem is not None
        assert "ValueError: mine" in record.problem.text
        await other.signal("go", 5)
        assert await other.result() == 1, "it has never left"


@workflow
async def cancels_what_is_around_it(ctx: Context) -> int:
    begun.append(ctx.run_id)
    nursery = trio.lowlevel.current_task().parent_nursery
    assert nursery is not None
    if begun.count(ctx.run_id) == 1:
        nursery.cancel_scope.cancel()
    await ctx.sleep(0.01)
    return begun.count(ctx.run_id)


async def test_a_body_that_cancels_the_tasks_of_all_runs_has_them_claimed_anew(store_path: str) -> None:
    async with serving(store_path, listens, cancels_what_is_around_it) as engine:
        other = await engine.start(listens)
        await wait_status(other, RunStatus.SUSPENDED)
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.run(cancels_what_is_around_it) == 2
            await other.signal("go")
            assert await other.result() == 2


async def test_who_asks_for_a_result_does_not_wait_for_what_a_run_that_has_ended_has_left_behind(
    store_path: str,
) -> None:
    """Nor does who has waited before: a task of it that is shielded keeps it in memory."""
    is_over = trio.Event()

    async def stays() -> None:
        with trio.CancelScope(shield=True):
            await is_over.wait()

    @workflow(name="leaves behind")
    async def leaves_behind(ctx: Context) -> int:
        trio.lowlevel.current_task().child_nurseries[0].start_soon(stays)
        return 1

    async with serving(store_path, leaves_behind) as engine:
        run = await engine.start(leaves_behind)
        try:
            with trio.fail_after(PATIENCE_SECONDS):
                assert [await run.result(), await run.result()] == [1, 1]
            assert (await engine.status()).resident_runs == 1
        finally:
            is_over.set()
