"""Signals: never lost, consumed once, in order of arrival; a timeout is an outcome of its own."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from durable_trio import (
    CodecError,
    Context,
    Engine,
    RunConflict,
    RunFinished,
    RunNotFound,
    RunStatus,
    SignalTimeout,
    StepKind,
    StepStatus,
    workflow,
)
from durable_trio.stores.writer import Writer
from durable_trio.testing import VirtualClock
from tests.calls.kit import collect, collect_slowly, impatient
from tests.engine.harness import PATIENCE_SECONDS, SettableClock, serving, wait_passivated, wait_status

pytestmark = pytest.mark.usefixtures("no_leaks")


S = RunStatus


@attrs.frozen
class Approval:
    by: str
    amount: int


# ---- before, during, after -------------------------------------------------------------------------------------------


async def test_a_signal_sent_during_the_wait_is_taken(store_path: str) -> None:
    async with serving(store_path, collect) as engine:
        run = await engine.start(collect, "go", 1)
        await wait_status(run, S.SUSPENDED)
        await run.signal("go", {"n": 1})
        assert await run.result() == [{"n": 1}]


async def test_a_signal_sent_before_the_wait_is_kept_for_it(store_path: str) -> None:
    async with serving(store_path, collect_slowly) as engine:
        run = await engine.start(collect_slowly, "go", 1)
        await run.signal("go", "early")
        await wait_passivated(engine)
        await run.signal("open")
        assert await run.result() == ["early"]


async def test_a_signal_to_a_run_that_has_not_begun_is_kept_for_it(store_path: str) -> None:
    async with serving(store_path, collect) as engine:
        run = await engine.start(collect, "go", 1, delay=0.05)
        await run.signal("go", "before the first line")
        assert await run.result() == ["before the first line"]


async def test_what_a_run_has_not_taken_yet_can_be_looked_at(store_path: str) -> None:
    """In order of arrival, until it is taken; a signal that nothing waited for stays, also after the end."""
    async with serving(store_path, collect_slowly) as engine:
        run = await engine.start(collect_slowly, "go", 1)
        assert await run.unread() == ()
        await run.signal("other", Approval("anna", 3))
        await run.signal("go", None)
        kept, taken = await run.unread()
        assert (kept.kind, kept.name, kept.payload) == ("signal", "other", {"by": "anna", "amount": 3})
        assert (taken.name, taken.payload) == ("go", None)
        assert (await run.record()).created_at <= kept.sent_at <= taken.sent_at
        await run.signal("open")
        assert await run.result() == [None]
        assert await run.unread() == (kept,)
        with pytest.raises(RunNotFound):
            await engine.get("unknown").unread()


async def test_a_request_to_cancel_is_unread_until_somebody_executes_the_run(file_path: str) -> None:
    async with serving(file_path, collect) as engine:
        run = await engine.start(collect, "go", 1, id="waits")
        await wait_passivated(engine)
    async with Engine(file_path) as client:
        asked = client.get("waits")
        await asked.cancel("too late")
        (request,) = await asked.unread()
        assert (request.kind, request.payload) == ("cancel", "too late")
    async with serving(file_path, collect) as engine:
        run = engine.get("waits")
        await wait_status(run, S.CANCELLED)
        assert await run.unread() == ()


async def test_a_run_that_was_cancelled_before_it_began_has_nothing_unread(store_path: str) -> None:
    async with serving(store_path, collect) as engine:
        run = await engine.start(collect, "go", 1, delay=60)
        await run.cancel("not wanted")
        assert (await run.record()).status is S.CANCELLED
        assert await run.unread() == ()


async def test_a_signal_after_the_end_is_refused_and_changes_nothing(store_path: str) -> None:
    async with serving(store_path, collect) as engine:
        run = await engine.start(collect, "go", 0)
        await run.result()
        before = await run.record()
        with pytest.raises(RunFinished) as caught:
            await run.signal("go", 1)
        assert caught.value.run_id == run.id
        assert await run.record() == before


@pytest.mark.parametrize("ending", [S.FAILED, S.CANCELLED])
async def test_a_failed_or_cancelled_run_takes_no_more_signals(store_path: str, ending: RunStatus) -> None:
    @workflow
    async def failing(ctx: Context) -> None:
        await ctx.wait_signal("go")
        raise ValueError("no")

    async with serving(store_path, failing) as engine:
        run = await engine.start(failing)
        if ending is S.CANCELLED:
            await run.cancel(wait=True)
        else:
            await run.signal("go")
            await wait_status(run, S.FAILED)
        with pytest.raises(RunFinished):
            await run.signal("go")


async def test_a_signal_to_an_unknown_run_is_refused(store_path: str) -> None:
    async with serving(store_path, collect) as engine:
        with pytest.raises(RunNotFound) as caught:
            await engine.send_signal("nobody", "go", 1)
        assert caught.value.run_id == "nobody"


# ---- order and identity ----------------------------------------------------------------------------------------------


async def test_signals_are_taken_in_the_order_of_their_arrival(store_path: str) -> None:
    async with serving(store_path, collect_slowly) as engine:
        run = await engine.start(collect_slowly, "go", 20)
        for number in range(10):
            await run.signal("go", number)
        await run.signal("open")
        for number in range(10, 20):
            await run.signal("go", number)
        assert await run.result() == list(range(20))


async def test_signals_of_different_names_do_not_meet(store_path: str) -> None:
    @workflow
    async def crosswise(ctx: Context) -> list[Any]:
        return [await ctx.wait_signal("second"), await ctx.wait_signal("first")]

    async with serving(store_path, crosswise) as engine:
        run = await engine.start(crosswise)
        await run.signal("first", 1)
        await run.signal("second", 2)
        await run.signal("third", 3)
        assert await run.result() == [2, 1]


async def test_equal_names_to_different_runs_do_not_meet(store_path: str) -> None:
    async with serving(store_path, collect) as engine:
        runs = [await engine.start(collect, "go", 1) for _ in range(5)]
        for number, run in reversed(list(enumerate(runs))):
            await run.signal("go", number)
        assert [await run.result() for run in runs] == [[0], [1], [2], [3], [4]]


async def test_the_same_id_twice_is_one_signal(store_path: str) -> None:
    async with serving(store_path, collect) as engine:
        run = await engine.start(collect, "go", 2)
        await run.signal("go", "a", id="1")
        await run.signal("go", "a", id="1")
        await run.signal("go", "b", id="2")
        assert await run.result() == ["a", "b"]


async def test_the_same_id_is_one_signal_also_after_it_was_consumed_and_after_the_end(store_path: str) -> None:
    async with serving(store_path, collect) as engine:
        run = await engine.start(collect, "go", 2)
        await run.signal("go", "a", id="1")
        await wait_passivated(engine)
        assert len(await run.steps()) == 1
        await run.signal("go", "a", id="1")
        await run.signal("go", "b")
        assert await run.result() == ["a", "b"]
        await run.signal("go", "a", id="1")


async def test_the_same_id_with_another_payload_or_name_is_a_conflict(store_path: str) -> None:
    async with serving(store_path, collect) as engine:
        run = await engine.start(collect, "go", 1)
        other = await engine.start(collect, "go", 1)
        await run.signal("other", "a", id="1")
        with pytest.raises(RunConflict):
            await run.signal("other", "b", id="1")
        with pytest.raises(RunConflict):
            await run.signal("go", "a", id="1")
        await other.signal("go", "b", id="1")  # ids are of one run
        assert await other.result() == ["b"]
        await run.signal("go", "end")
        assert await run.result() == ["end"]


@pytest.mark.parametrize("name", ["", " ", " go", "go ", "g\no", "x" * 257])
async def test_names_and_ids_that_cannot_be_stored_are_refused(name: str) -> None:
    async with serving(":memory:", collect) as engine:
        run = await engine.start(collect, "go", 1)
        with pytest.raises(ValueError, match="signal name"):
            await run.signal(name)
        with pytest.raises(ValueError, match="signal id"):
            await run.signal("go", id=name)
        await run.signal("go", "good")
        assert await run.result() == ["good"]


# ---- payloads --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "payload", [None, False, True, 0, -1, "", "text", 0.0, [], {}, [None, 0, ""], {"a": {"b": [1.5, None]}}]
)
async def test_a_payload_arrives_with_its_value_and_type(payload: Any) -> None:
    async with serving(":memory:", collect) as engine:
        run = await engine.start(collect, "go", 1)
        await run.signal("go", payload)
        (received,) = await run.result()
        assert received == payload
        assert type(received) is type(payload)


async def test_a_none_payload_is_no_timeout(autojump_clock: MockClock) -> None:
    async with serving(":memory:", impatient, clock=VirtualClock()) as engine:
        run = await engine.start(impatient, 60.0)
        await run.signal("go", None)
        await run.signal("go", 1)
        assert await run.result() == [None, 1]


async def test_a_payload_is_converted_to_the_type_of_the_wait(store_path: str) -> None:
    @workflow
    async def approved(ctx: Context) -> str:
        approval = await ctx.wait_signal("approval", Approval)
        return f"{approval.by}: {approval.amount + 1}"

    async with serving(store_path, approved) as engine:
        run = await engine.start(approved)
        await run.signal("approval", Approval("ann", 41))
        assert await run.result() == "ann: 42"
        plain = await engine.start(approved)
        await plain.signal("approval", {"by": "bob", "amount": 1})
        assert await plain.result() == "bob: 2"


async def test_a_payload_of_another_type_is_consumed_and_raises_in_the_body(store_path: str) -> None:
    @workflow
    async def choosy(ctx: Context) -> list[Any]:
        found: list[Any] = []
        for _ in range(2):
            try:
                found.append(await ctx.wait_signal("n", int))
            except CodecError as error:
                found.append(type(error).__name__)
        await ctx.wait_signal("end")
        return found

    async with serving(store_path, choosy) as engine:
        run = await engine.start(choosy)
        await run.signal("n", "twelve")
        await run.signal("n", 12)
        await wait_passivated(engine)
        await run.signal("end")  # what was caught comes again at replay
        with trio.fail_after(PATIENCE_SECONDS):
            assert await run.result() == ["CodecError", 12]


async def test_a_payload_that_cannot_be_stored_is_refused_by_the_sender(store_path: str) -> None:
    async with serving(store_path, collect) as engine:
        run = await engine.start(collect, "go", 1)
        with pytest.raises(CodecError):
            await run.signal("go", object())
        with pytest.raises(CodecError):
            await run.signal("go", {"a": [object()]})
        await run.signal("go", "good")
        assert await run.result() == ["good"]


# ---- timeouts --------------------------------------------------------------------------------------------------------


async def test_a_timeout_is_recorded_and_a_later_signal_is_not_lost(autojump_clock: MockClock) -> None:
    async with serving(":memory:", impatient, clock=VirtualClock()) as engine:
        began = trio.current_time()
        run = await engine.start(impatient, 60.0)
        await trio.sleep(61.0)
        (step,) = await run.steps()
        assert (step.kind, step.status) == (StepKind.SIGNAL, StepStatus.TIMED_OUT)
        assert step.error is not None
        assert "SignalTimeout" in step.error.type
        await run.signal("go", "late")
        assert await run.result() == ["timeout", "late"]
        assert trio.current_time() - began >= 60.0


async def test_a_timeout_is_a_too_slow_error_and_fails_a_body_that_does_not_catch_it(
    autojump_clock: MockClock,
) -> None:
    @workflow
    async def hasty(ctx: Context) -> bool:
        try:
            await ctx.wait_signal("go", timeout=0)
        except trio.TooSlowError:
            await ctx.wait_signal("go", timeout=5)
        return True

    async with serving(":memory:", hasty, clock=VirtualClock()) as engine:
        run = await engine.start(hasty)
        record = await wait_status(run, S.FAILED)
        assert isinstance(record.error, SignalTimeout)
        assert record.error.step == "go#1"


async def test_a_signal_in_time_is_no_timeout(autojump_clock: MockClock) -> None:
    async with serving(":memory:", impatient, clock=VirtualClock()) as engine:
        run = await engine.start(impatient, 60.0)
        await trio.sleep(59.9)
        await run.signal("go", "in time")
        await run.signal("go", "second")
        assert await run.result() == ["in time", "second"]


async def test_the_due_time_of_a_timeout_is_kept_over_restarts(file_path: str) -> None:
    clock = SettableClock()
    async with serving(file_path, impatient, clock=clock) as engine:
        run = await engine.start(impatient, 100.0, id="r")
        await wait_passivated(engine)
        wake_at = (await run.record()).wake_at
    for _ in range(3):
        clock.advance(33)
        async with serving(file_path, impatient, clock=clock) as engine:
            assert (await engine.get("r").record()).wake_at == wake_at
            assert await engine.get("r").steps() == ()
    clock.advance(1)
    async with serving(file_path, impatient, clock=clock) as engine:
        run = engine.get("r")
        with trio.fail_after(PATIENCE_SECONDS):
            while not await run.steps():  # noqa: ASYNC110
                await trio.sleep(0.002)
        await run.signal("go", "late")
        assert await run.result() == ["timeout", "late"]


async def test_with_both_past_due_at_resume_a_signal_sent_in_time_wins(file_path: str) -> None:
    clock = SettableClock()
    async with serving(file_path, impatient, clock=clock) as engine:
        await engine.start(impatient, 100.0, id="r")
        await wait_passivated(engine)
    async with Engine(file_path, clock=clock) as client:
        clock.advance(99)
        await client.send_signal("r", "go", "in time")
        clock.advance(50)
    async with serving(file_path, impatient, clock=clock) as engine:
        await wait_passivated(engine)
        await engine.send_signal("r", "go", "second")
        assert await engine.get("r").result() == ["in time", "second"]


async def test_with_both_past_due_at_resume_a_signal_sent_too_late_loses_but_is_kept(file_path: str) -> None:
    clock = SettableClock()
    async with serving(file_path, impatient, clock=clock) as engine:
        await engine.start(impatient, 100.0, id="r")
        await wait_passivated(engine)
    async with Engine(file_path, clock=clock) as client:
        clock.advance(101)
        await client.send_signal("r", "go", "too late")
    async with serving(file_path, impatient, clock=clock) as engine:
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.get("r").result() == ["timeout", "too late"]


async def test_a_signal_in_time_wins_although_nobody_has_noticed_it_when_the_time_is_over(
    file_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process has stored it; this one has not looked yet, and its timer comes first."""
    monkeypatch.setattr(Writer, "foreign_changes", lambda _: False)
    clock = SettableClock()
    async with serving(file_path, impatient, clock=clock) as engine, Engine(file_path, clock=clock) as client:
        run = await engine.start(impatient, 0.9)
        await wait_status(run, S.SUSPENDED)
        clock.advance(0.5)
        await client.send_signal(run.id, "go", "in time")
        clock.advance(1)
        with trio.fail_after(PATIENCE_SECONDS):
            while not await run.steps():  # noqa: ASYNC110
                await trio.sleep(0.002)
        await wait_passivated(engine)
        await run.signal("go", "second")
        with trio.fail_after(PATIENCE_SECONDS):
            assert await run.result() == ["in time", "second"]
