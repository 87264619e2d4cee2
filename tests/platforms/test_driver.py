"""trio as a guest without a thread to wait in: what that assumes of trio, and what it does where that does not hold."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import trio
import trio.testing
from outcome import Outcome

from durable_trio.platforms.hosts import driver as driver_module
from durable_trio.platforms.hosts.asyncio_host import AsyncioHost
from durable_trio.platforms.hosts.driver import Driver, GuestParts
from durable_trio.stores.threads import HOSTED, Linger, StoreThread
from tests.platforms.kit import run_in

pytestmark = pytest.mark.usefixtures("no_leaks")


async def guest(driver: Driver, main: Callable[[], Coroutine[Any, Any, Any]], **options: Any) -> Any:
    """Return what a main task of trio's returns in this loop."""
    ended: asyncio.Future[Outcome[Any]] = asyncio.get_running_loop().create_future()
    driver.start(main, ended.set_result, **options)
    return (await ended).unwrap()


def test_trio_has_what_the_driver_takes(monkeypatch: pytest.MonkeyPatch) -> None:
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


class Busy(AsyncioHost):
    """A loop that always has work, and counts its passes."""

    passes = 0

    def has_work(self) -> bool:
        return True


def test_a_busy_host_waits_for_a_thread_that_has_work(monkeypatch: pytest.MonkeyPatch) -> None:
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
            while not waited:  # noqa: ASYNC110  # the host does it
                await trio.sleep(0.001)
            goes_on.set()
        linger.end()
        assert lingers == set()
        thread.stop()

    async def main() -> None:
        await guest(Driver(Busy(asyncio.get_running_loop())), of_trio)

    run_in("asyncio", main)
    assert all(waited)


def test_code_in_a_turn_finds_no_running_loop() -> None:
    async def of_trio() -> None:
        with contextlib.suppress(RuntimeError):
            raise AssertionError(asyncio.get_running_loop())
        with contextlib.suppress(RuntimeError):
            raise AssertionError(asyncio.current_task())

    async def main() -> None:
        await guest(Driver(AsyncioHost(asyncio.get_running_loop())), of_trio)

    run_in("asyncio", main)
