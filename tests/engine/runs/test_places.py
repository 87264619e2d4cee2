"""A step that waits for another run lends its run's place, so that the other one never waits for that place."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from durable_trio import Context, Engine, RunFailed, RunStatus, Workflow, workflow
from durable_trio.engine.runs import service as runs
from durable_trio.rules import residency
from durable_trio.testing import VirtualClock
from tests.engine.harness import PATIENCE_SECONDS, executor_of, noted, serving, wait_until

pytestmark = pytest.mark.usefixtures("no_leaks")


class Stage:
    """The engine that the steps of a test call."""

    engine: Engine


@workflow
async def leaf(ctx: Context) -> int:
    return await ctx.step("five", lambda: 5)


@workflow
async def waiting_leaf(ctx: Context) -> int:
    """Leaves its place and comes back, by a timer and by a child."""
    await ctx.sleep(0.01)
    return await ctx.run_child(leaf)


async def run_leaf() -> int:
    return await Stage.engine.run(leaf)


async def run_waiting_leaf() -> int:
    return await Stage.engine.run(waiting_leaf)


def run_leaf_from_a_thread() -> int:
    return trio.from_thread.run(Stage.engine.run, leaf)


async def start_and_ask() -> int:
    return await (await Stage.engine.start(leaf)).result()


async def watch_leaf() -> int:
    run = await Stage.engine.start(leaf)
    async with run.watch() as changes:
        async for record in changes:
            if record.status is RunStatus.COMPLETED:
                return int(record.result)
    raise AssertionError


async def cancel_leaf() -> int:
    run = await Stage.engine.start(endless, id="endless")
    with trio.fail_after(PATIENCE_SECONDS):
        await run.cancel(wait=True)
    return 5


async def run_by_a_client(path: str) -> int:
    async with Engine(path, workflows=[leaf]) as client:
        return await client.run(leaf)


async def open_a_block() -> int:
    async with Stage.engine.inline("block") as ctx:
        return await ctx.step("run", run_leaf)


async def run_the_next(depth: int) -> int:
    return await Stage.engine.run(deep, depth)


@workflow
async def endless(ctx: Context) -> int:
    async with ctx.open_nursery() as nursery:
        nursery.start_soon(_sleep_a_little)
        nursery.start_soon(_sleep_a_little)
    return 5


async def _sleep_a_little(ctx: Context) -> None:
    while True:
        await ctx.sleep(0.01)


@workflow
async def deep(ctx: Context, depth: int) -> int:
    return await ctx.step("next", run_the_next, depth - 1) if depth else 5


@workflow
async def in_a_step(ctx: Context, way: str) -> int:
    return await ctx.step("run", WAYS[way])


@workflow
async def in_the_body(ctx: Context) -> int:
    return await run_leaf()  # not durable, but it must not hang


WAYS: dict[str, Callable[[], Any]] = {
    "run": run_leaf,
    "a run that waits": run_waiting_leaf,
    "thread": run_leaf_from_a_thread,
    "result": start_and_ask,
    "watch": watch_leaf,
    "cancel": cancel_leaf,
    "block": open_a_block,
}
WORKFLOWS: list[Workflow[..., Any]] = [leaf, waiting_leaf, endless, deep, in_a_step, in_the_body]


@pytest.mark.parametrize("way", WAYS)
async def test_a_step_may_wait_for_another_run_where_only_one_has_room(file_path: str, way: str) -> None:
    async with serving(file_path, *WORKFLOWS, concurrency=1) as Stage.engine:
        with trio.fail_after(PATIENCE_SECONDS):
            assert await Stage.engine.run(in_a_step, way) == 5
            assert await Stage.engine.run(leaf) == 5


async def test_steps_that_wait_for_runs_whose_steps_wait_for_runs(file_path: str) -> None:
    async with serving(file_path, *WORKFLOWS, concurrency=1) as Stage.engine:
        with trio.fail_after(PATIENCE_SECONDS):
            assert await Stage.engine.run(deep, 12) == 5


async def test_a_body_and_an_inline_block_lend_theirs_as_well(file_path: str) -> None:
    async with serving(file_path, *WORKFLOWS, concurrency=1) as Stage.engine:
        with trio.fail_after(PATIENCE_SECONDS):
            assert await Stage.engine.run(in_the_body) == 5
            async with Stage.engine.inline("i") as ctx:
                assert await Stage.engine.run(leaf) == 5
                assert await ctx.step("run", run_leaf) == 5


async def test_a_wait_by_another_engine_of_this_process_lends_the_place_too(file_path: str) -> None:
    @workflow
    async def by_a_client(ctx: Context) -> int:
        return await ctx.step("run", run_by_a_client, file_path)

    async with serving(file_path, *WORKFLOWS, by_a_client, concurrency=1) as engine:
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.run(by_a_client) == 5


async def test_places_that_were_lent_are_taken_back(file_path: str) -> None:
    """Many that wait for others at once: all end, and no more are in memory afterwards than there are places."""
    running: list[int] = []
    at_once: list[int] = []

    async def busy() -> int:
        running.append(1)
        at_once.append(len(running))
        await trio.sleep(0.002)
        running.pop()
        return 5

    @workflow
    async def plain(ctx: Context) -> int:
        return await ctx.step("busy", busy)

    async with serving(file_path, *WORKFLOWS, plain, concurrency=2) as Stage.engine:
        engine = Stage.engine
        with trio.fail_after(PATIENCE_SECONDS):
            found = [await engine.start(in_a_step, "run") for _ in range(20)]
            assert [await run.result() for run in found] == [5] * 20
            await wait_until(lambda: executor_of(engine).runs.free_count == 2)
            found = [await engine.start(plain) for _ in range(20)]
            assert [await run.result() for run in found] == [5] * 20
        assert max(at_once) <= 2


async def test_a_run_that_only_waits_has_no_place_to_lend(store_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own is free already: in one branch it waits for another run, in the other for a signal."""
    monkeypatch.setattr(residency, "IDLE_SECONDS", PATIENCE_SECONDS)

    async def wait_for_leaf(ctx: Context) -> None:
        await (await Stage.engine.start(leaf, id="leaf", delay=1000)).result()

    async def wait_for_signal(ctx: Context) -> None:
        await ctx.wait_signal("go")

    @workflow
    async def waits_for_both(ctx: Context) -> int:
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(wait_for_leaf)
            nursery.start_soon(wait_for_signal)
        return await ctx.step("run", run_leaf)

    async with serving(store_path, leaf, waits_for_both, concurrency=1) as Stage.engine:
        runs = executor_of(Stage.engine).runs
        run = await Stage.engine.start(waits_for_both)
        await wait_until(lambda: runs.resident_count == 1 and runs.busy_count == 0)
        assert runs.free_count == 1
        await Stage.engine.cancel("leaf")
        await run.signal("go")
        with pytest.raises(RunFailed):
            await run.result()


async def test_a_wait_that_was_cancelled_lends_nothing_any_more(file_path: str) -> None:
    seen: list[str] = []

    async def give_up() -> int:
        with trio.move_on_after(0.02):
            run = await Stage.engine.start(leaf, delay=1000)
            await run.result()
        return noted(seen, "gave up", executor_of(Stage.engine).runs.free_count)

    @workflow
    async def impatient(ctx: Context) -> int:
        return await ctx.step("wait", give_up)

    async with serving(file_path, leaf, impatient, concurrency=1) as Stage.engine:
        assert await Stage.engine.run(impatient) == 0
    assert seen == ["gave up"]


async def test_when_all_places_are_lent_that_is_said(
    file_path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runs, "LENT_RUNS_MAX", 2)
    async with serving(file_path, *WORKFLOWS, concurrency=1, grace_seconds=0) as Stage.engine:
        with caplog.at_level(logging.WARNING, "durable_trio"):
            run = await Stage.engine.start(deep, 3, id="top")
            await wait_until(lambda: "no more places are lent" in caplog.text)
        assert "run_child" in caplog.text
        assert await run.cancel()


async def look_again_and_again() -> str:
    """Wait for a run in a way that nobody knows to be a wait."""
    run = await Stage.engine.start(leaf, id="leaf")
    for _ in range(300):
        if (await run.record()).status.is_final:
            break
        await trio.sleep(1)
    return str((await run.record()).status)


@workflow
async def looks(ctx: Context) -> str:
    return await ctx.step("look", look_again_and_again)


@workflow
async def works(ctx: Context, count: int) -> None:
    for _ in range(count):
        await ctx.step("work", trio.sleep, 20)


@workflow
async def waits(ctx: Context) -> None:
    await ctx.wait_signal("go")


def stuck(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "have no place" in record.msg]


async def test_it_is_said_once_that_runs_wait_for_a_place_that_none_gives_back(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with serving(":memory:", looks, leaf, concurrency=1, clock=VirtualClock()) as engine:
        Stage.engine = engine
        assert await engine.run(looks, id="looks") == RunStatus.PENDING
        assert await engine.get("leaf").result() == 5
    assert len(stuck(caplog)) == 1
    assert "'looks' among them" in stuck(caplog)[0]


async def test_the_status_says_so_as_long_as_runs_wait_for_a_place_that_none_gives_back(
    autojump_clock: MockClock,
) -> None:
    async def said() -> list[str]:
        return [warning for warning in (await engine.status()).warnings if "have no place" in warning]

    async with serving(":memory:", looks, leaf, concurrency=1, clock=VirtualClock()) as engine:
        Stage.engine = engine
        run = await engine.start(looks, id="looks")
        await trio.sleep(29)
        assert await said() == []
        await trio.sleep(32)
        (warning,) = await said()
        assert warning.startswith("Runs that are due have no place: the 1 that have one, 'looks' among them,")
        assert warning.endswith("or raise concurrency.")
        await engine.cancel("leaf")
        assert await said() == []  # nobody waits any more
        await engine.start(leaf)
        assert len(await said()) == 1
        await run.result()
        assert await said() == []


async def test_it_is_not_said_of_runs_that_come_and_go_nor_where_nobody_waits(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with serving(":memory:", works, concurrency=1, clock=VirtualClock()) as engine:
        for number in range(5):
            await engine.start(works, 1, id=f"{number}")
        for number in range(5):
            await engine.get(f"{number}").result()
        await engine.run(works, 10)
    assert stuck(caplog) == []


async def test_runs_that_only_wait_and_leave_memory_are_not_taken_for_some_that_give_back_a_place(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(residency, "IDLE_SECONDS", 300.0)
    async with serving(":memory:", looks, leaf, waits, concurrency=1, clock=VirtualClock()) as engine:
        Stage.engine = engine
        for _ in range(20):  # of which one leaves in each quarter of a minute of what comes next
            await engine.start(waits)
            await trio.sleep(15)
        assert await engine.run(looks, id="looks") == RunStatus.PENDING
        assert (await engine.status()).resident_runs < 10
    assert len(stuck(caplog)) == 1
