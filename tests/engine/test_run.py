"""Runs: their result, error, arguments, time to live, identity, values, and what an engine refuses."""

from __future__ import annotations

import itertools
import logging
import signal
import sys
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from durable_trio import (
    CodecError,
    Context,
    Engine,
    PayloadTooLarge,
    Retry,
    RunConflict,
    RunExpired,
    RunFailed,
    RunNotFound,
    RunStatus,
    open_engine,
    workflow,
)
from durable_trio.testing import VirtualClock
from tests.engine.harness import (
    PATIENCE_SECONDS,
    SettableClock,
    executor_of,
    noted,
    serving,
    stopped_when_ready,
    stored,
    wait_passivated,
    wait_status,
    wait_until,
)

pytestmark = pytest.mark.usefixtures("no_leaks")


@attrs.frozen
class Cart:
    owner: str
    prices: tuple[Decimal, ...]
    bought_at: datetime


@attrs.frozen
class Receipt:
    owner: str
    total: Decimal


CART = Cart("ann", (Decimal("1.50"), Decimal("2.25")), datetime(2024, 5, 1, 12, tzinfo=UTC))
RECEIPT = Receipt("ann", Decimal("3.75"))


@workflow
async def order(ctx: Context, cart: Cart) -> Receipt:
    total = await ctx.step("add", lambda: sum(cart.prices, Decimal(0)), returns=Decimal)
    return Receipt(cart.owner, total)


@workflow
async def broken(ctx: Context, what: str) -> None:
    raise LookupError(what, 7)


@workflow
async def waiting(ctx: Context, cart: Cart) -> tuple[Cart, Any]:
    await ctx.step("first", lambda: None)
    return cart, await ctx.wait_signal("go")


@workflow
async def echo(ctx: Context, value: Any) -> Any:
    return value


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


# ---- time to live ----------------------------------------------------------------------------------------------------


def _expiring(events: list[str], **options: Any) -> Any:
    # Async functions: while a thread works, virtual time would run ahead.
    async def book() -> str:
        events.append("book")
        return "room"

    async def undo(what: str) -> None:
        events.append(f"undo {what}")

    @workflow(name="expiring", **options)
    async def expiring(ctx: Context) -> None:
        await ctx.step("book", book, compensate=undo)
        try:
            await ctx.wait_signal("never")
        finally:
            with trio.CancelScope(shield=True), pytest.raises(RunExpired):
                await ctx.step("late", undo, "late")

    return expiring


async def test_a_run_past_its_ttl_is_compensated_and_fails(autojump_clock: MockClock) -> None:
    events: list[str] = []
    expiring = _expiring(events, ttl=60)
    async with serving(":memory:", expiring, clock=VirtualClock()) as engine:
        run = await engine.start(expiring)
        with pytest.raises(RunExpired) as caught:
            await run.result()
        record = await run.record()
        kinds = [step.kind for step in await run.steps()]
    assert caught.value.run_id == run.id
    assert record.status is RunStatus.FAILED
    assert isinstance(record.error, RunExpired)
    assert record.finished_at == record.ttl_at == record.created_at + timedelta(seconds=60)
    assert events == ["book", "undo room"]
    assert kinds == ["step", "ttl", "compensation"]


async def test_the_ttl_of_a_start_comes_before_that_of_the_workflow(autojump_clock: MockClock) -> None:
    expiring = _expiring([], ttl=60)
    async with serving(":memory:", expiring, clock=VirtualClock()) as engine:
        run = await engine.start(expiring, ttl=timedelta(seconds=5))
        with pytest.raises(RunExpired):
            await run.result()
        record = await run.record()
    assert record.ttl_at == record.finished_at == record.created_at + timedelta(seconds=5)


async def test_a_ttl_that_passes_while_nobody_serves_is_enforced_before_any_live_call(file_path: str) -> None:
    events: list[str] = []
    clock = SettableClock()

    @workflow(ttl=60)
    async def expiring(ctx: Context) -> None:
        await ctx.step("book", lambda: noted(events, "book", "room"), compensate=lambda it: events.append(f"undo {it}"))
        events.append("body")
        await ctx.wait_signal("go")
        await ctx.step("late", lambda: events.append("late"))

    async with serving(file_path, expiring, clock=clock) as engine:
        run = await engine.start(expiring, id="r")
        await wait_passivated(engine)
        await run.signal("go")  # it may still be taken, but nothing after it
    clock.advance(61)
    events.append("restart")
    async with serving(file_path, expiring, clock=clock) as engine:
        with pytest.raises(RunExpired):
            await engine.get("r").result()
    assert events[-1] == "undo room"
    assert "late" not in events[events.index("restart") :]
    assert events.count("book") == 1


async def test_a_ttl_counts_from_start_also_for_a_run_that_has_not_begun(autojump_clock: MockClock) -> None:
    begun: list[str] = []

    @workflow
    async def delayed(ctx: Context) -> None:
        await ctx.step("a", lambda: begun.append("a"))

    async with serving(":memory:", delayed, clock=VirtualClock()) as engine:
        run = await engine.start(delayed, delay=100, ttl=10)
        with pytest.raises(RunExpired):
            await run.result()
    assert begun == []


async def test_a_delayed_run_expires_at_its_ttl_and_not_at_the_end_of_its_delay(store_path: str) -> None:
    async with serving(store_path, order) as engine:
        run = await engine.start(order, CART, delay=3600, ttl=0.05)
        with trio.fail_after(PATIENCE_SECONDS), pytest.raises(RunExpired):
            await run.result()


async def test_a_run_that_ends_within_its_ttl_is_not_touched_by_it(autojump_clock: MockClock) -> None:
    @workflow(ttl=60)
    async def quick(ctx: Context) -> str:
        await ctx.sleep(59)
        return "in time"

    async with serving(":memory:", quick, clock=VirtualClock()) as engine:
        run = await engine.start(quick)
        assert await run.result() == "in time"
        await trio.sleep(100)
        assert (await run.record()).status is RunStatus.COMPLETED


# ---- many ------------------------------------------------------------------------------------------------------------


@pytest.mark.unmeasured
@pytest.mark.parametrize("count", [5, 500])
async def test_concurrent_runs_do_not_disturb_each_other(store_path: str, count: int) -> None:
    @workflow
    async def apart(ctx: Context, number: int) -> list[Any]:
        first = await ctx.step("first", lambda: number * 2)
        await ctx.publish("number", number)
        got = await ctx.wait_signal("go")
        second = await ctx.step("second", lambda: number * 3)
        return [number, first, got, second, ctx.run_id]

    async with serving(store_path, apart) as engine:
        runs = [engine.get(f"r{number}", apart) for number in range(count)]

        async def one(number: int) -> None:
            await engine.start(apart, number, id=f"r{number}")
            await runs[number].signal("go", number * 5)

        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(one, number)
        for number, run in enumerate(runs):
            assert await run.result() == [number, number * 2, number * 5, number * 3, f"r{number}"]
            assert await run.value("number") == number
        counts = (await engine.status()).runs_by_status
    assert counts == {RunStatus.COMPLETED: count}


# ---- identity --------------------------------------------------------------------------------------------------------


async def test_the_same_id_and_arguments_are_the_same_run(store_path: str) -> None:
    calls: list[str] = []

    @workflow
    async def once(ctx: Context, options: dict[str, Any]) -> int:
        return await ctx.step("once", lambda: noted(calls, "x", len(calls)))

    async with serving(store_path, once) as engine:
        first = await engine.start(once, {"a": 1, "b": [2.5]}, id="r")
        again = await engine.start(once, {"b": [2.5], "a": 1}, id="r")
        assert await first.result() == await again.result() == 0
        assert await engine.run(once, {"a": 1, "b": [2.5]}, id="r") == 0  # also after its end
        assert len((await engine.list_runs()).runs) == 1
    assert calls == ["x"]


async def test_many_starts_of_one_id_at_once_are_one_run(store_path: str) -> None:
    calls: list[str] = []

    @workflow
    async def once(ctx: Context) -> int:
        return await ctx.step("once", lambda: noted(calls, "x", len(calls)))

    results: list[int] = []
    async with serving(store_path, once) as engine:

        async def start() -> None:
            results.append(await engine.run(once, id="r"))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(start)
    assert results == [0] * 20


async def test_the_same_id_with_other_arguments_or_workflow_is_a_conflict(store_path: str) -> None:
    async with serving(store_path, echo, waiting) as engine:
        assert await engine.run(echo, 1, id="r") == 1
        for other in (2, "1", True, None, [1]):
            with pytest.raises(RunConflict, match="'r'"):
                await engine.start(echo, other, id="r")
        with pytest.raises(RunConflict):
            await engine.start(waiting, CART, id="r")
        record = await engine.get("r").record()
    assert (record.status, record.result, record.args) == (RunStatus.COMPLETED, 1, (1,))


async def test_a_run_of_an_unknown_workflow_waits_for_who_knows_it(file_path: str) -> None:
    async with serving(file_path, echo) as engine:
        run = await engine.start("order", "{}", id="unfit")
        await engine.start("stranger", 1, "two", id="r")
        assert (await engine.get("r").record()).status is RunStatus.PENDING
        assert (await engine.status()).unknown_workflows == {"stranger": 1, "order": 1}
        assert await run.cancel()

    @workflow
    async def stranger(ctx: Context, one: int, two: str) -> str:
        return f"{one} {two}"

    async with serving(file_path, stranger) as engine:
        assert await engine.get("r", stranger).result() == "1 two"


# ---- opening and closing ---------------------------------------------------------------------------------------------

CALLS: dict[str, Callable[[Engine], Awaitable[Any]]] = {
    "start": lambda engine: engine.start(echo, 1),
    "run": lambda engine: engine.run(echo, 1),
    "list_runs": lambda engine: engine.list_runs(),
    "send_signal": lambda engine: engine.send_signal("r", "go"),
    "cancel": lambda engine: engine.cancel("r"),
    "resume": lambda engine: engine.resume("r"),
    "delete": lambda engine: engine.delete("r"),
    "prune": lambda engine: engine.prune(datetime.now(UTC)),
    "status": lambda engine: engine.status(),
    "result": lambda engine: engine.get("r").result(),
    "record": lambda engine: engine.get("r").record(),
    "steps": lambda engine: engine.get("r").steps(),
    "values": lambda engine: engine.get("r").values(),
}


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_outside_of_an_open_engine_is_refused(name: str) -> None:
    engine = Engine(":memory:", workflows=[echo])
    with pytest.raises(RuntimeError, match="not open"):
        await CALLS[name](engine)


def test_a_watch_or_connection_outside_of_an_open_engine_is_refused() -> None:
    engine = Engine(":memory:")
    with pytest.raises(RuntimeError, match="not open"):
        engine.watch()
    with pytest.raises(RuntimeError, match="not open"):
        engine.connect()


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_after_the_end_of_the_block_is_refused(name: str) -> None:
    async with open_engine(":memory:", workflows=[echo]) as engine:
        pass
    with pytest.raises(trio.ClosedResourceError):
        await CALLS[name](engine)


async def test_closing_twice_is_nothing_and_calls_after_it_are_refused(store_path: str) -> None:
    client = Engine(store_path)
    async with client:
        await client.list_runs()
        await client.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await client.start("echo", 1)
        await client.aclose()
    await client.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await client.list_runs()
    with pytest.raises(trio.ClosedResourceError):
        async with client:
            pass


async def test_an_engine_that_was_never_opened_can_be_closed() -> None:
    engine = Engine(":memory:")
    await engine.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await engine.status()


async def test_an_error_of_the_block_comes_out_as_itself(store_path: str) -> None:
    with pytest.raises(ZeroDivisionError):  # noqa: PT012  # the block is what is tested
        async with open_engine(store_path, workflows=[echo]) as engine:
            await engine.run(echo, 1)
            raise ZeroDivisionError


async def test_cancelling_the_wait_for_a_result_does_not_cancel_the_run(store_path: str) -> None:
    async with serving(store_path, waiting) as engine:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: engine.run(waiting, CART, id="r"))
            await stored(engine, "r")
            nursery.cancel_scope.cancel()
        await engine.send_signal("r", "go", "on")
        assert await engine.get("r", waiting).result() == (CART, "on")


async def test_an_unknown_id_shows_at_the_first_call(store_path: str) -> None:
    async with serving(store_path, echo) as engine:
        run = engine.get("nobody")
        for call in (run.result, run.record, run.steps, run.values, run.cancel):
            with pytest.raises(RunNotFound, match="'nobody'") as caught:
                await call()
            assert caught.value.run_id == "nobody"
        with pytest.raises(RunNotFound):
            await run.signal("go")
        with pytest.raises(RunNotFound):
            async with run.watch():
                pass


async def test_a_closed_engine_leaves_its_waiting_runs_resumable(file_path: str) -> None:
    async with serving(file_path, waiting) as engine:
        await engine.start(waiting, CART, id="r")
    async with Engine(file_path) as client:
        record = await client.get("r").record()
    assert record.status in (RunStatus.RUNNING, RunStatus.SUSPENDED)
    async with serving(file_path, waiting) as engine:
        await engine.send_signal("r", "go")
        await engine.get("r").result()


async def test_serving_as_the_main_task_ends_at_a_signal(file_path: str) -> None:
    """``trio.run(engine.serve)`` drains at SIGTERM and returns."""
    stopped = await stopped_when_ready(__name__, "serve_and_say", file_path, os_signal=signal.SIGTERM)
    assert stopped == ("serving", "returned\n", 0)


def serve_and_say(path: str) -> None:
    """Called in the other process."""

    async def say() -> str:
        print("serving", flush=True)
        return "said"

    @workflow
    async def hello(ctx: Context) -> None:
        await ctx.step("say", say)
        await ctx.wait_signal("never")

    async def begin() -> None:
        async with Engine(path) as client:
            await client.start(hello)

    trio.run(begin)
    trio.run(Engine(path, workflows=[hello]).serve)
    print("returned", flush=True)
