"""Code whose branches, maps or deadlines have changed parks the run and shows both sides."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from durable_trio import Context, open_engine, workflow
from durable_trio.testing import CrashingStore, VirtualClock
from durable_trio.testing.schedule import scheduling
from tests.engine.harness import wait_passivated
from tests.kit.schedules import OFTEN, RUN_ID, Notes


async def work(seconds: float) -> float:
    """Take some virtual time, or none."""
    if seconds:
        await trio.sleep(seconds)
    return float(seconds)


def changed(
    old: Callable[..., Awaitable[Any]], new: Callable[..., Awaitable[Any]], *, schedule: int = 1
) -> tuple[str, str]:
    """Record a run of ``old`` up to its wait for the signal "go", then go on with ``new``; return what comes of it.

    That is ``("parked", report)``, ``("completed", result)`` or ``("failed", error)``.
    """
    store = CrashingStore()

    async def main() -> tuple[str, str]:
        clock = VirtualClock()
        async with open_engine(store, workflows=[workflow(name="w")(old)], clock=clock) as engine:
            run = await engine.start("w", id=RUN_ID)
            async with run.watch() as changes:
                async for record in changes:
                    if record.status == "suspended" and record.wake_at is None:
                        break
            await wait_passivated(engine)
        async with open_engine(store, workflows=[workflow(name="w")(new)], clock=clock) as engine:
            run = engine.get(RUN_ID)
            await run.signal("go", "gone")
            with trio.fail_after(1000):
                async with run.watch() as changes:
                    async for record in changes:
                        if record.problem is not None:
                            assert record.problem.kind == "divergence"
                            assert record.status == "suspended"
                            return "parked", record.problem.text
            record = await run.record()
            return str(record.status.value), str(record.result if record.error is None else repr(record.error))
        raise AssertionError("unreachable")

    with scheduling(schedule):
        try:
            return trio.run(main, clock=MockClock(autojump_threshold=0))
        finally:
            store.dispose()


async def _name(ctx: Context, name: str) -> None:
    await ctx.step("echo", work, 0.0)
    await ctx.step(name, work, 0.5)


def _two_branches(*names: str, extra: str = "", keyed: bool = True) -> Callable[..., Awaitable[Any]]:
    async def body(ctx: Context) -> str:
        async with ctx.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(_name, name, name=name if keyed else "branch")
            if extra:
                await ctx.step(extra, work, 0.0)
        return str(await ctx.wait_signal("go"))

    return body


def test_branches_of_the_same_names_in_another_order_match() -> None:
    assert changed(_two_branches("a", "b"), _two_branches("b", "a")) == ("completed", "gone")


@pytest.mark.parametrize(
    ("old", "new", "report"),
    [
        (_two_branches("a", "b"), _two_branches("a", "c"), "nursery#0/b#0/echo#0"),
        (_two_branches("a", "b"), _two_branches("a"), "nursery#0/b#0/echo#0"),
        (_two_branches("a", "b", keyed=False), _two_branches("b", "a", keyed=False), "nursery#0/branch#0/"),
        (_two_branches("a", "b", extra="x"), _two_branches("a", "b", extra="y"), "step x#0"),
        (_two_branches("a", extra="x"), _two_branches("a"), "step x#0"),
    ],
    ids=["renamed", "removed", "swapped", "other call", "missing call"],
)
def test_another_structure_of_branches_parks_the_run_and_shows_both_sides(
    old: Callable[..., Awaitable[Any]], new: Callable[..., Awaitable[Any]], report: str
) -> None:
    outcome, text = changed(old, new)
    assert outcome == "parked"
    assert report in text
    assert "history" in text
    assert "code" in text


async def _without_nursery(ctx: Context) -> str:
    await _name(ctx, "a")
    return str(await ctx.wait_signal("go"))


async def _nested_nursery(ctx: Context) -> str:
    async with ctx.open_nursery():
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(_name, "a", name="a")
    return str(await ctx.wait_signal("go"))


@pytest.mark.parametrize("new", [_without_nursery, _nested_nursery])
def test_a_nursery_that_was_removed_or_added_around_parks_the_run(new: Callable[..., Awaitable[Any]]) -> None:
    assert changed(_two_branches("a"), new)[0] == "parked"


async def _extra_call_first(ctx: Context, name: str) -> None:
    await ctx.step("new", work, 0.0)
    await _name(ctx, name)


async def _extra_call_in_branch(ctx: Context) -> str:
    async with ctx.open_nursery() as nursery:
        nursery.start_soon(_extra_call_first, "a", name="a")
        nursery.start_soon(_name, "b", name="b")
    return str(await ctx.wait_signal("go"))


def test_an_extra_call_before_recorded_ones_of_its_branch_parks_the_run() -> None:
    outcome, text = changed(_two_branches("a", "b"), _extra_call_in_branch)
    assert outcome == "parked"
    assert "nursery#0/a#0/new#0" in text


async def _cancelled_calls(ctx: Context) -> str:
    """Calls without a row come before recorded ones in the same branch: a cancellation explains them."""
    for seconds in (1, 2):
        with ctx.move_on_after(seconds):
            await ctx.step("slow", work, 100.0)
        await ctx.step("after", work, 0.0)
    return str(await ctx.wait_signal("go"))


def test_an_extra_call_that_a_cancellation_explains_is_no_divergence() -> None:
    assert changed(_cancelled_calls, _cancelled_calls) == ("completed", "gone")


def _map(*items: float, name: str = "m") -> Callable[..., Awaitable[Any]]:
    async def body(ctx: Context) -> str:
        results = await ctx.map(name, work, items)
        return f"{len(results)} {await ctx.wait_signal('go')}"

    return body


def test_fewer_items_of_a_map_than_recorded_park_the_run() -> None:
    outcome, text = changed(_map(0.0, 0.5, 1.0), _map(0.0, 0.5))
    assert outcome == "parked"
    assert "m#0/item#2" in text


def test_a_map_of_another_name_parks_the_run() -> None:
    assert changed(_map(0.0), _map(0.0, name="n"))[0] == "parked"


def test_more_items_of_a_map_than_recorded_park_the_run_if_rows_follow() -> None:
    async def new(ctx: Context) -> str:
        await ctx.map("m", work, [0.0, 0.5, 0.25])
        return str(await ctx.wait_signal("go"))

    async def old(ctx: Context) -> str:
        await ctx.map("m", work, [0.0, 0.5])
        await ctx.step("after", work, 0.0)
        return str(await ctx.wait_signal("go"))

    assert changed(old, new)[0] == "parked"


async def _deadline_first(ctx: Context) -> str:
    with ctx.move_on_after(1):
        await ctx.sleep(100)
    return str(await ctx.wait_signal("go"))


async def _event_first(ctx: Context) -> str:
    await trio.Event().wait()
    return str(await ctx.wait_signal("go"))


async def _signal_only(ctx: Context) -> str:
    return str(await ctx.wait_signal("go"))


@pytest.mark.parametrize("new", [_event_first, _signal_only])
def test_an_expiry_of_a_deadline_that_the_code_does_not_have_any_more_parks_the_run(
    new: Callable[..., Awaitable[Any]],
) -> None:
    outcome, text = changed(_deadline_first, new)
    assert outcome == "parked"
    assert "deadline#0" in text


@workflow(max_recoveries=OFTEN)
async def to_fork(ctx: Context) -> list[str]:
    notes = Notes(ctx)

    async def branch(ctx: Context, number: int) -> None:
        await ctx.sleep(number)
        notes.add(f"{number} {await ctx.step('s', work, 0.0)}")
        if number == 2:
            raise ValueError(number)

    try:
        async with ctx.open_nursery() as nursery:
            for number in (3, 1, 2):
                nursery.start_soon(branch, number)
            await ctx.map("m", work, [0.25, 0.5])
    except* ValueError as group:
        notes.add(repr(group))
    return list(notes)


def test_a_fork_before_any_row_of_branches_goes_on_as_the_original_did() -> None:
    async def main() -> None:
        async with open_engine(":memory:", workflows=[to_fork], clock=VirtualClock()) as engine:
            run = await engine.start(to_fork)
            result = await run.result()
            keys = [step.key for step in await run.steps()]
            assert len(keys) == 6
            for key in keys:
                fork = await engine.fork(run.id, before=key)
                assert await fork.result() == result
                assert [step.key for step in await fork.steps()] == keys

    with scheduling(7):
        trio.run(main, clock=MockClock(autojump_threshold=0))
