"""Runs: their result, error and arguments, what a body sees, and the values that it publishes."""

from __future__ import annotations

import itertools
import logging
import sys
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from durable_trio import CodecError, Context, Engine, PayloadTooLarge, Retry, RunFailed, RunStatus, workflow
from durable_trio.testing import VirtualClock
from tests.engine.flows import CART, Receipt, echo, order, waiting
from tests.engine.harness import PATIENCE_SECONDS, executor_of, serving, wait_passivated, wait_status, wait_until
from tests.kit import stores

pytestmark = pytest.mark.usefixtures("no_leaks")


RECEIPT = Receipt("ann", Decimal("3.75"))


@workflow
async def broken(ctx: Context, what: str) -> None:
    raise LookupError(what, 7)


# ---- results, errors, arguments --------------------------------------------------------------------------------------


async def test_the_result_is_returned_and_stored(store_path: str) -> None:
    async with serving(store_path, order) as engine:
        run = await engine.start(order, CART)
        assert await run.result() == RECEIPT
        record = await run.record()
    assert record.status is RunStatus.COMPLETED
    assert record.result == RECEIPT
    assert record.args == (CART,)
    assert record.error is None
    assert record.problem is None
    assert record.workflow == "order"
    assert record.started_at is not None
    assert record.finished_at is not None
    assert record.created_at <= record.started_at <= record.finished_at


async def test_the_result_is_readable_by_a_later_engine(file_path: str) -> None:
    async with serving(file_path, order) as engine:
        await engine.run(order, CART, id="r")
    async with serving(file_path, order) as engine:
        assert await engine.get("r", order).result() == RECEIPT
        assert await engine.get("r").result() == RECEIPT


async def test_a_client_that_was_given_no_workflows_gets_the_typed_result(file_path: str) -> None:
    """The workflow handed to ``start`` or ``get`` is enough to convert the result."""
    async with serving(file_path, order), Engine(file_path) as client:
        assert await client.run(order, CART) == RECEIPT
        run = await client.start(order, CART)
        assert await client.get(run.id, order).result() == RECEIPT


async def test_the_result_is_readable_by_another_process(file_path: str) -> None:
    async with serving(file_path, order) as engine:
        run = await engine.start(order, CART)
        await run.result()
        code = f"import sys, trio, {__name__} as module; trio.run(module.print_result, *sys.argv[1:])"
        with trio.fail_after(PATIENCE_SECONDS):
            done = await trio.run_process(
                [sys.executable, "-c", code, file_path, run.id],
                capture_stdout=True,
                env={"PYTHONPATH": ":".join(item for item in sys.path if item)},
            )
    assert done.stdout.decode().strip() == repr(RECEIPT)


async def print_result(path: str, run_id: str) -> None:
    """Called in the other process."""
    stores.offer()
    async with Engine(path, workflows=[order]) as client:
        print(repr(await client.get(run_id, order).result()))


async def test_a_failed_run_has_the_error_of_its_body(store_path: str) -> None:
    async with serving(store_path, broken) as engine:
        run = await engine.start(broken, "no stock")
        with pytest.raises(RunFailed, match="no stock") as caught:
            await run.result()
        record = await run.record()
    error = caught.value.error
    assert type(error) is LookupError
    assert error.args == ("no stock", 7)
    assert caught.value.run_id == run.id
    assert record.status is RunStatus.FAILED
    assert type(record.error) is LookupError
    assert record.result is None


async def test_a_group_that_a_body_raises_keeps_its_shape(store_path: str) -> None:
    @workflow
    async def grouped(ctx: Context) -> None:
        raise ExceptionGroup("two", [ValueError("a"), ExceptionGroup("one", [KeyError("b")])])

    async with serving(store_path, grouped) as engine:
        with pytest.raises(RunFailed) as caught:
            await engine.run(grouped)
    group = caught.value.error
    assert isinstance(group, ExceptionGroup)
    first, second = group.exceptions
    assert (type(first), first.args) == (ValueError, ("a",))
    assert isinstance(second, ExceptionGroup)
    assert type(second.exceptions[0]) is KeyError


async def test_a_result_that_cannot_be_stored_fails_the_run(store_path: str) -> None:
    @workflow
    async def opaque(ctx: Context) -> Any:
        return object()

    async with serving(store_path, opaque) as engine:
        with pytest.raises(RunFailed) as caught:
            await engine.run(opaque, id="opaque-1")
    assert isinstance(caught.value.error, CodecError)
    assert "opaque-1" in str(caught.value.error)
    assert "opaque-1' failed: CodecError: " in str(caught.value)


async def test_a_failure_that_is_a_group_of_one_is_told_by_what_is_in_it(store_path: str) -> None:
    @workflow
    async def branched(ctx: Context) -> None:
        async def fail(branch: Context) -> None:
            raise LookupError("no stock")

        async with ctx.open_nursery() as nursery:
            nursery.start_soon(fail)

    async with serving(store_path, branched) as engine:
        with pytest.raises(RunFailed, match=r"failed: LookupError: no stock \(in an ExceptionGroup\)$"):
            await engine.run(branched)


async def test_a_result_over_the_limit_fails_the_run(store_path: str) -> None:
    @workflow
    async def large(ctx: Context) -> str:
        return "x" * 60_000

    async with serving(store_path, large, payload_bytes_max=50_000) as engine:
        with pytest.raises(RunFailed) as caught:
            await engine.run(large)
    assert isinstance(caught.value.error, PayloadTooLarge)


async def test_the_arguments_are_given_back_on_recovery(file_path: str) -> None:
    async with serving(file_path, waiting) as engine:
        await engine.start(waiting, CART, id="r")
        await wait_passivated(engine)
    async with serving(file_path, waiting) as engine:
        await engine.send_signal("r", "go", 1)
        assert await engine.get("r", waiting).result() == (CART, 1)


async def test_what_a_body_does_to_its_arguments_is_not_stored(store_path: str) -> None:
    @workflow
    async def greedy(ctx: Context, items: list[int]) -> int:
        items.clear()
        return len(items)

    given = [1, 2]
    async with serving(store_path, greedy) as engine:
        run = await engine.start(greedy, given)
        assert await run.result() == 0
        assert (await run.record()).args == ([1, 2],)
    assert given == [1, 2]


@pytest.mark.parametrize("args", [(), (1, 2)])
async def test_a_wrong_number_of_arguments_is_refused_before_anything_is_written(args: tuple[Any, ...]) -> None:
    async with serving(":memory:", echo) as engine:
        with pytest.raises(TypeError, match="takes 1 argument"):
            await engine.start(echo.name, *args)
        assert (await engine.list_runs()).runs == ()


async def test_arguments_that_cannot_be_stored_are_refused_before_anything_is_written() -> None:
    async with serving(":memory:", echo, order, payload_bytes_max=50_000) as engine:
        with pytest.raises(CodecError):
            await engine.start(echo, (1, 2))  # a tuple without annotation
        with pytest.raises(CodecError):
            await engine.start(order.name, "no cart")
        with pytest.raises(PayloadTooLarge):
            await engine.start(echo, "x" * 60_000)
        assert (await engine.list_runs()).runs == ()


# ---- what a body sees ------------------------------------------------------------------------------------------------


async def test_the_run_is_running_while_its_body_executes(store_path: str) -> None:
    async def look() -> RunStatus:
        return (await engine.get("r").record()).status

    @workflow
    async def watched(ctx: Context) -> list[RunStatus]:
        return [await look(), await ctx.step("look", look), await look()]

    async with serving(store_path, watched) as engine:
        assert await engine.run(watched, id="r") == [RunStatus.RUNNING] * 3


async def test_a_run_that_waits_is_suspended_and_goes_on_running(store_path: str) -> None:
    async def look() -> RunStatus:
        return (await engine.get("r").record()).status

    @workflow
    async def waits(ctx: Context) -> RunStatus:
        await ctx.wait_signal("go")
        return await ctx.step("look", look)

    async with serving(store_path, waits) as engine:
        run = await engine.start(waits, id="r")
        await wait_status(run, RunStatus.SUSPENDED)
        await run.signal("go")
        assert await run.result() is RunStatus.RUNNING


async def test_the_context_knows_the_stored_id(store_path: str) -> None:
    @workflow
    async def who(ctx: Context) -> tuple[str, int]:
        return ctx.run_id, ctx.generation

    async with serving(store_path, who) as engine:
        assert await engine.run(who, id="my/id #1 %") == ("my/id #1 %", 0)
        run = await engine.start(who)
        assert await run.result() == (run.id, 0)
        assert str(uuid.UUID(run.id)) == run.id
        assert (await run.record()).id == run.id


async def test_each_durable_call_leaves_one_row_in_order(store_path: str) -> None:
    @workflow
    async def several(ctx: Context) -> None:
        await ctx.step("a", lambda: 1)
        await ctx.transaction("b", lambda _connection: 2)
        await ctx.step("a", lambda: 3)
        await ctx.sleep(0)
        await ctx.wait_signal("s")
        await ctx.step("x/y#z%", lambda: 4)
        with pytest.raises(ZeroDivisionError):
            await ctx.step("fails", lambda: 1 // 0)
        await ctx.sleep_until(datetime(2020, 1, 1, tzinfo=UTC))

    async with serving(store_path, several) as engine:
        run = await engine.start(several)
        await run.signal("s", 5)
        await run.result()
        steps = await run.steps()
    assert [(step.key, step.kind, step.status, step.result) for step in steps] == [
        ("a#0", "step", "completed", 1),
        ("b#0", "transaction", "completed", 2),
        ("a#1", "step", "completed", 3),
        ("sleep#0", "sleep", "completed", None),
        ("s#0", "signal", "completed", 5),
        ("x%2Fy%23z%25#0", "step", "completed", 4),
        ("fails#0", "step", "failed", None),
        ("sleep#1", "sleep", "completed", None),
    ]
    error = steps[6].error
    assert error is not None
    assert error.type.endswith("ZeroDivisionError")
    assert "1 // 0" in error.traceback
    for earlier, later in itertools.pairwise(steps):
        assert earlier.finished_at <= later.finished_at
        assert later.started_at <= later.finished_at


async def test_a_context_used_from_another_task_is_refused(store_path: str) -> None:
    @workflow
    async def stray(ctx: Context) -> list[str]:
        refused: list[str] = []

        async def use(call: Callable[[], Awaitable[Any]]) -> None:
            with pytest.raises(RuntimeError, match="another task"):
                await call()
            refused.append("call")

        async def use_sync(call: Callable[[], Any]) -> None:
            with pytest.raises(RuntimeError, match="another task"):
                call()
            refused.append("sync")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(use, lambda: ctx.step("a", lambda: 1))
            nursery.start_soon(use, lambda: ctx.transaction("a", lambda _: 1))
            nursery.start_soon(use, lambda: ctx.sleep(1))
            nursery.start_soon(use, lambda: ctx.wait_signal("a"))
            nursery.start_soon(use, lambda: ctx.publish("a", 1))
            nursery.start_soon(use_sync, ctx.now)
            nursery.start_soon(use_sync, ctx.random)
            nursery.start_soon(use_sync, ctx.uuid4)
        return refused

    async with serving(store_path, stray) as engine:
        run = await engine.start(stray)
        assert sorted(await run.result()) == ["call"] * 5 + ["sync"] * 3
        assert await run.steps() == ()


async def test_time_and_chance_are_the_same_on_replay(store_path: str) -> None:
    seen: list[tuple[Any, ...]] = []

    @workflow
    async def chances(ctx: Context) -> None:
        values = [ctx.now(), ctx.random(), ctx.random(), ctx.uuid4(), ctx.uuid4()]
        await ctx.step("a", lambda: None)
        values += [ctx.now(), ctx.random(), ctx.uuid4()]
        seen.append(tuple(values))
        await ctx.wait_signal("go")

    async with serving(store_path, chances) as engine:
        first = await engine.start(chances)
        await wait_passivated(engine)
        await first.signal("go")
        await first.result()
        other = await engine.start(chances)
        await other.signal("go")
        await other.result()
        record = await first.record()
    live, replayed, another = seen
    assert live == replayed
    began, one, two, three, four, after, five, six = live
    assert record.started_at == began
    assert began <= after
    assert began.tzinfo is UTC
    assert all(0 <= value < 1 for value in (one, two, five))
    assert {type(three), three.version} == {uuid.UUID, 4}
    assert len({one, two, five, three, four, six}) == 6
    assert not set(live[1:]) & set(another[1:])  # each run has its own


async def test_the_time_of_a_body_is_that_of_its_last_outcome(autojump_clock: MockClock) -> None:
    @workflow
    async def clocked(ctx: Context) -> list[datetime]:
        times = [ctx.now()]
        await ctx.sleep(10)
        times.append(ctx.now())
        await trio.sleep(0.5)  # not durable: the body's time does not see it
        times.append(ctx.now())
        return times

    async with serving(":memory:", clocked, clock=VirtualClock()) as engine:
        first, second, third = await engine.run(clocked)
    assert second - first == timedelta(seconds=10)
    assert third == second


async def test_the_log_is_silent_while_replaying(store_path: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="durable_trio.run")
    replaying: list[bool] = []

    @workflow
    async def talks(ctx: Context) -> None:
        ctx.log.info("before")
        replaying.append(ctx.replaying)
        await ctx.step("a", lambda: None)
        ctx.log.info("after %s", "a")
        await ctx.wait_signal("go")
        ctx.log.info("end")
        replaying.append(ctx.replaying)

    async with serving(store_path, talks) as engine:
        run = await engine.start(talks, id="r")
        await wait_passivated(engine)
        await run.signal("go")
        await run.result()
    lines = [record for record in caplog.records if record.name == "durable_trio.run"]
    assert [line.getMessage() for line in lines] == ["before", "after a", "end"]
    assert all(line.__dict__["run_id"] == "r" for line in lines)
    assert replaying == [False, True, False]


async def hold_for_ever() -> None:
    await trio.sleep_forever()


@workflow(name="begins")
async def begins(ctx: Context, how: str, generation: int = 0) -> None:
    ctx.log.info("begun %d", generation)
    match how:
        case "wait":
            await ctx.wait_signal("go")
        case "sleep":
            await ctx.sleep(1000)
        case "retry":
            await ctx.step("step", fail_now, retry=Retry.fixed(2, 1000))
        case "step":
            await ctx.step("step", hold_for_ever)
        case "publish":
            await ctx.publish("state", "begun")
            await ctx.step("step", hold_for_ever)
        case "generations" if generation == 0:
            await ctx.continue_as_new("generations", 1)
        case "generations":
            await ctx.wait_signal("go")
    ctx.log.info("goes on")


async def fail_now() -> None:
    raise ValueError


@pytest.mark.parametrize("how", ["wait", "sleep", "retry", "step", "publish", "generations"])
async def test_a_line_from_before_the_first_outcome_is_logged_once(
    how: str, file_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether there is a history says nothing: what has begun has logged before."""
    caplog.set_level(logging.INFO, logger="durable_trio.run")

    def lines() -> list[str]:
        return [line.getMessage() for line in caplog.records if line.name == "durable_trio.run"]

    expected = ["begun 0", "begun 1"] if how == "generations" else ["begun 0"]
    leaves = how not in ("step", "publish")
    for _ in range(3):
        async with serving(file_path, begins, grace_seconds=0.01) as engine:
            await engine.start("begins", how, id="r")
            await wait_until(lambda: lines()[: len(expected)] == expected)
            await wait_until(
                lambda: engine._client.services is not None and executor_of(engine).runs.resident_count != leaves
            )
    assert lines() == expected
    if how in ("wait", "generations"):
        async with serving(file_path, begins) as engine:
            await engine.get("r").signal("go")
            await engine.get("r").result()
        assert lines() == [*expected, "goes on"]


# ---- published values ------------------------------------------------------------------------------------------------


async def test_published_values_are_readable_and_replaced(store_path: str) -> None:
    @workflow
    async def progress(ctx: Context) -> None:
        await ctx.publish("done", 1)
        await ctx.step("a", lambda: None)
        await ctx.publish("done", 2)
        await ctx.publish("note", {"why": ["x"]})
        await ctx.wait_signal("go")
        await ctx.publish("done", 3)

    async with serving(store_path, progress) as engine:
        run = await engine.start(progress)
        await wait_passivated(engine)
        assert await run.value("done") == 2
        assert await run.values() == {"done": 2, "note": {"why": ["x"]}}
        assert await run.value("never") is None
        await run.signal("go")
        await run.result()
        assert await run.value("done") == 3
        assert (await run.record()).values == {"done": 3, "note": {"why": ["x"]}}


async def test_a_published_value_is_stored_when_publish_returns(store_path: str) -> None:
    """Also in a body that has made no other durable call yet, and in one that makes no other at all."""

    @workflow
    async def only(ctx: Context) -> Any:
        await ctx.publish("key", "value")
        return await engine.get(ctx.run_id).value("key")

    async with serving(store_path, only) as engine:
        run = await engine.start(only)
        assert await run.result() == "value"
        assert await run.value("key") == "value"


async def test_a_value_published_before_a_crash_is_not_taken_back_by_the_replay(file_path: str) -> None:
    values: list[Any] = []

    @workflow
    async def counts(ctx: Context) -> None:
        for number in range(3):
            await ctx.step("work", lambda: None)
            await ctx.publish("count", number)
            values.append(await engine.get(ctx.run_id).value("count"))
        await ctx.wait_signal("go")

    async with serving(file_path, counts) as engine:
        run = await engine.start(counts, id="r")
        await wait_passivated(engine)
    async with serving(file_path, counts) as engine:
        run = engine.get("r", counts)
        await run.signal("go")
        await run.result()
        assert await run.value("count") == 2
    assert values == [0, 1, 2, 2, 2, 2]


async def test_what_cannot_be_stored_cannot_be_published(store_path: str) -> None:
    @workflow
    async def opaque(ctx: Context) -> None:
        with pytest.raises(CodecError, match="published value 'key'"):
            await ctx.publish("key", object())

    async with serving(store_path, opaque) as engine:
        run = await engine.start(opaque)
        await run.result()
        assert await run.values() == {}
