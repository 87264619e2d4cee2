"""Openings and closings of a loop's engines, in whatever order they come, and beside a trio that is there already."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest
import trio
from outcome import Outcome

from durable_trio import Context, workflow
from durable_trio.asyncio import from_asyncio, open_engine, start_engine
from durable_trio.platforms.hosts.asyncio_host import AsyncioHost
from durable_trio.platforms.hosts.driver import Driver
from tests.asyncio.kit import Kind, raised, until

pytestmark = pytest.mark.usefixtures("no_leaks")

Runs = Callable[[Callable[[], Any]], Any]

# More than an opening takes, and a closing.
PASSES = 10


async def give_way(passes: int) -> None:
    """Let the loop make so many passes."""
    for _ in range(passes):
        await asyncio.sleep(0)


async def nothing() -> str:
    await asyncio.sleep(0)
    return "done"


@workflow
async def one_step(ctx: Context) -> str:
    return await ctx.step("x", from_asyncio(nothing))


def trio_threads() -> int:
    """Return how many threads have a trio of ours."""
    return sum(thread.name == "durable_trio" for thread in threading.enumerate())


def test_an_opening_that_is_cancelled_is_cancelled(run: Runs, host: Kind) -> None:
    """At any instant: no cancel is lost, and nothing of the engine is left."""

    async def holds() -> None:
        async with open_engine(":memory:", host=host):
            await asyncio.sleep(3600)

    async def main() -> None:
        for passes in range(PASSES):
            task = asyncio.create_task(holds())
            await give_way(passes)
            task.cancel()
            assert isinstance(await raised(task), asyncio.CancelledError)
        await until(lambda: trio_threads() == 0)

    run(main)


def test_engines_that_open_at_once_share_one_trio(run: Runs, host: Kind) -> None:
    async def main() -> None:
        engines = await asyncio.gather(*(start_engine(":memory:", workflows=[one_step], host=host) for _ in range(4)))
        assert trio_threads() == (host == "thread")
        assert [await engine.run(one_step) for engine in engines] == ["done"] * 4
        await asyncio.gather(*(engine.aclose() for engine in engines))
        await until(lambda: trio_threads() == 0)

    run(main)


def test_an_engine_opens_while_the_last_one_closes(run: Runs, host: Kind) -> None:
    async def main() -> None:
        for passes in range(PASSES):
            last = await start_engine(":memory:", host=host)
            closes = asyncio.create_task(last.aclose())
            await give_way(passes)
            async with open_engine(":memory:", workflows=[one_step], host=host) as engine:
                await closes
                assert await engine.run(one_step) == "done"

    run(main)


def test_a_trio_that_cannot_begin_says_why_to_all(run: Runs, host: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise OSError("no more descriptors")

    async def main() -> None:
        with monkeypatch.context() as patched:
            patched.setattr(trio, "run", fails)
            patched.setattr(trio.lowlevel, "start_guest_run", fails)
            opened = [start_engine(":memory:", host=host) for _ in range(2)]
            for error in await asyncio.gather(*opened, return_exceptions=True):
                assert isinstance(error, OSError)
        async with open_engine(":memory:", workflows=[one_step], host=host) as engine:
            assert await engine.run(one_step) == "done"

    run(main)


# ---- beside the guest of somebody else -------------------------------------------------------------------------------


class Guest:
    """A trio run that somebody else has made the loop's guest, with trio's own ticks or this package's driver."""

    def __init__(self, is_stock: bool) -> None:
        self.outcome: Outcome[Any] | None = None
        self.leaves = trio.Event()
        self._driver = Driver(AsyncioHost(asyncio.get_running_loop()), is_stock=is_stock)
        self._driver.start(self.leaves.wait, self._told)

    def _told(self, outcome: Outcome[Any]) -> None:
        self.outcome = outcome

    async def end(self) -> None:
        """Have its main task return, and wait until it is over."""
        self.leaves.set()
        await until(lambda: self.outcome is not None)


@pytest.mark.parametrize("is_stock", [True, False])
def test_an_engine_joins_the_guest_of_somebody_else(run: Runs, is_stock: bool) -> None:
    """One after the other, and it is left as it was."""

    async def main() -> None:
        guest = Guest(is_stock)
        for _ in range(2):
            async with open_engine(":memory:", workflows=[one_step]) as engine:
                assert await engine.run(one_step) == "done"
            assert guest.outcome is None
            assert trio.lowlevel.in_trio_run()
        await guest.end()

    run(main)


def test_a_guest_of_somebody_else_that_ends_too_soon_is_named(run: Runs) -> None:
    async def main() -> None:
        guest = Guest(False)
        with pytest.raises(RuntimeError, match="was this loop's guest has ended, with the engine in it"):  # noqa: PT012
            async with open_engine(":memory:", workflows=[one_step]):
                await guest.end()
                await asyncio.sleep(3600)
        await guest.end()
        async with open_engine(":memory:", workflows=[one_step]) as engine:
            assert await engine.run(one_step) == "done"

    run(main)


def test_what_is_asked_of_a_guest_that_is_ending_is_refused(run: Runs) -> None:
    """At any instant of its end: the engine drains and is named, another one is opened or refused."""

    async def asks() -> None:
        async with open_engine(":memory:", workflows=[one_step]) as engine:
            with contextlib.suppress(trio.ClosedResourceError):
                while True:
                    await engine.run(one_step)

    async def main() -> None:
        for passes in range(PASSES):
            guest = Guest(False)
            asking = asyncio.create_task(asks())
            await give_way(3 * PASSES)
            guest.leaves.set()
            await give_way(passes)
            opened = asyncio.create_task(start_engine(":memory:"))
            assert isinstance(await raised(asking), RuntimeError | trio.ClosedResourceError)
            (refused,) = await asyncio.gather(opened, return_exceptions=True)
            if isinstance(refused, BaseException):
                assert isinstance(refused, RuntimeError | trio.ClosedResourceError)
            else:
                await refused.aclose()
            await guest.end()

    run(main)
