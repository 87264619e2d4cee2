"""Calls from another thread or another ``trio.run`` are refused in plain words, change nothing, and hang nobody."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import trio

from durable_trio import ChildRun, Context, Engine, workflow
from tests.engine.harness import PATIENCE_SECONDS, serving

pytestmark = pytest.mark.usefixtures("no_leaks")


@workflow
async def order(ctx: Context) -> int:
    return 5


@workflow
async def waiting(ctx: Context) -> Any:
    return await ctx.wait_signal("go")


CALLS: dict[str, Callable[[Engine], Any]] = {
    "start": lambda engine: engine.start(order),
    "run": lambda engine: engine.run(order),
    "send_signal": lambda engine: engine.send_signal("w", "go"),
    "signal_with_start": lambda engine: engine.signal_with_start(order, signal="go", id="new"),
    "cancel": lambda engine: engine.cancel("w"),
    "resume": lambda engine: engine.resume("w"),
    "fork": lambda engine: engine.fork("w", before="go#0"),
    "delete": lambda engine: engine.delete("w"),
    "prune": lambda engine: engine.prune(datetime.now(UTC)),
    "list_runs": lambda engine: engine.list_runs(),
    "status": lambda engine: engine.status(),
    "processes": lambda engine: engine.processes(),
    "trees": lambda engine: engine.trees(),
    "tree": lambda engine: engine.tree(),
    "events": lambda engine: engine.events(),
    "watch": lambda engine: engine.watch(),
    "inline": lambda engine: engine.inline("i"),
    "result": lambda engine: engine.get("w").result(),
    "record": lambda engine: engine.get("w").record(),
    "steps": lambda engine: engine.get("w").steps(),
    "waits": lambda engine: engine.get("w").waits(),
    "unread": lambda engine: engine.get("w").unread(),
    "signal": lambda engine: engine.get("w").signal("go"),
    "run.cancel": lambda engine: engine.get("w").cancel(wait=True),
    "value": lambda engine: engine.get("w").value("key"),
}


async def _call(call: Callable[[Engine], Any], engine: Engine) -> Any:
    result = call(engine)
    return await result if inspect.isawaitable(result) else result


ELSEWHERE: dict[str, Callable[..., Any]] = {
    "asyncio": lambda call, engine: asyncio.run(_call(call, engine)),
    "trio": lambda call, engine: trio.run(_call, call, engine),
    "no loop": lambda call, engine: _call(call, engine).send(None),
}


@pytest.mark.parametrize("where", ELSEWHERE)
async def test_every_call_from_another_thread_is_refused_and_changes_nothing(file_path: str, where: str) -> None:
    def call_all() -> dict[str, str]:
        told = {}
        for name, call in CALLS.items():
            with pytest.raises(RuntimeError) as caught:
                ELSEWHERE[where](call, engine)
            told[name] = str(caught.value)
        return told

    async with serving(file_path, order, waiting) as engine:
        await engine.start(waiting, id="w")
        told = await trio.to_thread.run_sync(call_all)
        for name, message in told.items():
            assert "trio.from_thread.run" in message, name
            assert repr(threading.current_thread().name) in message, name
        assert [record.id for record in (await engine.list_runs()).runs] == ["w"]
        await engine.send_signal("w", "go", 3)
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.get("w").result() == 3
            assert await engine.run(order) == 5


async def test_a_client_is_refused_elsewhere_as_well_and_is_not_closed_from_there(file_path: str) -> None:
    async with Engine(file_path, workflows=[order]) as client:

        def elsewhere() -> None:
            for call in (client.start(order), client.aclose()):
                with pytest.raises(RuntimeError, match="from_thread"):
                    asyncio.run(call)

        await trio.to_thread.run_sync(elsewhere)
        assert (await client.start(order, id="o")).id == "o"


async def test_an_engine_that_serves_is_not_closed_from_elsewhere(file_path: str) -> None:
    async with serving(file_path, order) as engine:

        def elsewhere() -> None:
            with pytest.raises(RuntimeError, match="from_thread"):
                asyncio.run(engine.aclose())

        await trio.to_thread.run_sync(elsewhere)
        assert await engine.run(order) == 5


async def test_what_the_message_says_works() -> None:
    def from_a_thread_of_trio(engine: Engine) -> int:
        return trio.from_thread.run(engine.run, order)

    async with serving(":memory:", order) as engine:
        assert await trio.to_thread.run_sync(from_a_thread_of_trio, engine) == 5
        results: list[int] = []
        token = trio.lowlevel.current_trio_token()
        thread = threading.Thread(
            target=lambda: results.append(trio.from_thread.run(engine.run, order, trio_token=token))
        )
        thread.start()
        await trio.to_thread.run_sync(thread.join)
        assert results == [5]


def test_an_engine_that_was_closed_says_so_also_in_another_run() -> None:
    engine = Engine(":memory:")

    async def use() -> None:
        async with engine:
            pass

    async def use_again() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await engine.start("order")

    trio.run(use)
    trio.run(use_again)


async def test_a_context_is_refused_in_the_thread_of_a_step() -> None:
    told: list[str] = []

    def misuse(call: Callable[[], Awaitable[Any] | object]) -> None:
        try:
            result = call()
            if inspect.iscoroutine(result):
                result.send(None)
        except RuntimeError as error:
            told.append(str(error))

    @workflow
    async def careless(ctx: Context) -> int:
        child: ChildRun[int] = await ctx.start_child(order)
        async with ctx.open_nursery() as nursery:
            calls: list[Callable[[], Any]] = [
                ctx.now,
                lambda: ctx.step("x", int),
                lambda: ctx.sleep(1),
                lambda: ctx.publish("x", 1),
                lambda: nursery.start_soon(order),
                child.result,
            ]
            for call in calls:
                await ctx.step("misuse", misuse, call)
        return await child.result()

    async with serving(":memory:", careless, order) as engine:
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.run(careless) == 5
    assert len(told) == 6
    assert all("of run" in message and "context" in message for message in told)
