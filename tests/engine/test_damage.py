"""What people see of damaged rows, and how they mend them; reports that cannot be read."""

from __future__ import annotations

import json
import logging
import re
from contextlib import closing
from typing import Any

import pytest
import trio

from durable_trio import (
    CodecError,
    Context,
    Engine,
    Observer,
    Problem,
    Retry,
    RunConflict,
    RunFailed,
    RunNotFound,
    RunStatus,
    current_step,
    sqlite3,
    workflow,
)
from durable_trio.records import StepKind
from tests.engine.harness import PATIENCE_SECONDS, serving, wait_parked, wait_passivated, wait_status

pytestmark = pytest.mark.on_sqlite("writes into its tables what no engine would")


async def double(n: int) -> int:
    return 2 * n


@workflow
async def waiting(ctx: Context, n: int) -> int:
    total = await ctx.step("a", double, n)
    return total + int(await ctx.wait_signal("go", int))


@workflow
async def quick(ctx: Context, n: int) -> int:
    return await ctx.step("a", double, n)


@workflow
async def failing(ctx: Context) -> None:
    raise ValueError("as it should")


@workflow
async def parent(ctx: Context) -> str:
    try:
        await ctx.run_child(waiting, 1, id="kid")
    except RunNotFound:
        return "the child is gone"
    return "the child has ended"


undone: list[str] = []


async def undo(name: str) -> None:
    undone.append(name)
    if name == "a" and current_step().attempt == 1:
        raise ValueError("not yet")


async def same(name: str) -> str:
    return name


@workflow
async def compensating(ctx: Context) -> None:
    for name in ("a", "b"):
        await ctx.step(name, same, name, compensate=undo, compensate_retry=Retry.fixed(2, 3600))
    raise ValueError("as it should")


WORKFLOWS = (waiting, quick, failing, parent)


def edit(path: str, *statements: str) -> None:
    """Change a file as another program would."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        for statement in statements:
            connection.execute(statement)
    finally:
        connection.close()


async def prepare(path: str) -> None:
    async with serving(path, *WORKFLOWS, durability="normal") as engine:
        run = await engine.start(waiting, 1, id="waiting", tags={"color": "red"})
        await engine.run(quick, 4, id="done")
        with pytest.raises(RunFailed):
            await engine.run(failing, id="failed")
        await wait_status(run, RunStatus.SUSPENDED)
        await wait_passivated(engine)


@pytest.mark.parametrize("column", ["args", "tags", "error", "result", "problem", "compensation_errors"])
@pytest.mark.parametrize("value", ["'{bad'", "CAST(x'ff' AS TEXT)"])
async def test_lists_give_what_can_be_read_and_say_what_cannot(file_path: str, column: str, value: str) -> None:
    await prepare(file_path)
    edit(file_path, f"UPDATE runs SET {column} = {value} WHERE id = 'done'")
    async with Engine(file_path, workflows=WORKFLOWS) as engine:
        records = {record.id: record for record in (await engine.list_runs()).runs}
        assert records.keys() == {"waiting", "done", "failed"}
        assert [records["waiting"].problem, records["failed"].problem] == [None, None]
        damaged = records["done"]
        assert damaged.problem is not None
        assert damaged.problem.kind == "damaged"
        assert "in table runs, the row with" in damaged.problem.text
        assert column in damaged.problem.text
        assert damaged.status is RunStatus.COMPLETED
        assert not (column != "problem" and getattr(damaged, column))
        assert damaged.result == (None if column == "result" else 8)
        assert [record.id for record in (await engine.list_runs(tags={"color": "red"})).runs] == ["waiting"]
        async with engine.watch(run_id="done") as changes:
            assert [record.problem async for record in changes] == [damaged.problem]


async def test_a_result_that_cannot_be_read_is_an_error_that_says_so_not_a_wrong_value(file_path: str) -> None:
    await prepare(file_path)
    for value in ("'{bad'", "NULL", "CAST(x'ff' AS TEXT)"):
        edit(file_path, f"UPDATE runs SET result = {value} WHERE id = 'done'")
        async with Engine(file_path, workflows=WORKFLOWS) as client:
            with pytest.raises(CodecError, match=r"'done'.*result"):
                await client.get("done", quick).result()


class Parked(Observer):
    """Notes what it is told of parked runs."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def run_parked(self, event: Any) -> None:
        self.problems.append(event.fields["problem"])


@pytest.mark.parametrize(
    ("statement", "place"),
    [
        ("UPDATE history SET kind = 'bogus'", "history, the row with seq 1.*kind holds 'bogus'"),
        ("UPDATE history SET result = NULL", "history, the row with key 'a#0'.*result is NULL"),
        ("UPDATE history SET result = '{bad'", "history, the row with key 'a#0', result"),
        ("UPDATE history SET finished_at = 9223372036854775807", "history.*finished_at"),
        ("UPDATE waits SET kind = 'bogus'", "waits.*kind holds 'bogus'"),
        ("UPDATE runs SET token = 9223372036854775807 WHERE id = 'waiting'", "runs.*token"),
        ("UPDATE runs SET seed = x'' WHERE id = 'waiting'", "runs.*seed has 0 bytes"),
    ],
)
async def test_a_run_that_cannot_be_read_is_parked_once_and_goes_on_when_it_is_mended(
    file_path: str, statement: str, place: str
) -> None:
    await prepare(file_path)
    connection = sqlite3.connect(file_path)
    before = {table: connection.execute(f"SELECT * FROM {table}").fetchall() for table in ("history", "waits")}
    seed, token = connection.execute("SELECT seed, token FROM runs WHERE id = 'waiting'").fetchone()
    connection.close()
    run = "run = (SELECT run FROM runs WHERE id = 'waiting')"
    edit(file_path, statement if "WHERE" in statement else f"{statement} WHERE {run}")
    told = []
    for _ in range(2):
        observer = Parked()
        async with serving(file_path, *WORKFLOWS, observers=[observer], durability="normal") as engine:
            await engine.send_signal("waiting", "go", 5, id="go")
            record = await wait_parked(engine.get("waiting"))
            assert record.problem is not None
            assert record.problem.kind == "damaged"
            assert re.search(place, record.problem.text)
            assert await engine.run(quick, 1) == 2
        told += observer.problems
    assert told == [record.problem]
    connection = sqlite3.connect(file_path, isolation_level=None)
    for table, rows in before.items():
        connection.execute(f"DELETE FROM {table}")
        connection.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)
    connection.execute("UPDATE runs SET seed = ?, token = ? WHERE id = 'waiting'", (seed, token + 5))
    connection.close()
    async with serving(file_path, *WORKFLOWS, durability="normal") as engine:
        resumed = await engine.resume("waiting")
        assert await resumed.result() == 7


async def test_a_damaged_run_can_be_given_up_and_its_parent_learns_of_it(file_path: str) -> None:
    async with serving(file_path, *WORKFLOWS, durability="normal") as engine:
        run = await engine.start(parent, id="parent")
        await wait_status(run, RunStatus.SUSPENDED)
        await wait_passivated(engine)
    edit(file_path, "UPDATE history SET status = 'bogus' WHERE run = (SELECT run FROM runs WHERE id = 'kid')")
    async with serving(file_path, *WORKFLOWS, durability="normal") as engine:
        await engine.send_signal("kid", "go", 1)
        await wait_parked(engine.get("kid"))
        await engine.cancel("kid")
        await wait_parked(engine.get("kid"))
        with pytest.raises(RunConflict):
            await engine.delete("parent")
        await engine.delete("kid")
        assert await engine.get("parent", parent).result() == "the child is gone"


async def test_a_run_that_was_parked_while_it_compensated_compensates_on(file_path: str) -> None:
    undone.clear()
    async with serving(file_path, compensating, durability="normal") as engine:
        run = await engine.start(compensating, id="run")
        await wait_status(run, RunStatus.COMPENSATING)
        await wait_passivated(engine)
    assert undone == ["b", "a"]
    edit(file_path, "UPDATE waits SET kind = 'bogus'")
    async with serving(file_path, compensating, durability="normal") as engine:
        edit(file_path, "UPDATE runs SET wake_at = 1, is_due = 1")
        await wait_parked(engine.get("run"))
    edit(file_path, "UPDATE waits SET kind = 'retry', due_at = 1")
    async with serving(file_path, compensating, durability="normal") as engine:
        await engine.resume("run")
        record = await wait_status(engine.get("run"), RunStatus.FAILED)
        assert isinstance(record.error, ValueError)
        assert record.compensation_errors == ()
    assert undone == ["b", "a", "a"]


async def test_a_run_that_has_ended_in_a_way_that_cannot_be_read_does_not_go_on(file_path: str) -> None:
    await prepare(file_path)
    edit(
        file_path,
        "PRAGMA ignore_check_constraints = ON",
        "UPDATE runs SET status = 'bogus', wake_at = 1, is_due = 1 WHERE id = 'done'",
    )
    async with serving(file_path, *WORKFLOWS, durability="normal") as engine:
        with trio.fail_after(PATIENCE_SECONDS):
            while (await engine.get("done").record()).wake_at is not None:  # noqa: ASYNC110  # of which nothing tells
                await trio.sleep(0.01)
        with pytest.raises(RunConflict, match="status holds 'bogus'"):
            await engine.resume("done")
        record = await engine.get("done").record()
        assert record.problem is not None
        assert (record.finished_at is None, record.wake_at, record.result) == (False, None, 8)
        await engine.delete("done")


async def test_steps_waits_and_messages_are_shown_with_what_cannot_be_read(file_path: str) -> None:
    await prepare(file_path)
    async with Engine(file_path) as client:
        await client.send_signal("waiting", "other", 1)
        edit(
            file_path,
            "UPDATE history SET kind = 'bogus', result = '{bad' WHERE name = 'a'",
            "UPDATE waits SET kind = 'bogus', error = 'x'",
            "UPDATE mailbox SET payload = '{bad'",
        )
        run = client.get("waiting")
        (step,) = await run.steps()
        assert (step.kind, step.result) == (StepKind.UNREADABLE, None)
        assert step.problem is not None
        assert "kind holds 'bogus'" in step.problem
        assert "result" in step.problem
        (wait,) = await run.waits()
        assert (wait.kind, wait.error) == ("unreadable", None)
        assert wait.problem is not None
        (entry,) = await run.unread()
        assert (entry.name, entry.payload) == ("other", None)
        assert entry.problem is not None
        assert "mailbox" in entry.problem


# ---- reports -----------------------------------------------------------------------------------------------------


def changed(report: str, **fields: object) -> str:
    return json.dumps({**json.loads(report), **fields})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda process, report: ("x", report),
        lambda process, report: (process, "{}"),
        lambda process, report: (process, changed(report, added_later=1)),
        lambda process, report: (process, changed(report, started_at="2026-01-01T00:00:00")),
        lambda process, report: ("a/b/" + "9" * 30 + "/1", report),
        lambda process, report: ("a/b/0/1", report),
    ],
)
async def test_a_report_that_cannot_be_read_is_left_out(
    file_path: str, caplog: pytest.LogCaptureFixture, spoil: Any
) -> None:
    async with serving(file_path, *WORKFLOWS, durability="normal") as engine:
        with trio.fail_after(20):
            while not await engine.processes():  # noqa: ASYNC110  # a report is no event
                await trio.sleep(0.01)
        connection = engine.connect()
        (good,) = connection.execute("SELECT process, report FROM reports").fetchall()
        bad = spoil(*good)
        connection.execute("INSERT OR REPLACE INTO reports VALUES (?, 1, ?)", bad)
        connection.commit()
        connection.close()
        with caplog.at_level(logging.INFO):
            for _ in range(2):
                assert len(await engine.processes()) == (0 if bad[0] == good[0] else 1)
                assert len(await engine.trees()) == (0 if bad[0] == good[0] else 1)
        assert sum("cannot be read" in record.message for record in caplog.records) == 1
    edit(file_path, f"INSERT OR REPLACE INTO reports VALUES ('{bad[0]}', 1, '{bad[1]}')")
    async with serving(file_path, *WORKFLOWS, durability="normal") as engine:
        assert await engine.run(quick, 1) == 2
        assert len(await engine.trees()) <= 1


@workflow
async def starting(ctx: Context) -> str:
    explicit = await ctx.start_child(waiting, 1, id="named")
    derived = await ctx.start_child(waiting, 1)
    await ctx.wait_signal("go")
    return f"{explicit.id} {derived.id}"


@pytest.mark.parametrize("n", [0, 1])
async def test_a_run_whose_history_has_lost_a_child_is_set_aside_and_does_not_fail(file_path: str, n: int) -> None:
    """It has started that child: to fail it for that would be for good."""
    async with serving(file_path, starting, waiting) as engine:
        run = await engine.start(starting, id="parent")
        await wait_status(run, RunStatus.SUSPENDED)
    with closing(sqlite3.connect(file_path)) as connection, connection:
        lost = connection.execute(
            "SELECT id FROM history WHERE kind = 'child' ORDER BY seq LIMIT 1 OFFSET ?", (n,)
        ).fetchone()
        connection.execute("DELETE FROM history WHERE kind = 'child' AND id >= ?", lost)
    async with serving(file_path, starting, waiting) as engine:
        run = engine.get("parent")
        await run.signal("go")
        record = await wait_parked(run)
        assert record.problem is not None
        assert (record.status, record.problem.kind) == (RunStatus.SUSPENDED, "damaged")
        assert "its history does not know of it" in record.problem.text


async def test_a_child_with_the_id_of_one_before_fails_its_call_in_a_sound_history(file_path: str) -> None:
    @workflow
    async def twice(ctx: Context, generation: int) -> str:
        try:
            await ctx.start_child(quick, 1, id="same", detached=True)
            if generation == 0:
                await ctx.start_child(quick, 1, id="same", detached=True)
        except RunConflict as error:
            if generation:
                return str(error)
        await ctx.continue_as_new(generation + 1)
        raise AssertionError("unreachable")

    async with serving(file_path, twice, quick) as engine:
        with trio.fail_after(PATIENCE_SECONDS):
            assert "stored already" in await engine.run(twice, 0)
