"""An engine as a block, or as a client; runs that are resumed; and tables of the user beside it."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import pytest
import trio

import durable_trio
from durable_trio import (
    Context,
    Engine,
    RunConflict,
    RunFailed,
    RunNotFound,
    RunStatus,
    StepKind,
    UnknownWorkflow,
    open_engine,
    workflow,
)
from durable_trio.stores.questions import CountRuns
from tests.engine.flows import waiter
from tests.engine.harness import (
    PATIENCE_SECONDS,
    ask,
    serving,
    start_in_scope,
    wait_parked,
    wait_passivated,
    wait_status,
)
from tests.kit.notes import make_notes, note, notes

pytestmark = pytest.mark.usefixtures("no_leaks")


S = RunStatus


@workflow
async def quick(ctx: Context, value: int) -> int:
    return value


# ---- blocks ----------------------------------------------------------------------------------------------------------


class Unexpected(Exception):
    pass


@pytest.mark.parametrize(
    "error", [Unexpected("mine"), ExceptionGroup("mine", [Unexpected("a")]), KeyboardInterrupt(), SystemExit(3)]
)
def test_an_exception_of_the_block_comes_out_as_itself(store_path: str, error: BaseException) -> None:
    async def main() -> None:
        async with open_engine(store_path, workflows=[quick]) as engine:
            await engine.run(quick, 0)
            raise error

    with pytest.raises(type(error)) as caught:
        trio.run(main)
    assert caught.value is error


async def test_a_cancelled_block_drains_and_the_cancellation_goes_on(file_path: str) -> None:
    finished: list[str] = []

    async def work() -> None:
        await trio.sleep(0.05)
        finished.append("work")

    @workflow
    async def working(ctx: Context) -> None:
        await ctx.step("work", work)

    with trio.CancelScope() as scope:
        async with open_engine(file_path, workflows=[working]) as engine:
            await engine.start(working)
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert finished == ["work"]


async def test_a_client_block_lets_its_exception_out_and_closes(file_path: str) -> None:
    client = Engine(file_path)
    with pytest.raises(Unexpected):
        async with client:
            raise Unexpected
    with pytest.raises(trio.ClosedResourceError):
        await client.list_runs()


async def test_a_cancelled_client_closes(file_path: str) -> None:
    with trio.CancelScope() as scope:
        async with Engine(file_path) as client:
            await client.start("quick", id="r")
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    async with Engine(file_path) as client:
        assert (await client.get("r").record()).status is S.PENDING


async def test_many_clients_in_one_task_and_out_of_order_use(file_path: str) -> None:
    """Clients are resources of a block each; they share the file, not their life."""
    async with Engine(file_path) as one:
        async with Engine(file_path) as two:
            await two.start("quick", id="r")
            assert (await one.get("r").record()).id == "r"
        assert (await one.get("r").record()).id == "r"
        await two.aclose()


async def test_whoever_waits_for_a_result_or_a_change_is_not_left_behind_when_the_engine_ends(file_path: str) -> None:
    """Whoever waits for something that can no longer come gets an error, or is cancelled with the block."""
    engine = Engine(file_path, workflows=[waiter])
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            scope = await start_in_scope(nursery, engine)
            run = await engine.start(waiter)
            outcomes: list[str] = []

            async def wait() -> None:
                try:
                    await run.result()
                except trio.ClosedResourceError:
                    outcomes.append("closed")

            async def look() -> None:
                try:
                    async with engine.watch() as changes:
                        async for _ in changes:
                            pass
                except trio.ClosedResourceError:
                    outcomes.append("closed")

            nursery.start_soon(wait)
            nursery.start_soon(look)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    assert outcomes == ["closed", "closed"]


@pytest.mark.parametrize("durability", ["full", "normal"])
async def test_status_tells_durability_executors_runs_and_library(file_path: str, durability: str) -> None:
    async with serving(file_path, quick, waiter, durability=durability) as engine:
        await engine.run(quick, 0)
        await engine.start(waiter)
        await wait_passivated(engine)
        status = await engine.status()
        assert status.durability == durability
        assert status.runs_by_status == {S.COMPLETED: 1, S.SUSPENDED: 1}
        assert status.parked == ()
        assert status.unknown_workflows == {}
        assert status.resident_runs == 0
        assert status.store_version == ask(engine, CountRuns()).store_version
        (executor,) = status.executors
        assert (executor.pid, executor.is_self) == (os.getpid(), True)
        assert executor.started_at.utcoffset() == timedelta(0)
        async with Engine(file_path) as client:
            (seen,) = (await client.status()).executors
            assert (seen.id, seen.is_self) == (executor.id, False)


# ---- resume ----------------------------------------------------------------------------------------------------------


async def test_a_parked_run_is_reported_and_goes_on_when_resumed_with_the_right_code(store_path: str) -> None:
    goes_left = True

    @workflow
    async def fickle(ctx: Context) -> str:
        await ctx.step("left" if goes_left else "right", lambda: None)
        return str(await ctx.wait_signal("go"))

    async with serving(store_path, fickle, quick) as engine:
        run = await engine.start(fickle)
        await wait_passivated(engine)
        goes_left = False
        await run.signal("go", "at last")
        record = await wait_parked(run)
        assert record.status is S.SUSPENDED
        assert record.problem is not None
        assert record.problem.kind == "divergence"
        assert "left#0" in record.problem.text
        assert "right#0" in record.problem.text
        assert (await engine.status()).parked == (run.id,)
        assert await engine.run(quick, 1) == 1  # others go on
        await engine.resume(run.id)  # still the wrong code
        await trio.sleep(0.05)
        assert (await wait_parked(run)).problem is not None
        goes_left = True
        await engine.resume(run.id)
        with trio.fail_after(PATIENCE_SECONDS):
            assert await run.result() == "at last"
        record = await run.record()
        assert (record.problem, record.error) == (None, None)
        assert (await engine.status()).parked == ()


async def test_a_failed_run_goes_on_from_its_history_without_the_failure(store_path: str) -> None:
    broken = True
    ran: list[str] = []

    def work(name: str) -> str:
        ran.append(name)
        if name == "b" and broken:
            raise OSError("not today")
        return name

    @workflow
    async def failing(ctx: Context) -> list[str]:
        return [await ctx.step(name, work, name) for name in "abc"]

    async with serving(store_path, failing) as engine:
        run = await engine.start(failing)
        with pytest.raises(RunFailed):
            await run.result()
        broken = False
        resumed = await engine.resume(run.id)
        assert await resumed.result() == ["a", "b", "c"]
        record = await run.record()
        assert (record.status, record.error) == (S.COMPLETED, None)
    assert ran == ["a", "b", "b", "c"]


async def test_the_result_of_a_resumed_run_is_never_that_of_its_former_end(file_path: str) -> None:
    """Although word of the former end may still be on its way to who waits now."""

    broken = True

    async def work() -> None:
        if broken:
            raise OSError("not today")

    @workflow
    async def failing(ctx: Context) -> str:
        await ctx.step("work", work)
        return str(await ctx.wait_signal("go"))

    async with serving(file_path, failing) as engine, Engine(file_path, workflows=[failing]) as client:
        with trio.fail_after(PATIENCE_SECONDS):
            for number in range(15):
                broken = True
                run = await engine.start(failing, id="r")
                await wait_status(run, S.FAILED)
                await trio.sleep(number % 5 / 200)
                broken = False
                await engine.resume(run.id)
                async with trio.open_nursery() as nursery:
                    for other in (engine, client):
                        nursery.start_soon(expect_done, other, run.id)
                    await trio.sleep(0.03)
                    await run.signal("go", "done")
                await engine.delete(run.id)


async def expect_done(engine: Engine, run_id: str) -> None:
    assert await engine.get(run_id).result() == "done"


async def test_a_failed_run_whose_compensation_has_run_is_not_resumed(store_path: str) -> None:
    @workflow
    async def failing(ctx: Context) -> None:
        await ctx.step("a", lambda: None, compensate=lambda _: None)
        raise ValueError("no")

    async with serving(store_path, failing) as engine:
        run = await engine.start(failing)
        before = await wait_status(run, S.FAILED)
        with pytest.raises(RunConflict):
            await engine.resume(run.id)
        assert (await run.record()).finished_at == before.finished_at


async def test_runs_in_other_states_are_not_resumed(store_path: str) -> None:
    async with serving(store_path, quick, waiter) as engine:
        await engine.run(quick, 0, id="completed")
        await engine.start(waiter, id="suspended")
        await engine.start(quick, 0, id="pending", delay=3600)
        await wait_passivated(engine)
        for run_id in ("completed", "suspended", "pending"):
            before = (await engine.get(run_id).record()).status
            with pytest.raises(RunConflict):
                await engine.resume(run_id)
            assert (await engine.get(run_id).record()).status is before
        with pytest.raises(RunNotFound):
            await engine.resume("nobody")


async def test_a_parked_run_goes_on_by_itself_with_an_engine_that_has_other_code(file_path: str) -> None:
    def make(name: str) -> Any:
        if name == "left":

            @workflow(name="fickle")
            async def left(ctx: Context) -> str:
                await ctx.step("left", lambda: None)
                return str(await ctx.wait_signal("go"))

            return left

        @workflow(name="fickle")
        async def right(ctx: Context) -> str:
            await ctx.step("right", lambda: None)
            return "wrong"

        return right

    left, right = make("left"), make("right")
    async with serving(file_path, left) as engine:
        await engine.start(left, id="r")
        await wait_passivated(engine)
    async with Engine(file_path) as client:
        await client.send_signal("r", "go", "home")
    async with serving(file_path, right) as engine:
        await wait_parked(engine.get("r"))
    async with serving(file_path, right) as engine:
        assert (await engine.status()).parked == ("r",)  # the same wrong code is not tried again
    async with serving(file_path, left) as engine:
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.get("r").result() == "home"


# ---- the user's own tables -------------------------------------------------------------------------------------------


async def test_a_table_of_the_users_lives_in_the_same_database(store_path: str) -> None:
    @workflow
    async def noting(ctx: Context) -> list[str]:
        return [await ctx.transaction("note", note, text) for text in ("a", "b", "c")]

    async with serving(store_path, noting) as engine:
        connection = engine.connect()
        try:
            make_notes(connection)
            note(connection, "mine")
            connection.commit()
            run = await engine.start(noting)
            assert await run.result() == ["A", "B", "C"]
            assert [step.kind for step in await run.steps()] == [StepKind.TRANSACTION] * 3
            connection.rollback()  # what it has read is of an instant before
            assert notes(connection) == ["mine", "a", "b", "c"]
        finally:
            connection.close()


async def test_the_users_rows_are_still_there_after_a_restart(file_path: str) -> None:
    async with Engine(file_path) as client:
        connection = client.connect()
        try:
            make_notes(connection)
            note(connection, "kept")
            connection.commit()
        finally:
            connection.close()
    async with serving(file_path, quick) as engine:
        assert await engine.run(quick, 1) == 1
        connection = engine.connect()
        try:
            assert notes(connection) == ["kept"]
        finally:
            connection.close()


def test_an_unknown_workflow_has_an_error_class_of_its_own() -> None:
    assert issubclass(UnknownWorkflow, durable_trio.DurableError)
