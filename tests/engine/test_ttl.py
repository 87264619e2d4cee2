"""A time to live: once it is over, the run is compensated and fails."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from durable_trio import Context, RunExpired, RunStatus, StepKind, workflow
from durable_trio.testing import VirtualClock
from tests.engine.flows import CART, order
from tests.engine.harness import PATIENCE_SECONDS, SettableClock, noted, serving, wait_passivated

pytestmark = pytest.mark.usefixtures("no_leaks")


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


async def test_it_is_told_at_which_steps_and_waits_the_run_was(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """In the error, in the log, and in the row that says that its time is over: the first, and how many more."""

    async def pay(ctx: Context) -> None:
        await ctx.wait_signal("paid")

    async def ship(ctx: Context) -> None:
        await ctx.step("ship", trio.sleep, 100)

    async def tell(ctx: Context) -> None:
        await ctx.map("each", trio.sleep, [100, 100])

    @workflow(ttl=60)
    async def many(ctx: Context) -> None:
        await ctx.step("book", trio.lowlevel.checkpoint)
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(pay)
            await ctx.sleep(7)
            nursery.start_soon(ship)
            nursery.start_soon(tell)

    async with serving(":memory:", many, clock=VirtualClock()) as engine:
        run = await engine.start(many)
        with pytest.raises(RunExpired) as caught:
            await run.result()
        (row,) = [step for step in await run.steps() if step.kind is StepKind.TTL]
        created_at = (await run.record()).created_at
    at = [created_at + timedelta(seconds=seconds) for seconds in (0, 7)]
    first, second = (f"{each:%Y-%m-%d %H:%M:%S} UTC" for each in at)
    text = str(caught.value)
    assert "did not end within its time to live; it was at the wait for signal 'paid' since " + first in text
    assert f"ship#0' since {second}" in text
    assert text.endswith(", and at 1 more")
    assert [each["since"] for each in row.result["open"]] == [at[0].isoformat(), at[1].isoformat(), at[1].isoformat()]
    (record,) = [each for each in caplog.records if getattr(each, "event", None) == "run_expired"]
    fields = vars(record)
    assert (fields["step"], fields["open"], fields["more"]) == (row.result["open"][0]["key"], row.result["open"], 1)
    assert text.partition("; ")[2] in record.getMessage()


async def test_it_is_told_of_a_run_that_was_in_no_memory_and_stays_the_same(file_path: str) -> None:
    """Since when it waited is stored; and where it was when its time was over is, too."""
    clock, undoing, is_over = SettableClock(), trio.Event(), False

    @workflow(ttl=60)
    async def expiring(ctx: Context) -> None:
        await ctx.step("book", lambda: "room", compensate=undo)
        await ctx.wait_signal("go")

    async def undo(it: str) -> None:
        undoing.set()
        await trio.sleep(0 if is_over else PATIENCE_SECONDS)

    async with serving(file_path, expiring, clock=clock) as engine:
        run = await engine.start(expiring, id="r")
        await wait_passivated(engine)
        (wait,) = await run.waits()
    clock.advance(61)
    async with serving(file_path, expiring, clock=clock, grace_seconds=0) as engine:
        await undoing.wait()
    is_over = True
    async with serving(file_path, expiring, clock=clock) as engine:
        with pytest.raises(
            RunExpired, match=f"at the wait for signal 'go' since {wait.started_at:%Y-%m-%d %H:%M:%S} UTC$"
        ):
            await engine.get("r").result()


async def test_of_a_run_that_was_at_nothing_durable_it_is_told_after_what(autojump_clock: MockClock) -> None:
    @workflow(ttl=60)
    async def elsewhere(ctx: Context) -> None:
        await ctx.step("book", trio.lowlevel.checkpoint)
        await trio.sleep(100)

    async with serving(":memory:", elsewhere, clock=VirtualClock()) as engine:
        run = await engine.start(elsewhere)
        with pytest.raises(RunExpired, match=r"; it was at no step and no wait, after 'book#0'$"):
            await run.result()


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
        with pytest.raises(RunExpired, match=r"; it was before step 'a#0'$"):
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
