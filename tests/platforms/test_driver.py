"""trio as a guest without a thread to wait in: what that assumes of trio, and what it does where that does not hold."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import trio
import trio.testing
from outcome import Outcome

from durable_trio.platforms.hosts import driver as driver_module
from durable_trio.platforms.hosts import load
from durable_trio.platforms.hosts.asyncio_host import AsyncioHost
from durable_trio.platforms.hosts.driver import Driver, GuestParts
from durable_trio.stores.threads import HOSTED, Linger, StoreThread
from tests.kit.loops import run_in

pytestmark = pytest.mark.usefixtures("no_leaks")


async def guest(driver: Driver, main: Callable[[], Coroutine[Any, Any, Any]], **options: Any) -> Any:
    """Return what a main task of trio's returns in this loop."""
    ended: asyncio.Future[Outcome[Any]] = asyncio.get_running_loop().create_future()
    driver.start(main, ended.set_result, **options)
    return (await ended).unwrap()


def test_trio_has_what_the_driver_takes() -> None:
    """The canary: if this fails with another version of trio, see ``GuestParts``."""
    found: list[GuestParts | None] = []

    async def main() -> None:
        driver = Driver(AsyncioHost(asyncio.get_running_loop()))
        await guest(driver, trio.lowlevel.checkpoint)
        found.append(driver._parts)

    run_in("asyncio", main)
    (parts,) = found
    assert parts is not None
    assert type(parts.state).__name__ == "GuestState"
    assert parts.runner.guest_tick_scheduled in (True, False)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("is_stock", [False, True])
def test_a_guest_sleeps_reads_and_is_woken_from_a_thread(loop: str, is_stock: bool) -> None:
    async def of_trio() -> str:
        with trio.move_on_after(0.01):
            await trio.sleep_forever()
        one, other = trio.socket.socketpair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.send, b"x")
            assert await other.recv(1) == b"x"
        one.close()
        other.close()
        await trio.testing.wait_all_tasks_blocked()
        return await trio.to_thread.run_sync(lambda: "from a thread")

    async def main() -> None:
        driver = Driver(AsyncioHost(asyncio.get_running_loop()), is_stock=is_stock)
        assert await guest(driver, of_trio) == "from a thread"
        assert driver.is_own is not is_stock

    run_in(loop, main)


def test_virtual_time_leaps_in_a_guest() -> None:
    async def of_trio() -> float:
        await trio.sleep(1000)
        return trio.current_time()

    async def main() -> None:
        driver = Driver(AsyncioHost(asyncio.get_running_loop()))
        clock = trio.testing.MockClock(autojump_threshold=0)
        assert await guest(driver, of_trio, clock=clock) == 1000

    run_in("asyncio", main)


def test_without_one_of_those_parts_trios_own_ticks_do_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module.GuestParts, "of", lambda tick: None)

    async def main() -> None:
        driver = Driver(AsyncioHost(asyncio.get_running_loop()))
        await guest(driver, trio.lowlevel.checkpoint)
        assert not driver.is_own

    run_in("asyncio", main)


def test_a_loop_that_cannot_watch_descriptors_has_trios_own_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()

        def cannot(*_: object) -> None:
            raise NotImplementedError

        monkeypatch.setattr(loop, "add_reader", cannot)
        driver = Driver(AsyncioHost(loop))
        await guest(driver, trio.lowlevel.checkpoint)
        assert not driver.is_own

    run_in("asyncio", main)


# So often in a row at least; once may be chance.
ENOUGH_WAITS = 50


class Busy(AsyncioHost):
    """A loop that always has work, and counts its passes."""

    passes = 0

    def has_work(self) -> bool:
        return True


class Mute(AsyncioHost):
    """A loop that cannot tell whether it has work, as uvloop."""

    def has_work(self) -> None:
        return None


async def spin() -> None:
    """Keep the loop busy, half a millisecond at a time."""
    while True:
        ends_at = time.perf_counter() + 0.000_5
        while time.perf_counter() < ends_at:
            pass
        await asyncio.sleep(0)


async def spin_in_trio() -> None:
    """Keep trio busy, and not the loop."""
    while True:
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize(("host", "busy"), [(Busy, spin), (Mute, spin), (AsyncioHost, spin_in_trio)])
def test_a_thread_that_has_work_is_waited_for_where_there_is_other_work(
    host: type[AsyncioHost], busy: Callable[[], Coroutine[Any, Any, None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[bool] = []
    wait = Linger.wait

    def counted(linger: Linger) -> None:
        waited.append(linger.is_busy)
        wait(linger)

    monkeypatch.setattr(Linger, "wait", counted)
    goes_on = threading.Event()

    async def of_trio() -> None:
        lingers = HOSTED.get()
        assert lingers == set()
        linger = Linger()
        thread = StoreThread("slow", linger)
        await trio.sleep(0.02)  # a host is busy only after a while
        async with trio.open_nursery() as nursery:
            nursery.start_soon(thread.call, goes_on.wait)
            await trio.testing.wait_all_tasks_blocked()
            assert lingers == {linger}
            if busy is spin_in_trio:
                nursery.start_soon(busy)
            while len(waited) < ENOUGH_WAITS:  # noqa: ASYNC110  # the host does it, again and again
                await trio.sleep(0.001)
            goes_on.set()
            nursery.cancel_scope.cancel()
        linger.end()
        assert lingers == set()
        thread.stop()

    async def main() -> None:
        task = asyncio.create_task(asyncio.sleep(0) if busy is spin_in_trio else busy())
        await guest(Driver(host(asyncio.get_running_loop())), of_trio)
        task.cancel()

    run_in("asyncio", main)
    assert all(waited)


class OnlyMute:
    """Nothing of a host but that it cannot tell whether it has work."""

    def has_work(self) -> None:
        return None


MUTE: Any = OnlyMute()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let time pass for the look at a host's load."""
    now = [0.0]
    monkeypatch.setattr(load, "perf_counter", lambda: now[0])

    def passes(seconds: float) -> None:
        now[0] += seconds

    return passes


def test_a_mute_host_that_is_busy_for_long_stays_busy(clock: Callable[[float], None]) -> None:
    found = load.HostLoad(MUTE)
    busy = []
    for seconds in [0.000_01] * 10 + [0.004] * 10_000:
        found.pass_begins()
        clock(seconds)
        found.pass_ends()
        busy.append(found.is_busy())
    assert not any(busy[:10])
    assert all(busy[12:])


def test_what_the_guest_does_in_a_pass_is_no_work_of_the_host(clock: Callable[[float], None]) -> None:
    found = load.HostLoad(MUTE)
    for _ in range(100):
        found.pass_begins()
        clock(0.000_01)
        found.pass_begins()  # two calls are in its queue
        clock(0.001)
        found.was_the_guests(0.001)
        found.pass_ends()
        found.pass_ends()
        assert not found.is_busy()
        clock(0.001)
        found.pass_begins()  # in the middle of a turn
        clock(0.000_01)
        found.was_the_guests(0.001_01)
        clock(0.000_01)
        found.pass_ends()
        assert found._last_pass > 0
        assert not found.is_busy()


def test_code_in_a_turn_finds_no_running_loop() -> None:
    async def of_trio() -> None:
        with contextlib.suppress(RuntimeError):
            raise AssertionError(asyncio.get_running_loop())
        with contextlib.suppress(RuntimeError):
            raise AssertionError(asyncio.current_task())

    async def main() -> None:
        await guest(Driver(AsyncioHost(asyncio.get_running_loop())), of_trio)

    run_in("asyncio", main)
