"""Names: 1 to 256 characters, no control character, no blank at either end; refused before anything is written."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from durable_trio import Context, Engine, Retry, RunStatus, workflow
from tests.engine.harness import serving, wait_passivated

pytestmark = pytest.mark.usefixtures("no_leaks")

BAD = {
    "empty": "",
    "blank": " ",
    "tab": "\t",
    "line": "a\nb",
    "nul": "a\0b",
    "escape": "a\x1bb",
    "delete": "a\x7fb",
    "c1": "a\x85b",
    "line_separator": "a\u2028b",
    "surrogate": "a\ud800b",
    "blank_before": " a",
    "blank_after": "a ",
    "no_break_space_after": "a\u00a0",
    "too_long": "x" * 257,
}
GOOD = ["x", "x" * 256, "a b", "ünïcode", "日本語", "a/b#1%2F", "'; drop table runs; --", "../../etc/passwd", "🦀"]

bad_names = pytest.mark.parametrize("name", BAD.values(), ids=BAD.keys())


@workflow
async def waits(ctx: Context) -> Any:
    return await ctx.wait_signal("go")


@bad_names
def test_a_workflow_refuses_the_name(name: str) -> None:
    with pytest.raises(ValueError, match="workflow name"):

        @workflow(name=name)
        async def never(ctx: Context) -> None: ...


@bad_names
def test_a_workflow_refuses_the_tag(name: str) -> None:
    with pytest.raises(ValueError, match="tag"):

        @workflow(tags={name: "value"})
        async def never(ctx: Context) -> None: ...


STARTS: dict[str, Callable[[Engine, str], Awaitable[Any]]] = {
    "workflow name": lambda engine, name: engine.start(name),
    "run id": lambda engine, name: engine.start(waits, id=name),
    "queue name": lambda engine, name: engine.start(waits, queue=name),
    "tag": lambda engine, name: engine.start(waits, tags={name: "value"}),
}


@pytest.mark.parametrize("what", STARTS)
async def test_a_start_refuses_bad_names_and_writes_nothing(what: str) -> None:
    async with serving(":memory:", waits) as engine:
        for name in BAD.values():
            with pytest.raises(ValueError, match=what):
                await STARTS[what](engine, name)
        assert (await engine.list_runs()).runs == ()


CALLS: dict[str, Callable[[Engine, str], Awaitable[Any]]] = {
    "signal name": lambda engine, name: engine.send_signal("r", name),
    "signal id": lambda engine, name: engine.send_signal("r", "go", id=name),
    "run id of a signal": lambda engine, name: engine.send_signal(name, "go"),
    "run id of a cancel": lambda engine, name: engine.cancel(name),
    "run id of a resume": lambda engine, name: engine.resume(name),
    "run id of a delete": lambda engine, name: engine.delete(name),
}


@bad_names
async def test_messages_and_upkeep_refuse_the_name_and_change_nothing(name: str) -> None:
    async with serving(":memory:", waits) as engine:
        run = await engine.start(waits, id="r")
        await wait_passivated(engine)
        for what, call in CALLS.items():
            with pytest.raises(ValueError, match=what.partition(" of ")[0]):
                await call(engine, name)
        for handle in (engine.get, lambda run_id: engine.watch(run_id=run_id)):
            with pytest.raises(ValueError, match="run id"):
                handle(name)
        assert (await run.record()).status is RunStatus.SUSPENDED
        assert await run.steps() == ()
        await run.signal("go", "on")
        assert await run.result() == "on"


@bad_names
async def test_a_durable_call_refuses_the_name_and_leaves_no_row(name: str) -> None:
    calls: dict[str, Callable[[Context], Awaitable[Any]]] = {
        "step name": lambda ctx: ctx.step(name, lambda: None, retry=Retry.fixed(3, 0)),
        "transaction name": lambda ctx: ctx.transaction(name, lambda _: None),
        "sleep name": lambda ctx: ctx.sleep(0, name=name),
        "signal name": lambda ctx: ctx.wait_signal(name, timeout=0),
        "published key": lambda ctx: ctx.publish(name, 1),
    }
    refused: list[str] = []

    @workflow
    async def tries(ctx: Context) -> None:
        for what, call in calls.items():
            with pytest.raises(ValueError, match=what):
                await call(ctx)
            refused.append(what)
        await ctx.step("good", lambda: None)

    async with serving(":memory:", tries) as engine:
        run = await engine.start(tries)
        await run.result()
        assert [step.key for step in await run.steps()] == ["good#0"]
        assert await run.values() == {}
    assert refused == list(calls)


@pytest.mark.parametrize("name", GOOD)
async def test_a_good_name_is_good_everywhere(store_path: str, name: str) -> None:
    @workflow(name=name, tags={name: name})
    async def named(ctx: Context) -> list[Any]:
        await ctx.publish(name, "published")
        await ctx.sleep(0, name=name)
        return [
            ctx.run_id,
            await ctx.step(name, lambda: "step"),
            await ctx.transaction(name, lambda _: "transaction"),
            await ctx.wait_signal(name),
        ]

    async with serving(store_path, named) as engine:
        run = await engine.start(named, id=name, queue=name, tags={name: name})
        await run.signal(name, "signal", id=name)
        assert await run.result() == [name, "step", "transaction", "signal"]
        record = await run.record()
        assert (record.id, record.workflow, record.queue, dict(record.tags)) == (name, name, name, {name: name})
        assert record.values == {name: "published"}
        keys = [step.key for step in await run.steps()]
        assert len(set(keys)) == 4
        page = await engine.list_runs(queue=name, workflow=name, tags={name: name})
        assert [item.id for item in page.runs] == [name]


@pytest.mark.parametrize("name", [None, 1, b"bytes", ["a"]])
async def test_a_name_that_is_no_text_is_refused(name: Any) -> None:
    async with serving(":memory:", waits) as engine:
        with pytest.raises(TypeError):
            engine.get(name)
        with pytest.raises(TypeError):
            await engine.send_signal("r", name)
        with pytest.raises(TypeError):
            await engine.start(name)
        assert (await engine.list_runs()).runs == ()
