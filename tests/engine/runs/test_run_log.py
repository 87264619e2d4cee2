"""One log record for each thing that goes wrong with a run, with the run, the step, the cause and the user's line."""

from __future__ import annotations

import contextlib
import json
import logging
from collections import Counter
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from durable_trio import Context, Retry, RunCancelled, RunExpired, RunFailed, workflow
from durable_trio.engine.runs.service import Runs
from durable_trio.failures import tell_of
from durable_trio.rows import RunRow
from durable_trio.serving.logs import LineFormatter, LogStyle
from durable_trio.testing import VirtualClock
from tests.engine.harness import PATIENCE_SECONDS, serving, wait_parked, wait_passivated

pytestmark = pytest.mark.usefixtures("no_leaks")


Log = pytest.LogCaptureFixture


@pytest.fixture
def records(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG)
    return caplog


def told(records: Log) -> list[dict[str, Any]]:
    """Return the fields of what was told of runs, as a server writes them."""
    formatter = LineFormatter(LogStyle.JSON)
    found = [record for record in records.records if record.name == "durable_trio.runs"]
    return [json.loads(formatter.format(record)) for record in found]


def line_of(fn: Any, offset: int = 1) -> str:
    """Return a line of a function as it is told."""
    return f"{__file__}:{fn.__code__.co_firstlineno + offset} in {fn.__code__.co_name}"


async def inner() -> None:
    raise ConnectionError("no route\nto host")


async def bad(_: object = None) -> None:
    await inner()


async def good() -> int:
    return 1


async def undo(_: int) -> None:
    raise OSError("undo failed")


@workflow
async def fails(ctx: Context) -> None:
    await ctx.step("good", good, compensate=undo)
    await ctx.step("bad", bad, retry=Retry.fixed(9, 0.01))


async def test_a_failed_run_its_retries_and_its_failed_compensation_are_told(
    autojump_clock: MockClock, records: Log
) -> None:
    async with serving(":memory:", fails, clock=VirtualClock()) as engine:
        await engine.start(fails, id="r")
        with pytest.raises(RunFailed):
            await engine.get("r").result()
    found = told(records)
    assert [(each["event"], each["level"], each["step"], each["attempt"]) for each in found] == [
        *[("step_retried", "warning", "bad#0", attempt) for attempt in (1, 2, 4, 8)],
        ("compensation_failed", "error", "good#0", 1),
        ("run_failed", "error", "bad#0", 9),
    ]
    assert {(each["run_id"], each["workflow"]) for each in found} == {("r", "fails")}
    assert found[-1]["cause"] == found[0]["cause"] == "ConnectionError: no route to host"
    assert found[-1]["place"] == found[0]["place"] == line_of(inner)
    assert found[-2]["place"] == line_of(undo)
    message = found[-1]["message"]
    assert message == (
        "run 'r' of workflow 'fails' has failed in step 'bad#0', attempt 9: ConnectionError: no route to host "
        f"(at {line_of(inner)})"
    )


async def of_the_body(ctx: Context) -> None:
    raise KeyError("body")


async def of_a_cause(ctx: Context) -> None:
    try:
        await ctx.step("bad", bad)
    except ConnectionError as error:
        raise RuntimeError("the order has failed") from error


async def of_a_context(ctx: Context) -> None:
    try:
        await ctx.step("bad", bad)
    except ConnectionError:
        raise RuntimeError("the order has failed")  # noqa: B904


async def of_branches(ctx: Context) -> None:
    async with ctx.open_nursery() as nursery:
        nursery.start_soon(in_branch)


async def in_branch(ctx: Context) -> None:
    await ctx.step("bad", bad)


async def of_a_map(ctx: Context) -> None:
    await ctx.map("bad", bad, [1])


async def of_what_was_caught(ctx: Context) -> None:
    with contextlib.suppress(ConnectionError):
        await ctx.step("bad", bad)
    raise ValueError("by itself")


GROUPED = "ConnectionError: no route to host (in an ExceptionGroup)"
CASES: list[tuple[Any, str | None, str, str]] = [
    (of_the_body, None, "KeyError: 'body'", line_of(of_the_body)),
    (of_a_cause, "bad#0", "RuntimeError: the order has failed", line_of(inner)),
    (of_a_context, "bad#0", "RuntimeError: the order has failed", line_of(inner)),
    (
        of_branches,
        "nursery#0/in_branch#0/bad#0",
        GROUPED,
        line_of(inner),
    ),
    (of_a_map, "bad#0/item#0", "ConnectionError: no route to host", line_of(inner)),
    (of_what_was_caught, None, "ValueError: by itself", line_of(of_what_was_caught, 3)),
]


@pytest.mark.parametrize(("body", "step", "cause", "place"), CASES, ids=[case[0].__name__ for case in CASES])
@pytest.mark.parametrize("is_replayed", [False, True])
async def test_the_step_that_has_ended_a_run_is_told(
    body: Any,
    step: str | None,
    cause: str,
    place: str,
    is_replayed: bool,
    file_path: str,
    records: Log,
) -> None:
    """Also where it failed in another process, before the run waited."""

    async def waits_then(ctx: Context) -> None:
        try:
            await body(ctx)
        finally:
            if is_replayed:
                await ctx.wait_signal("go")

    waiting = workflow(name="w")(waits_then)
    async with serving(file_path, waiting) as engine:
        run = await engine.start(waiting)
        if is_replayed:
            await wait_passivated(engine)
            await run.signal("go")
        with trio.fail_after(PATIENCE_SECONDS), pytest.raises(RunFailed):
            await run.result()
    (failed,) = (each for each in told(records) if each["event"] == "run_failed")
    assert (failed.get("step"), failed["cause"], failed["place"]) == (step, cause, place)


async def test_a_run_that_expires_and_one_that_is_cancelled_are_told(autojump_clock: MockClock, records: Log) -> None:
    @workflow(name="waits")
    async def waits(ctx: Context) -> None:
        await ctx.wait_signal("never")

    async with serving(":memory:", waits, clock=VirtualClock()) as engine:
        expired = await engine.start(waits, id="expired", ttl=5)
        with pytest.raises(RunExpired):
            await expired.result()
        cancelled = await engine.start(waits, id="cancelled")
        await trio.sleep(0.5)
        await cancelled.cancel("no need")
        with pytest.raises(RunCancelled):
            await cancelled.result()
    assert [(each["event"], each["run_id"], each["level"]) for each in told(records)] == [
        ("run_expired", "expired", "error"),
        ("run_cancelled", "cancelled", "info"),
    ]
    assert "no need" in told(records)[1]["message"]


async def test_a_parked_run_is_told_once_and_once_that_is_stored(file_path: str, records: Log) -> None:
    @workflow(name="changes")
    async def changes(ctx: Context) -> None:
        await ctx.step(name, good)
        await ctx.wait_signal("go")

    name = "one"
    async with serving(file_path, changes) as engine:
        run = await engine.start(changes, id="r")
        await wait_passivated(engine)
        name = "other"
        await run.signal("go")
        await wait_parked(run)
        with trio.fail_after(PATIENCE_SECONDS):
            while not told(records):  # noqa: ASYNC110  # a moment after it is stored
                await trio.sleep(0.002)
    (parked,) = told(records)
    assert (parked["event"], parked["level"], parked["problem"]) == ("run_parked", "error", "divergence")
    assert "one#0" in parked["cause"]


async def test_nothing_is_told_twice_at_replay(file_path: str, records: Log) -> None:
    @workflow(name="again")
    async def again(ctx: Context) -> None:
        await ctx.step("flaky", FlakyOnce(), retry=Retry.fixed(2, 0.0), returns=int)
        try:
            await ctx.step("bad", bad)
        except ConnectionError:
            await ctx.wait_signal("go")
        raise ValueError("boom")

    async with serving(file_path, again) as engine:
        await engine.start(again, id="r")
        await wait_passivated(engine)
    async with serving(file_path, again) as engine:
        await engine.send_signal("r", "go")
        with trio.fail_after(PATIENCE_SECONDS), pytest.raises(RunFailed):
            await engine.get("r").result()
    assert Counter(each["event"] for each in told(records)) == {"step_retried": 1, "run_failed": 1}


class FlakyOnce:
    """Fails once."""

    def __init__(self) -> None:
        self.has_failed = False

    async def __call__(self) -> int:
        if self.has_failed:
            return 1
        self.has_failed = True
        raise ConnectionError("once")


async def test_a_run_that_is_set_aside_is_told_with_the_step_that_it_came_to(
    file_path: str, records: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    @workflow(name="poison", max_recoveries=3)
    async def poison(ctx: Context) -> None:
        await ctx.step("first", good)
        await ctx.wait_signal("go")

    start = Runs.start

    def start_as_if_it_had_killed(self: Runs, row: RunRow, *args: Any) -> None:
        row.recoveries = 4 if row.token > 1 else 0
        start(self, row, *args)

    monkeypatch.setattr(Runs, "start", start_as_if_it_had_killed)
    async with serving(file_path, poison) as engine:
        run = await engine.start(poison, id="r")
        await wait_passivated(engine)
        await run.signal("go")
        with trio.fail_after(PATIENCE_SECONDS), pytest.raises(RunFailed, match="after step 'first#0'"):
            await run.result()
    (aside,) = told(records)
    assert (aside["event"], aside["level"], aside["run_id"]) == ("run_set_aside", "error", "r")
    assert "died 4 times" in aside["message"]
    assert "after step 'first#0'" in aside["message"]


@pytest.mark.parametrize("text", ["", "{", "[]", "5", '{"type": 5}', '{"errors": [[]], "type": "x.Y"}', "null"])
def test_what_is_no_failure_is_told_without_harm(text: str) -> None:
    assert tell_of(text).place is None


def test_extra_of_the_user_s_own_is_in_the_lines_for_programs() -> None:
    record = logging.makeLogRecord({"msg": "hello", "name": "mine", "order": 7})
    assert json.loads(LineFormatter(LogStyle.JSON).format(record))["order"] == 7
    assert " order=7" in LineFormatter(LogStyle.FIELDS).format(record)
