"""What an engine refuses that is not open, or not any more; and what its end leaves."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import trio

from durable_trio import Context, Engine, RunNotFound, RunStatus, open_engine, workflow
from durable_trio.engine.services.recovery import Recovery
from durable_trio.stores.questions import ListExecutors
from tests.engine.flows import CART, echo, waiting
from tests.engine.harness import serving, stopped_when_ready, stored

pytestmark = pytest.mark.usefixtures("no_leaks")


CALLS: dict[str, Callable[[Engine], Awaitable[Any]]] = {
    "start": lambda engine: engine.start(echo, 1),
    "run": lambda engine: engine.run(echo, 1),
    "list_runs": lambda engine: engine.list_runs(),
    "send_signal": lambda engine: engine.send_signal("r", "go"),
    "cancel": lambda engine: engine.cancel("r"),
    "resume": lambda engine: engine.resume("r"),
    "delete": lambda engine: engine.delete("r"),
    "prune": lambda engine: engine.prune(datetime.now(UTC)),
    "status": lambda engine: engine.status(),
    "result": lambda engine: engine.get("r").result(),
    "record": lambda engine: engine.get("r").record(),
    "steps": lambda engine: engine.get("r").steps(),
    "values": lambda engine: engine.get("r").values(),
}


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_outside_of_an_open_engine_is_refused(name: str) -> None:
    engine = Engine(":memory:", workflows=[echo])
    with pytest.raises(RuntimeError, match="not open"):
        await CALLS[name](engine)


def test_a_watch_or_connection_outside_of_an_open_engine_is_refused() -> None:
    engine = Engine(":memory:")
    with pytest.raises(RuntimeError, match="not open"):
        engine.watch()
    with pytest.raises(RuntimeError, match="not open"):
        engine.connect()


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_after_the_end_of_the_block_is_refused(name: str) -> None:
    async with open_engine(":memory:", workflows=[echo]) as engine:
        pass
    with pytest.raises(trio.ClosedResourceError):
        await CALLS[name](engine)


async def test_who_has_left_becomes_nobody_else(store_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lease may be due just then: it is nobody any more, which is no reason to become another one."""
    left_behind: list[Any] = []
    retire = Recovery.retire

    async def retire_and_look(recovery: Recovery, crashed_runs: frozenset[int]) -> None:
        await retire(recovery, crashed_runs)
        recovery.nudge()  # to renew the lease is due
        with trio.move_on_after(0.3):  # it would be renewed within a quarter of a second
            await recovery.wait_renewed()
        left_behind.append(await recovery._writer.ask(ListExecutors()))

    monkeypatch.setattr(Recovery, "retire", retire_and_look)
    async with serving(store_path, echo) as engine:
        assert await engine.run(echo, 1) == 1
    assert left_behind == [()]


async def test_closing_twice_is_nothing_and_calls_after_it_are_refused(store_path: str) -> None:
    client = Engine(store_path)
    async with client:
        await client.list_runs()
        await client.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await client.start("echo", 1)
        await client.aclose()
    await client.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await client.list_runs()
    with pytest.raises(trio.ClosedResourceError):
        async with client:
            pass


async def test_an_engine_that_was_never_opened_can_be_closed() -> None:
    engine = Engine(":memory:")
    await engine.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await engine.status()


async def test_an_error_of_the_block_comes_out_as_itself(store_path: str) -> None:
    with pytest.raises(ZeroDivisionError):  # noqa: PT012  # the block is what is tested
        async with open_engine(store_path, workflows=[echo]) as engine:
            await engine.run(echo, 1)
            raise ZeroDivisionError


async def test_cancelling_the_wait_for_a_result_does_not_cancel_the_run(store_path: str) -> None:
    async with serving(store_path, waiting) as engine:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: engine.run(waiting, CART, id="r"))
            await stored(engine, "r")
            nursery.cancel_scope.cancel()
        await engine.send_signal("r", "go", "on")
        assert await engine.get("r", waiting).result() == (CART, "on")


async def test_an_unknown_id_shows_at_the_first_call(store_path: str) -> None:
    async with serving(store_path, echo) as engine:
        run = engine.get("nobody")
        for call in (run.result, run.record, run.steps, run.values, run.cancel):
            with pytest.raises(RunNotFound, match="'nobody'") as caught:
                await call()
            assert caught.value.run_id == "nobody"
        with pytest.raises(RunNotFound):
            await run.signal("go")
        with pytest.raises(RunNotFound):
            async with run.watch():
                pass


async def test_a_closed_engine_leaves_its_waiting_runs_resumable(file_path: str) -> None:
    async with serving(file_path, waiting) as engine:
        await engine.start(waiting, CART, id="r")
    async with Engine(file_path) as client:
        record = await client.get("r").record()
    assert record.status in (RunStatus.RUNNING, RunStatus.SUSPENDED)
    async with serving(file_path, waiting) as engine:
        await engine.send_signal("r", "go")
        await engine.get("r").result()


async def test_serving_as_the_main_task_ends_at_a_signal(file_path: str) -> None:
    """``trio.run(engine.serve)`` drains at SIGTERM and returns."""
    stopped = await stopped_when_ready(__name__, "serve_and_say", file_path, os_signal=signal.SIGTERM)
    assert stopped == ("serving", "returned\n", 0)


def serve_and_say(path: str) -> None:
    """Called in the other process."""

    async def say() -> str:
        print("serving", flush=True)
        return "said"

    @workflow
    async def hello(ctx: Context) -> None:
        await ctx.step("say", say)
        await ctx.wait_signal("never")

    async def begin() -> None:
        async with Engine(path) as client:
            await client.start(hello)

    trio.run(begin)
    trio.run(Engine(path, workflows=[hello]).serve)
    print("returned", flush=True)
