"""Observers: told of everything that happens to a run in this process, and unable to disturb it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from durable_trio import (
    Context,
    Engine,
    Event,
    NonDeterminismError,
    Observer,
    Retry,
    RunFailed,
    RunStarted,
    RunStatus,
    StepStatus,
    workflow,
)
from durable_trio.events import EVENTS
from durable_trio.stores.questions import ListWaits
from durable_trio.testing import VirtualClock
from tests.engine.harness import PATIENCE_SECONDS, ask, row_of, serving, wait_parked, wait_passivated, wait_status

pytestmark = pytest.mark.usefixtures("no_leaks")

S = RunStatus
HOOKS = [event.name for event in EVENTS]


class Noting(Observer):
    """Notes all that it is told; made by overriding every hook that there is."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.told: set[str] = set()

    @property
    def names(self) -> list[str]:
        return [event.name for event in self.events]

    def of(self, name: str) -> list[Event]:
        return [event for event in self.events if event.name == name]


def _note(self: Noting, event: Event) -> None:
    self.events.append(event)
    self.told.add(event.name)


for _hook in HOOKS:
    setattr(Noting, _hook, _note)


class Raising(Observer):
    """Raises wherever it can."""

    def __init__(self, error: type[Exception] = ZeroDivisionError) -> None:
        self.count = 0
        self._error = error

    def fail(self, event: Event) -> None:
        self.count += 1
        raise self._error(event.name)


for _hook in HOOKS:
    setattr(Raising, _hook, Raising.fail)


@workflow
async def eventful(ctx: Context) -> str:
    """One of everything: a step, a failed one, a retried one, a wait, compensation."""
    await ctx.step("good", good, compensate=undo)
    with contextlib.suppress(OSError):
        await ctx.step("bad", bad)
    await ctx.step("flaky", FLAKY.pop, retry=Retry.fixed(3, 0.0))
    await ctx.wait_signal("go")
    raise ValueError("in the end")


async def good() -> str:
    return "good"


async def undo(result: str) -> None:
    assert result == "good"


async def bad() -> None:
    raise OSError("bad")


class Flaky:
    """Fails once, then works."""

    def __init__(self) -> None:
        self.calls = 0

    async def pop(self) -> int:
        self.calls += 1
        if self.calls == 1:
            raise TimeoutError("once")
        return self.calls


FLAKY = Flaky()


@pytest.fixture(autouse=True)
def fresh_flaky() -> None:
    FLAKY.calls = 0


async def test_every_hook_is_called_at_its_time(store_path: str) -> None:
    noting = Noting()
    goes_left = True

    @workflow
    async def fickle(ctx: Context) -> None:
        await ctx.step("left" if goes_left else "right", good)
        await ctx.wait_signal("go")

    async with serving(store_path, eventful, fickle, observers=[noting]) as engine:
        run = await engine.start(eventful)
        await wait_passivated(engine)
        assert noting.names == [
            "run_started",
            "step_started",
            "step_ended",
            "step_started",
            "step_ended",
            "step_started",
            "step_retried",
            "step_started",
            "step_ended",
            "run_suspended",
        ]
        noting.events.clear()
        await run.signal("go")
        await wait_status(run, S.FAILED)
        await wait_passivated(engine)
        assert noting.names == [
            "run_resumed",
            *["step_ended"] * 3,  # given back at replay
            "run_compensating",
            "step_started",
            "step_ended",
            "run_ended",
        ]
        assert {event.run_id for event in noting.events} == {run.id}
        assert {event.workflow for event in noting.events} == {"eventful"}
        parked = await engine.start(fickle)
        await wait_passivated(engine)
        goes_left = False
        noting.events.clear()
        await parked.signal("go")
        await wait_parked(parked)
        assert noting.names == ["run_resumed", "run_parked"]
    assert noting.told == set(HOOKS) - {"attempt_interrupted", "step_slow"}


async def test_the_fields_of_events_tell_what_happened(store_path: str) -> None:
    noting = Noting()
    async with serving(store_path, eventful, observers=[noting]) as engine:
        run = await engine.start(eventful)
        await run.signal("go")
        await wait_status(run, S.FAILED)
        await wait_passivated(engine)
    started = [
        (event.fields["key"], event.fields["kind"], event.fields["attempt"]) for event in noting.of("step_started")
    ]
    assert started == [
        ("good#0", "step", 1),
        ("bad#0", "step", 1),
        ("flaky#0", "step", 1),
        ("flaky#0", "step", 2),
        ("compensate/good#0", "compensation", 1),
    ]
    (retried,) = noting.of("step_retried")
    assert (retried.fields["key"], retried.fields["attempt"], retried.fields["delay"]) == ("flaky#0", 1, 0.0)
    assert isinstance(retried.fields["error"], TimeoutError)
    ended: dict[str, Any] = {event.fields["key"]: event.fields for event in noting.of("step_ended")}
    assert ended["good#0"]["status"] is StepStatus.COMPLETED
    assert ended["bad#0"]["status"] is StepStatus.FAILED
    assert ended["flaky#0"]["attempt"] == 2
    assert ended["compensate/good#0"]["kind"] == "compensation"
    (end,) = noting.of("run_ended")
    assert end.fields["status"] is S.FAILED


async def test_a_parked_run_is_told_with_its_problem(store_path: str) -> None:
    noting = Noting()
    name = "left"

    @workflow
    async def fickle(ctx: Context) -> None:
        await ctx.step(name, good)
        await ctx.wait_signal("go")

    async with serving(store_path, fickle, observers=[noting]) as engine:
        run = await engine.start(fickle)
        await wait_passivated(engine)
        name = "right"
        await run.signal("go")
        record = await wait_parked(run)
    (event,) = noting.of("run_parked")
    assert event.fields["problem"] == record.problem
    error = event.fields["error"]
    assert isinstance(error, NonDeterminismError)
    assert error.run_id == run.id
    assert "left#0" in error.diff
    assert "right#0" in error.diff


@pytest.mark.parametrize("how", ["completed", "cancelled"])
async def test_the_end_of_a_run_is_told_once_it_is_durable(store_path: str, how: str) -> None:
    ends: list[tuple[str, Any]] = []

    class Looking(Observer):
        def run_ended(self, event: Event) -> None:
            ends.append((row_of(engine, str(event.run_id)).status, event.fields["status"]))

    @workflow
    async def waiting(ctx: Context) -> None:
        await ctx.wait_signal("go")

    async with serving(store_path, waiting, observers=[Looking()]) as engine:
        run = await engine.start(waiting)
        if how == "completed":
            await run.signal("go")
        else:
            await wait_passivated(engine)
            await run.cancel()
        await wait_status(run, S(how))
        await wait_passivated(engine)
    assert ends == [(how, how)]


async def increased(value: int) -> int:
    if value == 3:
        raise ValueError("three")
    return value + 1


@workflow
async def of_every_kind(ctx: Context) -> None:
    """Steps in all the ways in which functions run."""
    await ctx.step("step", good, compensate=undo)
    await ctx.transaction("transaction", lambda connection: None)
    await ctx.map("map", increased, [1, 2, 3, 4], return_exceptions=True)
    with contextlib.suppress(ValueError):
        await ctx.map("failing", increased, [3])
    child = await ctx.start_child(endless)
    await child.cancel()
    raise ValueError("compensate")


@workflow
async def endless(ctx: Context) -> None:
    await ctx.wait_signal("never")


async def test_whatever_is_started_is_told_to_end(store_path: str) -> None:
    noting = Noting()
    async with serving(store_path, of_every_kind, endless, observers=[noting]) as engine:
        with contextlib.suppress(RunFailed):
            await engine.run(of_every_kind)

    def keys(name: str) -> set[str]:
        return {event.fields["key"] for event in noting.of(name)}  # ends are told again at replay

    assert keys("step_started") == keys("step_ended")
    assert len(keys("step_ended")) == 9
    of_map = {event.fields["key"]: str(event.fields["status"]) for event in noting.of("step_ended")}
    assert sorted(of_map[f"map#0/item#{number}"] for number in range(4)) == ["completed"] * 3 + ["failed"]


async def test_a_retry_and_a_parked_run_are_told_once_they_are_durable(file_path: str) -> None:
    """Told before, they could be told of what no other process will ever see."""
    found: list[tuple[str, Any]] = []

    class Looking(Observer):
        def step_retried(self, event: Event) -> None:
            (wait,) = ask(engine, ListWaits(row_of(engine, "r").run))
            found.append((event.name, wait.attempt))

        def run_parked(self, event: Event) -> None:
            row = row_of(engine, "r")
            found.append((event.name, row.problem is not None and row.status))

    @workflow(name="retries and parks")
    async def retries_and_parks(ctx: Context) -> None:
        await ctx.step("flaky", FLAKY.pop, retry=Retry.fixed(3, 0.01))
        raise_inside.append(True)
        await ctx.step("good", good)

    raise_inside: list[bool] = []
    async with serving(file_path, retries_and_parks, observers=[Looking()]) as engine:
        codec = engine._client.codec
        encode = codec.encode

        def failing(value: Any, *args: Any, **options: Any) -> Any:
            if raise_inside and value == "good":
                raise RuntimeError("a fault of this library")
            return encode(value, *args, **options)

        codec.encode = failing  # type: ignore[method-assign]
        record = await wait_parked(await engine.start(retries_and_parks, id="r"))
        assert record.problem is not None
        assert record.problem.kind == "internal_error"
        with trio.fail_after(PATIENCE_SECONDS):
            while len(found) < 2:  # noqa: ASYNC110  # the observer is told a moment after the watcher
                await trio.sleep(0.002)
    assert found == [("step_retried", 1), ("run_parked", "suspended")]


async def test_an_observer_that_raises_disturbs_nothing_and_is_logged(
    store_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "durable_trio.observers")
    raising, noting = Raising(), Noting()
    async with serving(store_path, eventful, observers=[raising, noting]) as engine:
        run = await engine.start(eventful)
        await wait_passivated(engine)
        await run.signal("go")
        record = await wait_status(run, S.FAILED)
        await wait_passivated(engine)
        assert isinstance(record.error, ValueError)
        steps = [(step.key, step.status) for step in await run.steps()]
    assert steps == [
        ("good#0", StepStatus.COMPLETED),
        ("bad#0", StepStatus.FAILED),
        ("flaky#0", StepStatus.COMPLETED),
        ("go#0", StepStatus.COMPLETED),
        ("compensate/good#0", StepStatus.COMPLETED),
    ]
    assert raising.count == len(noting.events)
    logged = [record for record in caplog.records if record.name == "durable_trio.observers"]
    assert len(logged) == raising.count
    assert all(item.exc_info for item in logged)


async def test_observers_are_told_in_their_order(autojump_clock: MockClock) -> None:
    told: list[str] = []

    class Named(Observer):
        def __init__(self, name: str) -> None:
            self.name = name

        def run_ended(self, event: Event) -> None:
            told.append(self.name)

    @workflow
    async def quick(ctx: Context) -> None:
        await ctx.sleep(5.0)

    async with serving(":memory:", quick, observers=[Named("a"), Named("b")], clock=VirtualClock()) as engine:
        await engine.run(quick)
    assert told == ["a", "b"]


async def test_an_observer_can_use_what_it_is_told_to_start_something(store_path: str) -> None:
    """Hooks are sync: they hand over to a task of their own."""
    send, receive = trio.open_memory_channel[str](10)

    class Handing(Observer):
        def run_ended(self, event: Event) -> None:
            send.send_nowait(event.run_id)

    @workflow
    async def quick(ctx: Context) -> None:
        pass

    async with serving(store_path, quick, observers=[Handing()]) as engine:
        await engine.start(quick, id="r")
        with trio.fail_after(PATIENCE_SECONDS):
            assert await receive.receive() == "r"
    send.close()
    receive.close()


@pytest.mark.parametrize("observer", [object(), Observer, "log", None, lambda event: None])
def test_what_is_no_observer_is_refused(observer: Any) -> None:
    with pytest.raises(TypeError, match="observers"):
        Engine(":memory:", observers=[observer])


def test_the_hooks_of_the_base_class_do_nothing() -> None:
    event = RunStarted(at=datetime.now(UTC), run_id="r", workflow="w")
    for hook in HOOKS:
        call: Callable[[Event], None] = getattr(Observer(), hook)
        call(event)
    assert len(HOOKS) >= 11
