"""A run keeps the defaults of the code that has started it; starting it again compares what both sides know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import attrs
import pytest
import trio

from durable_trio import Context, Engine, Run, RunConflict, Workflow, workflow
from durable_trio.stores.questions import FindRun, Question
from tests.engine.harness import PATIENCE_SECONDS, noted, serving, wait_passivated

pytestmark = pytest.mark.usefixtures("no_leaks")


@dataclass
class Item:
    name: str
    sizes: list[int] = field(default_factory=lambda: [1])


def greeting(size: int = 1, *, start: str = "hello") -> Workflow[..., str]:
    """A workflow whose defaults a deployment changes."""

    @workflow(name="greet")
    async def greet(ctx: Context, who: str, size: int = size, item: Item = Item(start), *rest: int) -> str:  # noqa: B008
        await ctx.wait_signal("go")
        return f"{who} {size} {item} {rest}"

    return greet


async def _go(engine: Engine, run_id: str, flow: Workflow[..., Any]) -> Any:
    await engine.send_signal(run_id, "go")
    with trio.fail_after(PATIENCE_SECONDS):
        return await engine.get(run_id, flow).result()


async def test_a_run_under_way_keeps_its_defaults_when_the_code_has_others(file_path: str) -> None:
    before, after = greeting(), greeting(2, start="hi")
    async with serving(file_path, before) as engine:
        await engine.start(before, "anna", id="all")
        await engine.start(before, "bert", 7, id="some")
        await engine.start(before, "cara", 7, Item("given"), 8, 9, id="none")
        await engine.start("greet", "dora", id="by name")
        await engine.start(before, "emma", id="delayed", delay=1000)
        await wait_passivated(engine)
        assert (await engine.get("all").record()).args == ("anna", 1, Item("hello"))
    async with serving(file_path, after) as engine:
        assert await _go(engine, "all", after) == f"anna 1 {Item('hello')} ()"
        assert await _go(engine, "some", after) == f"bert 7 {Item('hello')} ()"
        assert await _go(engine, "none", after) == f"cara 7 {Item('given')} (8, 9)"
        assert await _go(engine, "by name", after) == f"dora 1 {Item('hello')} ()"
        await engine.start(after, "fred", id="new")
        assert await _go(engine, "new", after) == f"fred 2 {Item('hi')} ()"


async def test_a_client_that_does_not_know_the_workflow_leaves_its_defaults_to_who_runs_it(
    file_path: str,
) -> None:
    flow = greeting()
    async with Engine(file_path) as client:
        await client.start("greet", "anna", id="r")
        await client.start("greet", "anna", id="r")
        assert (await client.get("r").record()).args == ("anna",)
    async with serving(file_path, flow) as engine:
        await engine.start(flow, "anna", id="r")
        assert await _go(engine, "r", flow) == f"anna 1 {Item('hello')} ()"


@pytest.mark.on_sqlite("its rows as an earlier version has stored them")
async def test_a_run_that_was_stored_without_its_defaults_is_still_the_same_and_goes_on(file_path: str) -> None:
    """As the version before has stored it."""
    flow = greeting()
    async with serving(file_path, flow) as engine:
        await engine.start(flow, "anna", id="old", delay=1000)
        connection = engine.connect()
        connection.execute("UPDATE runs SET args = '[\"anna\"]', wake_at = 0 WHERE id = 'old'")
        connection.commit()
        connection.close()
        await engine.start(flow, "anna", id="old")
        await engine.start(flow, "anna", 1, id="old")
        with pytest.raises(RunConflict):
            await engine.start(flow, "anna", 2, id="old")
        assert await _go(engine, "old", flow) == f"anna 1 {Item('hello')} ()"


SAME: dict[str, tuple[Any, ...]] = {
    "left out": ("anna",),
    "given": ("anna", 1),
    "all given": ("anna", 1, Item("hello")),
    "field left to its default": ("anna", 1, Item("hello", [1])),
}


@pytest.mark.parametrize("first", SAME)
async def test_a_default_may_be_given_or_left_out_when_a_run_is_started_again(file_path: str, first: str) -> None:
    flow = greeting()
    async with serving(file_path, flow) as engine:
        await engine.start(flow, *SAME[first], id="r")
        for again in SAME.values():
            assert (await engine.start(flow, *again, id="r")).id == "r"
            await engine.signal_with_start(flow, *again, signal="noted", id="r")
        for other in (("bert",), ("anna", 2), ("anna", 1, Item("other")), ("anna", 1, Item("hello"), 3)):
            with pytest.raises(RunConflict):
                await engine.start(flow, *other, id="r")
            with pytest.raises(RunConflict):
                await engine.signal_with_start(flow, *other, signal="refused", id="r")
        assert [entry.name for entry in await engine.get("r").unread()] == ["noted"] * len(SAME)
        assert len((await engine.list_runs()).runs) == 1
        assert await _go(engine, "r", flow) == f"anna 1 {Item('hello')} ()"


async def test_the_same_words_start_the_same_run_also_when_the_defaults_have_changed(file_path: str) -> None:
    before, after = greeting(), greeting(2)
    async with serving(file_path, before) as engine:
        await engine.start(before, "anna", id="r")
    async with serving(file_path, after) as engine:
        await engine.start(after, "anna", id="r")
        await engine.start(after, "anna", 1, id="r")
        with pytest.raises(RunConflict):
            await engine.start(after, "anna", 2, id="r")
        assert await _go(engine, "r", after) == f"anna 1 {Item('hello')} ()"


def _classes() -> dict[str, tuple[type, type]]:
    @dataclass
    class Old:
        name: str

    @dataclass
    class New:
        name: str
        note: str = "none"

    @attrs.define
    class OldAttrs:
        name: str

    @attrs.define
    class NewAttrs:
        name: str
        notes: list[str] = attrs.Factory(list)

    return {"dataclass": (Old, New), "attrs": (OldAttrs, NewAttrs)}


def _taking(cls: Any) -> Workflow[..., str]:
    async def take(ctx: Context, order: Any, orders: Any) -> str:
        await ctx.wait_signal("go")
        return repr((order, orders))

    take.__annotations__.update(order=cls, orders=list[cls])
    return workflow(take)


@pytest.mark.parametrize("kind", _classes())
async def test_a_field_that_a_class_has_got_since_is_no_conflict(file_path: str, kind: str) -> None:
    old, new = _classes()[kind]
    before, after = _taking(old), _taking(new)
    async with serving(file_path, before) as engine:
        await engine.start(before, old("x"), [old("y")], id="r")
    async with serving(file_path, after) as engine:
        await engine.start(after, new("x"), [new("y")], id="r")
        await engine.signal_with_start(after, new("x"), [new("y")], signal="noted", id="r")
        more = "more" if kind == "dataclass" else ["more"]
        for other in ((new("other"), [new("y")]), (new("x", more), [new("y")]), (new("x"), [])):
            with pytest.raises(RunConflict):
                await engine.start(after, *other, id="r")
        assert await _go(engine, "r", after) == repr((new("x"), [new("y")]))


async def test_a_default_that_cannot_be_stored_is_left_to_the_code_and_so_are_those_behind_it(file_path: str) -> None:
    @workflow
    async def odd(ctx: Context, size: int = 1, on: Callable[[], int] = int, more: int = 3) -> str:
        return f"{size} {on()} {more}"

    async with serving(file_path, odd) as engine:
        run: Run[str] = await engine.start("odd", id="r")
        assert await run.result() == "1 0 3"
        assert (await run.record()).args == (1,)
        await engine.start("odd", id="r")
        await engine.start("odd", 1, id="r")
        with pytest.raises(RunConflict):
            await engine.start("odd", 2, id="r")


async def test_a_new_generation_and_a_child_keep_their_defaults_too(file_path: str) -> None:
    def flows(size: int) -> tuple[Any, ...]:
        @workflow
        async def child(ctx: Context, who: str, size: int = size) -> int:
            await ctx.wait_signal("go")
            return size

        @workflow
        async def again(ctx: Context, who: str, size: int = size) -> int:
            if ctx.generation == 0:
                await ctx.continue_as_new(who)
            await ctx.start_child("child", who, id=f"{who}'s child", detached=True)
            await ctx.wait_signal("go")
            return size

        return again, child

    async with serving(file_path, *(before := flows(1))) as engine:
        run = await engine.start(before[0], "anna", id="r")
        with trio.fail_after(PATIENCE_SECONDS):
            while not any(step.key.startswith("child") for step in await run.steps()):  # noqa: ASYNC110
                await trio.sleep(0.002)
        await wait_passivated(engine)
    async with serving(file_path, *(after := flows(2))) as engine:
        assert await _go(engine, "r", after[0]) == 1
        assert await _go(engine, "anna's child", after[1]) == 1


async def test_defaults_cost_a_start_nothing_but_their_text(file_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is stored already is compared by the digest alone where the words are the same."""
    flow = greeting()
    async with serving(file_path, flow) as engine:
        await engine.start(flow, "anna", id="r")
        reads: list[object] = []
        store = engine._client.services_in_use().writer.store
        original = store.ask

        def ask(question: Question[Any]) -> Any:
            return noted(reads, question, original(question)) if isinstance(question, FindRun) else original(question)

        monkeypatch.setattr(store, "ask", ask)
        await engine.start(flow, "anna", id="r")
        assert reads == []
        await engine.start(flow, "anna", 1, id="r")
        assert reads == [FindRun("r")]
