"""Events about attempts: typed, each attempt opens and closes once, and what is told again is told to be a replay."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from durable_trio import (
    AttemptInterrupted,
    Context,
    Engine,
    Event,
    FailureRecord,
    Observer,
    Retry,
    RunEnded,
    RunFailed,
    RunResumed,
    RunStatus,
    StepEnded,
    StepRetried,
    StepSlow,
    StepStarted,
    workflow,
)
from durable_trio.engine.runs.telling import Tellings
from durable_trio.engine.runs.under_way import StepUnderWay
from durable_trio.events import EVENTS
from durable_trio.rows import RunRow
from durable_trio.testing import VirtualClock
from tests.engine.harness import PATIENCE_SECONDS, serving, wait_passivated

pytestmark = pytest.mark.usefixtures("no_leaks")


class Noting(Observer):
    """Notes all that it is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def of(self, *classes: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, classes)]

    def assert_each_attempt_is_closed(self) -> None:
        opened = Counter((event.key, event.attempt) for event in self.of(StepStarted))
        closed = Counter(
            (event.key, event.attempt)
            for event in self.of(StepRetried, StepEnded, AttemptInterrupted)
            if not event.is_replay
        )
        assert opened == closed
        assert set(opened.values()) <= {1}


for _event in EVENTS:
    setattr(Noting, _event.name, lambda self, event: self.events.append(event))


class Flaky:
    """Fails so many times."""

    def __init__(self, count: int) -> None:
        self.left = count

    async def __call__(self) -> int:
        self.left -= 1
        if self.left >= 0:
            raise ConnectionError("not yet")
        return 1


async def passes() -> int:
    await trio.sleep(0.5)
    return 1


async def fails(_: object = None) -> int:
    raise ValueError("boom")


@workflow(name="varied")
async def varied(ctx: Context) -> int:
    await ctx.step("good", passes, compensate=fails)
    await ctx.step("flaky", FLAKY[0], retry=Retry.fixed(3, 1.0), returns=int)
    with trio.move_on_after(0.2):
        await ctx.step("cancelled", trio.sleep, 5)
    await ctx.map("items", at_three, range(6), limit=3, return_exceptions=True)
    return await ctx.step("bad", fails)


FLAKY: list[Flaky] = []


async def at_three(item: int) -> int:
    if item == 3:
        raise ValueError("three")
    return item


async def test_events_are_values_with_their_time_and_their_fields(autojump_clock: MockClock) -> None:
    FLAKY[:] = [Flaky(1)]
    noting = Noting()
    async with serving(":memory:", varied, observers=[noting], clock=VirtualClock()) as engine:
        run = await engine.start(varied, id="r")
        with pytest.raises(RunFailed):
            await run.result()
    assert all(attrs.has(type(event)) and event.at.utcoffset() == UTC.utcoffset(None) for event in noting.events)
    assert {(event.run_id, event.workflow, event.is_replay) for event in noting.events} == {("r", "varied", False)}
    noting.assert_each_attempt_is_closed()
    (retried,) = noting.of(StepRetried)
    assert (retried.key, retried.attempt, retried.delay, str(retried.error)) == ("flaky#0", 1, 1.0, "not yet")
    good = next(event for event in noting.of(StepEnded) if event.key == "good#0")
    assert (good.status, good.attempt, good.duration, good.error) == ("completed", 1, pytest.approx(0.5, abs=0.1), None)
    (cancelled,) = noting.of(AttemptInterrupted)
    assert (cancelled.key, cancelled.reason) == ("cancelled#0", "cancelled")
    (ended,) = noting.of(RunEnded)
    assert (ended.status, ended.key, ended.attempt, str(ended.error)) == (RunStatus.FAILED, "bad#0", 1, "boom")
    assert ended.duration > 1.5
    assert [event.at for event in noting.events] == sorted(event.at for event in noting.events)


async def test_a_replayed_outcome_is_told_to_be_one(file_path: str) -> None:
    @workflow(name="waits")
    async def waits(ctx: Context) -> None:
        await ctx.step("one", passes_at_once)
        await ctx.map("many", at_once, [1, 2])
        await ctx.wait_signal("go")

    first, second = Noting(), Noting()
    async with serving(file_path, waits, observers=[first]) as engine:
        await engine.start(waits, id="r")
        await wait_passivated(engine)
    async with serving(file_path, waits, observers=[second]) as engine:
        await engine.send_signal("r", "go")
        with trio.fail_after(PATIENCE_SECONDS):
            await engine.get("r").result()
    first.assert_each_attempt_is_closed()
    keys = {"one#0", "many#0/item#0", "many#0/item#1"}
    assert {event.key for event in first.of(StepEnded)} == keys
    assert {(event.key, event.is_replay) for event in second.of(StepEnded)} == {(key, True) for key in keys}
    assert not second.of(StepStarted)
    assert len(second.of(RunResumed)) == 1


async def passes_at_once() -> int:
    return 1


async def at_once(item: int) -> int:
    return item


async def test_an_attempt_that_is_left_behind_is_closed_by_who_leaves(file_path: str) -> None:
    noting, begun = Noting(), trio.Event()

    async def hangs() -> None:
        begun.set()
        await trio.sleep_forever()

    @workflow(name="hangs")
    async def hanging(ctx: Context) -> None:
        await ctx.step("hang", hangs)

    async with serving(file_path, hanging, observers=[noting], grace_seconds=0) as engine:
        await engine.start(hanging)
        await begun.wait()
    noting.assert_each_attempt_is_closed()
    (left,) = noting.of(AttemptInterrupted)
    assert (left.key, left.attempt, left.reason) == ("hang#0", 1, "left")


async def test_what_was_under_way_in_a_process_that_died_is_closed_by_who_takes_the_run_over(
    file_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One whose outcome was stored ends, and is no replay; one that has none is interrupted, and begins again."""

    @workflow(name="dies")
    async def dies(ctx: Context) -> None:
        await ctx.step("stored", passes_at_once)
        if goes_on:
            await ctx.step("lost", passes_at_once)
        else:
            await ctx.wait_signal("never")

    goes_on = False
    async with serving(file_path, dies) as engine:
        await engine.start(dies, id="r")
        await wait_passivated(engine)
    under_way = (StepUnderWay("stored#0", 1), StepUnderWay("lost#0", 1))

    async def look_back(self: Tellings, rows: Sequence[RunRow]) -> None:
        self._died.update((row.run, under_way) for row in rows)

    monkeypatch.setattr(Tellings, "look_back", look_back)
    goes_on, noting = True, Noting()
    async with serving(file_path, dies, observers=[noting]) as engine:
        await engine.send_signal("r", "never")
        with trio.fail_after(PATIENCE_SECONDS):
            await engine.get("r").result()
    told = [(type(event), event.key, event.is_replay) for event in noting.events if hasattr(event, "key")][:-1]
    assert told == [
        (StepEnded, "stored#0", False),
        (AttemptInterrupted, "lost#0", False),
        (StepStarted, "lost#0", False),
        (StepEnded, "lost#0", False),
    ]


async def test_what_an_observer_does_to_an_error_reaches_nobody(autojump_clock: MockClock) -> None:
    class Spoiling(Observer):
        def step_ended(self, event: StepEnded) -> None:
            assert event.error is not None
            assert not isinstance(event.error, FailureRecord)
            event.error.args = ("spoiled",)
            event.error.__cause__ = None

        def step_retried(self, event: StepRetried) -> None:
            event.error.args = ("spoiled",)  # type: ignore[union-attr]

    @workflow(name="catches")
    async def catches(ctx: Context) -> str:
        try:
            await ctx.step("bad", fails, retry=Retry.fixed(2, 0.0))
        except ValueError as error:
            return str(error)
        return ""

    async with serving(":memory:", catches, observers=[Spoiling()], clock=VirtualClock()) as engine:
        assert await engine.run(catches) == "boom"


async def test_an_observer_that_blocks_is_told_on_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durable_trio.engine.observers._SLOW_SECONDS", -1.0)

    @workflow(name="two")
    async def two(ctx: Context) -> None:
        for _ in range(2):
            await ctx.step("s", passes)

    async with serving(":memory:", two, observers=[Noting()], clock=VirtualClock()) as engine:
        await engine.run(two)
    said = [record.getMessage() for record in caplog.records if record.name == "durable_trio.observers"]
    assert len(said) == len(set(said)) == 4  # run_started, step_started, step_ended, run_ended
    assert all("hand over" in text for text in said)


@pytest.mark.parametrize("is_async", [True, False])
async def test_an_attempt_that_takes_long_is_told_while_it_runs_and_once(
    is_async: bool, file_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "durable_trio.runs")
    done, noting = threading.Event(), Noting()

    async def waits_here() -> None:
        while not done.is_set():  # noqa: ASYNC110
            await trio.sleep(0.002)

    def waits_there() -> None:
        done.wait(PATIENCE_SECONDS)

    @workflow(name="slow")
    async def slow(ctx: Context) -> None:
        await ctx.step("quick", passes_at_once)
        await ctx.step("slow", waits_here if is_async else waits_there)

    async with serving(file_path, slow, observers=[noting], slow_step_seconds=0.05) as engine:
        run = await engine.start(slow)
        with trio.fail_after(PATIENCE_SECONDS):
            while not noting.of(StepSlow):  # noqa: ASYNC110
                await trio.sleep(0.002)
        done.set()
        await run.result()
    (event,) = (event for event in noting.of(StepSlow) if event.key == "slow#0")
    assert event.duration >= 0.05
    function = "waits_here" if is_async else "waits_there"
    assert event.place.startswith(f"{__file__}:")
    assert event.place.endswith(f" in {function}")
    (record,) = (record for record in caplog.records if vars(record).get("step") == "slow#0")
    assert (vars(record)["event"], vars(record)["place"]) == ("step_slow", event.place)


async def test_an_attempt_that_was_long_is_told_when_it_comes_out(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that has blocked the event loop, so that no alarm could come."""
    monkeypatch.setattr("durable_trio.engine.runs.attempts.SlowSteps.look", lambda self: None)

    @workflow(name="long")
    async def long(ctx: Context) -> None:
        await ctx.step("long", passes)

    async with serving(":memory:", long, slow_step_seconds=0.3, clock=VirtualClock()) as engine:
        await engine.run(long)
    (record,) = (record for record in caplog.records if vars(record).get("event") == "step_slow")
    assert f"{__file__}:" in record.getMessage()
    assert vars(record)["place"].endswith(" in passes")


def test_each_event_has_a_hook_and_tells_its_fields() -> None:
    assert [event.name for event in EVENTS] == [name for name in vars(Observer) if not name.startswith("_")]
    event = RunEnded(at=datetime.now(UTC), run_id="r", workflow="w", status=RunStatus.COMPLETED)
    assert event.fields == {"status": "completed", "duration": None, "error": None, "key": None, "attempt": None}


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), "1", True, 10**12])
def test_slow_step_seconds_is_a_time_or_none(seconds: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="slow_step_seconds"):
        Engine(":memory:", slow_step_seconds=seconds)
