"""How earlier attempts of a step have failed is kept with it, bounded, whether it succeeds, fails or still retries."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from durable_trio import Context, Retry, RunFailed, StepRecord, current_step, workflow
from durable_trio.limits import EARLIER_ERROR_CHARACTERS_MAX, EARLIER_ERRORS_FIRST, EARLIER_ERRORS_LAST
from durable_trio.testing import VirtualClock
from tests.engine.harness import PATIENCE_SECONDS, serving, wait_passivated

pytestmark = pytest.mark.usefixtures("no_leaks")

KEPT = EARLIER_ERRORS_FIRST + EARLIER_ERRORS_LAST


async def answer(failures: int) -> str:
    attempt = current_step().attempt
    if attempt <= failures:
        raise ConnectionError(f"no answer {attempt}")
    return "answer"


def answer_in_transaction(_connection: Any, failures: int) -> str:
    attempt = current_step().attempt
    if attempt <= failures:
        raise ConnectionError(f"no answer {attempt}")
    return "answer"


async def undo(_result: object) -> None:
    await answer(2)


@workflow
async def ask(ctx: Context, failures: int, attempts: int, delay: float) -> str:
    return await ctx.step("ask", answer, failures, retry=Retry.fixed(attempts, delay))


@workflow
async def ask_otherwise(ctx: Context) -> None:
    retry = Retry.fixed(3, 1)
    await ctx.transaction("t", answer_in_transaction, 2, retry=retry)
    await ctx.map("m", answer, [0, 2], retry=retry)
    await ctx.step("undone", answer, 0, compensate=undo, compensate_retry=retry)
    raise ValueError("undo that")


async def _step(failures: int, attempts: int) -> StepRecord:
    async with serving(":memory:", ask, clock=VirtualClock()) as engine:
        run = await engine.start(ask, failures, attempts, 1.0)
        try:
            await run.result()
        except RunFailed:
            assert failures >= attempts
        (step,) = await run.steps()
    return step


def _told(step: StepRecord) -> list[tuple[int, str]]:
    return [(each.attempt, each.message) for each in step.earlier_errors]


async def test_a_step_that_has_succeeded_tells_how_each_attempt_before_has_failed(autojump_clock: MockClock) -> None:
    step = await _step(3, 4)
    assert (step.status, step.attempt, step.error) == ("completed", 4, None)
    assert _told(step) == [(number, f"no answer {number}") for number in (1, 2, 3)]
    assert {each.type for each in step.earlier_errors} == {"builtins.ConnectionError"}
    lines = {each.line for each in step.earlier_errors}
    assert len(lines) == 1
    assert str(lines.pop()).startswith(f"{__file__}:")
    times = [each.failed_at for each in step.earlier_errors]
    assert times == sorted(set(times))  # a second apart
    assert step.started_at <= times[0]
    assert times[-1] < step.finished_at


async def test_a_step_that_has_failed_for_good_tells_the_last_error_once(autojump_clock: MockClock) -> None:
    step = await _step(3, 3)
    assert step.error is not None
    assert (step.status, step.error.message) == ("failed", "no answer 3")
    assert _told(step) == [(1, "no answer 1"), (2, "no answer 2")]


async def test_of_many_attempts_the_first_and_the_last_are_kept(autojump_clock: MockClock) -> None:
    step = await _step(100, 101)
    first = list(range(1, EARLIER_ERRORS_FIRST + 1))
    last = list(range(101 - EARLIER_ERRORS_LAST, 101))
    assert [each.attempt for each in step.earlier_errors] == first + last


async def test_a_step_without_a_failure_has_none(autojump_clock: MockClock) -> None:
    assert (await _step(0, 3)).earlier_errors == ()


@pytest.mark.on_sqlite("its rows are read and written")
async def test_what_a_step_has_failed_with_is_cut(autojump_clock: MockClock) -> None:
    async def shout() -> None:
        if current_step().attempt < 20:
            raise ValueError("\x00ä" * 100_000)

    @workflow
    async def shouting(ctx: Context) -> None:
        await ctx.step("shout", shout, retry=Retry.fixed(20, 1))

    async with serving(":memory:", shouting, clock=VirtualClock()) as engine:
        run = await engine.start(shouting)
        await run.result()
        (step,) = await run.steps()
        with closing(engine.connect()) as connection:
            ((size,),) = connection.execute("SELECT length(CAST(earlier AS BLOB)) FROM history").fetchall()
    assert all(len(each.message) < EARLIER_ERROR_CHARACTERS_MAX + 20 for each in step.earlier_errors)
    assert size < KEPT * 6 * (EARLIER_ERROR_CHARACTERS_MAX + 500)


@pytest.mark.on_sqlite("its rows are read and written")
async def test_a_step_that_is_still_tried_again_tells_them_over_a_restart(tmp_path: Path) -> None:
    path = str(tmp_path / "runs.db")

    async with serving(path, ask, durability="normal") as engine:
        run = await engine.start(ask, 3, 9, 0.001, id="run")
        assert await run.result() == "answer"
        run = await engine.start(ask, 3, 9, 600.0, id="slow")
        await wait_passivated(engine)
        (wait,) = await run.waits()
        assert wait.error is not None
        assert (wait.error.message, wait.earlier_errors) == ("no answer 1", ())
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE waits SET due_at = 0")
        connection.execute("UPDATE runs SET wake_at = 0, is_due = 1 WHERE id = 'slow'")
    async with serving(path, ask, durability="normal") as engine:
        run = engine.get("slow")
        with trio.fail_after(PATIENCE_SECONDS):
            while (wait := (await run.waits())[0]).attempt < 2:  # noqa: ASYNC110  # no event tells of it
                await trio.sleep(0.01)
        assert wait.error is not None
        assert wait.error.message == "no answer 2"
        assert [(each.attempt, each.message) for each in wait.earlier_errors] == [(1, "no answer 1")]


async def test_transactions_items_of_maps_and_compensations_tell_them_too(autojump_clock: MockClock) -> None:
    async with serving(":memory:", ask_otherwise, clock=VirtualClock()) as engine:
        run = await engine.start(ask_otherwise)
        with pytest.raises(RunFailed):
            await run.result()
        told = {step.key: _told(step) for step in await run.steps()}
    both = [(1, "no answer 1"), (2, "no answer 2")]
    assert told == {
        "t#0": both,
        "m#0/item#0": [],
        "m#0/item#1": both,
        "undone#0": [],
        "compensate/undone#0": both,
    }


async def test_a_fork_keeps_those_of_the_steps_that_it_copies(autojump_clock: MockClock) -> None:
    @workflow
    async def two(ctx: Context) -> None:
        await ctx.step("ask", answer, 2, retry=Retry.fixed(3, 1))
        await ctx.step("then", answer, 0)

    async with serving(":memory:", two, clock=VirtualClock()) as engine:
        await engine.run(two, id="run")
        copy = await engine.fork("run", before="then#0")
        await copy.result()
        assert _told((await copy.steps())[0]) == [(1, "no answer 1"), (2, "no answer 2")]


@pytest.mark.on_sqlite("its rows are read and written")
@pytest.mark.parametrize("stored", ["", "{", "[1]", '[{"attempt": 1}]', "null", '{"a": 1}'])
async def test_what_is_stored_of_them_and_cannot_be_read_is_named_and_keeps_no_run(
    autojump_clock: MockClock, stored: str
) -> None:
    async with serving(":memory:", ask, clock=VirtualClock()) as engine:
        run = await engine.start(ask, 3, 4, 60.0)
        await trio.sleep(1)
        with closing(engine.connect()) as connection, connection:
            connection.execute("UPDATE waits SET earlier = ?", (stored,))
        (wait,) = await run.waits()
        assert wait.earlier_errors == ()
        assert wait.problem is not None
        assert "in table waits" in wait.problem
        assert "earlier" in wait.problem
        assert await run.result() == "answer"
        with closing(engine.connect()) as connection, connection:
            connection.execute("UPDATE history SET earlier = ?", (stored,))
        (step,) = await run.steps()
        assert (step.earlier_errors, step.result) == ((), "answer")
        assert step.problem is not None
        assert "in table history" in step.problem
