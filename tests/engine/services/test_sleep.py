"""A machine that sleeps, and a clock that is set: both are noticed, told apart, and nothing goes off too soon."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from durable_trio import Clock, RunStatus, processes, workflow
from durable_trio.clock import MICROSECONDS
from durable_trio.context.context import Context
from durable_trio.engine.services import clock_watch, timers
from durable_trio.engine.services.clock_watch import open_clock_watch
from durable_trio.stores.contract import ReapExecutor
from durable_trio.testing import VirtualClock
from durable_trio.testing.store_contract.kit import one
from tests.engine.flows import sleeper
from tests.engine.harness import PATIENCE_SECONDS, SettableClock, executor_of, serving, wait_status
from tests.kit.stores import store_at

pytestmark = pytest.mark.usefixtures("no_leaks")

HOUR = 3600.0


class Machine:
    """The machine that a test puts to sleep."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.slept = 7.0  # before the test
        self.clock = SettableClock()
        monkeypatch.setattr(timers, "suspended_for", lambda: self.slept)

    def sleep(self, seconds: float) -> None:
        """Sleep: the wall clock goes on, the monotonic one does not."""
        self.slept += seconds
        self.clock.jump(seconds)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def events(caplog: pytest.LogCaptureFixture) -> list[tuple[str, float]]:
    """Return what was told of sleep and of the clock."""
    found = [(record.__dict__.get("event"), record.__dict__.get("seconds")) for record in caplog.records]
    return [(event, seconds) for event, seconds in found if event in ("slept", "clock_set") and seconds is not None]


@pytest.fixture(autouse=True)
def all_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.INFO, "durable_trio"):
        yield


# ---- which clock says what ---------------------------------------------------------------------------------------


def test_a_machine_that_does_not_sleep_has_slept_for_as_long_at_each_look() -> None:
    looks = [processes.suspended_for() for _ in range(200)]
    assert max(looks) - min(looks) < 0.1


@pytest.mark.parametrize("interruptions", [0, 1, 3])
def test_who_is_interrupted_between_two_clocks_takes_that_for_no_sleep(
    monkeypatch: pytest.MonkeyPatch, interruptions: int
) -> None:
    """The time between two readings would look like one."""
    now, left = 1000.0, interruptions

    def read(which: int) -> float:
        nonlocal now, left
        if which == processes._SUSPENSION_CLOCKS[0]:
            if left:
                left -= 1
                now += 5.0
            return now + 40.0
        return now

    monkeypatch.setattr(time, "clock_gettime", read)
    assert processes.suspended_for() == 40.0


def test_where_nothing_tells_of_sleep_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_SUSPENSION_CLOCKS", (time.CLOCK_MONOTONIC, None))
    assert processes.suspended_for() == 0.0


# ---- timers ------------------------------------------------------------------------------------------------------


async def test_nothing_goes_off_before_it_is_known_what_is_still_ones_own(machine: Machine) -> None:
    told: list[Any] = []
    go_on = trio.Event()

    async def woke_up(seconds: float) -> None:
        told.append(seconds)
        await go_on.wait()
        told.append("renewed")

    service = timers.Timers(machine.clock, clock_was_set=lambda: told.append("set"), woke_up=woke_up)
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run)
        rang = trio.Event()

        def ring() -> None:
            told.append("due")
            rang.set()

        service.call_at(machine.clock.now() + 60 * MICROSECONDS, ring)
        machine.sleep(HOUR)
        with trio.fail_after(PATIENCE_SECONDS):
            while not told:  # noqa: ASYNC110  # what tells of it is held
                await trio.sleep(0.01)
            for _ in range(20):
                await trio.lowlevel.checkpoint()
            assert told == [HOUR]
            go_on.set()
            await rang.wait()
        nursery.cancel_scope.cancel()
    assert told == [HOUR, "renewed", "set", "due"]


async def test_several_short_sleeps_in_a_row_are_one(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    """As a laptop has them that is opened and closed: all that comes within a moment is looked at once."""
    looked = trio.Event()

    async def woke_up(seconds: float) -> None:
        assert seconds == pytest.approx(33.0)
        looked.set()

    service = timers.Timers(machine.clock, clock_was_set=lambda: None, woke_up=woke_up)
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run)
        service.call_at(machine.clock.now() + 3600 * MICROSECONDS, lambda: None)
        for _ in range(3):
            machine.sleep(11.0)
        with trio.fail_after(PATIENCE_SECONDS):
            await looked.wait()
        nursery.cancel_scope.cancel()
    assert events(caplog) == [("slept", 33.0)]


@pytest.mark.parametrize(
    ("slept", "jump", "expected"),
    [
        (HOUR, 0.0, [("slept", HOUR)]),
        (0.0, HOUR, [("clock_set", HOUR)]),
        (0.0, -HOUR, [("clock_set", -HOUR)]),
        (HOUR, 120.0, [("slept", HOUR), ("clock_set", 120.0)]),
        (HOUR, -HOUR, [("slept", HOUR), ("clock_set", -HOUR)]),  # the wall clock shows what it did before
        (0.1, 0.0, []),
    ],
)
async def test_sleep_and_a_set_clock_are_told_apart(
    machine: Machine, caplog: pytest.LogCaptureFixture, slept: float, jump: float, expected: list[tuple[str, float]]
) -> None:
    looked = trio.Event()
    service = timers.Timers(machine.clock, clock_was_set=lambda: None, woke_up=trio.sleep_until)
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run)
        machine.sleep(slept)
        machine.clock.jump(jump)
        service.look()
        service.call_at(machine.clock.now(), looked.set)
        with trio.fail_after(PATIENCE_SECONDS):
            await looked.wait()
        nursery.cancel_scope.cancel()
    if slept and jump == -slept:
        expected = expected[:1]  # no look between the two: the wall clock has not moved
    assert events(caplog) == expected


async def test_runs_that_others_may_have_taken_over_go_on_once(file_path: str, machine: Machine) -> None:
    """By whoever has them then."""
    done: list[int] = []

    @workflow
    async def waits(ctx: Context) -> None:
        await ctx.sleep(0.9)  # for so short a time it stays in memory
        await ctx.step("note", lambda: done.append(1))

    with closing(store_at(file_path)) as other:
        other.open()
        async with serving(file_path, waits, sleeper, clock=machine.clock, lease_seconds=1000) as engine:
            run = await engine.start(waits)
            await wait_status(run, RunStatus.SUSPENDED)
            before = executor_of(engine).recovery.executor
            assert one(other, ReapExecutor(executor=before, now=machine.clock.stamp())) is not None
            machine.sleep(2000.0)
            with trio.fail_after(PATIENCE_SECONDS):
                await run.result()
            assert executor_of(engine).recovery.executor != before
    assert done == [1]


# ---- the kernel's word -------------------------------------------------------------------------------------------

_HAS_WATCH = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such a timer")


@pytest.fixture(params=["os", "ctypes"])
def calls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own calls, where it has them, and those of the C library."""
    if request.param == "os" and not hasattr(os, "timerfd_create"):
        pytest.skip("this Python has none of its own")
    if request.param == "ctypes" and hasattr(os, "timerfd_create"):
        monkeypatch.delattr(os, "timerfd_create")
        monkeypatch.delattr(os, "timerfd_settime")


@_HAS_WATCH
async def test_a_watch_is_told_when_the_time_has_come(calls: None) -> None:
    with open_clock_watch(Clock()) as watch, trio.fail_after(PATIENCE_SECONDS):
        assert watch is not None
        for _ in range(2):
            due = time.time() + 0.05
            watch.arm(0.05)
            await watch.wait()
            assert time.time() >= due - 0.001
        watch.arm(HOUR)
        with trio.move_on_after(0.02) as patience:
            await watch.wait()
        assert patience.cancelled_caught


@_HAS_WATCH
async def test_with_a_watch_nobody_looks_in_between() -> None:
    service = timers.Timers(Clock(), clock_was_set=lambda: None, woke_up=trio.sleep)
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run)
        service.call_at(service._clock.now() + 3600 * MICROSECONDS, lambda: None)
        assert service._nap.deadline - trio.current_time() > 3500
        nursery.cancel_scope.cancel()


async def test_without_one_somebody_looks_each_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock_watch, "_create", lambda: None)
    service = timers.Timers(Clock(), clock_was_set=lambda: None, woke_up=trio.sleep)
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run)
        service.call_at(service._clock.now() + 3600 * MICROSECONDS, lambda: None)
        assert service._nap.deadline - trio.current_time() <= 1.0
        nursery.cancel_scope.cancel()


async def test_a_clock_that_is_not_the_kernels_is_not_watched(autojump_clock: MockClock) -> None:
    class Own(Clock):
        """One of a user's, which may show anything."""

    for clock in (VirtualClock(), SettableClock(), Own(), Clock(wall=time.monotonic_ns), Clock()):
        with open_clock_watch(clock) as watch:
            assert watch is None


def test_without_a_descriptor_left_there_is_no_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "timerfd_create", refuse, raising=False)
    assert clock_watch._create() is None
