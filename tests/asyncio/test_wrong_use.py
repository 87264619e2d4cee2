"""What is called in the wrong place raises, changes nothing, and says what to write there."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, cast

import pytest
import trio

from durable_trio import Context, RunFailed, open_engine, workflow
from durable_trio.asyncio import Engine, from_asyncio, start_engine
from durable_trio.asyncio import open_engine as open_here
from tests.asyncio.kit import Kind, raised
from tests.engine.harness import PATIENCE_SECONDS
from tests.kit import forks
from tests.kit.loops import make_loop

pytestmark = [
    pytest.mark.usefixtures("no_leaks"),
    # What trio was given and cannot await; it may be found as garbage in a later test.
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
]

Runs = Callable[[Callable[[], Any]], Any]


@pytest.fixture(autouse=True, scope="module")
def no_garbage_is_left() -> Iterator[None]:
    """No such thing is found in tests of other files."""
    yield
    gc.collect()


async def nothing() -> None:
    await asyncio.sleep(0)


def test_a_call_from_another_thread_names_the_way_there(run: Runs, host: Kind) -> None:
    async def main() -> None:
        async with open_here(":memory:", host=host) as engine:
            error = await asyncio.to_thread(_in_new_loop, engine.status())
            assert "asyncio.run_coroutine_threadsafe(engine.start(…), loop).result()" in str(error)
            loop = asyncio.get_running_loop()
            done = await asyncio.to_thread(lambda: asyncio.run_coroutine_threadsafe(engine.status(), loop).result())
            assert done.resident_runs == 0

    run(main)


def _in_new_loop(call: Awaitable[object]) -> BaseException:
    return cast(BaseException, _of_new_loop(raised(call)))


def _of_new_loop(call: Awaitable[object]) -> object:
    loop = asyncio.SelectorEventLoop()
    try:
        return loop.run_until_complete(call)
    finally:
        loop.close()


def test_a_call_after_the_loop_was_closed_names_the_block(run: Runs, host: Kind) -> None:
    engines: list[Engine] = []

    async def main() -> None:
        async with open_here(":memory:", host=host) as engine:
            engines.append(engine)

    run(main)
    error = _in_new_loop(engines[0].status())
    assert "is closed" in str(error)
    assert "async with open_engine(…) as engine" in str(error)


def test_a_call_from_another_loop_of_the_thread_says_so(host: Kind) -> None:
    first, second = make_loop("asyncio")(), make_loop("asyncio")()
    engine = first.run_until_complete(start_engine(":memory:", host=host))
    try:
        error = second.run_until_complete(raised(engine.status()))
        assert "another event loop of this thread" in str(error)
    finally:
        second.close()
        first.run_until_complete(engine.aclose())
        first.close()


def test_a_second_loop_of_a_thread_has_no_guest_and_is_told_what_it_can_have() -> None:
    first, second = make_loop("asyncio")(), make_loop("asyncio")()
    engine = first.run_until_complete(start_engine(":memory:"))
    try:
        error = second.run_until_complete(raised(asyncio.wait_for(start_engine(":memory:"), 5)))
        assert 'open this one with host="thread"' in str(error)
        beside = second.run_until_complete(start_engine(":memory:", host="thread"))
        second.run_until_complete(beside.aclose())
    finally:
        first.run_until_complete(engine.aclose())
        first.close()
    again = second.run_until_complete(start_engine(":memory:"))
    second.run_until_complete(again.aclose())
    second.close()


def test_a_call_from_a_body_names_the_context(run: Runs, host: Kind) -> None:
    engines: list[Engine] = []

    @workflow
    async def calls(ctx: Context) -> None:
        await engines[0].status()

    async def main() -> None:
        async with open_here(":memory:", workflows=[calls], host=host) as engine:
            engines.append(engine)
            failure = await raised(engine.run(calls))
            assert isinstance(failure, RunFailed)
            if host == "guest":
                assert "use ctx there" in str(failure)

    run(main)


@pytest.mark.parametrize("waits", [Engine.aclose, Engine.wait_closed])
def test_who_waits_for_the_end_does_it_where_the_engine_is(
    run: Runs, host: Kind, waits: Callable[[Engine], Any]
) -> None:
    engines: list[Engine] = []

    async def in_trio() -> None:
        await waits(engines[0])

    async def in_asyncio() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(waits(engines[0]))

    @workflow
    async def calls(ctx: Context, is_trio: bool) -> None:
        await ctx.step("close", in_trio if is_trio else from_asyncio(in_asyncio))

    async def main() -> None:
        async with open_here(":memory:", workflows=[calls], host=host) as engine:
            engines.append(engine)
            error = await asyncio.to_thread(_in_new_loop, waits(engine))
            assert "asyncio.run_coroutine_threadsafe(" in str(error)
            assert "use ctx there" in str(await raised(engine.run(calls, True)))
            failure = await raised(engine.run(calls, False))
            assert "a step cannot wait for the end of its own engine" in "".join(traceback.format_exception(failure))
            await engine.status()
        await waits(engine)
        assert await asyncio.to_thread(_of_new_loop, waits(engine)) is None

    run(main)


def test_a_program_of_trio_is_told_which_opening_is_its_own(host: Kind) -> None:
    async def main() -> None:
        async with open_here(":memory:", host=host):
            raise AssertionError("it is open")

    with pytest.raises(RuntimeError, match=r"durable_trio\.open_engine"):
        trio.run(main)


LOOPS: list[asyncio.AbstractEventLoop] = []


async def in_nursery() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(asyncio.sleep, 1)


@pytest.mark.parametrize(
    "awaits",
    [
        lambda: asyncio.sleep(1),
        lambda: asyncio.sleep(0),
        lambda: asyncio.Future(loop=LOOPS[-1]),
        lambda: asyncio.wait_for(asyncio.sleep(1), 1),
        lambda: asyncio.to_thread(time.time),
        lambda: asyncio.Event().wait(),
        lambda: asyncio.Queue[int]().get(),
        lambda: asyncio.open_connection("127.0.0.1", 1),
        asyncio.get_running_loop,
        in_nursery,
    ],
)
def test_a_body_that_awaits_asyncio_fails_by_itself_and_is_told_what_to_write(
    run: Runs, host: Kind, awaits: Callable[[], Any]
) -> None:
    @workflow
    async def wrong(ctx: Context) -> None:
        await awaits()

    @workflow
    async def right(ctx: Context) -> int:
        return 1

    async def main() -> None:
        LOOPS.append(asyncio.get_running_loop())
        async with open_here(":memory:", workflows=[wrong, right], host=host) as engine:
            failure = await raised(engine.run(wrong))
            assert isinstance(failure, RunFailed)
            assert failure.__cause__ is not None
            told = traceback.format_exception(failure.__cause__)
            assert "write await ctx.step('name', from_asyncio(fn), …)" in "".join(told)
            assert await engine.run(right) == 1

    run(main)
    gc.collect()  # coroutines that nobody has awaited are warned of, and that is to be ignored here


def test_a_function_of_asyncio_is_for_steps_of_an_engine_in_asyncio(run: Runs, host: Kind) -> None:
    @workflow
    async def without_step(ctx: Context) -> None:
        await from_asyncio(nothing)()

    @workflow
    async def with_step(ctx: Context) -> None:
        await ctx.step("x", from_asyncio(nothing))

    async def main() -> None:
        async with open_here(":memory:", workflows=[without_step], host=host) as engine:
            assert "write await ctx.step('nothing', …)" in str(await raised(engine.run(without_step)))

    async def native() -> None:
        async with open_engine(":memory:", workflows=[with_step]) as engine:
            with pytest.raises(RunFailed, match=r"open it with durable_trio\.asyncio\.open_engine"):
                await engine.run(with_step)

    run(main)
    trio.run(native)
    with pytest.raises(TypeError, match="async def"):
        from_asyncio(threading.Event().set)  # type: ignore[arg-type]


LEFT_OPEN = """
import asyncio, sys
from durable_trio.asyncio import start_engine

loop = asyncio.new_event_loop()
engine = loop.run_until_complete(start_engine(":memory:", host=sys.argv[1]))
if sys.argv[2] == "closed":
    loop.run_until_complete(engine.aclose())
loop.stop()
loop.run_forever()
"""


@pytest.mark.parametrize("left", ["open", "closed"])
def test_a_program_that_ends_with_an_engine_open_says_so(host: Kind, left: str) -> None:
    command = [sys.executable, "-c", LEFT_OPEN, host, left]
    done = forks.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert done.returncode == 0
    assert ("await engine.aclose(), before the loop is closed" in done.stderr) == (left == "open"), done.stderr


# What is left behind of the engine is left behind for good: so in a process of its own.
CLOSED_OVER = """
import asyncio
from durable_trio.asyncio import start_engine

async def begin():
    return await start_engine(":memory:")

loop = asyncio.new_event_loop()
engine = loop.run_until_complete(begin())
engine._life.guard._log_destroy_pending = False  # asyncio's own word of it
loop.close()
again = asyncio.new_event_loop()
try:
    again.run_until_complete(begin())
except Exception as error:
    print(error)
another = again.run_until_complete(begin())
again.run_until_complete(another.aclose())
again.close()
print("closed", flush=True)
import os
os._exit(0)
"""


def test_a_loop_that_was_closed_over_an_engine_is_named_at_the_next_one() -> None:
    said = forks.run([sys.executable, "-c", CLOSED_OVER], capture_output=True, text=True, timeout=60).stdout
    assert "before the loop is closed" in said
    assert said.splitlines()[-1] == "closed"
