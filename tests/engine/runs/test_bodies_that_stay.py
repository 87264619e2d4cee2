"""A body that catches what ends it holds up neither the other runs nor the engine: its tasks are abandoned, by name."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from durable_trio import Context, Engine, OwnershipLost, workflow
from durable_trio.engine import tree
from durable_trio.engine.serving import EXIT_UNSTOPPED
from tests.engine.harness import PATIENCE_SECONDS, serving, stopped_when_ready, wait_passivated, wait_until

LOGGER = "durable_trio.runs"


async def nothing() -> None:
    pass


async def waits(ctx: Context) -> None:
    while True:
        try:  # noqa: SIM105
            await ctx.wait_signal("never")
        except:  # noqa: E722  # the mistake
            pass


async def waits_in_a_shield(ctx: Context) -> None:
    with trio.CancelScope(shield=True):
        await waits(ctx)


async def waits_in_a_durable_shield(ctx: Context) -> None:
    with ctx.move_on_after(5000, shield=True):
        await waits(ctx)


async def goes_on_in_finally(ctx: Context) -> None:
    try:
        await ctx.wait_signal("never")
    finally:
        while True:
            try:
                await ctx.step("tidy", nothing)
            except BaseException:
                continue


async def asks_the_time(ctx: Context) -> None:
    end = ctx.now().year + 1
    while ctx.now().year < end:
        try:
            ctx.random()
            await ctx.sleep(3000)
        except BaseException:
            pass


async def publishes(ctx: Context) -> None:
    while True:
        try:
            await ctx.publish("state", "waiting")
            await ctx.sleep(3000)
        except BaseException:
            pass


async def maps(ctx: Context) -> None:
    while True:
        try:
            await ctx.map("sleeping", trio.sleep, [0, 0])
            await ctx.sleep(3000)
        except BaseException:
            pass


async def waits_in_branches(ctx: Context) -> None:
    async with ctx.open_nursery() as nursery:
        nursery.start_soon(waits)
        nursery.start_soon(waits)
        await ctx.sleep(3000)


async def opens_nurseries(ctx: Context) -> None:
    async def sleep(branch: Context) -> None:
        await branch.sleep(3000)

    while True:
        try:
            async with ctx.open_nursery() as nursery:
                nursery.start_soon(sleep)
        except BaseException:
            pass


async def waits_beside_a_task(ctx: Context) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.Event().wait)
        await waits(ctx)


async def waits_in_memory(ctx: Context) -> None:
    async def wait(_: Context) -> None:
        while True:
            with contextlib.suppress(BaseException):
                await trio.Event().wait()

    async with ctx.open_nursery() as nursery:
        nursery.start_soon(wait)
        await ctx.sleep(3000)


BODIES: list[Callable[[Context], Awaitable[None]]] = [
    waits,
    waits_in_a_shield,
    waits_in_a_durable_shield,
    goes_on_in_finally,
    asks_the_time,
    publishes,
    maps,
    waits_in_branches,
    opens_nurseries,
    waits_beside_a_task,
    waits_in_memory,
]


@workflow
async def stays(ctx: Context, name: str) -> None:
    await next(body for body in BODIES if getattr(body, "__name__", "") == name)(ctx)


@workflow
async def innocent(ctx: Context) -> str:
    await ctx.sleep(0.01)
    return "done"


@pytest.mark.parametrize("name", [body.__name__ for body in BODIES])
async def test_others_go_on_when_a_body_does_not_leave_memory(name: str, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(":memory:", stays, innocent) as engine:
        await engine.start(stays, name, id="stays")
        with trio.fail_after(PATIENCE_SECONDS):
            await wait_passivated(engine)
            assert await engine.run(innocent) == "done"
    (record, *_) = [record for record in caplog.records if record.name == LOGGER]
    assert "run 'stays' of workflow 'stays' does not leave" in record.getMessage()
    fields = vars(record)
    assert (fields["event"], fields["run_id"]) == ("body_stays", "stays")
    assert f"{os.path.basename(__file__)}:" in fields["place"]


@pytest.mark.parametrize("name", ["waits", "waits_in_branches"])
async def test_the_engine_drains_when_a_body_does_not_leave(name: str, file_path: str) -> None:
    """It stands in a wait that keeps it in memory, so that it is only detached at the end."""
    with trio.fail_after(PATIENCE_SECONDS):
        async with serving(file_path, keeps, grace_seconds=0.05) as engine:
            await engine.start(keeps, name, id="stays")
            await wait_until(lambda: kept)
    kept.clear()
    with trio.fail_after(PATIENCE_SECONDS):
        async with serving(file_path, keeps, grace_seconds=0.05):  # the next one has it
            await wait_until(lambda: kept)
    kept.clear()


kept: list[str] = []


async def hold() -> None:
    kept.append("held")
    await trio.sleep_forever()


@workflow
async def keeps(ctx: Context, name: str) -> None:
    async def step(branch: Context) -> None:
        await branch.step("hold", hold)

    async with ctx.open_nursery() as nursery:
        nursery.start_soon(step)
        await next(body for body in BODIES if getattr(body, "__name__", "") == name)(ctx)


async def test_the_block_of_a_script_that_does_not_leave_is_not_waited_for(
    store_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    is_in, may_go = trio.Event(), trio.Event()
    ends: list[BaseException] = []

    async def script(engine: Engine) -> None:
        try:
            async with engine.inline("script") as ctx:
                is_in.set()
                while not may_go.is_set():
                    with contextlib.suppress(BaseException):
                        await ctx.sleep(3000)
        except OwnershipLost as error:
            ends.append(error)

    async with trio.open_nursery() as nursery:
        with trio.fail_after(PATIENCE_SECONDS):
            async with serving(store_path, innocent, grace_seconds=0.05) as engine:
                nursery.start_soon(script, engine)
                await is_in.wait()
        may_go.set()
    assert [type(error) for error in ends] == [OwnershipLost]
    assert "'script'" in caplog.text


def serve_bodies(path: str) -> None:
    trio.run(Engine(path, workflows=[stays, innocent]).serve)


async def test_a_server_ends_in_order_with_one_signal_and_leaves_the_run_resumable(file_path: str) -> None:
    code = f"import sys, {__name__} as t; from tests.kit import stores; stores.offer(); t.serve_bodies(sys.argv[1])"
    path = os.pathsep.join(item for item in sys.path if item)
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", code, file_path],
        env={**os.environ, "PYTHONPATH": path},
        stderr=subprocess.DEVNULL,
    )
    try:
        with trio.fail_after(PATIENCE_SECONDS):
            async with Engine(file_path) as client:
                for body in BODIES:
                    await client.start("stays", body.__name__, id=body.__name__)
                assert await (await client.start("innocent")).result() == "done"
                process.send_signal(signal.SIGTERM)
                assert await process.wait() == 0
                left = [await client.get(body.__name__).record() for body in BODIES]
    finally:
        if process.returncode is None:
            process.kill()
    assert {(str(record.status), record.owner) for record in left} <= {
        ("suspended", None),
        ("running", None),
        ("pending", None),
    }


async def never_ends() -> None:
    sys.stdout.write("begun\n")
    sys.stdout.flush()
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()


@workflow(name="has a step that never ends")
async def has_endless_step(ctx: Context) -> None:
    await ctx.step("endless", never_ends)


def serve_endless_step(path: str) -> None:
    tree.LEAVE_SECONDS = 0.2  # type: ignore[misc]  # half a minute else

    async def main() -> None:
        async with Engine(path) as client:
            await client.start("has a step that never ends", id="endless")

    trio.run(main)
    trio.run(Engine(path, workflows=[has_endless_step], grace_seconds=0.1).serve)


async def test_a_server_ends_with_one_signal_also_if_a_step_never_does(file_path: str) -> None:
    """Nothing within the process can end it: it is named, its run is free, and the process exits."""
    line, _, code = await stopped_when_ready(__name__, "serve_endless_step", file_path, os_signal=signal.SIGTERM)
    assert line == "begun"
    assert code == EXIT_UNSTOPPED
    async with Engine(file_path) as client:
        assert (await client.get("endless").record()).owner is None


async def test_a_body_may_take_its_time_to_clean_up(file_path: str) -> None:
    """What it awaits in its own shield is its own affair, within reason."""
    steps: list[int] = []

    @workflow(name="cleans")
    async def cleans(ctx: Context) -> None:
        try:
            await ctx.wait_signal("never")
        finally:
            with trio.CancelScope(shield=True):
                for number in range(5000):
                    await trio.lowlevel.checkpoint()
                    steps.append(number)

    async with serving(file_path, cleans) as engine:
        await engine.start(cleans)
        await wait_passivated(engine)
    assert len(steps) == 5000


def test_trio_takes_the_function_that_goes_on_with_a_task_from_where_it_is_replaced() -> None:
    """What the end of an abandoned task relies on: set when a task is scheduled, and called when its turn comes."""
    seen: list[Any] = []

    class Look(trio.abc.Instrument):
        def task_scheduled(self, task: trio.lowlevel.Task) -> None:
            if task.name == "victim":
                assert task._next_send_fn == task.coro.send
                task._next_send_fn = end

    def end(_: object) -> None:
        raise KeyError("ended")

    async def victim() -> None:
        seen.append("begun")

    async def main() -> None:
        trio.lowlevel.add_instrument(Look())
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(victim, name="victim")
                (task,) = nursery.child_tasks
                coroutine = task.coro
        except* KeyError as group:
            seen.append(group.exceptions[0].args)
        coroutine.close()

    trio.run(main)
    assert seen == [("ended",)]
