"""What programs in asyncio bring along: anyio and what is built on it, eager tasks, the loop's debug mode."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
import sniffio
import trio

from durable_trio import Context, RunFailed, RunStatus, current_step, workflow
from durable_trio.asyncio import Engine, from_asyncio, open_engine, start_engine
from durable_trio.engine.watching import Changes
from tests.asyncio.kit import Kind, until
from tests.kit.loops import LOOPS, run_in

pytestmark = pytest.mark.usefixtures("no_leaks")

Runs = Callable[[Callable[[], Any]], Any]


async def in_trio(number: int) -> str:
    await trio.lowlevel.checkpoint()
    return f"{number} {sniffio.current_async_library()} {current_step().key}"


async def in_asyncio(number: int) -> str:
    await asyncio.sleep(0)
    return f"{number} {sniffio.current_async_library()} {current_step().key}"


@workflow(signals={"go": int})
async def mixed(ctx: Context) -> list[str]:
    number = await ctx.wait_signal("go", int)
    return [await ctx.step("t", in_trio, number), await ctx.step("a", from_asyncio(in_asyncio), number)]


MIXED = ["3 trio t#0", "3 asyncio a#0"]


# ---- anyio -----------------------------------------------------------------------------------------------------------


class Counted(asyncio.Task[Any]):
    """A task that counts how often it is cancelled: a scope of anyio's does that in each pass of the loop."""

    count = 0

    def cancel(self, msg: object = None) -> bool:
        self.count += 1
        return super().cancel(msg)


async def lasts(began: threading.Event) -> None:
    """Take some time, whatever is cancelled."""
    began.set()
    with trio.CancelScope(shield=True):
        await trio.sleep(0.03)


async def waits_for_a_call(engine: Engine, began: threading.Event) -> None:
    await engine._call(lambda: lasts(began))


async def leaves_a_watch(engine: Engine, began: threading.Event) -> None:
    watch = engine.watch()
    native = watch._held._manager

    @asynccontextmanager
    async def lasts_at_its_end() -> AsyncIterator[Changes]:
        async with native() as changes:
            try:
                yield changes
            finally:
                await lasts(began)

    watch._held._manager = lasts_at_its_end
    async with watch:
        pass


async def closes(engine: Engine, began: threading.Event) -> None:
    @workflow
    async def slow(ctx: Context) -> None:
        await ctx.step("slow", lambda: lasts(began))

    other = await start_engine(":memory:", workflows=[slow], host="guest" if trio.lowlevel.in_trio_run() else "thread")
    await other.start(slow)
    await until(began.is_set)
    await other.aclose()


@pytest.mark.parametrize("waits", [waits_for_a_call, leaves_a_watch, closes])
def test_a_scope_cancels_once_what_is_waited_for(
    run: Runs, host: Kind, waits: Callable[[Engine, threading.Event], Awaitable[None]]
) -> None:
    """Else the loop would spin, as long as trio takes to come to the end."""

    async def main() -> None:
        async with open_engine(":memory:", host=host) as engine:
            began = threading.Event()

            async def in_a_scope() -> None:
                with anyio.CancelScope() as scope:
                    async with anyio.create_task_group() as beside:

                        async def cancels() -> None:
                            await until(began.is_set)
                            scope.cancel()

                        beside.start_soon(cancels)
                        await waits(engine, began)
                assert scope.cancelled_caught

            task = Counted(in_a_scope())
            await task
            assert 1 <= task.count < 6

    run(main)


def test_a_scope_that_ends_a_block_lets_the_steps_in_hand_finish(run: Runs, host: Kind) -> None:
    """It cancels what goes on waiting, again and again: that is no second cancel, which would stop at once."""
    began = threading.Event()
    ended: list[int] = []

    async def slow() -> None:
        began.set()
        await trio.sleep(0.03)
        ended.append(1)

    @workflow
    async def one_step(ctx: Context) -> None:
        await ctx.step("slow", slow)

    async def main() -> None:
        with anyio.CancelScope() as scope:
            async with open_engine(":memory:", workflows=[one_step], host=host, grace_seconds=1000) as engine:
                await engine.start(one_step)
                await until(began.is_set)
                scope.cancel()
                await asyncio.sleep(3600)
        assert scope.cancelled_caught
        assert ended == [1]

    run(main)


def test_task_groups_and_threads_of_anyio_call_and_are_steps(run: Runs, host: Kind) -> None:
    async def both() -> list[int]:
        found: list[int] = []

        async def finds(number: int) -> None:
            found.append(await anyio.to_thread.run_sync(lambda: number))

        async with anyio.create_task_group() as group:
            for number in (1, 2):
                group.start_soon(finds, number)
        return sorted(found)

    async def hangs() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)

    @workflow
    async def steps(ctx: Context) -> list[list[int]]:
        with ctx.move_on_after(0.01):
            await ctx.step("hangs", from_asyncio(hangs))
        return [await ctx.step("asyncio", from_asyncio(both)), await ctx.step("trio", both)]

    async def main() -> None:
        async with open_engine(":memory:", workflows=[steps], host=host) as engine:
            async with anyio.create_task_group() as group:
                group.start_soon(engine.run, steps)
                # A sync function of a framework's, in a thread of anyio's.
                assert await anyio.to_thread.run_sync(anyio.from_thread.run, engine.run, steps) == [[1, 2], [1, 2]]

    run(main)


def test_an_engine_lives_in_a_portal(host: Kind) -> None:
    """As in a test client of a framework's: the loop is in another thread than the test."""
    with anyio.from_thread.start_blocking_portal() as portal:
        opening = portal.call(lambda: _opening(host))
        with portal.wrap_async_context_manager(opening) as engine:
            begun = portal.call(engine.start, mixed)
            portal.call(begun.signal, "go", 3)
            assert portal.call(begun.result) == MIXED


async def _opening(host: Kind) -> Any:
    return open_engine(":memory:", workflows=[mixed], host=host)


# ---- httpx -----------------------------------------------------------------------------------------------------------


async def _answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    answer = b"to " + head.split()[1]
    writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(answer), answer))
    await writer.drain()
    writer.close()


def test_httpx_asks_in_both_kinds_of_step_of_one_run(run: Runs, host: Kind) -> None:
    httpx = pytest.importorskip("httpx")

    async def asks(url: str) -> str:
        async with httpx.AsyncClient(trust_env=False) as client:
            return f"{sniffio.current_async_library()}: {(await client.get(url)).text}"

    @workflow
    async def asks_twice(ctx: Context, url: str) -> list[str]:
        return [await ctx.step("a", from_asyncio(asks), f"{url}/a"), await ctx.step("t", asks, f"{url}/t")]

    async def main() -> None:
        server = await asyncio.start_server(_answers, "127.0.0.1")
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, open_engine(":memory:", workflows=[asks_twice], host=host) as engine:
            asked, own = await asyncio.gather(engine.run(asks_twice, url), asks(f"{url}/h"))
        assert asked == ["asyncio: to /a", "trio: to /t"]
        assert own == "asyncio: to /h"

    run(main)


# ---- the loop's own --------------------------------------------------------------------------------------------------


async def _uses_all(host: Kind) -> None:
    """Use each way over: calls, blocks, iterators, tasks of the loop's for steps, a call that is cancelled."""
    async with open_engine(":memory:", workflows=[mixed], host=host) as engine:
        begun = await engine.start(mixed)
        task = asyncio.create_task(begun.result())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        async with begun.watch() as changes:
            await asyncio.create_task(begun.signal("go", 3))
            seen = [record.status async for record in changes]
        assert seen[-1] is RunStatus.COMPLETED
        for result in await asyncio.gather(begun.result(), asyncio.create_task(begun.result())):
            assert result == MIXED
    other = await start_engine(":memory:", host=host)
    await other.status()
    await other.aclose()


@pytest.mark.parametrize("loop", LOOPS)
def test_debug_mode_finds_nothing(loop: str, host: Kind, caplog: pytest.LogCaptureFixture) -> None:
    """It looks for calls from wrong threads, among others, and tells of it by errors and in the log."""
    with caplog.at_level("DEBUG", "asyncio"):
        run_in(loop, lambda: _uses_all(host), debug=True)
    assert not [record for record in caplog.records if record.levelno > 10 and "took" not in record.getMessage()]


def test_a_task_factory_that_fails_fails_the_step(run: Runs, host: Kind) -> None:
    def refuses(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
        raise LookupError("no task for you")

    @workflow
    async def one_step(ctx: Context) -> None:
        await ctx.step("a", from_asyncio(in_asyncio), 1)

    async def main() -> None:
        async with open_engine(":memory:", workflows=[one_step], host=host) as engine:
            begun = await engine.start(one_step, delay=0.01)
            asyncio.get_running_loop().set_task_factory(refuses)
            with pytest.raises(RunFailed, match="no task for you"):
                await begun.result()
            asyncio.get_running_loop().set_task_factory(None)

    run(main)


def _use_eager_tasks() -> None:
    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]
    coroutine = asyncio.sleep(0)
    try:
        loop.create_task(coroutine)  # noqa: RUF006  # it has ended
    except TypeError:
        coroutine.close()
        loop.set_task_factory(None)
        pytest.skip("this version of uvloop gives the factory of this Python what it does not take")


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
def test_eager_tasks_run_nothing_inside_of_trio(run: Runs, host: Kind) -> None:
    async def eager() -> str:
        return sniffio.current_async_library()

    @workflow
    async def one_step(ctx: Context) -> str:
        return await ctx.step("x", from_asyncio(eager))

    async def main() -> None:
        _use_eager_tasks()
        async with open_engine(":memory:", workflows=[one_step], host=host) as engine:
            assert await engine.run(one_step) == "asyncio"
        await asyncio.create_task(_uses_all(host))

    run(main)
