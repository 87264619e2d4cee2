"""What a run's code does with nurseries and scopes of trio's own is its run's affair, whatever it raises or leaves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import trio

from durable_trio import Context, RunFailed, RunStatus, open_engine, workflow
from durable_trio.failures import nurseries

# Deeper than Python's recursion takes the ``repr()`` of as many groups in each other.
DEPTH = 400


class NoRepr(Exception):
    def __repr__(self) -> str:
        raise ValueError("of repr")


async def fail() -> None:
    raise ValueError("deep")


async def fail_without_repr() -> None:
    raise NoRepr("shy")


async def blocks(depth: int, end: Callable[[], Awaitable[None]]) -> None:
    """Nurseries of one task in each other, each with a task that must not be left behind."""
    if not depth:
        await end()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        await blocks(depth - 1, end)


async def tasks(depth: int, end: Callable[[], Awaitable[None]]) -> None:
    """Tasks of tasks."""
    if not depth:
        await end()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tasks, depth - 1, end)


async def generated() -> AsyncIterator[int]:
    with trio.CancelScope():
        yield 1
        yield 2


LEFT: list[Any] = []  # so that nothing is left to the garbage collector's taste


async def leave_scopes() -> None:
    for _ in range(2):
        LEFT.append(trio.CancelScope())
        LEFT[-1].__enter__()


async def leave_a_generator() -> None:
    LEFT.append(generated())
    async for _ in LEFT[-1]:
        return


async def leave_nurseries() -> None:
    await leave_scopes()
    for _ in range(2):
        LEFT.append(trio.open_nursery())
        nursery = await LEFT[-1].__aenter__()
        nursery.start_soon(trio.sleep_forever)
        await leave_scopes()


@workflow
async def doing(ctx: Context, where: str, name: str, depth: int) -> str:
    fn: Callable[[], Awaitable[None]]
    if depth:
        shape = {"blocks": blocks, "tasks": tasks}[name]

        async def fn() -> None:
            await shape(depth, fail)
    else:
        fn = FUNCTIONS[name]

    async def branch(ctx: Context) -> None:
        await fn()

    if where == "body":
        await fn()
    elif where == "branch":
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(branch)
    elif where == "step":
        await ctx.step("a", fn)
    elif where == "timeout":
        await ctx.step("a", fn, timeout=100)
    else:
        await ctx.step("a", lambda: trio.from_thread.run(fn))
    return await ctx.step("after", lambda: "through")


FUNCTIONS: dict[str, Callable[[], Awaitable[None]]] = {
    "no repr in a block": lambda: blocks(1, fail_without_repr),
    "no repr in a task": lambda: tasks(1, fail_without_repr),
    "scopes": leave_scopes,
    "generator": leave_a_generator,
    "nurseries": leave_nurseries,
}
WHERE = ("body", "branch", "step", "timeout", "thread")


@workflow
async def innocent(ctx: Context) -> str:
    await ctx.wait_signal("go")
    return "through"


@pytest.fixture(autouse=True)
def nothing_left() -> Any:
    yield
    LEFT.clear()


async def outcome_of(*args: Any) -> str:
    """Return how a run of ``doing`` ends, beside one that must not notice."""
    async with open_engine(":memory:", workflows=[doing, innocent]) as engine:
        run = await engine.start(innocent)
        try:
            ended = await engine.run(doing, *args)
        except RunFailed as failed:
            error: Any = failed.error
            while isinstance(error, BaseExceptionGroup):
                (error,) = error.exceptions
            ended = f"{type(error).__name__}: {error}"
        await run.signal("go")
        assert await run.result() == "through"
    return ended


@pytest.mark.parametrize(("where", "shape"), [("body", "blocks"), ("branch", "tasks"), ("step", "tasks")])
async def test_a_failure_in_nurseries_too_deep_for_trio_fails_the_run(where: str, shape: str) -> None:
    assert "ValueError: deep" in await outcome_of(where, shape, DEPTH)


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("name", ["no repr in a block", "no repr in a task"])
async def test_an_exception_without_repr_in_a_nursery_fails_the_run(where: str, name: str) -> None:
    assert await outcome_of(where, name, 0) == "StepFailed: shy"


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("name", ["scopes", "generator"])
async def test_scopes_left_open_are_closed(where: str, name: str) -> None:
    assert await outcome_of(where, name, 0) == "through"


@pytest.mark.parametrize("where", WHERE)
async def test_nurseries_left_open_are_cancelled_and_fail_the_run(where: str) -> None:
    assert (await outcome_of(where, "nurseries", 0)).startswith("RuntimeError: ")


async def test_a_cancelled_body_that_leaves_nurseries_open_is_cancelled() -> None:
    has_left = trio.Event()

    @workflow
    async def waiting(ctx: Context) -> None:
        await leave_nurseries()
        has_left.set()
        await ctx.sleep(1000)

    async with open_engine(":memory:", workflows=[waiting]) as engine:
        run = await engine.start(waiting)
        await has_left.wait()
        await run.cancel(wait=True)
        assert (await run.record()).status is RunStatus.CANCELLED


async def test_tasks_of_no_run_meet_trio_as_it_is() -> None:
    """And the guard stands where trio asks, which this version of it must still do."""
    async with open_engine(":memory:", workflows=[innocent]):
        assert trio.Nursery._child_finished.__globals__ is vars(nurseries)
        assert trio.Nursery._nested_child_finished.__globals__ is vars(nurseries)
        with pytest.raises(BaseExceptionGroup) as caught:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail)
        assert type(caught.value.exceptions[0]) is ValueError
