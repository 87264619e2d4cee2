"""What is said to a run in memory is taken by a task of its own, which is there only once something was said."""

from __future__ import annotations

import logging

import pytest
import trio

from durable_trio import Context, Engine, workflow
from durable_trio.engine.runs.inbox import Notice
from durable_trio.engine.runs.resident import ResidentRun
from durable_trio.rules import residency
from tests.engine.harness import PATIENCE_SECONDS, executor_of, serving, wait_parked, wait_until

seen: list[object] = []
engines: list[Engine] = []


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residency, "IDLE_SECONDS", 3600.0)
    seen.clear()
    engines.clear()


@workflow
async def listens(ctx: Context) -> str:
    seen.append("listens")
    try:
        return await ctx.wait_signal("go", str)
    except BaseException as error:
        seen.append((type(error).__name__, ctx.detaching))
        raise


@workflow
async def tells(ctx: Context) -> str:
    """Speak to another run in memory from the body itself, then only wait."""
    resident(engines[0], "listens").inbox.post(Notice.MAILBOX)
    seen.append("told")
    return await ctx.wait_signal("go", str)


def resident(engine: Engine, run_id: str) -> ResidentRun:
    (found,) = [each for each in executor_of(engine).runs._actors.values() if each.row.id == run_id]
    return found


async def test_a_run_in_memory_is_one_task_until_something_is_said_to_it() -> None:
    async with serving(":memory:", listens) as engine:
        await trio.testing.wait_all_tasks_blocked()
        before = trio.lowlevel.current_statistics().tasks_living
        run = await engine.start(listens, id="listens")
        await wait_until(lambda: seen)
        assert trio.lowlevel.current_statistics().tasks_living == before + 1
        await run.signal("of no interest")  # which is taken where it is sent
        assert trio.lowlevel.current_statistics().tasks_living == before + 1
        resident(engine, "listens").inbox.post(Notice.MAILBOX)
        assert trio.lowlevel.current_statistics().tasks_living == before + 2
        await run.signal("go", "on")
        with trio.fail_after(PATIENCE_SECONDS):
            assert await run.result() == "on"
        await trio.testing.wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().tasks_living == before


async def test_a_listener_that_a_body_has_woken_is_no_task_of_a_body() -> None:
    async with serving(":memory:", listens, tells) as engine:
        engines.append(engine)
        await engine.start(listens, id="listens")
        await wait_until(lambda: seen)
        await engine.start(tells, id="tells")
        await wait_until(lambda: "told" in seen)
        for run_id in ("listens", "tells"):
            assert len(resident(engine, run_id).turns.state.tasks) == 1
        await wait_until(lambda: executor_of(engine).runs.busy_count == 0)  # else it would never only wait
        for run_id in ("listens", "tells"):
            await engine.send_signal(run_id, "go", "on")
            with trio.fail_after(PATIENCE_SECONDS):
                assert await engine.get(run_id).result() == "on"


async def test_a_fault_of_the_listener_parks_the_run_and_the_body_does_not_take_it_for_a_cancel(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(self: ResidentRun) -> None:
        raise RuntimeError("planted")

    async with serving(":memory:", listens) as engine:
        run = await engine.start(listens, id="listens")
        await wait_until(lambda: seen)
        with monkeypatch.context() as patch, caplog.at_level(logging.CRITICAL):
            patch.setattr(ResidentRun, "read_mailbox", fail)
            resident(engine, "listens").inbox.post(Notice.MAILBOX)
            problem = (await wait_parked(run)).problem
        assert problem is not None
        assert problem.kind == "internal_error"
        assert "planted" in problem.text
        assert all(item[1] for item in seen if isinstance(item, tuple)), seen  # each saw that the run leaves
        await engine.resume("listens")
        await run.signal("go", "on")
        with trio.fail_after(PATIENCE_SECONDS):
            assert await run.result() == "on"


async def test_what_is_said_before_a_run_has_begun_is_taken_once_it_has() -> None:
    async with serving(":memory:", listens) as engine:
        run = await engine.start(listens, id="listens")
        early = resident(engine, "listens")
        early.inbox.post(Notice.DRAIN)
        assert seen == []  # its task has not made a step
        await wait_until(lambda: early.port.is_cut)
        assert seen[0] == "listens"
        assert (await run.record()).result is None
