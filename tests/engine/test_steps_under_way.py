"""Which steps a run is at is shown while they execute, and after the process has died in the middle of one."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from durable_trio import (
    AttemptInterrupted,
    Context,
    Engine,
    Observer,
    Retry,
    RunFailed,
    RunNotFound,
    StepInHand,
    StepKind,
    open_engine,
    workflow,
)
from durable_trio.rules import residency
from durable_trio.stores.questions import ListOpenSteps, OpenSteps
from tests.engine.harness import PATIENCE_SECONDS, executor_of, serving, wait_until
from tests.kit.forks import Forked

_ROOT = Path(__file__).resolve().parents[2]

go = trio.Event()
has_begun = trio.Event()
threads: list[int] = []


@pytest.fixture(autouse=True)
def nothing_has_begun() -> None:
    global go, has_begun
    go, has_begun = trio.Event(), trio.Event()
    threads.clear()


async def hold(_: object = None) -> None:
    has_begun.set()
    await go.wait()


def hold_in_thread() -> None:
    threads.append(threading.get_native_id())
    trio.from_thread.run(hold)


async def fail_once() -> None:
    if has_begun.is_set():
        await hold()
        return
    has_begun.set()
    raise ValueError("the first attempt")


@workflow
async def steps(ctx: Context) -> None:
    async def beside(branch: Context) -> None:
        await branch.step("in thread", hold_in_thread)

    async with ctx.open_nursery() as nursery:
        nursery.start_soon(beside, name="beside")
        await ctx.step("first/second", hold)


@workflow
async def mapping(ctx: Context) -> None:
    await ctx.map("items", hold, range(5))


@workflow
async def retrying(ctx: Context) -> None:
    await ctx.step("again", fail_once, retry=Retry.fixed(3, 0))


@workflow
async def undone(ctx: Context) -> None:
    await ctx.step("do", nothing, compensate=hold)
    raise ValueError("undo it")


async def nothing() -> int:
    return 1


async def open_steps(engine: Engine, count: int) -> tuple[StepInHand, ...]:
    found: tuple[StepInHand, ...] = ()
    with trio.fail_after(PATIENCE_SECONDS):
        while len(found) != count:
            await trio.sleep(0.005)
            with suppress(RunNotFound):  # of another process, which begins
                found = await engine.get("r").steps(open=True)
    return found


async def test_a_step_is_shown_with_where_it_executes_until_it_has_come_out(store_path: str) -> None:
    async with serving(store_path, steps) as engine:
        run = await engine.start(steps, id="r")
        found = {step.key: step for step in await open_steps(engine, 2)}
        await wait_until(lambda: bool(threads))
        found = {step.key: step for step in await run.steps(open=True)}
        one, other = found["first%2Fsecond#0"], found["nursery#0/beside#0/in thread#0"]
        assert (one.run_id, one.kind, one.attempt, one.is_alive) == ("r", StepKind.STEP, 1, True)
        assert (one.pid, one.executor) == (os.getpid(), executor_of(engine).id)
        assert one.thread == threading.get_native_id()
        assert other.thread == threads[0] != one.thread
        record = await run.record()
        assert set(record.open_steps) == set(found.values())
        assert record.started_at is not None
        assert record.started_at <= one.started_at
        go.set()
        await run.result()
        assert await run.steps(open=True) == ()
        assert (await run.record()).open_steps == ()


async def test_each_item_of_a_map_is_shown(store_path: str) -> None:
    async with serving(store_path, mapping) as engine:
        run = await engine.start(mapping, id="r")
        found = await open_steps(engine, 5)
        assert sorted(step.key for step in found) == [f"items#0/item#{n}" for n in range(5)]
        go.set()
        await run.result()


async def test_the_attempt_is_told_and_since_when_it_is_the_one(store_path: str) -> None:
    async with serving(store_path, retrying) as engine:
        run = await engine.start(retrying, id="r")
        found: tuple[StepInHand, ...] = ()
        with trio.fail_after(PATIENCE_SECONDS):
            while not found or found[0].attempt != 2:
                await trio.sleep(0.005)
                found = await run.steps(open=True)
        go.set()
        await run.result()
        (row,) = await run.steps()
        assert row.started_at <= found[0].started_at


async def test_a_compensation_is_shown(store_path: str) -> None:
    async with serving(store_path, undone) as engine:
        run = await engine.start(undone, id="r")
        (step,) = await open_steps(engine, 1)
        assert step.kind is StepKind.COMPENSATION
        go.set()
        await run.record()


async def test_a_step_that_is_cancelled_is_shown_no_longer(store_path: str) -> None:
    async with serving(store_path, steps) as engine:
        run = await engine.start(steps, id="r")
        await open_steps(engine, 2)
        await run.cancel()
        go.set()
        with trio.fail_after(PATIENCE_SECONDS):
            async with run.watch() as changes:
                async for _ in changes:
                    pass
        assert await run.steps(open=True) == ()
        regions = await engine._client.services_in_use().writer.ask(ListOpenSteps())
        assert regions.steps == ()


async def test_who_only_looks_sees_what_another_process_is_at(file_path: str) -> None:
    """At once, or as its executor says, and that it does."""
    async with serving(file_path, steps) as engine:
        await engine.start(steps, id="r")
        await open_steps(engine, 2)
        await wait_until(lambda: bool(threads))
        async with Engine(file_path) as client:
            is_reported = client._client.store.takes_open_steps
            known = await engine.get("r").steps(open=True)
            assert not any(step.is_reported for step in known)
            told = tuple(attrs.evolve(step, is_reported=is_reported) for step in known)
            with trio.fail_after(PATIENCE_SECONDS):
                while await client.get("r").steps(open=True) != told:  # noqa: ASYNC110  # it is told now and then
                    await trio.sleep(0.005)
            assert (await client.get("r").record()).open_steps == told
        go.set()


_DIES = """
import os, signal, sys, trio
from durable_trio import Context, open_engine, workflow
from tests.kit import stores

def die():
    os.kill(os.getpid(), signal.SIGKILL)

async def die_at_once():
    die()

def die_within(connection):
    die()

@workflow
async def dying(ctx: Context, kind: str) -> None:
    await ctx.step("before", int)
    if kind == "transaction":
        await ctx.transaction("charge", die_within)
    await ctx.step("charge", die if kind == "thread" else die_at_once)

async def main() -> None:
    async with open_engine(sys.argv[1], workflows=[dying]) as engine:
        await engine.start(dying, sys.argv[2], id="r")
        await trio.sleep_forever()

stores.offer()
trio.run(main)
"""


@pytest.mark.on_sqlite("on others a process says a little later what it is at")
@pytest.mark.parametrize("kind", ["step", "thread", "transaction"])
async def test_a_process_that_was_killed_in_the_first_line_of_a_step_has_told_which(file_path: str, kind: str) -> None:
    died = await trio.run_process([sys.executable, "-c", _DIES, file_path, kind], cwd=_ROOT, check=False)
    assert died.returncode == -9
    async with Engine(file_path) as client:
        run = client.get("r")
        (step,) = await run.steps(open=True)
        assert (step.key, step.attempt, step.is_alive) == ("charge#0", 1, False)
        assert [row.key for row in await run.steps()] == ["before#0"]
        assert (await run.record()).open_steps == (step,)
    # Once it was found dead, its run is nobody's; what it was at is still there for whoever asks for it.
    async with serving(file_path, steps) as engine:
        with trio.fail_after(PATIENCE_SECONDS):
            while (await engine.get("r").record()).owner is not None:  # noqa: ASYNC110  # no change of the run
                await trio.sleep(0.005)
        assert await engine.get("r").steps(open=True) == ()
        noted = await engine._client.services_in_use().writer.ask(ListOpenSteps())
        assert [(str(each.key), each.is_alive, each.token) for each in noted.steps] == [("charge#0", False, 1)]


@workflow(name="dying", max_recoveries=1)
async def poison(ctx: Context, kind: str) -> None:
    raise AssertionError("it is not begun again")


@pytest.mark.on_sqlite("on others a process says a little later what it is at")
async def test_a_run_that_is_set_aside_tells_the_step_in_which_its_process_has_died(file_path: str) -> None:
    for _ in range(2):
        await trio.run_process([sys.executable, "-c", _DIES, file_path, "step"], cwd=_ROOT, check=False)
    async with serving(file_path, poison) as engine:
        with trio.fail_after(PATIENCE_SECONDS), pytest.raises(RunFailed, match="in step 'charge#0', attempt 1"):
            await engine.get("r").result()


_HOLDS = """
import sys, trio
from durable_trio import Context, open_engine, workflow
from tests.kit import stores

@workflow
async def dying(ctx: Context) -> None:
    await ctx.step("charge", trio.sleep_forever)

async def main() -> None:
    async with open_engine(sys.argv[1], workflows=[dying]) as engine:
        await engine.start(dying, id="r")
        await trio.sleep_forever()

stores.offer()
trio.run(main)
"""


class Interrupted(Observer):
    """Keeps which attempts nobody knows what came of."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int, str]] = []

    def attempt_interrupted(self, event: AttemptInterrupted) -> None:
        self.told.append((event.key, event.attempt, event.reason))


@workflow(name="dying")
async def goes_on(ctx: Context) -> int:
    return await ctx.step("charge", nothing)


async def test_what_a_process_was_seen_to_be_at_when_it_was_killed_is_known_to_who_goes_on(file_path: str) -> None:
    observer = Interrupted()
    with Forked([sys.executable, "-c", _HOLDS, file_path], cwd=_ROOT) as process:
        async with Engine(file_path) as client:
            (step,) = await open_steps(client, 1)
            assert (step.key, step.is_alive, step.pid) == ("charge#0", True, process.pid)
            process.kill()
            process.wait()
    async with serving(file_path, goes_on, observers=[observer]) as engine:
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.get("r").result() == 1
    assert observer.told == [("charge#0", 1, "died")]


async def test_only_who_asks_for_it_has_it_looked_up_what_a_run_is_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not quite for nothing; values are polled, as signs of progress are."""
    monkeypatch.setattr(residency, "IDLE_SECONDS", PATIENCE_SECONDS)
    asked: list[str] = []

    @workflow
    async def publishes(ctx: Context) -> None:
        await ctx.publish("seen", 1)
        await ctx.wait_signal("go")

    async with open_engine(":memory:", workflows=[publishes]) as engine:
        run = await engine.start(publishes)
        await trio.testing.wait_all_tasks_blocked()
        answer = engine._client.store.ask
        tellings = executor_of(engine).runs.tellings
        look = tellings.open_steps

        def noted(question: Any) -> Any:
            asked.append(type(question).__name__)
            return answer(question)

        def looked(run: int | None = None) -> OpenSteps:
            asked.append("open steps")
            return look(run)

        monkeypatch.setattr(engine._client.store, "ask", noted)
        monkeypatch.setattr(tellings, "open_steps", looked)
        assert await run.value("seen") == 1
        assert await run.values() == {"seen": 1}
        assert asked == ["FindRun", "ReadValues"] * 2
        await run.record()
        assert asked[4:] == ["FindRun", "ReadValues", "ListAwaited", "ListExecutors", "open steps"]
