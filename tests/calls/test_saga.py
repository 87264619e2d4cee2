"""Compensation: what completed is undone in reverse order, each once and recorded, whatever comes in between."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from durable_trio import (
    CompensationFailed,
    Context,
    Engine,
    Retry,
    Run,
    RunCancelled,
    RunConflict,
    RunExpired,
    RunFailed,
    RunStatus,
    current_step,
    open_engine,
    workflow,
)
from durable_trio.cli import runs_table
from durable_trio.engine import records_of
from durable_trio.engine import run as engine_run
from durable_trio.testing import VirtualClock
from tests.engine.harness import (
    killed_when_ready,
    noted,
    serving,
    wait_parked,
    wait_passivated,
    wait_status,
    wait_until,
)

pytestmark = pytest.mark.usefixtures("no_leaks")


@attrs.frozen
class Booking:
    number: int
    price: Decimal


def _undo(events: list[str], what: str = "undo") -> Callable[[Any], None]:
    return lambda result: events.append(f"{what} {result}")


async def _compensations(run: Run[Any]) -> list[tuple[str, str]]:
    return [(row.key, str(row.status)) for row in await run.steps() if row.kind == "compensation"]


async def test_completed_steps_are_undone_in_reverse_order_with_their_results(store_path: str) -> None:
    events: list[Any] = []

    async def undo_async(result: Booking) -> None:
        await trio.lowlevel.checkpoint()
        events.append(result)

    @workflow
    async def trip(ctx: Context) -> None:
        await ctx.step("flight", lambda: "LH1", compensate=_undo(events))
        await ctx.step("nothing to undo", lambda: "x")
        await ctx.step("hotel", lambda: Booking(7, Decimal("9.50")), returns=Booking, compensate=undo_async)
        await ctx.transaction("row", lambda _: 3, compensate=_undo(events))
        events.append("fail")
        raise LookupError("no car")

    async with serving(store_path, trip) as engine:
        run = await engine.start(trip)
        with pytest.raises(RunFailed) as caught:
            await run.result()
        record = await run.record()
        assert await _compensations(run) == [
            ("compensate/row#0", "completed"),
            ("compensate/hotel#0", "completed"),
            ("compensate/flight#0", "completed"),
        ]
    assert events == ["fail", "undo 3", Booking(7, Decimal("9.50")), "undo LH1"]
    assert isinstance(caught.value.error, LookupError)
    assert record.status is RunStatus.FAILED
    assert record.compensation_errors == ()


async def test_a_run_that_completes_is_not_compensated(store_path: str) -> None:
    events: list[str] = []

    @workflow
    async def trip(ctx: Context) -> str:
        await ctx.step("flight", lambda: "LH1", compensate=_undo(events))
        return "home"

    async with serving(store_path, trip) as engine:
        run = await engine.start(trip)
        assert await run.result() == "home"
        assert await _compensations(run) == []
    assert events == []


async def test_each_turn_of_a_loop_is_undone_with_its_own_result(store_path: str) -> None:
    events: list[str] = []

    @workflow
    async def loop(ctx: Context) -> None:
        for number in range(4):
            await ctx.step("seat", lambda number: number, number, compensate=_undo(events, f"undo {number}:"))
        await ctx.wait_signal("go")
        raise LookupError("full")

    async with serving(store_path, loop) as engine:
        run = await engine.start(loop)
        await wait_passivated(engine)
        await run.signal("go")
        with pytest.raises(RunFailed):
            await run.result()
        assert [key for key, _ in await _compensations(run)] == [f"compensate/seat#{n}" for n in (3, 2, 1, 0)]
    assert events == ["undo 3: 3", "undo 2: 2", "undo 1: 1", "undo 0: 0"]


async def test_a_failed_step_is_not_undone(store_path: str) -> None:
    events: list[str] = []

    @workflow
    async def trip(ctx: Context) -> None:
        await ctx.step("flight", lambda: "LH1", compensate=_undo(events))
        with pytest.raises(ZeroDivisionError):
            await ctx.step("hotel", lambda: 1 // 0, compensate=_undo(events, "never"))
        await ctx.step("car", lambda: 1 // 0, compensate=_undo(events, "never"))

    async with serving(store_path, trip) as engine:
        with pytest.raises(RunFailed) as caught:
            await engine.run(trip)
    assert isinstance(caught.value.error, ZeroDivisionError)
    assert events == ["undo LH1"]


async def test_if_the_first_step_fails_there_is_nothing_to_undo(store_path: str) -> None:
    statuses: list[RunStatus] = []
    events: list[str] = []

    @workflow
    async def trip(ctx: Context) -> None:
        await ctx.step("flight", lambda: 1 // 0, compensate=_undo(events))

    async with serving(store_path, trip) as engine:
        run = await engine.start(trip, delay=0.01)
        async with run.watch() as changes:
            async for record in changes:
                statuses.append(record.status)
        assert await _compensations(run) == []
    assert RunStatus.COMPENSATING not in statuses
    assert statuses[-1] is RunStatus.FAILED
    assert events == []


async def test_the_status_is_compensating_meanwhile(store_path: str) -> None:
    undoing, go = trio.Event(), trio.Event()

    async def undo(_: str) -> None:
        undoing.set()
        await go.wait()

    @workflow
    async def trip(ctx: Context) -> None:
        await ctx.step("flight", lambda: "LH1", compensate=undo)
        raise LookupError("no car")

    async with serving(store_path, trip) as engine:
        run = await engine.start(trip)
        await undoing.wait()
        record = await run.record()
        assert record.status is RunStatus.COMPENSATING
        assert isinstance(record.error, LookupError)
        assert record.finished_at is None
        go.set()
        with pytest.raises(RunFailed):
            await run.result()


async def test_a_failing_compensation_does_not_stop_the_others_and_all_errors_are_kept(store_path: str) -> None:
    events: list[str] = []

    def fail(result: str) -> None:
        events.append(f"fail {result}")
        raise OSError(f"cannot undo {result}")

    @workflow
    async def trip(ctx: Context) -> None:
        await ctx.step("a", lambda: "a", compensate=_undo(events))
        await ctx.step("b", lambda: "b", compensate=fail)
        await ctx.step("c", lambda: "c", compensate=_undo(events))
        await ctx.step("d", lambda: "d", compensate=fail)
        raise LookupError("the cause")

    async with serving(store_path, trip) as engine:
        run = await engine.start(trip)
        with pytest.raises(RunFailed) as caught:
            await run.result()
        record = await run.record()
        assert [status for _, status in await _compensations(run)] == ["failed", "completed", "failed", "completed"]
    assert events == ["fail d", "undo c", "fail b", "undo a"]
    assert isinstance(caught.value.error, LookupError)
    assert [error.message for error in record.compensation_errors] == ["cannot undo d", "cannot undo b"]
    assert all(error.type.endswith("OSError") for error in record.compensation_errors)
    failures = caught.value.compensation_errors
    assert all(isinstance(failure, CompensationFailed) for failure in failures)
    assert [(failure.step, failure.run_id) for failure in failures] == [("d#0", run.id), ("b#0", run.id)]
    assert [(type(failure.error), str(failure.error)) for failure in failures] == [
        (OSError, "cannot undo d"),
        (OSError, "cannot undo b"),
    ]
    assert str(failures[0]) == "the compensation of step 'd#0' failed: OSError: cannot undo d"


async def test_of_very_many_failed_compensations_the_first_ones_are_given(
    store_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each costs time, and the event loop waits meanwhile; the history has all of them."""
    for module in (engine_run, records_of, runs_table):
        monkeypatch.setattr(module, "COMPENSATION_ERRORS_MAX", 2)

    def fail(result: str) -> None:
        raise OSError(f"cannot undo {result}")

    @workflow
    async def trip(ctx: Context) -> None:
        for name in "abc":
            await ctx.step(name, str, name, compensate=fail)
        raise LookupError("the cause")

    async with serving(store_path, trip) as engine:
        run = await engine.start(trip)
        with pytest.raises(RunFailed) as caught:
            await run.result()
        record = await run.record()
        assert len(await _compensations(run)) == 3
    assert [failure.step for failure in caught.value.compensation_errors] == ["c#0", "b#0"]
    assert [error.message for error in record.compensation_errors] == ["cannot undo c", "cannot undo b"]
    assert "(2 or more not undone)" in runs_table.note_of(record, datetime.now(UTC))


@pytest.mark.parametrize("how", ["cancelled", "expired", "failed"])
async def test_whatever_ends_a_run_its_error_tells_which_compensations_failed(store_path: str, how: str) -> None:
    """Also of steps in branches, and read by an engine that does not know the workflow."""
    kinds: dict[str, type[RunCancelled | RunExpired | RunFailed]] = {
        "cancelled": RunCancelled,
        "expired": RunExpired,
        "failed": RunFailed,
    }

    def fail(result: str) -> None:
        raise OSError(f"cannot undo {result}")

    @workflow
    async def trip(ctx: Context) -> None:
        async def book(branch: Context) -> None:
            await branch.step("a", lambda: "a", compensate=fail)

        async with ctx.open_nursery() as nursery:
            nursery.start_soon(book)
        await ctx.step("b", lambda: "b", compensate=lambda _: None)
        if how == "failed":
            raise LookupError("the cause")
        await ctx.wait_signal("never")

    async with serving(store_path, trip) as engine:
        run = await engine.start(trip, ttl=0.3 if how == "expired" else None)
        if how == "cancelled":
            await wait_passivated(engine)
            await run.cancel()
        with pytest.raises(kinds[how]) as caught:
            await run.result()
        (failure,) = caught.value.compensation_errors
        assert (failure.step, str(failure.error)) == ("nursery#0/book#0/a#0", "cannot undo a")
        if store_path != ":memory:":
            async with Engine(store_path) as client:
                with pytest.raises(kinds[how]) as caught:
                    await client.get(run.id).result()
            assert [failure.step for failure in caught.value.compensation_errors] == ["nursery#0/book#0/a#0"]


async def test_an_error_without_failed_compensations_has_none_and_is_the_same_for_a_parent(store_path: str) -> None:
    @workflow
    async def child(ctx: Context) -> None:
        await ctx.step("a", lambda: "a", compensate=lambda _: None)
        raise LookupError("the cause")

    @workflow
    async def parent(ctx: Context) -> str:
        try:
            await ctx.run_child(child)
        except RunFailed as error:
            return f"{error.error}: {error.compensation_errors}"
        return "not reached"

    async with serving(store_path, child, parent) as engine:
        assert await engine.run(parent) == "the cause: ()"
        with pytest.raises(RunFailed) as caught:
            await engine.run(child)
    assert caught.value.compensation_errors == ()


async def test_a_compensation_is_tried_again_as_its_policy_says(autojump_clock: MockClock) -> None:
    events: list[str] = []
    keys: set[str] = set()

    async def flaky(result: str) -> None:
        step = current_step()
        keys.add(step.idempotency_key)
        events.append(f"{result} {step.attempt} {trio.current_time():g}")
        if step.attempt < 3:
            raise OSError("again")

    async def book() -> str:
        return "LH1"

    @workflow
    async def trip(ctx: Context) -> None:
        await ctx.step("flight", book, compensate=flaky, compensate_retry=Retry.fixed(3, 60))
        raise LookupError("no car")

    async with serving(":memory:", trip, clock=VirtualClock()) as engine:
        run = await engine.start(trip)
        with pytest.raises(RunFailed):
            await run.result()
        assert (await run.record()).compensation_errors == ()
        assert await _compensations(run) == [("compensate/flight#0", "completed")]
    assert events == ["LH1 1 0", "LH1 2 60", "LH1 3 120"]
    assert len(keys) == 1


async def test_a_cancel_is_compensated_too(store_path: str) -> None:
    events: list[str] = []

    @workflow
    async def trip(ctx: Context) -> None:
        await ctx.step("flight", lambda: "LH1", compensate=_undo(events))
        await ctx.step("hotel", lambda: "Ritz", compensate=_undo(events))
        try:
            await ctx.wait_signal("never")
        finally:
            events.append("finally")

    async with serving(store_path, trip) as engine:
        run = await engine.start(trip)
        await wait_passivated(engine)
        await run.cancel("changed my mind", wait=True)
        assert events[-2:] == ["undo Ritz", "undo LH1"]
        assert "finally" in events
        with pytest.raises(RunCancelled, match="changed my mind"):
            await run.result()
        assert (await run.record()).status is RunStatus.CANCELLED
    assert len([event for event in events if event.startswith("undo")]) == 2


async def test_a_cancel_while_compensating_changes_nothing(store_path: str) -> None:
    undoing, go = trio.Event(), trio.Event()
    events: list[str] = []

    async def undo(result: str) -> None:
        undoing.set()
        await go.wait()
        events.append(f"undo {result}")

    @workflow
    async def trip(ctx: Context) -> None:
        await ctx.step("a", lambda: "a", compensate=undo)
        await ctx.step("b", lambda: "b", compensate=undo)
        raise LookupError("no car")

    async with serving(store_path, trip) as engine:
        run = await engine.start(trip)
        await undoing.wait()
        assert await run.cancel() is False
        go.set()
        with pytest.raises(RunFailed):
            await run.result()
        assert (await run.record()).status is RunStatus.FAILED
    assert events == ["undo b", "undo a"]


async def test_a_ttl_is_compensated_too(autojump_clock: MockClock) -> None:
    events: list[str] = []

    async def book() -> str:
        return "LH1"

    async def undo(result: str) -> None:
        await trio.sleep(10)  # compensation has no time to live
        events.append(f"undo {result}")

    @workflow(ttl=5)
    async def trip(ctx: Context) -> None:
        await ctx.step("a", book, compensate=undo)
        await ctx.step("b", book, compensate=undo)
        await ctx.sleep(60)

    async with serving(":memory:", trip, clock=VirtualClock()) as engine:
        run = await engine.start(trip)
        with pytest.raises(RunExpired):
            await run.result()
        assert (await run.record()).status is RunStatus.FAILED
    assert events == ["undo LH1"] * 2


async def test_a_failure_after_recovery_also_undoes_the_replayed_steps(file_path: str) -> None:
    events: list[str] = []

    @workflow
    async def trip(ctx: Context) -> None:
        await ctx.step("flight", lambda: noted(events, "book", "LH1"), compensate=_undo(events))
        await ctx.wait_signal("go")
        await ctx.step("hotel", lambda: "Ritz", compensate=_undo(events))
        raise LookupError("no car")

    async with serving(file_path, trip) as engine:
        await engine.start(trip, id="r")
        await wait_passivated(engine)
    async with serving(file_path, trip) as engine:
        await engine.send_signal("r", "go")
        with pytest.raises(RunFailed):
            await engine.get("r").result()
    assert events == ["book", "undo Ritz", "undo LH1"]


async def test_a_compensation_interrupted_by_a_stop_goes_on_where_it_stopped(file_path: str) -> None:
    events: list[str] = []
    is_first = True

    async def undo(result: str) -> None:
        events.append(f"begin {result}")
        if is_first and result == "b":
            await trio.sleep_forever()
        events.append(f"undo {result}")

    @workflow
    async def trip(ctx: Context) -> None:
        for name in "abc":
            await ctx.step(name, lambda name: name, name, compensate=undo)
        events.append("fail")
        raise LookupError("no car")

    async with serving(file_path, trip, grace_seconds=0) as engine:
        await engine.start(trip, id="r")
        await wait_until(lambda: "begin b" in events)
    is_first = False
    async with serving(file_path, trip) as engine:
        run = engine.get("r")
        with pytest.raises(RunFailed) as caught:
            await run.result()
        rows = await _compensations(run)
        record = await run.record()
    assert isinstance(caught.value.error, LookupError)
    assert events == ["fail", "begin c", "undo c", "begin b", "fail", "begin b", "undo b", "begin a", "undo a"]
    assert rows == [(f"compensate/{name}#0", "completed") for name in "cba"]
    assert record.recoveries == 0  # nothing has crashed


_is_first_process = False


@workflow
async def killed(ctx: Context, effects: str) -> None:
    def note(line: str) -> None:
        with Path(effects).open("a") as file:
            file.write(line + "\n")

    async def undo(result: str) -> None:
        note(f"undo {result} {current_step().idempotency_key}")
        if _is_first_process and result == "b":
            print("ready", flush=True)
            await trio.sleep_forever()

    for name in "abc":
        await ctx.step(name, lambda name: name, name, compensate=undo)
    raise LookupError("no car")


def compensate_until_killed(path: str, effects: str) -> None:
    """Called in the process that is killed."""
    global _is_first_process
    _is_first_process = True

    async def main() -> None:
        async with open_engine(path, workflows=[killed]) as engine:
            await engine.run(killed, effects, id="r")

    trio.run(main)


async def test_a_compensation_interrupted_by_a_kill_goes_on_where_it_stopped(file_path: str, tmp_path: Path) -> None:
    effects = tmp_path / "effects"
    await killed_when_ready(__name__, "compensate_until_killed", file_path, str(effects))
    async with serving(file_path, killed) as engine:
        run = engine.get("r")
        with pytest.raises(RunFailed) as caught:
            await run.result()
        rows = await _compensations(run)
        assert (await run.record()).recoveries == 1
    assert isinstance(caught.value.error, LookupError)
    lines = [line.split() for line in effects.read_text().splitlines()]
    assert [name for _, name, _ in lines] == ["c", "b", "b", "a"]
    assert lines[1] == lines[2], "the idempotency key of a compensation is the same after the crash"
    assert rows == [(f"compensate/{name}#0", "completed") for name in "cba"]


async def test_the_error_of_the_first_failure_stays_although_the_replay_comes_to_another(file_path: str) -> None:
    """What made the run compensate is recorded when compensation begins."""
    messages = iter(["first", "second"])
    is_first = True
    begun = trio.Event()

    async def undo(_: str) -> None:
        begun.set()
        if is_first:
            await trio.sleep_forever()

    @workflow
    async def trip(ctx: Context) -> None:
        await ctx.step("a", lambda: "a", compensate=undo)
        raise LookupError(next(messages))

    async with serving(file_path, trip, grace_seconds=0) as engine:
        await engine.start(trip, id="r")
        await begun.wait()
    is_first = False
    async with serving(file_path, trip) as engine:
        with pytest.raises(RunFailed) as caught:
            await engine.get("r").result()
    error = caught.value.error
    assert isinstance(error, LookupError)
    assert error.args == ("first",)


async def test_a_body_that_catches_the_failure_is_not_compensated(store_path: str) -> None:
    events: list[str] = []

    @workflow
    async def trip(ctx: Context) -> str:
        await ctx.step("flight", lambda: "LH1", compensate=_undo(events))
        try:
            await ctx.step("hotel", lambda: 1 // 0, compensate=_undo(events))
        except ZeroDivisionError:
            return "tent"
        return "hotel"

    async with serving(store_path, trip) as engine:
        assert await engine.run(trip) == "tent"
    assert events == []


async def test_a_failed_run_whose_compensation_has_run_cannot_be_resumed(store_path: str) -> None:
    @workflow
    async def trip(ctx: Context) -> None:
        await ctx.step("flight", lambda: "LH1", compensate=lambda _: None)
        raise LookupError("no car")

    async with serving(store_path, trip) as engine:
        run = await engine.start(trip)
        await wait_status(run, RunStatus.FAILED)
        with pytest.raises(RunConflict):
            await engine.resume(run.id)


async def test_changed_code_cannot_begin_anew_what_is_half_undone(file_path: str) -> None:
    """A run that compensates in code that would now continue as new is parked; the code that fits undoes the rest."""
    undoing, hangs = trio.Event(), True
    undone: list[str] = []

    async def undo(result: str) -> None:
        undoing.set()
        if hangs:
            await trio.sleep_forever()
        undone.append(result)

    @workflow(name="trip")
    async def failing(ctx: Context) -> None:
        await ctx.step("flight", lambda: "LH1", compensate=undo)
        raise LookupError("no car")

    @workflow(name="trip")
    async def going_on(ctx: Context) -> None:
        await ctx.step("flight", lambda: "LH1", compensate=undo)
        await ctx.continue_as_new()

    store = file_path
    async with serving(store, failing, grace_seconds=0) as engine:
        await engine.start(failing, id="a")
        await undoing.wait()
    async with serving(store, going_on) as engine:
        record = await wait_parked(engine.get("a"))
        assert record.problem is not None
        assert (record.problem.kind, record.generation) == ("divergence", 0)
        assert "continue" in record.problem.text
    hangs = False
    async with serving(store, failing) as engine:
        record = await wait_status(engine.get("a"), RunStatus.FAILED)
        assert isinstance(record.error, LookupError)
    assert undone == ["LH1"]
