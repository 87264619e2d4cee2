"""Runs are rehearsed beside each other: none is judged by what another one does, or by how long that takes."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import pytest
import trio

from durable_trio import Context, Engine, Rehearsal, Workflow, open_engine, workflow
from durable_trio.rehearsal import stage
from durable_trio.rehearsal.rehearse import rehearse_runs
from durable_trio.stores.unfinished_questions import ListUnfinished
from tests.engine.harness import wait_passivated
from tests.kit.crash_points import crashing_store
from tests.rehearsal.kit import causes

pytestmark = pytest.mark.usefixtures("no_leaks", "no_effects")


@pytest.fixture(autouse=True)
def quick_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "_TICK_SECONDS", 0.002)


async def _waits(ctx: Context) -> None:
    await ctx.step("a", lambda: "a")
    await ctx.wait_signal("go")


async def left_and_rehearsed(count: int, *code: Workflow[..., Any]) -> Rehearsal:
    """Leave some runs of each workflow waiting, and rehearse them with the code. The time is the real one."""
    before = [workflow(name=each.name)(_waits) for each in code]
    async with crashing_store() as store:
        async with open_engine(store, workflows=before) as engine:
            for each in code:
                for number in range(count):
                    await engine.start(each.name, id=f"{each.name}-{number}")
            await wait_passivated(engine)
        async with Engine(store, workflows=code) as client:
            with trio.fail_after(60):
                return await client.rehearse()


async def test_a_body_that_never_rests_stalls_and_its_neighbours_go_on() -> None:
    @workflow
    async def turns(ctx: Context) -> None:
        while True:
            await trio.lowlevel.checkpoint()

    found = await left_and_rehearsed(3, turns, workflow(name="waits")(_waits))
    assert [group[:2] for group in causes(found)] == [("stalls", 3), ("goes_on", 3)]
    assert "test_stage.py" in found.stalls[0].cause


async def test_who_blocks_the_loop_makes_nobody_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """The innocent one waits outside for less than it may, while another one blocks for more than that."""
    monkeypatch.setattr(stage, "_LATE_SECONDS", 0.02)

    @workflow
    async def blocks(ctx: Context) -> None:
        time.sleep(0.3)  # noqa: ASYNC251  # as a user's code does
        await _waits(ctx)

    @workflow
    async def innocent(ctx: Context) -> None:
        await trio.sleep(0.04)
        await _waits(ctx)

    found = await left_and_rehearsed(2, blocks, innocent)
    assert found.all_go_on, causes(found)


async def test_what_was_given_up_in_one_place_often_is_given_up_there_sooner() -> None:
    event = trio.Event()

    @workflow
    async def changed(ctx: Context) -> None:
        await event.wait()

    found = await left_and_rehearsed(40, changed)
    assert [group[:2] for group in causes(found)] == [("diverges", 40)]


async def test_when_it_is_cancelled_bodies_leave_and_clean_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "_TICKS_MAX", 10**9)
    begun = trio.Event()
    seen: list[str] = []

    @workflow
    async def waits(ctx: Context) -> None:
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            seen.append(f"detaching {ctx.detaching}")

    async with crashing_store() as store:
        async with open_engine(store, workflows=[workflow(name="waits")(_waits)]) as engine:
            await engine.start("waits", id="run")
            await wait_passivated(engine)
        async with Engine(store, workflows=[waits]) as client, trio.open_nursery() as nursery:
            nursery.start_soon(client.rehearse)
            await begun.wait()
            nursery.cancel_scope.cancel()
    assert seen == ["detaching True"]


async def test_a_server_rehearses_beside_what_it_executes() -> None:
    seen: list[str] = []

    async def long() -> None:
        seen.append("begun")
        await trio.sleep_forever()

    @workflow
    async def flow(ctx: Context) -> None:
        ctx.log.info("never told twice")
        await ctx.step("a", lambda: "a")
        await ctx.step("long", long)

    async with crashing_store() as store, open_engine(store, workflows=[flow], grace_seconds=0) as engine:
        await engine.start(flow, id="run")
        with trio.fail_after(60):
            while not seen:  # noqa: ASYNC110  # a step's begin is no event
                await trio.sleep(0.002)
        found = await engine.rehearse()
        assert causes(found) == [("goes_on", 1, "comes to step long")]
        assert found.goes_on[0].executing == 1
        assert seen == ["begun"]


async def test_who_does_not_leave_holds_up_nobody_but_the_end() -> None:
    release = trio.Event()

    @workflow
    async def stays(ctx: Context) -> None:
        try:
            await _waits(ctx)
        finally:
            with trio.CancelScope(shield=True):
                await release.wait()

    async def releases() -> None:
        while len(told) < 60:  # noqa: ASYNC110  # more than are in hand at a time
            await trio.sleep(0.005)
        release.set()

    told: list[int] = []
    before = workflow(name="stays")(_waits)
    async with crashing_store() as store:
        async with open_engine(store, workflows=[before]) as engine:
            for number in range(60):
                await engine.start("stays", id=f"run-{number}")
            await wait_passivated(engine)
        async with Engine(store, workflows=[stays]) as client, trio.open_nursery() as nursery:
            nursery.start_soon(releases)
            code = client._client.code
            runs = await code.writer.ask(ListUnfinished())
            with trio.fail_after(60):
                await rehearse_runs(code, runs, lambda run, _: told.append(run))
    assert sorted(told) == sorted(runs)


async def test_a_body_that_catches_everything_is_left_behind() -> None:
    @workflow
    async def clings(ctx: Context) -> None:
        await ctx.step("a", lambda: "a")
        while True:
            with suppress(BaseException):  # as a user's code does
                await ctx.wait_signal("go")

    found = await left_and_rehearsed(2, clings)
    assert causes(found) == [("goes_on", 2, "comes to signal go")]
