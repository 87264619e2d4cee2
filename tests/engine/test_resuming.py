"""A failed run that is resumed goes on: what failed last is called again, what is recorded otherwise is not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest
import trio

from durable_trio import Context, Run, RunConflict, RunFailed, RunStatus, workflow
from tests.engine.harness import PATIENCE_SECONDS, noted, serving, wait_until


@attrs.define
class World:
    """What the functions of a test do, and which of them were called."""

    is_repaired: bool = False
    calls: list[object] = attrs.field(factory=list)
    go_on: threading.Event = attrs.field(factory=threading.Event)
    all_begun: trio.Event = attrs.field(factory=trio.Event)
    begun: threading.Event = attrs.field(factory=threading.Event)


WORLD = World()


@pytest.fixture(autouse=True)
def world() -> Iterator[World]:
    """A world in which everything fails, new for each test."""
    global WORLD
    WORLD = World()
    yield WORLD
    WORLD.go_on.set()


async def fails(name: object) -> object:
    """Fail until the world is repaired."""
    WORLD.calls.append(name)
    if not WORLD.is_repaired:
        raise ValueError(name)
    return name


async def fails_together(item: int) -> int:
    """Fail once three calls have begun."""
    WORLD.calls.append(item)
    if len(WORLD.calls) == 3:
        WORLD.all_begun.set()
    await WORLD.all_begun.wait()
    if not WORLD.is_repaired:
        raise ValueError(item)
    return item


async def fails_beside(name: str) -> str:
    """Fail once the sibling is in its thread."""
    WORLD.calls.append(name)
    await wait_until(WORLD.begun.is_set)
    if not WORLD.is_repaired:
        raise ValueError(name)
    return name


def slow(name: str, *, is_good: bool) -> str:
    """Come out of a thread when the test says so."""
    WORLD.calls.append(name)
    WORLD.begun.set()
    assert WORLD.go_on.wait(PATIENCE_SECONDS)
    if not is_good and not WORLD.is_repaired:
        raise ValueError(name)
    return name


@workflow
async def mapped(ctx: Context) -> list[int]:
    return await ctx.map("m", fails_together, [1, 2, 3])


@workflow
async def branched(ctx: Context, is_good: bool) -> list[str]:
    results: list[str] = []

    async def first(branch: Context) -> None:
        results.append(await branch.step("a", fails_beside, "a"))

    async def second(branch: Context) -> None:
        results.append(await branch.step("b", lambda: slow("b", is_good=is_good)))

    async with ctx.open_nursery() as nursery:
        nursery.start_soon(first)
        nursery.start_soon(second)
    return sorted(results)


@workflow
async def child(ctx: Context) -> str:
    return await ctx.wait_signal("go", str)


@workflow
async def with_child(ctx: Context) -> str:
    await ctx.start_child(child, id="child")
    await ctx.step("a", fails, "a")
    return "done"


@workflow
async def failing_child(ctx: Context) -> str:
    return str(await ctx.step("of the child", fails, "of the child"))


@workflow
async def undone_parent(ctx: Context) -> str:
    await ctx.step("first", lambda: "first", compensate=lambda _: WORLD.calls.append("undone"))
    return await ctx.run_child(failing_child, id="child")


@workflow
async def undone_grandparent(ctx: Context) -> str:
    await ctx.step("first", lambda: "first", compensate=lambda _: WORLD.calls.append("undone"))
    return await ctx.run_child(plain_parent, id="parent")


@workflow
async def plain_parent(ctx: Context) -> str:
    return await ctx.run_child(failing_child, id="child")


@workflow
async def letting_go(ctx: Context) -> None:
    await ctx.step("first", lambda: "first", compensate=lambda _: WORLD.calls.append("undone"))
    await ctx.start_child(failing_child, id="child", detached=True)
    await ctx.step("a", fails, "a")


@workflow
async def catching(ctx: Context) -> str:
    try:
        await ctx.step("a", fails, "a")
    except ValueError:
        await ctx.map("instead", lambda item: noted(WORLD.calls, item, item), [1, 2])
    return str(await ctx.step("b", fails, "b"))


@workflow
async def catching_in_a_branch(ctx: Context) -> str:
    async def branch_of(branch: Context) -> None:
        try:
            await branch.step("a", fails, "a")
        except ValueError:
            WORLD.calls.append("caught")

    async with ctx.open_nursery() as nursery:
        nursery.start_soon(branch_of)
    await ctx.step("c", lambda: noted(WORLD.calls, "c", None))
    return str(await ctx.step("b", fails, "b"))


@workflow
async def cleaning(ctx: Context) -> str:
    async def first(branch: Context) -> None:
        await branch.step("a", fails, "a")

    async def second(branch: Context) -> None:
        try:
            await branch.wait_signal("never")
        finally:
            with trio.CancelScope(shield=True):
                await branch.step("clean", lambda: noted(WORLD.calls, "clean", None))

    async with ctx.open_nursery() as nursery:
        nursery.start_soon(second)
        nursery.start_soon(first)
    return "done"


@workflow
async def waiting_parent(ctx: Context) -> str:
    started = await ctx.start_child(quick, id="child")
    await ctx.wait_signal("go")
    return await started.result()


@workflow
async def quick(ctx: Context) -> str:
    return "of the child"


async def failed(run: Run[Any]) -> list[tuple[str, str]]:
    """Wait until the run has failed; return the keys and statuses of its history."""
    with trio.fail_after(PATIENCE_SECONDS):
        with pytest.raises(RunFailed):
            await run.result()
    WORLD.calls.clear()
    return [(step.key, step.status.value) for step in await run.steps()]


async def wait_steps(run: Run[Any], count: int) -> None:
    """Return once that many rows are recorded."""
    with trio.fail_after(PATIENCE_SECONDS):
        while len(await run.steps()) < count:  # noqa: ASYNC110  # a step alone is no change of a run
            await trio.sleep(0.002)


async def test_all_items_of_a_map_that_failed_together_are_called_again(store_path: str) -> None:
    async with serving(store_path, mapped) as engine:
        run = await engine.start(mapped)
        rows = await failed(run)
        assert sorted(rows) == [(f"m#0/item#{n}", "failed") for n in range(3)]
        WORLD.is_repaired = True
        resumed = await engine.resume(run.id)
        with trio.fail_after(PATIENCE_SECONDS):
            assert await resumed.result() == [1, 2, 3]
        assert sorted(WORLD.calls, key=str) == [1, 2, 3]


@pytest.mark.parametrize("is_good", [True, False])
async def test_a_branch_fails_while_its_sibling_is_in_a_thread(store_path: str, is_good: bool) -> None:
    async with serving(store_path, branched) as engine:
        run = await engine.start(branched, is_good)
        await wait_steps(run, 1)
        WORLD.go_on.set()
        rows = await failed(run)
        assert rows == [
            ("nursery#0/first#0/a#0", "failed"),
            ("nursery#0/second#0/b#0", "completed" if is_good else "failed"),
        ]
        WORLD.is_repaired = True
        resumed = await engine.resume(run.id)
        with trio.fail_after(PATIENCE_SECONDS):
            assert await resumed.result() == ["a", "b"]
        assert sorted(WORLD.calls, key=str) == (["a"] if is_good else ["a", "b"])


async def test_a_failure_with_a_child_that_was_ended_with_the_run(store_path: str) -> None:
    async with serving(store_path, with_child, child) as engine:
        run = await engine.start(with_child)
        rows = await failed(run)
        assert rows[1:] == [("a#0", "failed"), ("(end)/child#0", "failed")]
        WORLD.is_repaired = True
        resumed = await engine.resume(run.id)
        with trio.fail_after(PATIENCE_SECONDS):
            assert await resumed.result() == "done"
        assert WORLD.calls == ["a"]


@pytest.mark.parametrize("top", [undone_parent, undone_grandparent])
async def test_a_child_is_not_resumed_once_what_is_above_it_was_undone(store_path: str, top: Any) -> None:
    """Nobody would take its result, and nobody would undo what it did from then on."""
    async with serving(store_path, top, plain_parent, failing_child) as engine:
        await failed(await engine.start(top, id="top"))
        WORLD.is_repaired = True
        with pytest.raises(RunConflict, match="is a child of run 'top', which is failed and has been"):
            await engine.resume("child")
        assert (await engine.get("child").record()).status is RunStatus.FAILED
        assert WORLD.calls == []


async def test_a_child_that_its_parent_has_let_go_of_is_resumed_whatever_became_of_that(store_path: str) -> None:
    async with serving(store_path, letting_go, failing_child) as engine:
        await failed(await engine.start(letting_go))
        await failed(engine.get("child"))
        WORLD.is_repaired = True
        with trio.fail_after(PATIENCE_SECONDS):
            assert await (await engine.resume("child")).result() == "of the child"


async def test_a_child_is_resumed_if_nothing_above_it_was_undone(store_path: str) -> None:
    async with serving(store_path, plain_parent, failing_child) as engine:
        await failed(await engine.start(plain_parent, id="parent"))
        WORLD.is_repaired = True
        await engine.resume("child")
        with trio.fail_after(PATIENCE_SECONDS):
            assert await (await engine.resume("parent")).result() == "of the child"


@pytest.mark.parametrize(("tested", "caught"), [(catching, "a#0"), (catching_in_a_branch, "nursery#0/branch_of#0/a#0")])
async def test_a_failure_that_the_body_has_caught_stays(store_path: str, tested: Any, caught: str) -> None:
    async with serving(store_path, catching, catching_in_a_branch) as engine:
        run = await engine.start(tested)
        rows = await failed(run)
        assert rows[0] == (caught, "failed")
        WORLD.is_repaired = True
        resumed = await engine.resume(run.id)
        with trio.fail_after(PATIENCE_SECONDS):
            assert await resumed.result() == "b"
        assert [call for call in WORLD.calls if call != "caught"] == ["b"]
        assert [step.key for step in await resumed.steps()] == [key for key, _ in rows]


async def test_a_failure_that_a_sibling_has_cleaned_up_after_stays_and_fails_again(store_path: str) -> None:
    async with serving(store_path, cleaning) as engine:
        run = await engine.start(cleaning)
        rows = await failed(run)
        assert [key.rpartition("/")[2] for key, _ in rows] == ["a#0", "clean#0"]
        WORLD.is_repaired = True
        await engine.resume(run.id)
        assert await failed(run) == rows


async def test_an_ended_child_is_kept_for_its_parent(store_path: str) -> None:
    async with serving(store_path, waiting_parent, quick) as engine:
        run = await engine.start(waiting_parent)
        await wait_steps(run, 1)
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.get("child").result() == "of the child"
            tomorrow = datetime.now(UTC) + timedelta(days=1)
            assert await engine.prune(tomorrow) == 0
            await run.signal("go")
            assert await run.result() == "of the child"
            assert await engine.prune(tomorrow) == 2
