"""``engine.abandon``: a run that no code ends is ended."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
import trio

from durable_trio import (
    CompensationFailed,
    Context,
    Engine,
    Observer,
    RunCancelled,
    RunConflict,
    RunEnded,
    RunFinished,
    RunNotFound,
    RunStatus,
    workflow,
)
from durable_trio.engine.runs.run_log import Fate
from tests.engine.harness import PATIENCE_SECONDS, serving, wait_parked, wait_passivated, wait_status, wait_until
from tests.kit.traces import effects, note, undo

pytestmark = pytest.mark.usefixtures("no_leaks", "no_effects")


def note_sync(text: str) -> str:
    effects.append(text)
    return text


async def undo_note(result: str) -> None:
    await undo(result)


@workflow(name="flow")
async def waiting(ctx: Context) -> str:
    await ctx.step("first", note, "first", compensate=undo_note)
    await ctx.step("second", note, "second", compensate=undo_note)
    return str(await ctx.wait_signal("go"))


@workflow(name="flow")
async def changed(ctx: Context) -> str:
    return str(await ctx.wait_signal("go"))


@workflow
async def parent(ctx: Context) -> str:
    try:
        return str(await ctx.run_child(waiting, id="child"))
    except RunCancelled as error:
        return f"{error.abandoned} {error}"


@workflow
async def small(ctx: Context) -> None:
    await ctx.step("of the child", note, "begun", compensate=undo_note)
    await ctx.sleep(3600)


@workflow
async def with_children(ctx: Context) -> None:
    await ctx.start_child(small, id="kept")
    await ctx.start_child(small, id="let go", detached=True)
    await ctx.sleep(3600)


async def test_a_parked_run_is_ended_and_names_what_is_not_undone(
    file_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(file_path, waiting) as engine:
        run = await engine.start(waiting, id="run")
        await wait_status(run, RunStatus.SUSPENDED)
        await wait_passivated(engine)
    async with serving(file_path, changed) as engine:
        run = engine.get("run")
        await engine.send_signal("run", "go")
        await wait_parked(run)
        with caplog.at_level(logging.WARNING):
            assert await engine.abandon("run", reason="no code fits it") == ()
        with pytest.raises(RunCancelled, match="no code fits it") as caught:
            await run.result()
        assert caught.value.abandoned
        assert caught.value.reason == "no code fits it"
        errors = caught.value.compensation_errors
        assert [type(error) for error in errors] == [CompensationFailed, CompensationFailed]
        assert [error.step for error in errors] == ["second#0", "first#0"]
        assert "not run: the run was abandoned" in str(errors[0])
        record = await run.record()
        assert (record.status, record.problem, len(record.compensation_errors)) == (RunStatus.CANCELLED, None, 2)
        with pytest.raises(RunFinished):
            await engine.abandon("run")
        with pytest.raises(RunConflict, match="was abandoned with steps that are not undone"):
            await engine.resume("run")
    (told,) = (each for each in caplog.records if getattr(each, "event", None) == Fate.ABANDONED)
    assert (told.levelno, told.not_undone) == (logging.WARNING, 2)  # type: ignore[attr-defined]
    assert effects == ["first", "second"]


async def test_a_step_that_executes_is_told_of_and_its_outcome_is_dropped() -> None:
    begun, may_end = trio.Event(), threading.Event()

    def long_step() -> str:
        trio.from_thread.run_sync(begun.set)
        may_end.wait(PATIENCE_SECONDS)
        return note_sync("done")

    @workflow
    async def busy(ctx: Context) -> None:
        await ctx.step("long", long_step)
        await ctx.step("next", note, "next")

    with trio.fail_after(PATIENCE_SECONDS):
        async with serving(":memory:", busy) as engine:
            run = await engine.start(busy, id="run")
            await begun.wait()
            in_hand = await engine.abandon("run")
            assert [step.key for step in in_hand] == ["long#0"]
            with pytest.raises(RunCancelled):
                await run.result()
            may_end.set()
            await wait_passivated(engine)
            assert (await run.record()).status is RunStatus.CANCELLED
            assert await run.steps() == ()
    assert effects == ["done"]


async def test_a_run_that_only_waits_in_memory_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(":memory:", waiting) as engine:
        run = await engine.start(waiting, id="run")
        await wait_status(run, RunStatus.SUSPENDED)
        await engine.abandon("run")
        with pytest.raises(RunCancelled):
            await run.result()
        await wait_passivated(engine)
        with pytest.raises(RunFinished):
            await engine.send_signal("run", "go")
    assert effects == ["first", "second"]


async def test_the_observers_of_who_abandons_are_told_that_the_run_has_ended() -> None:
    told: list[RunEnded] = []

    class Ends(Observer):
        def run_ended(self, event: RunEnded) -> None:
            told.append(event)

    async with serving(":memory:", waiting, observers=[Ends()]) as engine:
        run = await engine.start(waiting, id="run")
        await wait_status(run, RunStatus.SUSPENDED)
        await engine.abandon("run", reason="no code fits it")
        await wait_passivated(engine)
    (event,) = told
    assert (event.run_id, event.status, event.workflow) == ("run", RunStatus.CANCELLED, "flow")
    assert isinstance(event.error, RunCancelled)
    assert event.error.abandoned
    assert event.duration is not None


async def test_a_parent_gets_the_end_of_its_child() -> None:
    async with serving(":memory:", parent, waiting) as engine:
        run = await engine.start(parent)
        await wait_until(lambda: len(effects) == 2)
        await engine.abandon("child", reason="lost")
        with trio.fail_after(PATIENCE_SECONDS):
            assert await run.result() == "True run 'child' was abandoned: lost"


async def test_children_undo_what_they_have_done_and_those_that_were_let_go_live_on() -> None:
    async with serving(":memory:", with_children, small) as engine:
        await engine.start(with_children, id="run")
        await wait_until(lambda: effects == ["begun", "begun"])
        await engine.abandon("run")
        with pytest.raises(RunCancelled, match="its parent was abandoned") as caught, trio.fail_after(PATIENCE_SECONDS):
            await engine.get("kept").result()
        assert not caught.value.abandoned
        assert not (await engine.get("let go").record()).status.is_final
    assert effects == ["begun", "begun", "undo begun"]


async def test_it_is_ended_also_by_an_engine_that_does_not_know_its_workflow(file_path: str) -> None:
    async with Engine(file_path) as client:
        await client.start("nobody's", id="run")
        await client.abandon("run")
        assert (await client.get("run").record()).status is RunStatus.CANCELLED
        with pytest.raises(RunNotFound):
            await client.abandon("nobody")


@pytest.mark.parametrize(("run_id", "reason", "error"), [("", None, ValueError), (7, None, TypeError)])
async def test_what_it_is_given_is_checked(run_id: Any, reason: Any, error: type[Exception], file_path: str) -> None:
    async with Engine(file_path) as client:
        with pytest.raises(error):
            await client.abandon(run_id, reason=reason)
