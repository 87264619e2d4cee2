"""What a program in asyncio sees of an engine: values, errors, cancellation, its own variables; on every host."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import anyio
import pytest
import sniffio
import trio

from durable_trio import Context, RunFailed, RunNotFound, RunStatus, current_step, workflow
from durable_trio.asyncio import from_asyncio, open_client, open_engine, start_engine
from tests.asyncio.kit import Kind, raised, until

pytestmark = pytest.mark.usefixtures("no_leaks")

Runs = Callable[[Callable[[], Any]], Any]
WHO: ContextVar[str] = ContextVar("who", default="nobody")


async def double(number: int) -> int:
    await trio.lowlevel.checkpoint()
    return 2 * number


@workflow
async def quadruple(ctx: Context, number: int) -> int:
    return await ctx.step("second", double, await ctx.step("first", double, number))


@workflow(signals={"go": int})
async def waits(ctx: Context) -> int:
    await ctx.publish("at", "the signal")
    return await ctx.wait_signal("go", int)


@workflow
async def fails(ctx: Context) -> None:
    raise LookupError("there is none")


def test_values_signals_and_published_ones_cross(run: Runs, host: Kind) -> None:
    async def main() -> None:
        async with open_engine(":memory:", workflows=[quadruple, waits], host=host) as engine:
            assert await engine.run(quadruple, 3) == 12
            begun = await engine.start(waits, id="w")
            assert begun.id == "w"
            async with begun.watch() as changes:
                async for record in changes:
                    if record.values.get("at"):
                        assert changes.cursor
                        await engine.signal_with_start(waits, signal="go", payload=7, id="w", signal_id="only")
            assert record.status is RunStatus.COMPLETED
            assert await begun.result() == 7
            assert await begun.value("at", str) == "the signal"
            assert [step.key for step in await begun.steps()][-1:] == ["go#0"]
            assert {each.id for each in (await engine.list_runs(workflow=waits)).runs} == {"w"}
            assert (await engine.tree()).name == "engine"
            assert "store" in await engine.format_tree()
            bulk = engine.delete_runs(status="completed")
            assert len(await bulk.find()) == 2
            assert [progress.done_count async for progress in bulk] == [1, 2]
            with pytest.raises(ValueError, match="no filter"):
                await anext(engine.cancel_runs())

    run(main)


def test_errors_come_as_themselves_with_both_halves_of_the_way(run: Runs, host: Kind) -> None:
    async def main() -> None:
        async with open_engine(":memory:", workflows=[fails], host=host) as engine:
            failure = await raised(engine.run(fails))
            assert isinstance(failure, RunFailed)
            assert isinstance(failure.error, LookupError)
            frames: list[str] = []
            trace = failure.__traceback__
            while trace is not None:
                frames.append(trace.tb_frame.f_code.co_name)
                trace = trace.tb_next
            assert "raised" in frames
            assert "result_of" in frames
            assert isinstance(await raised(engine.get("nobody").record()), RunNotFound)

    run(main)


def test_a_wait_that_is_cancelled_ends_and_the_run_does_not(run: Runs, host: Kind) -> None:
    async def main() -> None:
        async with open_engine(":memory:", workflows=[waits], host=host) as engine:
            begun = await engine.start(waits)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await begun.result()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(begun.result(), 0.01)
            task = asyncio.create_task(begun.result())
            await asyncio.sleep(0)
            task.cancel()
            assert isinstance(await raised(task), asyncio.CancelledError)
            assert not (await begun.record()).status.is_final
            await begun.signal("go", 1)
            assert await begun.result() == 1

    run(main)


def test_a_write_that_is_cancelled_is_committed_or_never_was(run: Runs, host: Kind) -> None:
    async def main() -> None:
        async with open_engine(":memory:", workflows=[waits], host=host) as engine:
            cancelled = 0
            for number in range(30):
                task = asyncio.create_task(engine.start(waits, id=str(number)))
                for _ in range(number % 6):
                    await asyncio.sleep(0)
                task.cancel()
                cancelled += isinstance(await asyncio.gather(task, return_exceptions=True), list) and task.cancelled()
                if not task.cancelled():
                    await engine.get(str(number)).record()
            assert cancelled
            for record in (await engine.list_runs()).runs:
                assert await engine.cancel(record.id)

    run(main)


def test_scopes_of_anyio_end_calls_and_blocks_without_spinning(run: Runs, host: Kind) -> None:
    began = threading.Event()
    cancels: list[object] = []

    class Counted(asyncio.Task[Any]):
        def cancel(self, msg: object = None) -> bool:
            cancels.append(msg)
            return super().cancel(msg)

    async def slow() -> None:
        began.set()
        with trio.CancelScope(shield=True):
            await trio.sleep(0.2)

    @workflow
    async def takes_its_time(ctx: Context) -> None:
        await ctx.step("slow", slow)

    async def main() -> None:
        async with open_engine(":memory:", workflows=[waits], host=host) as engine:
            with anyio.move_on_after(0.01) as scope:
                await engine.run(waits)
            assert scope.cancelled_caught

        async def in_a_scope() -> None:
            with anyio.CancelScope() as scope:
                async with open_engine(":memory:", workflows=[takes_its_time], host=host) as engine:
                    await engine.start(takes_its_time)
                    await until(began.is_set)
                    scope.cancel()
                    await asyncio.sleep(60)
            assert scope.cancelled_caught

        await Counted(in_a_scope())
        assert len(cancels) < 10, "it is cancelled in each pass while it drains"

    run(main)


def test_a_function_of_asyncio_is_a_step(run: Runs, host: Kind) -> None:
    seen: dict[str, Any] = {}

    async def of_asyncio(number: int) -> int:
        await asyncio.sleep(0)
        seen["in"] = sniffio.current_async_library(), asyncio.get_running_loop(), WHO.get(), current_step().key
        return number + 1

    async def of_trio() -> str:
        await trio.lowlevel.checkpoint()
        return sniffio.current_async_library()

    async def breaks() -> None:
        await asyncio.sleep(0)
        raise KeyError("lost")

    @workflow
    async def mixed(ctx: Context) -> list[Any]:
        WHO.set("the body")
        result = [sniffio.current_async_library(), await ctx.step("plus", from_asyncio(of_asyncio), 1)]
        try:
            await ctx.step("breaks", from_asyncio(breaks))
        except KeyError as error:
            result.append(str(error))
        return [*result, await ctx.step("trio", of_trio)]

    async def main() -> None:
        WHO.set("a request")
        async with open_engine(":memory:", workflows=[mixed], host=host) as engine:
            assert await engine.run(mixed) == ["trio", 2, "'lost'", "trio"]
            assert seen["in"] == ("asyncio", asyncio.get_running_loop(), "the body", "plus#0")
            assert sniffio.current_async_library() == "asyncio"

    run(main)


def test_a_step_that_is_cancelled_has_its_task_cancelled_and_waited_for(run: Runs, host: Kind) -> None:
    cleaned: list[str] = []

    async def stubborn(returns: bool) -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)
            cleaned.append("cleaned")
            if not returns:
                raise
        return "all the same"

    @workflow
    async def timed(ctx: Context, returns: bool) -> str:
        return await ctx.step("stubborn", from_asyncio(stubborn), returns, timeout=0.02)

    async def main() -> None:
        async with open_engine(":memory:", workflows=[timed], host=host) as engine:
            failure = await raised(engine.run(timed, False))
            assert isinstance(failure, RunFailed)
            assert "timeout" in str(failure)
            assert await engine.run(timed, True) == "all the same"
            assert len(cleaned) == 2

    run(main)


def test_what_a_function_awaited_that_was_cancelled_is_its_failure(run: Runs, host: Kind) -> None:
    async def awaits_cancelled() -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    @workflow
    async def goes_on(ctx: Context) -> str:
        try:
            await ctx.step("x", from_asyncio(awaits_cancelled))
        except RuntimeError as error:
            return str(error)
        return ""

    async def main() -> None:
        async with open_engine(":memory:", workflows=[goes_on], host=host) as engine:
            assert "awaited something that was cancelled" in await engine.run(goes_on)

    run(main)


def test_a_task_that_others_cancel_leaves_no_outcome(run: Runs, host: Kind, new_file: Callable[[], str]) -> None:
    path, count = new_file(), 0

    async def cancelled_once() -> str:
        nonlocal count
        count += 1
        if count == 1:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(60)
        return "done"

    @workflow
    async def one_step(ctx: Context) -> str:
        return await ctx.step("x", from_asyncio(cancelled_once))

    async def main() -> None:
        async with open_engine(path, workflows=[one_step], host=host) as engine:
            await engine.start(one_step, id="x")
            await until(lambda: count == 1)
        async with open_engine(path, workflows=[one_step], host=host) as engine:
            assert await engine.get("x", one_step).result() == "done"
            (step,) = await engine.get("x").steps()
            assert step.attempt == 1

    run(main)


def test_errors_of_the_block_and_of_opening_come_as_themselves(run: Runs, host: Kind, tmp_path: Any) -> None:
    async def main() -> None:
        with pytest.raises(LookupError):
            async with open_engine(":memory:", host=host):
                raise LookupError
        with pytest.raises(TypeError, match="workflow"):
            async with open_engine(":memory:", workflow=[], host=host):  # type: ignore[call-arg]
                pass
        with pytest.raises(ValueError, match="choose 'guest'"):
            async with open_engine(":memory:", host="elsewhere"):  # type: ignore[arg-type]
                pass
        (tmp_path / "other").write_text("no database")
        from durable_trio import NotADatabase

        with pytest.raises(NotADatabase):
            async with open_engine(tmp_path / "other", host=host):
                pass

    run(main)


def test_an_engine_that_fails_ends_its_block(run: Runs, host: Kind) -> None:
    async def main() -> None:
        with pytest.raises(ExceptionGroup, match="the engine has failed"):  # noqa: PT012  # it ends in the middle
            async with open_engine(":memory:", host=host) as engine:
                native = engine._life.native
                failure = RuntimeError("no more")
                engine._life.bridge.to_trio(lambda: native._client.services_in_use().give_up(failure))
                await asyncio.sleep(60)
        task = asyncio.current_task()
        assert task is not None
        assert not task.cancelling()

    run(main)


def test_two_engines_share_a_loop(run: Runs, host: Kind) -> None:
    async def main() -> None:
        async with open_engine(":memory:", workflows=[quadruple], host=host) as one:
            async with open_engine(":memory:", workflows=[quadruple], host=host) as two:
                assert list(await asyncio.gather(one.run(quadruple, 1), two.run(quadruple, 2))) == [4, 8]
            assert await one.run(quadruple, 3) == 12

    run(main)


def test_a_client_starts_what_another_engine_executes(run: Runs, host: Kind, new_file: Callable[[], str]) -> None:
    path = new_file()

    async def main() -> None:
        async with open_engine(path, workflows=[quadruple], host=host), open_client(path, host=host) as client:
            assert await client.run(quadruple, 2) == 8

    run(main)


def test_an_engine_may_be_left_in_another_task(run: Runs, host: Kind) -> None:
    async def main() -> None:
        engine = await start_engine(":memory:", workflows=[quadruple], host=host)
        closed = asyncio.create_task(engine.wait_closed())
        assert await engine.run(quadruple, 1) == 4
        await asyncio.create_task(engine.aclose())
        await engine.aclose()
        await closed
        with pytest.raises(trio.ClosedResourceError):
            await engine.status()

    run(main)


def test_an_engine_that_nobody_closes_drains_when_the_loop_ends(
    run: Runs, host: Kind, new_file: Callable[[], str]
) -> None:
    ended: list[int] = []
    path, began = new_file(), threading.Event()

    async def slow() -> None:
        began.set()
        await trio.sleep(0.05)
        ended.append(1)

    @workflow
    async def one_step(ctx: Context) -> None:
        await ctx.step("slow", slow)

    async def main() -> None:
        engine = await start_engine(path, workflows=[one_step], host=host)
        await engine.start(one_step)
        await until(began.is_set)

    run(main)
    assert ended == [1]


def test_a_second_cancel_of_the_leaving_task_stops_at_once(run: Runs, host: Kind, new_file: Callable[[], str]) -> None:
    began = threading.Event()

    async def for_ever() -> None:
        began.set()
        await trio.sleep_forever()

    @workflow
    async def one_step(ctx: Context) -> None:
        await ctx.step("slow", for_ever)

    async def holds() -> None:
        async with open_engine(new_file(), workflows=[one_step], host=host, grace_seconds=1000) as engine:
            await engine.run(one_step)

    async def main() -> None:
        task = asyncio.create_task(holds())
        await until(began.is_set)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=0.05)
        assert not done, "it drains"
        task.cancel()
        assert isinstance(await raised(task), asyncio.CancelledError)

    run(main)


def test_nothing_is_left_that_only_the_garbage_collector_finds(run: Runs, host: Kind) -> None:
    async def main() -> None:
        async with open_engine(":memory:", workflows=[quadruple], host=host) as engine:
            await engine.run(quadruple, 1)

    run(main)
    gc.collect()  # warnings are errors here
