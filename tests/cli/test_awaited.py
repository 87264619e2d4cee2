"""``show``, ``list``, ``--json`` and ``check`` name what runs wait for, and why nobody takes one that is due."""

from __future__ import annotations

import json
import re
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio

from durable_trio import (
    Awaited,
    Context,
    Engine,
    Retry,
    RunExpired,
    RunRecord,
    RunStatus,
    current_step,
    open_engine,
    workflow,
)
from durable_trio.cli import cancelling
from durable_trio.cli.awaited_text import awaited_lines, awaited_note
from tests.cli.desk import PATIENCE_SECONDS, call
from tests.cli.test_json import validate
from tests.engine.harness import SettableClock, serving, wait_passivated
from tests.engine.test_awaited import KNOWN, at_rest, does_it_all, runs_a_child, waits_for_a_while

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SOON = NOW + timedelta(hours=1)


def record(*waits_for: Awaited, status: RunStatus = RunStatus.SUSPENDED) -> RunRecord:
    nothing: dict[str, Any] = dict.fromkeys(
        ["result", "error", "problem", "queue", "parent_id", "finished_at", "wake_at", "ttl_at"]
    )
    return RunRecord(
        id="it",
        workflow="order",
        status=status,
        args=(),
        priority=0,
        tags={},
        created_at=NOW,
        started_at=None if status is RunStatus.PENDING else NOW,
        recoveries=0,
        generation=0,
        compensation_errors=(),
        waits_for=waits_for,
        **nothing,
    )


@pytest.mark.parametrize(
    ("one", "line", "note"),
    [
        (Awaited(kind="sleep", name="rest", due_at=SOON), "for the timer rest, in 1 h (", "due in 1 h: timer rest"),
        (Awaited(kind="sleep", name="rest"), "for the timer rest, for ever", "timer rest"),
        (Awaited(kind="signal", name="go"), "for the signal go", "signal go"),
        (
            Awaited(kind="signal", name="go", due_at=SOON),
            "for the signal go; gives up in 1 h (",
            "due in 1 h: signal go",
        ),
        (Awaited(kind="retry", name="a#0", due_at=SOON), "to try a#0 again in 1 h (", "due in 1 h: retry a#0"),
        (Awaited(kind="retry", name="a#0", due_at=NOW), "for a#0, tried again since 12:00:00", "tries a#0 again"),
        (Awaited(kind="child", name="c", workflow="kid"), "for the child c (kid)", "child c (kid)"),
        (Awaited(kind="map", name="m#0", total=5), "for the items of m#0", "map m#0"),
        (Awaited(kind="deadline", due_at=SOON), "at most until a deadline, in 1 h (", "due in 1 h: deadline"),
        (Awaited(kind="executor", due_at=NOW, reason="why"), "to go on: due since 12:00:00, why", "due: why"),
    ],
)
def test_each_kind_has_its_words(one: Awaited, line: str, note: str) -> None:
    (shown,) = awaited_lines(record(one), NOW)
    assert shown.startswith(line)
    assert awaited_note(record(one), NOW) == note


def test_a_run_that_has_not_begun_is_to_begin() -> None:
    one = Awaited(kind="executor", due_at=NOW, reason="why")
    (shown,) = awaited_lines(record(one, status=RunStatus.PENDING), NOW)
    assert shown.startswith("to begin: due since")


def test_signals_are_one_line_and_what_is_stored_does_as_it_is_told() -> None:
    several = [Awaited(kind="signal", name=name) for name in ("one", "two\x1b[2J", "one")]
    (shown,) = awaited_lines(record(*several, Awaited(kind="ttl", due_at=SOON)), NOW)
    assert shown == "for the signals one, two\\x1b[2J"
    assert awaited_note(record(*several), NOW) == "signal one, and 2 more"


def test_waits_are_named_everywhere(tmp_path: Path) -> None:
    path = str(tmp_path / "app.db")

    async def prepare() -> None:
        async with open_engine(path, workflows=KNOWN) as engine:
            for body in (does_it_all, runs_a_child, waits_for_a_while):
                await engine.start(body, id=body.name)
            for body in (does_it_all, runs_a_child, waits_for_a_while):
                await at_rest(engine, body.name)
        async with Engine(path) as client:
            await client.start("stranger", id="stranger")

    trio.run(prepare)
    shown = call("--db", path, "show", "does_it_all").out
    for line in ("timer rest, in ", "signal go; gives up in", "signal stop\n", "child does_it_all's kid (kid)\n"):
        assert f"  waits      for the {line}" in shown
    shown = call("--db", path, "show", "runs_a_child").out
    assert "  waits      for the child runs_a_child's kid (kid)\n" in shown
    assert "  waits      for the signal go; gives up in " in call("--db", path, "show", "waits_for_a_while").out
    assert "due since" in call("--db", path, "show", "stranger").out
    listed = call("--db", path, "list", env={"COLUMNS": "160"}).out
    for note in ("child runs_a_child's kid (kid)", ": signal go", "due: nobody serves this database"):
        assert note in listed
    document = call("--db", path, "show", "waits_for_a_while", "--json").json
    validate(document, "show")
    (one,) = document["run"]["waits_for"]
    assert (one["kind"], one["name"], one["due_at"] is not None) == ("signal", "go", True)


async def test_of_a_run_that_ends_its_child_is_named_not_one_that_it_has_let_go_of(tmp_path: Path) -> None:
    begun, go = trio.Event(), trio.Event()

    async def hold() -> None:
        begun.set()
        with trio.CancelScope(shield=True):
            await go.wait()

    @workflow
    async def held(ctx: Context) -> None:
        await ctx.step("hold", hold)

    @workflow
    async def sleeps(ctx: Context) -> None:
        await ctx.sleep(3600)

    @workflow
    async def parent(ctx: Context) -> None:
        child = await ctx.start_child(held, id="child")
        await ctx.start_child(sleeps, id="let go", detached=True)
        await child.result()

    async with open_engine(tmp_path / "runs.db", workflows=[held, sleeps, parent]) as engine:
        run = await engine.start(parent, id="parent")
        await begun.wait()
        try:
            with trio.fail_after(10):
                while len((await engine.list_runs(parent="parent")).runs) < 2:  # noqa: ASYNC110
                    await trio.sleep(0.002)
                await run.cancel()
                said = ""
                while "child" not in said:
                    await trio.sleep(0.01)
                    said = await cancelling._obstacle(engine, "parent")
            assert said.startswith("'parent' waits for its child 'child' to end, which is running")
        finally:
            go.set()


def test_an_attempt_that_is_under_way_is_not_told_as_one_to_come(tmp_path: Path) -> None:
    path = str(tmp_path / "app.db")
    second, go = threading.Event(), threading.Event()

    def flaky() -> None:
        if current_step().attempt == 1:
            raise ConnectionError("no answer")
        second.set()
        go.wait(PATIENCE_SECONDS)

    @workflow
    async def caller(ctx: Context) -> None:
        await ctx.step("call", flaky, retry=Retry.fixed(2, 0.001))

    async def serve() -> None:
        async with open_engine(path, workflows=[caller]) as engine:
            await engine.run(caller, id="r")

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    try:
        assert second.wait(PATIENCE_SECONDS)
        shown = call("--db", path, "show", "r").out
        listed = call("--db", path, "list").out
    finally:
        go.set()
        thread.join()
    assert "  waits      for call#0, tried again since " in shown
    assert "  next attempt due since " in shown
    assert "in hand    call#0, since " in shown
    assert "tries call#0 again" in listed


def test_show_tells_where_a_run_was_when_its_time_to_live_was_over(file_path: str) -> None:
    @workflow(ttl=60)
    async def late(ctx: Context) -> None:
        await ctx.wait_signal("never")

    async def main() -> None:
        clock = SettableClock()
        async with serving(file_path, late, clock=clock) as engine:
            run = await engine.start(late, id="r")
            await wait_passivated(engine)
            clock.advance(61)
            with trio.fail_after(PATIENCE_SECONDS), pytest.raises(RunExpired):
                await run.result()

    trio.run(main)
    said = call("show", "r", "--db", file_path)
    assert re.search(r"^  expired +at the wait for signal 'never', since .*, for 1 m 1 s$", said.out, re.MULTILINE), (
        said
    )
    document = json.loads(call("show", "r", "--db", file_path, "--json").out)
    assert "time to live; it was at the wait for signal 'never' since" in document["run"]["error"]["message"]
    (row,) = (step for step in document["steps"] if step["kind"] == "ttl")
    assert row["result"]["open"][0]["key"] == "never#0"
