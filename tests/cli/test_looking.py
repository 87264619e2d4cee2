"""``list``, ``show``, ``watch``, ``check``: what they print for people."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import pytest
import trio

from durable_trio import Context, Engine, Retry, RunFailed, RunStatus, open_engine, sqlite3, workflow
from durable_trio.cli.run_view import run_view
from durable_trio.cli.runs_table import note_of
from durable_trio.cli.screen import Screen
from durable_trio.cli.text import width_of
from durable_trio.views.run import RunView
from tests.cli.desk import PATIENCE_SECONDS, call, command_line, process_of, surroundings
from tests.cli.test_top import NOW, record
from tests.kit import forks

ALL = {"pending", "running", "suspended", "compensating", "completed", "failed", "cancelled"}


def ids(out: str) -> list[str]:
    return [line.split()[0] for line in out.splitlines()[1:]]


# ---- list ----------------------------------------------------------------------------------------------------------


def test_list_shows_every_status_newest_first(db: str) -> None:
    said = call("list", "--db", db)
    assert said.code == 0
    assert {line.split()[1] for line in said.out.splitlines()[1:]} == ALL | {"parked"}
    assert ids(said.out)[0] == "stuck-1"
    assert ids(said.out)[-1] == "payroll-12"


def test_list_takes_filters(db: str) -> None:
    assert ids(call("--db", db, "list", "--status", "failed", "--status", "cancelled").out) == ["order-9", "order-8"]
    assert ids(call("--db", db, "list", "--workflow", "packing").out) == ["branches-1-child"]
    assert ids(call("--db", db, "list", "--status", "parked").out) == ["payroll-12"]
    assert call("--db", db, "list", "--status", "parked", "--workflow", "order").out == ""
    assert call("--db", db, "list", "--queue", "no such").out == ""
    assert ids(call("--db", db, "list", "--tag", "customer=anna", "--tag", "region=eu").out) == ["order-7"]
    nothing = call("--db", db, "list", "--tag", "customer=bert")
    assert (nothing.code, nothing.out, nothing.err) == (0, "", "no run matches\n")


def test_list_goes_on_with_the_cursor_that_it_gave(db: str) -> None:
    everything = ids(call("--db", db, "list").out)
    first = call("--db", db, "list", "--limit", "4")
    *lines, more = first.out.splitlines()
    assert "--cursor" in more
    second = call("--db", db, "list", "--cursor", more.split()[-1])
    assert ids("\n".join(lines)) + ids(second.out) == everything


def test_list_shows_twenty_runs_to_people_and_a_hundred_to_programs(file_path: str) -> None:
    async def prepare() -> None:
        async with Engine(file_path) as client:
            async with trio.open_nursery() as nursery:
                for _ in range(101):
                    nursery.start_soon(client.start, "order", 1)

    trio.run(prepare)
    assert call("--db", file_path, "list").out.count("pending") == 20
    assert len(call("--db", file_path, "list", "--json").json["runs"]) == 100
    assert len(call("--db", file_path, "list", "--json", "--limit", "7").json["runs"]) == 7


def test_one_long_id_is_shortened_for_the_errors_of_the_others_and_many_are_not(db: str) -> None:
    """A person copies ids; so they are shown whole where most are long."""
    long = str(uuid.UUID(int=7))
    assert call("--db", db, "start", "order", "1", "--id", long).code == 0
    out = call("--db", db, "list").out
    assert f"{long[:12]}" in out
    assert long not in out
    assert "RuntimeError: " in out
    assert call("--db", db, "list", env={"COLUMNS": "132"}).out.count(long) == 1
    assert [run["id"] for run in call("--db", db, "list", "--json", "--limit", "1").json["runs"]] == [long]
    assert long in call("--db", db, "list", "--limit", "1").out


@pytest.mark.parametrize("columns", ["30", "40", "60", "80", "132"])
def test_tables_and_timelines_fit_the_width_that_is_asked_for(db: str, columns: str) -> None:
    for words in (["list"], ["show", "order-8"], ["show", "branches-1"], ["show", "payroll-12"], ["show", "注文-11"]):
        for line in call("--db", db, *words, env={"COLUMNS": columns}).out.splitlines():
            assert width_of(click.unstyle(line)) <= int(columns), line


def test_into_a_pipe_nothing_is_cut(db: str) -> None:
    env = surroundings()
    del env["COLUMNS"]
    done = forks.run(
        command_line("--db", db, "list"), env=env, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=True
    )
    assert "RuntimeError: out of stock …\n" in done.stdout  # the first line of two, whole
    assert "the code of workflow 'payroll' does not do what" in done.stdout
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize(
    ("recoveries", "note", "fact"),
    [
        (0, "", ""),
        (1, "recovered after its process has died", "after its process has died"),
        (2, "recovered 2 times in a row, with", "2 times in a row, with nothing new recorded in between"),
        (4000, "recovered 4,000 times in a row, with", "4,000 times in a row, with nothing new recorded in between"),
    ],
)
def test_recoveries_are_told_for_what_they_count(recoveries: int, note: str, fact: str) -> None:
    """After any number of deaths with progress it is one; nothing tells how many there were in all."""
    run = record("r", recoveries=recoveries, status=RunStatus.RUNNING, owner=1)
    assert note_of(run, NOW).startswith(note)
    view = RunView(record=run, steps=(), waits=(), unread=(), children=(), owner=None)
    lines = list(map(click.unstyle, run_view(view, NOW, Screen(is_cut=False))))
    assert [line.split(maxsplit=1)[1] for line in lines if "recovered" in line] == ([fact] if fact else [])


# ---- show ----------------------------------------------------------------------------------------------------------


def test_show_draws_a_failed_run_with_attempts_waits_errors_and_what_was_undone(db: str) -> None:
    out = call("--db", db, "show", "order-8").out
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert out.startswith("order-8  failed\n")
    assert "order(38, null)" in lines["workflow"]
    assert "step ×3" in lines["pay#0"] or "undo" in lines["pay#0"]
    assert "░" in lines["approval#0"]
    assert "█" not in lines["approval#0"]
    assert "✗" in lines["ship#0"]
    at = out.splitlines().index(next(line for line in out.splitlines() if line.startswith("ship#0")))
    assert out.splitlines()[at + 1].strip() == "RuntimeError: out of stock …"
    undone = [line.split()[0] for line in out.splitlines() if " undo " in line]
    assert undone == ["reserve#0", "pay#0"]
    assert all("▒" in line for line in out.splitlines() if " undo " in line)


def test_show_draws_branches_below_each_other_and_names_children(db: str) -> None:
    lines = call("--db", db, "show", "branches-1").out.splitlines()
    first = lines.index("nursery#0")
    assert lines[first + 1] == "  leg#0"
    assert lines[first + 2].startswith("    load#0")
    assert "  run branches-1-child: completed" in lines
    assert any(line.split()[:3] == ["value", "progress", "="] for line in lines)


def test_show_tells_what_a_live_run_waits_for(db: str) -> None:
    out = call("--db", db, "show", "order-10").out
    assert "waits for the signal; gives up in " in out
    assert "›" in out
    assert "begins" not in out
    slow = call("--db", db, "show", "slow-1").out
    assert "has begun, and will not begin twice" in slow
    assert "which has died" in slow
    pending = call("--db", db, "show", "pending-1").out
    assert "not begun yet" in pending
    assert "to begin in " in pending


def test_show_names_the_signals_that_a_run_waits_for(file_path: str) -> None:
    @workflow
    async def patient(ctx: Context, *names: str) -> None:
        async def wait(branch: Context, name: str) -> None:
            await branch.wait_signal(name)

        async with ctx.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(wait, name)

    async def prepare() -> None:
        async with open_engine(file_path, workflows=[patient]) as engine:
            for names in (["a/b c"], ["one", "two", "one"]):
                run = await engine.start(patient, *names, id=names[0])
                with trio.fail_after(PATIENCE_SECONDS):
                    while len(await run.waits()) < len(names):  # noqa: ASYNC110  # a wait is no event of the public API
                        await trio.sleep(0.01)

    trio.run(prepare)
    assert "  waits      for the signal a/b c\n" in call("--db", file_path, "show", "a/b c").out
    assert "  waits      for the signals one, two\n" in call("--db", file_path, "show", "one").out


def test_a_fork_begins_no_earlier_than_it_was_made(db: str) -> None:
    """It keeps the instant of the original's beginning, for ``ctx.now()``."""
    connection = sqlite3.connect(db)
    hour = 3_600_000_000
    connection.execute(
        "UPDATE runs SET created_at = created_at - ?, started_at = started_at - ? WHERE id = 'order-8'", (hour, hour)
    )
    connection.execute("UPDATE history SET started_at = started_at - ?, finished_at = finished_at - ?", (hour, hour))
    connection.commit()
    assert call("--db", db, "fork", "order-8", "--before", "approval#0", "--id", "fork", "--yes").code == 0
    pending = call("--db", db, "show", "fork").out
    assert "not begun yet" in pending
    assert "to begin: due since" in pending
    assert pending.count("(copied)") == 3
    connection.execute(
        "UPDATE runs SET status = 'completed', finished_at = created_at + 2000000, result = 'null' WHERE id = 'fork'"
    )
    connection.commit()
    connection.close()
    assert ", took 2.0 s\n" in call("--db", db, "show", "fork").out
    assert call("--db", db, "list").out.splitlines()[1].endswith(" 2.0 s")


def test_show_tells_in_full_why_a_run_is_parked(db: str) -> None:
    out = call("--db", db, "show", "payroll-12").out
    assert out.startswith("payroll-12  parked\n")
    assert "> step charge card#0 | > step charge account#0" in out
    assert "durable-trio resume" in out


def test_the_command_that_resumes_a_run_can_be_typed_as_it_is_shown(db: str) -> None:
    connection = sqlite3.connect(db)
    connection.execute("UPDATE runs SET id = 'pay roll' WHERE id = 'payroll-12'")
    connection.commit()
    connection.close()
    assert "durable-trio resume 'pay roll'\n" in call("--db", db, "show", "pay roll").out


def test_show_gives_results_and_traceback_when_asked(db: str) -> None:
    assert '= {"item": "chair"}' in call("--db", db, "show", "order-7", "--results").out
    assert "Traceback (most recent call last)" in call("--db", db, "show", "order-8", "--traceback").out
    assert '{"approved": true, "名前": "椅子"}' in call("--db", db, "show", "order-7").out


def test_where_blocks_cannot_be_shown_bars_are_ascii(db: str) -> None:
    done = subprocess.run(
        command_line("--db", db, "show", "order-8"),
        env=surroundings(PYTHONIOENCODING="ascii"),
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        check=True,
    )
    done.stdout.decode("ascii")
    assert b"#" in done.stdout
    assert b"...." in done.stdout


def test_a_step_before_its_next_attempt_is_an_open_wait(file_path: str) -> None:
    async def fail() -> None:
        raise ConnectionError("no answer")

    @workflow
    async def impatient(ctx: Context) -> None:
        await ctx.step("call", fail, retry=Retry.fixed(5, 300))

    async def prepare() -> None:
        async with open_engine(file_path, workflows=[impatient]) as engine:
            run = await engine.start(impatient, id="r")
            with trio.fail_after(PATIENCE_SECONDS):
                while not await run.waits():  # noqa: ASYNC110  # an attempt is no event of the public API
                    await trio.sleep(0.01)

    trio.run(prepare)
    out = call("--db", file_path, "show", "r").out
    assert "retry ×1" in out or "step ×1" in out
    assert "ConnectionError: no answer" in out
    assert "next attempt in " in out


def test_colours_only_on_a_terminal_that_wants_them(db: str) -> None:
    assert "\x1b" not in call("--db", db, "list").out
    said = {}
    for name, env in {"terminal": {}, "no_color": {"NO_COLOR": "1"}, "dumb": {"TERM": "dumb"}}.items():
        leader, follower = os.openpty()
        with os.fdopen(follower, "wb") as end:
            forks.run(
                command_line("--db", db, "list"),
                env=surroundings(**{"TERM": "xterm", **env}),
                stdout=end,
                timeout=PATIENCE_SECONDS,
                check=True,
            )
            said[name] = os.read(leader, 65_536)
        os.close(leader)
    assert b"\x1b[" in said["terminal"]
    assert b"\x1b[" not in said["no_color"]
    assert b"\x1b[" not in said["dumb"]


# ---- watch ---------------------------------------------------------------------------------------------------------


def test_watch_of_a_run_ends_with_it(live: str) -> None:
    with process_of(*command_line("--db", live, "watch", "order-10", "--json")) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert first["status"] == "suspended"
        assert call("--db", live, "signal", "order-10", "approval", '"yes"').code == 0
        rest = [json.loads(line) for line in process.stdout.read().splitlines()]
        assert rest[-1]["status"] == "completed"
        assert rest[-1]["result"]["approved"] == "yes"
        assert process.wait(PATIENCE_SECONDS) == 0


def test_watch_of_all_shows_the_present_then_changes_until_ctrl_c(live: str) -> None:
    with process_of(*command_line("--db", live, "watch", "--workflow", "packing")) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "branches-1-child" in process.stdout.readline()
        assert call("--db", live, "start", "packing", '"sofa"', "--id", "packing-2").code == 0
        assert "packing-2" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) == 130
        assert process.stderr.read() == ""


def test_watch_of_a_run_that_has_ended_says_so_and_ends(db: str) -> None:
    said = call("--db", db, "watch", "order-9")
    assert said.code == 4
    assert said.out.split()[1:3] == ["order-9", "cancelled"]
    assert said.out.count("\n") == 1


@pytest.mark.parametrize(("run_id", "code"), [("order-7", 0), ("order-8", 3), ("order-9", 4)])
def test_the_exit_code_of_a_watch_tells_how_its_run_has_ended(run_id: str, code: int, db: str) -> None:
    assert call("--db", db, "watch", run_id).code == code
    assert call("--db", db, "watch", run_id, "--json").code == code


def test_a_present_state_has_the_time_when_the_run_came_into_it_where_that_is_known(db: str) -> None:
    with closing(sqlite3.connect(db)) as connection, connection:
        connection.execute("UPDATE runs SET finished_at = 0 WHERE id = 'order-8'")
    assert call("--db", db, "watch", "order-8").out.startswith("1970-01-01  order-8")
    with process_of(*command_line("--db", db, "watch", "order-10")) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
    assert line.startswith(" " * 10 + "order-10  suspended")
    assert re.search(r"order  due in .*: signal approval", line)  # what it waits for, as in a list


def test_watch_says_that_nobody_serves(db: str) -> None:
    with process_of(*command_line("--db", db, "watch", "order-10")) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "order-10" in process.stdout.readline()
        assert process.stderr.readline() == "nobody serves this database now; runs go on when somebody does\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) == 130


def test_a_reader_that_goes_away_is_no_error(live: str) -> None:
    with process_of(*command_line("--db", live, "watch")) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert_told_nothing(process)
        process.stdout = None


@pytest.mark.parametrize("words", [("list",), ("show", "order-8"), ("watch",)])
def test_a_reader_that_has_gone_before_anything_is_written_is_no_error(db: str, words: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        with process_of(*command_line("--db", db, *words), stdout=writing) as process:
            assert_told_nothing(process)
    finally:
        os.close(writing)


def assert_told_nothing(process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    assert process.wait(PATIENCE_SECONDS) == 141
    assert process.stderr.read() == ""


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_large_document_arrives_whole_or_its_reader_has_gone(file_path: str, unbuffered: str) -> None:
    """It is larger than a pipe. Unbuffered, Python itself forgets what did not fit when the reader went away."""

    @workflow
    async def large(ctx: Context) -> list[str]:
        return ["x" * 100] * 5_000

    async def prepare() -> None:
        async with open_engine(file_path, workflows=[large]) as engine:
            await engine.run(large, id="large")

    trio.run(prepare)
    words = command_line("--db", file_path, "show", "large", "--json")
    for is_read in (True, False):
        with subprocess.Popen(words, env=surroundings(PYTHONUNBUFFERED=unbuffered), stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            begin = os.read(
                process.stdout.fileno(), 100
            )  # by now all that fits into the pipe is written, or being written
            if is_read:
                assert len(json.loads(begin + process.stdout.read())["run"]["result"]) == 5_000
            process.stdout.close()
            assert process.wait(PATIENCE_SECONDS) == (0 if is_read else 141)


# ---- check ---------------------------------------------------------------------------------------------------------


def findings(db: str) -> dict[str, str]:
    said = call("--db", db, "check", "--json")
    assert said.code == (0 if said.json["is_sound"] else 1)
    return {item["about"]: item["level"] for item in said.json["findings"]}


def test_check_finds_parked_runs_and_dead_owners(db: str) -> None:
    said = call("--db", db, "check")
    assert said.code == 1
    assert "1 run parked: payroll-12" in said.out
    assert "2 runs in the hands of a process that has died" in said.out
    assert "nobody serves" in said.out
    found = findings(db)
    assert found["parked"] == found["owners"] == "wrong"
    assert found["integrity"] == found["references"] == "ok"


def test_check_of_a_sound_database_is_silent_success(file_path: str) -> None:
    @workflow
    async def nothing(ctx: Context) -> None:
        return None

    async def prepare() -> None:
        async with open_engine(file_path, workflows=[nothing]) as engine:
            await engine.run(nothing)

    trio.run(prepare)
    assert "wrong" not in findings(file_path).values()


def test_check_sees_that_a_process_serves(live: str) -> None:
    found = findings(live)
    assert found["executors"] == "ok"
    assert "owners" not in found


def test_check_tells_of_due_runs_that_wait_for_somebody_to_serve(db: str) -> None:
    assert call("--db", db, "start", "moon landing", "1", "--id", "moon").code == 0
    connection = sqlite3.connect(db)
    connection.execute("UPDATE runs SET wake_at = 1000 WHERE id = 'moon'")
    connection.commit()
    connection.close()
    said = call("--db", db, "check")
    assert "wrong  due, and nobody serves: moon landing (1)" in said.out


def test_check_counts_what_needs_a_person(file_path: str) -> None:
    """Compensations that have failed, runs past their time to live, executors that do not renew their lease."""

    async def works() -> int:
        return 1

    async def cannot(_: int) -> None:
        raise OSError("no way back")

    @workflow(name="undoes")
    async def undoes(ctx: Context) -> None:
        await ctx.step("works", works, compensate=cannot)
        raise ValueError("in the end")

    @workflow(name="waits")
    async def waits(ctx: Context, works_first: bool = False) -> None:
        if works_first:
            await ctx.step("works", works, compensate=cannot)
        await ctx.wait_signal("go")

    async def prepare() -> None:
        async with open_engine(
            file_path, workflows=[undoes, waits], lease_seconds=600, heartbeat_seconds=200
        ) as engine:
            failed = await engine.start(undoes, id="undone-not")
            run = await engine.start(waits, True, id="abandoned")
            with trio.fail_after(PATIENCE_SECONDS):
                while not await run.waits():  # noqa: ASYNC110  # to wait is no event of the public API
                    await trio.sleep(0.01)
            with pytest.raises(RunFailed):
                await failed.result()
            await engine.abandon(run.id)  # after the other has ended: the last one is told of first
            await engine.start(waits, id="too-old", ttl=1000)
            connection = engine.connect()
            connection.execute("UPDATE runs SET ttl_at = 1000 WHERE id = 'too-old'")
            connection.execute("UPDATE executors SET renewed_at = renewed_at - 1000000000")
            connection.commit()
            connection.close()
            for options in ([], ["--json"]):
                command = command_line("--db", file_path, "check", *options)
                said.append(await trio.run_process(command, capture_stdout=True, check=False, env=surroundings()))

    said: list[Any] = []
    trio.run(prepare)
    text, document = said[0].stdout.decode(), json.loads(said[1].stdout)
    assert said[0].returncode == said[1].returncode == 1
    assert "1 executor without a sign of life" in text
    assert "1 run whose time to live is over, and that do not end: too-old" in text
    assert "2 runs with steps that are not undone: abandoned, undone-not" in text
    assert "undo them by hand, then 'delete' the run" in text  # 'prune' takes no single one
    counts = {name: document[name] for name in ("compensations_failed", "expired", "executors_silent", "overdue")}
    assert counts == {"compensations_failed": 2, "expired": 1, "executors_silent": 1, "overdue": 0}


def test_check_counts_runs_that_were_set_aside_until_they_are_resumed(file_path: str) -> None:
    """Not those that have failed with them, nor one that only says so."""

    @workflow(name="poison", max_recoveries=1)
    async def poison(ctx: Context) -> None:
        return None

    @workflow(name="follows")
    async def follows(ctx: Context) -> None:
        raise LookupError("run 'poison-7' was set aside: its process has died 2 times")

    def change(statement: str) -> None:
        connection = sqlite3.connect(file_path)
        with connection:
            connection.execute(statement)
        connection.close()

    async def prepare() -> None:
        async with Engine(file_path, workflows=[poison, follows]) as client:
            for each, id in ((poison, "poison-7"), (follows, "follows-7"), (follows, "says so")):
                await client.start(each, id=id)
        change("UPDATE runs SET recoveries = 2 WHERE id = 'poison-7'")
        async with open_engine(file_path, workflows=[poison, follows]) as engine:
            for id in ("poison-7", "follows-7", "says so"):
                with pytest.raises(RunFailed, match="was set aside"):
                    await engine.get(id).result()

    async def resume() -> None:
        async with open_engine(file_path, workflows=[poison, follows]) as engine:
            await engine.resume("poison-7")
            await engine.get("poison-7").result()

    trio.run(prepare)
    change("UPDATE runs SET error = 'it was set aside: its process has died' WHERE id = 'says so'")
    said, document = call("--db", file_path, "check"), call("--db", file_path, "check", "--json")
    assert (said.code, document.code, document.json["set_aside"]) == (1, 1, 1)
    assert "wrong  1 run set aside, since its process died each time: poison-7; 'show' tells" in said.out
    trio.run(resume)
    said, document = call("--db", file_path, "check"), call("--db", file_path, "check", "--json")
    assert (said.code, document.code, document.json["set_aside"]) == (0, 0, 0)


def test_check_finds_damage(db: str) -> None:
    connection = sqlite3.connect(db)
    connection.execute("PRAGMA foreign_keys = OFF")
    connection.execute("DELETE FROM runs WHERE id = 'order-7'")
    connection.commit()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    assert findings(db)["references"] == "wrong"
    content = bytearray(Path(db).read_bytes())
    page = int.from_bytes(content[16:18], "big")
    at = content.find(b"order-8")
    content[at // page * page : at // page * page + 8] = b"\xff" * 8
    Path(db).write_bytes(content)
    said = call("--db", db, "check")
    assert (said.code, said.err) == (1, "")
    assert "wrong  the database is damaged: " in said.out


def test_check_of_a_file_of_which_much_is_lost_gives_a_finding_and_a_document(db: str) -> None:
    connection = sqlite3.connect(db)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.close()
    path = Path(db)
    content = path.read_bytes()
    page = int.from_bytes(content[16:18], "big")
    path.write_bytes(content[:page] + bytes(len(content) - page))
    said = call("--db", db, "check")
    assert (said.code, said.err) == (1, "")
    assert said.out.startswith("wrong  the database is damaged: ")
    assert "integrity_check" not in said.out
    assert findings(db) == {"integrity": "wrong"}


def test_check_finds_damage_that_the_engine_meets_as_it_opens(db: str) -> None:
    """It ends a child of the engine's tree, and so comes in a group."""
    connection = sqlite3.connect(db)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    (root,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'sqlite_sequence'").fetchone()
    connection.close()
    content = bytearray(Path(db).read_bytes())
    page = int.from_bytes(content[16:18], "big")
    content[(root - 1) * page : root * page] = bytes(page)
    Path(db).write_bytes(content)
    assert findings(db) == {"integrity": "wrong"}


@pytest.mark.parametrize("kind", ["text", "newer"])
def test_check_of_what_cannot_be_opened_gives_a_finding_and_a_document(db: str, kind: str) -> None:
    connection = sqlite3.connect(db)
    connection.execute("PRAGMA user_version = 999")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.close()
    if kind == "text":
        Path(db).write_text("no database " * 1000)
    said = call("--db", db, "check", "--json")
    assert (said.code, said.err) == (1, "")
    assert said.json["is_sound"] is False
    assert said.json["runs_by_status"] == {}
    (finding,) = said.json["findings"]
    assert (finding["level"], finding["about"]) == ("wrong", "database")
    assert ("schema version 999" if kind == "newer" else "not an SQLite database") in finding["text"]


@pytest.mark.parametrize("status", ["suspended", "compensating"])
def test_watch_takes_the_word_parked_as_list_does(db: str, status: str) -> None:
    with closing(sqlite3.connect(db)) as connection, connection:
        connection.execute("UPDATE runs SET status = ? WHERE id = 'payroll-12'", (status,))
    with process_of(*command_line("--db", db, "watch", "--json", "--status", "parked", "--status", "failed")) as watch:
        assert watch.stdout is not None
        shown = [json.loads(watch.stdout.readline()) for _ in range(2)]
    assert {run["id"] for run in shown} == {"payroll-12", "order-8"}
