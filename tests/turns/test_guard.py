"""The guard: waits of a body that are not durable are noticed and said once; durable waits and trio's own are not."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from durable_trio import Context, RunStatus, workflow
from tests.engine.harness import PATIENCE_SECONDS, serving, wait_parked
from tests.kit.traces import virtual

pytestmark = pytest.mark.usefixtures("no_leaks")

Body = Callable[[Context], Awaitable[object]]


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the engine warned of."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def line_of(fn: Any, text: str) -> str:
    """Return ``file:line`` of the line of a function that contains a text."""
    lines, first = inspect.getsourcelines(fn)
    (number,) = [first + index for index, line in enumerate(lines) if text in line]
    return f"{inspect.getsourcefile(fn)}:{number}"


# ---- what is noticed -----------------------------------------------------------------------------------------------


@workflow
async def napping(ctx: Context) -> str:
    await trio.sleep(5)  # not durable
    return "up"


@workflow
async def talking(ctx: Context) -> bytes:
    one, other = trio.socket.socketpair()
    with one, other:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_answer, other)
            return await one.recv(10)  # not durable


async def _answer(socket: trio.socket.SocketType) -> None:
    await trio.sleep(0.05)
    await socket.send(b"hello")


async def _deep() -> None:
    await trio.sleep(1)  # deep down


@workflow
async def calling_on(ctx: Context) -> None:
    await _deep()


@workflow
async def threading(ctx: Context) -> int:
    return await trio.to_thread.run_sync(lambda: 7)  # in a thread


async def test_a_bare_sleep_is_said_with_its_line(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    async with virtual(napping) as engine:
        assert await engine.run(napping) == "up"
    (warning,) = warnings_in(caplog)
    assert "'napping'" in warning
    assert line_of(napping.fn, "not durable") in warning
    assert "ctx.sleep" in warning


async def test_a_socket_and_the_branch_that_waits_for_it_are_said(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(":memory:", talking) as engine:
        with trio.fail_after(PATIENCE_SECONDS):
            await engine.run(talking)
    found = " ".join(warnings_in(caplog))
    assert line_of(talking.fn, "not durable") in found


async def test_the_line_is_the_innermost_of_the_users_code(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with virtual(calling_on) as engine:
        await engine.run(calling_on)
    (warning,) = warnings_in(caplog)
    assert line_of(_deep, "deep down") in warning


async def test_a_thread_of_the_bodys_own_is_said(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(":memory:", threading) as engine:
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.run(threading) == 7
    (warning,) = warnings_in(caplog)
    assert line_of(threading.fn, "in a thread") in warning


async def test_each_line_is_said_once_for_all_runs(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    @workflow
    async def twice(ctx: Context) -> None:
        for _ in range(3):
            await trio.sleep(1)  # first line
        await trio.sleep(1)  # second line

    async with virtual(twice) as engine:
        runs = [await engine.start(twice) for _ in range(5)]
        for run in runs:
            await run.result()
    warnings = warnings_in(caplog)
    assert len(warnings) == 2
    assert line_of(twice.fn, "first line") in warnings[0]
    assert line_of(twice.fn, "second line") in warnings[1]


async def test_a_foreign_wait_in_one_branch_is_said_while_another_waits_durably(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def durable(ctx: Context) -> None:
        await ctx.sleep(100)

    async def foreign(ctx: Context) -> None:
        await trio.sleep(10)  # in a branch

    @workflow
    async def both(ctx: Context) -> None:
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(durable)
            nursery.start_soon(foreign)

    async with virtual(both) as engine:
        await engine.run(both)
    (warning,) = warnings_in(caplog)
    assert line_of(foreign, "in a branch") in warning


async def test_a_run_with_a_foreign_wait_stays_in_memory_and_goes_on_by_itself(autojump_clock: MockClock) -> None:
    @workflow
    async def patient(ctx: Context) -> None:
        await trio.sleep(1000)

    async with virtual(patient) as engine:
        run = await engine.start(patient)
        await trio.sleep(500)
        assert (await engine.status()).resident_runs == 1
        await run.result()


# ---- strict --------------------------------------------------------------------------------------------------------


async def test_under_strict_the_run_is_parked_with_the_line(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with virtual(napping, strict=True) as engine:
        run = await engine.start(napping)
        record = await wait_parked(run)
        assert record.status is RunStatus.SUSPENDED
        assert record.problem is not None
        assert record.problem.kind == "foreign_wait"
        assert line_of(napping.fn, "not durable") in record.problem.text
        assert (await engine.status()).parked == (run.id,)
        assert (await engine.status()).resident_runs == 0
    (logged,) = warnings_in(caplog)
    assert logged.startswith(f"run {run.id!r} of workflow 'napping' is parked (foreign_wait): ")


@pytest.mark.parametrize(("workflows_own", "engines", "is_parked"), [(True, False, True), (False, True, False)])
async def test_the_workflows_own_choice_counts_more_than_the_engines(
    autojump_clock: MockClock, workflows_own: bool, engines: bool, is_parked: bool
) -> None:
    @workflow(strict=workflows_own)
    async def own(ctx: Context) -> str:
        await trio.sleep(5)
        return "up"

    async with virtual(own, strict=engines) as engine:
        run = await engine.start(own)
        if is_parked:
            assert (await wait_parked(run)).problem is not None
        else:
            assert await run.result() == "up"


async def test_what_was_recorded_before_the_wait_is_kept_for_the_mended_code(
    autojump_clock: MockClock,
) -> None:
    begun: list[int] = []

    async def begin() -> None:
        begun.append(1)

    @workflow(strict=True)
    async def mended(ctx: Context, is_mended: bool = False) -> str:
        await ctx.step("begin", begin)
        if not mend:
            await trio.sleep(5)
        return "up"

    mend = False
    async with virtual(mended) as engine:
        run = await engine.start(mended)
        await wait_parked(run)
        mend = True
        await engine.resume(run.id)
        assert await run.result() == "up"
    assert begun == [1]


# ---- what is not ---------------------------------------------------------------------------------------------------


async def _durable_waits(ctx: Context) -> None:
    async def work(number: int = 0) -> int:
        await trio.sleep(1)  # in a step function it is nobody's business
        return number

    await ctx.step("work", work)
    await ctx.sleep(10)
    with ctx.move_on_after(5):
        await ctx.wait_signal("never")
    await ctx.map("map", work, range(3))
    await ctx.publish("key", 1)


async def _nursery_exits(ctx: Context) -> None:
    async def slow(branch: Context) -> None:
        await branch.sleep(20)

    async with ctx.open_nursery() as nursery:
        nursery.start_soon(slow)
        nursery.start_soon(slow)
    async with trio.open_nursery() as plain, ctx.open_nursery() as nursery:
        plain.start_soon(trio.lowlevel.checkpoint)
        nursery.start_soon(slow)


async def _primitives_between_branches(ctx: Context) -> None:
    event, lock, condition = trio.Event(), trio.Lock(), trio.Condition()
    limiter, semaphore = trio.CapacityLimiter(1), trio.Semaphore(0)
    send, receive = trio.open_memory_channel[int](0)

    async def waiting(branch: Context) -> None:
        await event.wait()
        async with lock, limiter:
            await semaphore.acquire()
        async with condition:
            await condition.wait()
        assert [item async for item in receive] == [1, 2, 3]

    async def serving_it(branch: Context) -> None:
        async with lock:
            await branch.sleep(5)
            event.set()
            await branch.sleep(5)
        await branch.sleep(5)
        semaphore.release()
        await branch.sleep(5)
        async with condition:
            condition.notify_all()
        async with send:
            for item in (1, 2, 3):
                await branch.sleep(1)
                await send.send(item)

    async with ctx.open_nursery() as nursery:
        nursery.start_soon(waiting)
        nursery.start_soon(serving_it)


async def _checkpoints(ctx: Context) -> None:
    for _ in range(20):
        await trio.lowlevel.checkpoint()
    with trio.CancelScope(shield=True):
        await ctx.sleep(1)


@workflow
async def napped(ctx: Context) -> None:
    await ctx.sleep(30)


async def _children(ctx: Context) -> None:
    await ctx.run_child(napped)
    child = await ctx.start_child(napped)
    await child.result()
    await ctx.start_child(napped)


_SILENT: list[Body] = [_durable_waits, _nursery_exits, _primitives_between_branches, _checkpoints, _children]


@pytest.mark.parametrize("body", _SILENT, ids=lambda body: body.__name__.strip("_"))
async def test_nothing_is_said_of(body: Body, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    @workflow(strict=True)
    async def silent(ctx: Context) -> str:
        await body(ctx)
        return "through"

    async with virtual(silent, napped) as engine:
        run = await engine.start(silent)
        with trio.fail_after(3600):
            assert await run.result() == "through"
        assert (await run.record()).problem is None
    assert warnings_in(caplog) == []


async def test_cleaning_up_while_the_run_is_cancelled_is_noticed_as_well(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    @workflow
    async def tidy(ctx: Context) -> None:
        try:
            await ctx.wait_signal("never")
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(5)  # while it ends

    async with virtual(tidy) as engine:
        run = await engine.start(tidy)
        await trio.sleep(1)
        await run.cancel(wait=True)
    (warning,) = warnings_in(caplog)
    assert line_of(tidy.fn, "while it ends") in warning
