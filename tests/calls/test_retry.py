"""Retries: how often, when, for which errors; and that neither count nor due time is forgotten."""

from __future__ import annotations

import contextvars
from datetime import timedelta
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from durable_trio import (
    CodecError,
    Context,
    Engine,
    Retry,
    RunCancelled,
    RunFailed,
    RunStatus,
    StepRecord,
    StepTimeout,
    current_step,
    workflow,
)
from durable_trio.testing import VirtualClock
from tests.engine.harness import SettableClock, serving, wait_passivated, wait_status, wait_until

pytestmark = pytest.mark.usefixtures("no_leaks")


class Flaky:
    """Fails some times, then succeeds; remembers when it was called."""

    def __init__(self, failures: int, error: type[Exception] = OSError) -> None:
        self.called_at: list[float] = []
        self.attempts: list[int] = []
        self._failures = failures
        self._error = error

    async def __call__(self) -> str:
        self.called_at.append(trio.current_time())
        self.attempts.append(current_step().attempt)
        if len(self.called_at) <= self._failures:
            raise self._error(f"failure {len(self.called_at)}")
        return f"success {len(self.called_at)}"

    @property
    def delays(self) -> list[float]:
        return [round(after - before, 6) for before, after in zip(self.called_at, self.called_at[1:], strict=False)]


async def _run(flaky: Flaky, retry: Retry | None, **options: Any) -> tuple[Any, StepRecord]:
    """Run one step in virtual time; return its result or error, and its row."""

    @workflow
    async def one(ctx: Context) -> str:
        return await ctx.step("flaky", flaky, retry=retry, **options)

    async with serving(":memory:", one, clock=VirtualClock()) as engine:
        run = await engine.start(one)
        outcome: Any
        try:
            outcome = await run.result()
        except RunFailed as error:
            outcome = error.error
        (row,) = await run.steps()
    return outcome, row


class Limited(Exception):
    retry_after = 30


async def test_a_predicate_and_the_error_itself_decide_when(autojump_clock: MockClock) -> None:
    flaky = Flaky(3, Limited)
    outcome, row = await _run(flaky, Retry.fixed(5, 1, when=lambda error: "failure 3" not in str(error)), returns=str)
    assert (str(outcome), flaky.attempts, row.attempt) == ("failure 3", [1, 2, 3], 3)
    assert flaky.delays == [30, 30]


@pytest.mark.parametrize("retry", [None, Retry.none()], ids=["default", "none"])
async def test_without_a_policy_a_step_is_tried_once(autojump_clock: MockClock, retry: Retry | None) -> None:
    flaky = Flaky(1)
    error, row = await _run(flaky, retry)
    assert (type(error), str(error)) == (OSError, "failure 1")
    assert flaky.attempts == [1]
    assert (row.status, row.attempt) == ("failed", 1)


async def test_a_success_at_the_first_try_needs_no_second(autojump_clock: MockClock) -> None:
    flaky = Flaky(0)
    result, row = await _run(flaky, Retry.fixed(5, 60))
    assert result == "success 1"
    assert (row.status, row.attempt) == ("completed", 1)
    assert flaky.attempts == [1]


@pytest.mark.parametrize("failures", [1, 2, 7])
async def test_a_later_success_ends_the_retries_and_the_attempts_are_stored(
    autojump_clock: MockClock, failures: int
) -> None:
    flaky = Flaky(failures)
    result, row = await _run(flaky, Retry.fixed(10, 30))
    assert result == f"success {failures + 1}"
    assert flaky.attempts == list(range(1, failures + 2))
    assert flaky.delays == [30] * failures
    assert (row.status, row.attempt, row.error) == ("completed", failures + 1, None)
    assert row.finished_at - row.started_at == timedelta(seconds=30 * failures)


async def test_the_last_error_is_raised(autojump_clock: MockClock) -> None:
    flaky = Flaky(99)
    error, row = await _run(flaky, Retry.fixed(3, timedelta(minutes=1)))
    assert (type(error), str(error)) == (OSError, "failure 3")
    assert flaky.delays == [60, 60]
    assert (row.status, row.attempt) == ("failed", 3)
    assert row.error is not None
    assert row.error.message == "failure 3"


async def test_exponential_delays_grow_up_to_their_cap(autojump_clock: MockClock) -> None:
    flaky = Flaky(7)
    await _run(flaky, Retry.exponential(8, initial_delay=1, multiplier=3, max_delay=60))
    assert flaky.delays == [1, 3, 9, 27, 60, 60, 60]


async def test_exponential_delays_have_defaults(autojump_clock: MockClock) -> None:
    flaky = Flaky(10)
    await _run(flaky, Retry.exponential(11))
    assert flaky.delays == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]


async def test_jitter_takes_off_a_part_and_never_adds(autojump_clock: MockClock) -> None:
    flaky = Flaky(20)
    await _run(flaky, Retry.exponential(21, initial_delay=8, multiplier=2, max_delay=64, jitter=0.5))
    full = [8.0, 16.0, 32.0] + [64.0] * 17
    assert all(most / 2 <= delay <= most for delay, most in zip(flaky.delays, full, strict=True))
    assert len(set(flaky.delays[3:])) > 1


async def test_a_delay_of_nothing_tries_again_at_once(autojump_clock: MockClock) -> None:
    flaky = Flaky(3)
    assert (await _run(flaky, Retry.fixed(4, 0)))[0] == "success 4"
    assert flaky.delays == [0, 0, 0]


POLICIES: dict[str, tuple[Retry, type[Exception], int]] = {
    "on": (Retry.fixed(5, 1, on=(OSError,)), OSError, 5),
    "on, subclass": (Retry.fixed(5, 1, on=OSError), ConnectionResetError, 5),
    "on, other": (Retry.fixed(5, 1, on=(OSError,)), ValueError, 1),
    "give up": (Retry.exponential(5, give_up_on=(ValueError,)), ValueError, 1),
    "give up, subclass": (Retry.exponential(5, give_up_on=LookupError), KeyError, 1),
    "give up, other": (Retry.exponential(5, give_up_on=(ValueError,)), OSError, 5),
    "give up comes first": (Retry.fixed(5, 1, on=OSError, give_up_on=ConnectionError), ConnectionResetError, 1),
}


@pytest.mark.parametrize(("retry", "error", "attempts"), POLICIES.values(), ids=POLICIES.keys())
async def test_only_some_errors_are_tried_again(
    autojump_clock: MockClock, retry: Retry, error: type[Exception], attempts: int
) -> None:
    flaky = Flaky(99, error)
    raised, row = await _run(flaky, retry)
    assert type(raised) is error
    assert len(flaky.attempts) == row.attempt == attempts


async def test_what_an_attempt_has_left_behind_knows_that_attempt(autojump_clock: MockClock) -> None:
    """And what it says of itself is of no use to a later one."""
    contexts: list[contextvars.Context] = []
    seen: list[tuple[int, float]] = []

    async def slow() -> None:
        contexts.append(contextvars.copy_context())
        if len(contexts) == 1:
            raise OSError
        await trio.sleep(0.5)
        for context in contexts:
            seen.append((context.run(current_step).attempt, trio.current_effective_deadline()))
            context.run(lambda: current_step().heartbeat())
        seen.append((current_step().attempt, trio.current_effective_deadline()))

    @workflow
    async def retries(ctx: Context) -> None:
        await ctx.step("work", slow, timeout=1, retry=Retry.fixed(2, 0))

    async with serving(":memory:", retries, clock=VirtualClock()) as engine:
        await engine.run(retries)
    (first, deadline), (second, unchanged), (third, renewed) = seen
    assert (first, second, third) == (1, 2, 2)
    assert unchanged == deadline
    assert renewed == pytest.approx(deadline + 0.5)


async def test_a_timeout_can_be_tried_again_or_given_up_on(autojump_clock: MockClock) -> None:
    calls: list[int] = []

    async def slow() -> None:
        calls.append(current_step().attempt)
        await trio.sleep(100)

    @workflow
    async def times_out(ctx: Context) -> None:
        with pytest.raises(StepTimeout):
            await ctx.step("again", slow, timeout=1, retry=Retry.fixed(2, 5, on=trio.TooSlowError))
        with pytest.raises(StepTimeout):
            await ctx.step("once", slow, timeout=1, retry=Retry.fixed(2, 5, give_up_on=StepTimeout))

    async with serving(":memory:", times_out, clock=VirtualClock()) as engine:
        run = await engine.start(times_out)
        await run.result()
        assert [(row.status, row.attempt) for row in await run.steps()] == [("timed_out", 2), ("timed_out", 1)]
    assert calls == [1, 2, 1]


async def test_a_result_that_cannot_be_stored_is_not_tried_again(autojump_clock: MockClock) -> None:
    """The effect took place: another try would do it twice."""
    calls: list[str] = []

    async def opaque() -> Any:
        calls.append("call")
        return object()

    @workflow
    async def careless(ctx: Context) -> None:
        with pytest.raises(CodecError):
            await ctx.step("opaque", opaque, retry=Retry.fixed(5, 1))

    async with serving(":memory:", careless, clock=VirtualClock()) as engine:
        await engine.run(careless)
    assert calls == ["call"]


# ---- over restarts ---------------------------------------------------------------------------------------------------


async def _wait_calls(flaky: Flaky, count: int) -> None:
    await wait_until(lambda: len(flaky.called_at) >= count)


async def test_a_restart_between_attempts_forgets_neither_count_nor_due_time(file_path: str) -> None:
    flaky = Flaky(99)
    clock = SettableClock()

    @workflow
    async def one(ctx: Context) -> str:
        return await ctx.step("flaky", flaky, retry=Retry.exponential(4, 100, multiplier=2, max_delay=1000))

    async with serving(file_path, one, clock=clock) as engine:
        run = await engine.start(one, id="r")
        await wait_passivated(engine)
        first_due = (await run.record()).wake_at
        created_at = (await run.record()).created_at
        assert first_due == created_at + timedelta(seconds=100)
    clock.advance(99.999)
    async with serving(file_path, one, clock=clock) as engine:
        await trio.sleep(0.05)  # it must not go on, however long one waits
        assert (await engine.get("r").record()).wake_at == first_due
        assert flaky.attempts == [1]
        clock.advance(0.001)
        await _wait_calls(flaky, 2)
        await wait_passivated(engine)
        assert (await engine.get("r").record()).wake_at == first_due + timedelta(seconds=200)
    clock.advance(10_000)  # long past due: at once
    async with serving(file_path, one, clock=clock) as engine:
        await _wait_calls(flaky, 3)
        await wait_passivated(engine)
        clock.advance(400)
        with pytest.raises(RunFailed, match="failure 4"):
            await engine.get("r").result()
        (row,) = await engine.get("r").steps()
    assert flaky.attempts == [1, 2, 3, 4]
    assert (row.status, row.attempt) == ("failed", 4)
    assert row.started_at == created_at


async def test_a_long_delay_leaves_memory(autojump_clock: MockClock) -> None:
    flaky = Flaky(1)

    @workflow
    async def one(ctx: Context) -> str:
        return await ctx.step("flaky", flaky, retry=Retry.fixed(2, 3600))

    async with serving(":memory:", one, clock=VirtualClock()) as engine:
        run = await engine.start(one)
        record = await wait_status(run, RunStatus.SUSPENDED)
        while (await engine.status()).resident_runs:
            await trio.lowlevel.checkpoint()
        assert record.wake_at == record.created_at + timedelta(hours=1)
        assert len(flaky.called_at) == 1
        assert await run.result() == "success 2"
    assert flaky.delays == [3600]


async def _cancel(engine: Engine, flaky: Flaky) -> None:
    run = engine.get("r")
    await _wait_calls(flaky, 1)
    assert await run.cancel()
    with pytest.raises(RunCancelled):
        await run.result()
    assert [row.kind for row in await run.steps()] == ["cancel"]


@pytest.mark.parametrize("delay", [0.5, 3600])
async def test_a_cancel_ends_a_waiting_retry(store_path: str, delay: float) -> None:
    """Whether the run waits in memory or not."""
    flaky = Flaky(99)

    @workflow
    async def one(ctx: Context) -> str:
        return await ctx.step("flaky", flaky, retry=Retry.fixed(1000, delay))

    async with serving(store_path, one) as engine:
        await engine.start(one, id="r")
        await _cancel(engine, flaky)
        assert flaky.attempts == [1]


async def test_a_scope_of_the_body_ends_a_waiting_retry(store_path: str) -> None:
    flaky = Flaky(99)

    @workflow
    async def one(ctx: Context) -> str:
        with trio.move_on_after(0.05) as scope:
            await ctx.step("flaky", flaky, retry=Retry.fixed(1000, 0.8))
        return f"{scope.cancelled_caught} {await ctx.step('next', lambda: 'went on')}"

    async with serving(store_path, one) as engine:
        run = await engine.start(one)
        assert await run.result() == "True went on"
        assert [row.key for row in await run.steps()] == ["next#0"]
    assert flaky.attempts == [1]


# ---- the policy itself -----------------------------------------------------------------------------------------------

WRONG: dict[str, Any] = {
    "no attempt": lambda: Retry.fixed(0, 1),
    "attempts below": lambda: Retry.exponential(-1),
    "delay NaN": lambda: Retry.fixed(2, float("nan")),
    "cap NaN": lambda: Retry.exponential(2, max_delay=float("nan")),
    "shrinks": lambda: Retry.exponential(2, multiplier=0.5),
    "multiplier NaN": lambda: Retry.exponential(2, multiplier=float("nan")),
    "jitter above 1": lambda: Retry.exponential(2, jitter=1.5),
    "jitter below 0": lambda: Retry.exponential(2, jitter=-0.1),
    "jitter NaN": lambda: Retry.exponential(2, jitter=float("nan")),
    "attempts of other type": lambda: Retry.fixed(2.0, 1),  # type: ignore[arg-type]
    "attempts bool": lambda: Retry.fixed(True, 1),
    "delay of other type": lambda: Retry.fixed(2, "1"),  # type: ignore[arg-type]
    "on no class": lambda: Retry.fixed(2, 1, on=(1,)),  # type: ignore[arg-type]
    "on no Exception": lambda: Retry.fixed(2, 1, on=KeyboardInterrupt),  # type: ignore[arg-type]
    "give up on a text": lambda: Retry.fixed(2, 1, give_up_on="OSError"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("make", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_policy_is_refused_when_it_is_made(make: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        make()
