"""What comes out of an inline block whose run is taken from it: the error is named after what has taken it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest
import trio

from durable_trio import (
    Context,
    DurableError,
    Engine,
    NonDeterminismError,
    OwnershipLost,
    RunCancelled,
    RunConflict,
    StoreCorrupt,
    StoreError,
)
from durable_trio.rules.damage import damaged
from durable_trio.stores.contract import ReapExecutor
from tests.engine.harness import executor_of, serving

pytestmark = pytest.mark.usefixtures("no_leaks")

Body = Callable[[Context], Awaitable[object]]


async def note(value: str) -> str:
    return value


async def for_ever() -> None:
    await trio.sleep_forever()


async def wait(ctx: Context) -> None:
    await ctx.wait_signal("never")


async def own_code(_: Context) -> None:
    await trio.sleep_forever()


async def a_step(ctx: Context) -> None:
    await ctx.step("long", for_ever)


async def in_nurseries(ctx: Context) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        await ctx.wait_signal("never")


PLACES = pytest.mark.parametrize("body", [wait, own_code, a_step, in_nurseries])


async def taken(engine: Engine, body: Body, take: Callable[[], Awaitable[object]]) -> BaseException:
    """Return what comes out of a block in which this happens while its body is where it is."""
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:

            async def take_soon() -> None:
                await trio.testing.wait_all_tasks_blocked(0.02)
                await take()

            try:
                async with engine.inline("script") as ctx:
                    await ctx.step("one", note, "first")
                    nursery.start_soon(take_soon)
                    await body(ctx)
            except (Exception, BaseExceptionGroup) as error:
                return error
    raise AssertionError("it was not taken")


def inside(engine: Engine) -> Any:
    """Return the run as its executor has it."""
    return executor_of(engine).runs._by_id["script"]


async def goes_on(engine: Engine) -> None:
    """The run can be entered again, with what is stored of it."""
    async with engine.inline("script") as ctx:
        assert await ctx.step("one", note, "again") == "first"


@PLACES
async def test_abandoned_it_says_so_as_the_result_of_the_run_does(body: Body, file_path: str) -> None:
    async with serving(file_path) as engine:
        error = await taken(engine, body, lambda: engine.abandon("script", reason="it is for nobody"))
        assert isinstance(error, RunCancelled)
        assert error.abandoned
        assert (error.reason, error.run_id) == ("it is for nobody", "script")


async def test_a_block_that_ends_before_what_is_recorded_has_diverged(file_path: str) -> None:
    async with serving(file_path) as engine:
        with suppress(ZeroDivisionError):
            async with engine.inline("script") as ctx:
                await ctx.step("one", note, "first")
                raise ZeroDivisionError
        with pytest.raises(NonDeterminismError, match="the body has ended") as caught:
            async with engine.inline("script"):
                pass
        record = await engine.get("script").record()
        assert record.problem is not None
        assert str(caught.value) == record.problem.text
        await goes_on(engine)


async def test_what_is_damaged_in_its_rows_is_a_conflict_as_at_its_door(file_path: str) -> None:
    async with serving(file_path) as engine:

        async def find_damage() -> None:
            inside(engine).refuse(damaged("script", "a signal cannot be read"))

        error = await taken(engine, wait, find_damage)
        assert isinstance(error, RunConflict)
        assert "a signal cannot be read" in str(error)


@PLACES
async def test_a_fault_of_ours_is_named_with_its_cause(body: Body, file_path: str) -> None:
    async with serving(file_path) as engine:

        async def fail() -> None:
            inside(engine).failed(ZeroDivisionError("in the turns"))

        error = await taken(engine, body, fail)
        assert type(error) is DurableError
        assert "met a fault of this library" in str(error)
        assert isinstance(error.__cause__, ZeroDivisionError)
        record = await engine.get("script").record()
        assert record.problem is not None
        assert record.problem.kind == "internal_error"


@PLACES
async def test_taken_for_dead_it_was_taken_from_its_block_and_says_what_to_do(body: Body, file_path: str) -> None:
    async with serving(file_path, lease_seconds=1.5) as engine:

        async def reap() -> None:
            services = engine._client.services_in_use()
            executor = executor_of(engine).id
            assert executor is not None
            now = services.settings.clock.stamp()
            await services.writer.write(ReapExecutor(executor=executor, now=now))

        error = await taken(engine, body, reap)
        assert isinstance(error, OwnershipLost)
        assert str(error).startswith("run 'script' was taken from its block")
        assert str(error).endswith("enter it again, and it goes on from its last stored step")


@PLACES
@pytest.mark.parametrize("is_final", [False, True])
async def test_an_error_of_the_store_comes_as_itself(body: Body, is_final: bool, file_path: str) -> None:
    """A crash of its writer, after which the engine goes on, and damage, after which it does not."""
    error: BaseException | None = None
    try:
        async with serving(file_path) as engine:
            store = engine._client.services_in_use().writer.store
            apply = store.apply

            def fail(batch: Sequence[Any], *, block: bool = True) -> list[Any]:
                if not is_final:
                    store.apply = apply  # type: ignore[method-assign]
                    raise ZeroDivisionError("in the writer")
                raise StoreCorrupt("the disk rots")

            async def break_it() -> None:
                store.apply = fail  # type: ignore[method-assign]
                with pytest.raises(StoreError):
                    await engine.start("other")

            error = await taken(engine, body, break_it)
            store.apply = apply  # type: ignore[method-assign]
    except ExceptionGroup:
        assert is_final
    if is_final:
        assert isinstance(error, StoreCorrupt)
    else:
        assert type(error) is StoreError
        assert isinstance(error.__cause__, ZeroDivisionError)


@PLACES
async def test_closed_with_its_engine_it_says_so(body: Body, file_path: str) -> None:
    errors: list[BaseException] = []

    async def script(engine: Engine, entered: trio.Event) -> None:
        async def nothing() -> None:
            entered.set()

        errors.append(await taken(engine, body, nothing))

    async with trio.open_nursery() as nursery:
        async with serving(file_path, grace_seconds=0.05) as engine:
            entered = trio.Event()
            nursery.start_soon(script, engine, entered)
            await entered.wait()
    (error,) = errors
    assert isinstance(error, OwnershipLost)
    assert "its engine was closed; enter it again" in str(error)
