"""Steps at most once, and what a killed process leaves."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any

import pytest
import trio

from durable_trio import Context, Retry, RunStatus, StepInterrupted, current_step, open_engine, workflow
from tests.calls.kit import fail_with, shape_of
from tests.engine.harness import (
    PATIENCE_SECONDS,
    SettableClock,
    killed_when_ready,
    serving,
    wait_passivated,
    wait_status,
    wait_until,
)
from tests.kit.notes import make_notes, note, notes

pytestmark = pytest.mark.usefixtures("no_leaks")


async def test_a_step_at_most_once_that_was_detached_is_interrupted_for_good(file_path: str) -> None:
    calls: list[str] = []
    seen: list[StepInterrupted] = []

    async def charge() -> None:
        calls.append("charge")
        await trio.sleep_forever()

    @workflow
    async def pays(ctx: Context) -> str:
        try:
            await ctx.step("charge", charge, at_most_once=True)
        except StepInterrupted as error:
            seen.append(error)
        return str(await ctx.wait_signal("go"))

    async with serving(file_path, pays, grace_seconds=0) as engine:
        await engine.start(pays, id="r")
        await wait_until(lambda: calls)
    async with serving(file_path, pays) as engine:
        run = engine.get("r")
        await wait_until(lambda: seen)
        await wait_passivated(engine)
        row = (await run.steps())[0]
        assert (row.key, row.status) == ("charge#0", "failed")
    async with serving(file_path, pays) as engine:
        await engine.send_signal("r", "go", "paid by hand")
        assert await engine.get("r").result() == "paid by hand"
    live, replayed = seen
    assert shape_of(live) == shape_of(replayed)
    assert (live.step, live.run_id) == ("charge#0", "r")
    assert calls == ["charge"]


async def test_a_sleep_beside_a_step_at_most_once_ends_in_time_also_after_a_restart(file_path: str) -> None:
    clock, may_end, slept = SettableClock(), trio.Event(), trio.Event()

    async def once() -> None:
        clock.advance(100)
        await may_end.wait()

    async def works(ctx: Context) -> None:
        await ctx.wait_signal("go")
        await ctx.step("once", once, at_most_once=True)

    async def sleeps(ctx: Context) -> None:
        await ctx.sleep(100)
        slept.set()

    @workflow
    async def both(ctx: Context) -> None:
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(works)
            nursery.start_soon(sleeps)

    async with serving(file_path, both, clock=clock) as engine:
        await wait_status(await engine.start(both, id="r"), RunStatus.SUSPENDED)
    async with serving(file_path, both, clock=clock) as engine:
        await engine.get("r").signal("go")
        with trio.fail_after(PATIENCE_SECONDS):
            await slept.wait()
        may_end.set()
        await engine.get("r").result()


async def test_a_step_at_most_once_that_ends_is_recorded_as_any(store_path: str) -> None:
    @workflow
    async def pays(ctx: Context) -> list[Any]:
        values: list[Any] = [await ctx.step("works", lambda: 1, at_most_once=True)]
        with pytest.raises(OSError, match="refused"):
            await ctx.step("fails", fail_with, OSError("refused"), at_most_once=True)
        values.append(await ctx.wait_signal("go"))
        return values

    async with serving(store_path, pays) as engine:
        run = await engine.start(pays)
        await wait_passivated(engine)
        await run.signal("go", 2)
        assert await run.result() == [1, 2]


async def test_a_step_at_most_once_that_a_cancelled_scope_stops_is_not_taken_for_interrupted(store_path: str) -> None:
    @workflow
    async def stops(ctx: Context) -> str:
        with trio.move_on_after(0.01):
            await ctx.step("a", trio.sleep_forever, at_most_once=True)
        await ctx.wait_signal("go")
        return "on"

    async with serving(store_path, stops) as engine:
        run = await engine.start(stops)
        await wait_passivated(engine)
        await run.signal("go")
        assert await run.result() == "on"
        assert [step.key for step in await run.steps()] == ["go#0"]


_is_first_process = False


async def _hang_in_the_first_process() -> None:
    if _is_first_process:
        await trio.sleep_forever()


def _note(effects: str, line: str) -> None:
    with Path(effects).open("a") as file:
        file.write(line + "\n")


@workflow
async def once(ctx: Context, effects: str) -> str:
    async def charge() -> None:
        _note(effects, f"once {current_step().idempotency_key}")
        await _hang_in_the_first_process()

    await ctx.step("before", lambda: _note(effects, "before"))
    try:
        await ctx.step("charge", charge, at_most_once=True)
    except StepInterrupted as error:
        return f"interrupted {error.step}"
    return "charged"


@workflow
async def again(ctx: Context, effects: str) -> str:
    async def work() -> str:
        _note(effects, f"again {current_step().idempotency_key}")
        await _hang_in_the_first_process()
        return current_step().idempotency_key

    await ctx.step("before", lambda: _note(effects, "before"))
    return await ctx.step("work", work)


@workflow
async def retried(ctx: Context, effects: str) -> int:
    def work() -> int:
        _note(effects, f"attempt {current_step().attempt}")
        if current_step().attempt < 2:
            raise OSError("again")
        return current_step().attempt

    return await ctx.step("work", work, retry=Retry.fixed(2, 0.5))


@workflow
async def inserts(ctx: Context, effects: str) -> int:
    def insert(connection: Any) -> int:
        make_notes(connection)
        note(connection, str(os.getpid()))
        _note(effects, "insert")
        if _is_first_process:
            print("ready", flush=True)  # others' commits wait for this transaction from now on
            time.sleep(3600)
        return os.getpid()

    return await ctx.transaction("insert", insert)


def work_until_killed(path: str, effects: str) -> None:
    """Called in the process that is killed: three runs in the middle of a step or a retry, one of a transaction."""
    global _is_first_process
    _is_first_process = True

    async def main() -> None:
        async with open_engine(path, workflows=[once, again, retried, inserts]) as engine:
            for item in (once, again, retried):
                await engine.start(item, effects, id=item.name)
            await wait_until(lambda: Path(effects).exists() and len(Path(effects).read_text().splitlines()) == 5)
            await wait_status(engine.get("retried"), RunStatus.SUSPENDED)
            await engine.run(inserts, effects, id="inserts")

    trio.run(main)


async def test_after_a_kill_each_run_goes_on_from_its_last_commit(file_path: str, tmp_path: Path) -> None:
    effects = tmp_path / "effects"
    assert await killed_when_ready(__name__, "work_until_killed", file_path, str(effects)) == "ready"
    before = effects.read_text().splitlines()
    assert [line.partition(" ")[0] for line in sorted(before)] == [
        *("again", "attempt", "before", "before", "insert", "once")
    ]
    async with serving(file_path, once, again, retried, inserts) as engine:
        assert await engine.get("once").result() == "interrupted charge#0"
        key = await engine.get("again").result()
        assert await engine.get("retried").result() == 2
        assert await engine.get("inserts").result() == os.getpid()
        recoveries = {run.id: run.recoveries for run in (await engine.list_runs()).runs}
        with contextlib.closing(engine.connect()) as connection:
            rows = notes(connection)
    after = effects.read_text().splitlines()[len(before) :]
    assert sorted(after) == [f"again {key}", "attempt 2", "insert"]
    assert f"again {key}" in before, "the idempotency key is the same after the crash"
    assert rows == [str(os.getpid())], "the rows of the killed transaction are gone, those of the next are there once"
    assert recoveries == {"once": 1, "again": 1, "retried": 0, "inserts": 1}
