"""Runs that only wait: they stay in memory for a moment, take no place, and go first."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from durable_trio import Context, Engine, RunStatus, SignalTimeout, workflow
from durable_trio.rules import residency
from durable_trio.stores.questions import ListRuns, ListUnread, ListWaits, Question, RunFilter
from durable_trio.testing import VirtualClock
from tests.engine.harness import (
    PATIENCE_SECONDS,
    ask,
    executor_of,
    killed_when_ready,
    row_of,
    serving,
    wait_passivated,
    wait_status,
    wait_until,
)

pytestmark = pytest.mark.usefixtures("no_leaks")


@workflow
async def chat(ctx: Context, count: int) -> list[int]:
    return [await ctx.wait_signal("go") for _ in range(count)]


@workflow
async def brief(ctx: Context) -> str:
    return await ctx.step("work", lambda: "done")


@pytest.fixture
def stay_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """None leaves because of its idleness."""
    monkeypatch.setattr(residency, "IDLE_SECONDS", 3600.0)


def claims_of(engine: Engine, run_id: str) -> int:
    """Return how often a run was taken into memory."""
    return row_of(engine, run_id).token


@workflow
async def listener(ctx: Context, timeout: float | None) -> None:
    with suppress(SignalTimeout):
        await ctx.wait_signal("go", timeout=timeout)


@pytest.mark.parametrize(
    ("timeout", "stays"), [(0.000_001, True), (1.0, True), (1.000_001, False), (None, False)], ids=str
)
async def test_a_wait_that_ends_within_a_second_is_not_worth_a_reload(
    timeout: float | None, stays: bool, autojump_clock: MockClock
) -> None:
    """Though here, all that only wait leave at once. The second counts from when the run begins to rest."""
    async with serving(":memory:", listener, clock=VirtualClock()) as engine:
        run = await engine.start(listener, timeout, id="r")
        if not stays:
            await wait_passivated(engine)
        await trio.sleep(2)
        if timeout is None:
            await run.signal("go")
        await run.result()
        assert claims_of(engine, "r") == (1 if stays else 2)


@pytest.mark.usefixtures("stay_long")
async def test_what_another_process_has_sent_is_handed_over_and_not_read_again(
    file_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that has come is read once, for all runs."""
    asked: list[str] = []
    async with serving(file_path, chat) as engine, Engine(file_path) as client:
        answer = engine._client.store.ask

        def note(question: Question[Any]) -> Any:
            asked.append(type(question).__name__)
            return answer(question)

        monkeypatch.setattr(engine._client.store, "ask", note)
        runs = [await engine.start(chat, 10, id=f"r{number}") for number in range(2)]
        with trio.fail_after(PATIENCE_SECONDS):
            for number in range(10):
                for run in runs:
                    await wait_status(run, RunStatus.SUSPENDED)
                for run in runs:
                    await client.get(run.id).signal("go", number)
                await wait_until(lambda: _unread_count(engine) == 0)
            for run in runs:
                assert await run.result() == list(range(10))
                assert claims_of(engine, run.id) == 1
    assert "ListSent" in asked
    assert "LookAtMailbox" not in asked


@pytest.mark.usefixtures("stay_long")
async def test_a_run_that_takes_signals_one_after_the_other_is_taken_into_memory_once(store_path: str) -> None:
    async with serving(store_path, chat) as engine:
        run = await engine.start(chat, 30, id="r")
        with trio.fail_after(PATIENCE_SECONDS):
            for number in range(30):
                await wait_status(run, RunStatus.SUSPENDED)
                await run.signal("go", number)
                await wait_until(lambda: _unread_count(engine) == 0)
            assert await run.result() == list(range(30))
        assert claims_of(engine, "r") == 1


def _unread_count(engine: Engine) -> int:
    rows = ask(engine, ListRuns(RunFilter(), limit=100))
    return sum(len(ask(engine, ListUnread(row.run))) for row in rows)


async def test_a_run_leaves_memory_when_it_has_been_idle_for_a_moment_and_comes_back_for_a_signal(
    store_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(residency, "IDLE_SECONDS", 0.05)
    async with serving(store_path, chat) as engine:
        run = await engine.start(chat, 2, id="r")
        await wait_passivated(engine)
        assert (await run.record()).status is RunStatus.SUSPENDED
        await run.signal("go", 1)
        await wait_passivated(engine)
        await run.signal("go", 2)
        with trio.fail_after(PATIENCE_SECONDS):
            assert await run.result() == [1, 2]


@pytest.mark.usefixtures("stay_long")
async def test_runs_that_only_wait_take_no_place_of_those_that_have_something_to_do(store_path: str) -> None:
    async with serving(store_path, chat, brief, concurrency=1) as engine:
        waiting = [await engine.start(chat, 1) for _ in range(5)]
        with trio.fail_after(PATIENCE_SECONDS):
            for run in waiting:
                await wait_status(run, RunStatus.SUSPENDED)
            assert (await engine.status()).resident_runs == 5
            assert await engine.run(brief) == "done"
            for number, run in enumerate(waiting):
                await run.signal("go", number)
            assert [await run.result() for run in waiting] == [[0], [1], [2], [3], [4]]


@pytest.mark.usefixtures("stay_long")
async def test_runs_that_only_wait_send_no_new_run_to_another_process(file_path: str) -> None:
    """With others on the file a new run stays here only while nothing else here has something to do."""
    async with serving(file_path, chat) as engine:
        async with serving(file_path, chat):
            waiting = await engine.start(chat, 1)
            await wait_status(waiting, RunStatus.SUSPENDED)
            with trio.fail_after(PATIENCE_SECONDS):
                await wait_until(lambda: executor_of(engine).recovery.reaper.others_count == 1)
            await engine.start(chat, 1, id="new")
            assert claims_of(engine, "new") == 1  # it was claimed in the transaction that has stored it


@pytest.mark.usefixtures("stay_long")
async def test_beyond_the_bound_those_that_have_waited_longest_leave_first(store_path: str) -> None:
    async with serving(store_path, chat, concurrency=2, resident_runs_max=3) as engine:
        runs = []
        with trio.fail_after(PATIENCE_SECONDS):
            for number in range(6):
                runs.append(await engine.start(chat, 1, id=f"r{number}"))
                await wait_status(runs[-1], RunStatus.SUSPENDED)
            await wait_until(lambda: len(engine._client.services_in_use().resident_rows) <= 3)
            left = {row.id for row in engine._client.services_in_use().resident_rows}
            assert left == {"r3", "r4", "r5"}
            for number, run in enumerate(runs):
                await run.signal("go", number)
            assert [await run.result() for run in runs] == [[number] for number in range(6)]


async def test_a_run_that_was_idle_when_its_process_was_killed_goes_on_with_what_came_meanwhile(
    file_path: str, tmp_path: Path
) -> None:
    effects = tmp_path / "effects"
    assert await killed_when_ready(__name__, "wait_until_killed", file_path, str(effects)) == "idle"
    async with Engine(file_path) as client:
        await client.get("r").signal("go", 7)
    async with serving(file_path, works_and_waits) as engine:
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.get("r").result() == 7
    assert effects.read_text() == "worked\n"


@workflow
async def works_and_waits(ctx: Context, effects: str) -> int:
    def work() -> None:
        with open(effects, "a", encoding="utf-8") as file:
            file.write("worked\n")

    await ctx.step("work", work)
    return await ctx.wait_signal("go", int)


def wait_until_killed(path: str, effects: str) -> None:
    """Called in a process of its own: have an idle run in memory, say so, and wait for death."""
    residency.IDLE_SECONDS = 3600.0

    async def main() -> None:
        async with serving(path, works_and_waits) as engine:
            run = await engine.start(works_and_waits, effects, id="r")
            await wait_status(run, RunStatus.SUSPENDED)
            assert (await engine.status()).resident_runs == 1
            print("idle", flush=True)
            await trio.sleep_forever()

    trio.run(main)
    sys.exit(os.EX_SOFTWARE)


@workflow
async def waits_for_one_after_the_other(ctx: Context) -> None:
    for number in range(5):
        await ctx.wait_signal(f"s{number}")


def waited_for(engine: Engine) -> list[str]:
    """Return what the store says that the run waits for."""
    return [row.key.name for row in ask(engine, ListWaits(row_of(engine, "r").run))]


async def test_a_run_that_leaves_says_for_what_it_waits_now_not_for_what_it_has_waited_before(
    store_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if it leaves at once, after a wait for which it has stayed: else its next signal would wake nobody."""
    async with serving(store_path, waits_for_one_after_the_other) as engine:
        monkeypatch.setattr(residency, "IDLE_SECONDS", 3600.0)
        run = await engine.start(waits_for_one_after_the_other, id="r")
        await wait_until(lambda: waited_for(engine) == ["s0"])
        monkeypatch.setattr(residency, "IDLE_SECONDS", 0.0)
        for number in range(5):
            await run.signal(f"s{number}")
            if number < 4:
                await wait_until(lambda: waited_for(engine) == [f"s{number + 1}"])  # noqa: B023
                await wait_passivated(engine)
        with trio.fail_after(PATIENCE_SECONDS):
            await run.result()
