"""Errors are one line that says what and what to do: exit code 1; wrong usage is 2."""

from __future__ import annotations

import os
import shlex
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from durable_trio import sqlite3
from durable_trio.stores.sqlite import connection as connections
from durable_trio.stores.sqlite import store as stores
from tests.cli.desk import PATIENCE_SECONDS, call, call_process, command_line, process_of, surroundings

READING = (["list"], ["show", "r"], ["watch"], ["check"], ["cancel", "r"], ["signal", "r", "s"], ["resume", "r"])
LOCKING = """
import sys, sqlite3
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""

HOLDING = """
import sys, fcntl
turn = open(sys.argv[1], "r+")
fcntl.flock(turn, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("words", READING, ids=lambda words: words[0])
def test_no_command_creates_a_database(tmp_path: Path, words: list[str]) -> None:
    said = call("--db", str(tmp_path / "none.db"), *words)
    assert said.code == 1
    assert said.error.startswith("durable-trio: there is no database '")
    assert list(tmp_path.iterdir()) == []


def test_a_name_with_a_typing_error_is_answered_with_the_nearest(db: str) -> None:
    said = call("--db", db.replace("shop.db", "shpo.db"), "list")
    assert f"did you mean {shlex.quote(db)}?" in said.error


def test_an_empty_file_stays_empty(tmp_path: Path) -> None:
    path = tmp_path / "empty.db"
    path.touch()
    said = call("--db", str(path), "list")
    assert said.code == 1
    assert "is empty" in said.error
    assert path.stat().st_size == 0
    assert [item.name for item in tmp_path.iterdir()] == ["empty.db"]


def test_other_files_are_named_for_what_they_are_and_left_alone(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a database, but long enough to look like one " * 100)
    other = tmp_path / "other.db"
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE things (name TEXT)")
    connection.close()
    for path, words in ((text, "is not an SQLite database"), (other, "of another program"), (tmp_path, "a directory")):
        before = path.read_bytes() if path.is_file() else b""
        said = call("--db", str(path), "list")
        assert said.code == 1
        assert words in said.error
        assert not path.is_file() or path.read_bytes() == before
    assert {item.name for item in tmp_path.iterdir()} == {"notes.txt", "other.db"}


def test_a_newer_schema_is_refused(db: str) -> None:
    connection = sqlite3.connect(db)
    connection.execute("PRAGMA user_version = 999")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.close()
    said = call("--db", db, "list")
    assert said.code == 1
    assert "schema version 999" in said.error
    assert "upgrade" in said.error


def test_a_file_that_another_program_keeps_locked_is_busy(db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (connections, stores):
        monkeypatch.setattr(module, "BUSY_TIMEOUT_MS", 50)
    with process_of(sys.executable, "-c", LOCKING, db, stdin=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        said = call("--db", db, "start", "order", "1")
        assert said.code == 1
        assert "keeps" in said.error
        assert "locked" in said.error


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to see that a process waits")
def test_ctrl_c_ends_a_command_that_waits_for_a_process_that_holds_the_file(db: str) -> None:
    with process_of(sys.executable, "-c", HOLDING, f"{db}-turn", stdin=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with process_of(*command_line("--db", db, "list")) as process:
            assert process.stderr is not None
            deadline = time.monotonic() + PATIENCE_SECONDS
            while f"{db}-turn" not in _open_files(process.pid):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE_SECONDS) == 130
            assert process.stderr.read() == ""


def _open_files(pid: int) -> set[str]:
    return {os.path.realpath(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()}


@pytest.mark.skipif("os.geteuid() == 0", reason="root may write everything")
def test_a_file_that_may_not_be_written_is_named(db: str) -> None:
    Path(db).chmod(stat.S_IRUSR)
    said = call("--db", db, "list")
    assert said.code == 1
    assert "may not be" in said.error


def test_an_unknown_run_is_answered_with_near_ids(db: str) -> None:
    said = call("--db", db, "show", "ordr-7")
    assert said.code == 1
    assert said.error.startswith("durable-trio: there is no run 'ordr-7'; did you mean order-7 ")
    assert "'durable-trio list' shows those there are" in call("--db", db, "cancel", "zzz").error


def test_what_was_perhaps_meant_is_told_as_a_shell_takes_it(db: str) -> None:
    odd = "odd id/%#ü\"\\'"
    assert call("--db", db, "start", "order", "1", "--id", odd).code == 0
    quoted = shlex.quote(odd)
    assert call("--db", db, "show", "odd id").error.endswith(f"; did you mean {quoted}?")
    said = call("--db", db, "fork", odd, "--before", "x#0")
    assert said.error.endswith(f"; its keys are shown by: durable-trio show {quoted}")


def test_an_id_that_would_write_to_the_terminal_is_shown_escaped(db: str) -> None:
    said = call("--db", db, "show", "a\x1b[2J\u202eb")
    assert said.code == 1
    assert "\x1b" not in said.error
    assert "\u202e" not in said.error


def test_a_cursor_that_no_page_gave_is_an_error(db: str) -> None:
    said = call("--db", db, "list", "--cursor", "x")
    assert (said.code, "is no cursor" in said.error) == (1, True)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["list"], "give --db FILE|URL, or set DURABLE_TRIO_DB"),
        (["lst"], "did you mean 'list'?"),
        (["show"], "Missing argument 'RUN'"),
        (["list", "--status", "done"], "'done' is not one of"),
        (["list", "--limit", "0"], "--limit"),
        (["list", "--tag", "x"], "write key=value"),
        (["list", "--tag", "a=1", "--tag", "a=2"], "given twice"),
        (["list", "--workflow", "a", "--workflow", "b"], "--workflow is given twice"),
        (["watch", "--workflow", "a", "--workflow", "b"], "--workflow is given twice"),
        (["list", "--queue", "a", "--queue", "a"], "--queue is given twice"),
        (["list", "--frobnicate"], "No such option"),
        (["start", "order", "milk"], """'"milk"'"""),
        (["start", "order", "NaN"], "NaN is no number in JSON"),
        (["start", "order", "1e999"], "1e999 is too large"),
        (["start", "order", "--idd", "x"], "'--idd' is no option"),
        (["list", "--status", "parked", "--status", "failed"], "no other status"),
        (["--db", "x.db", "serve", "shop:engine"], "takes no --db"),
        (["start", "order", "--delay", "soon"], "is no duration"),
        (["signal", "r", "s", "{"], "is no JSON"),
        (["fork", "r"], "--before"),
        (["prune"], "--before"),
        (["prune", "--before", "soon"], "is no time"),
        (["prune", "--before", "90"], "an age with its unit, such as 90s"),
        (["prune", "--before", "2026"], "an age with its unit, such as 90s"),
        (["prune", "--before", "7d", "--status", "running"], "'running' is not one of"),
        (["watch", "r", "--status", "failed"], "needs no --status"),
        (["schema", "start"], "'start' is not one of"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_told_in_one_line_with_exit_code_2(words: list[str], hint: str, file_path: str) -> None:
    options = [] if words == ["list"] else ["--db", file_path]
    said = call(*options, *words)
    assert said.code == 2
    assert hint in said.error
    assert "--help" in said.error
    assert not Path(file_path).exists()


def test_a_database_in_memory_or_on_a_server_is_refused() -> None:
    assert "is gone with its process" in call("--db", ":memory:", "list").error
    said = call("--db", "mysql://x/y", "list")
    assert (said.code, said.err.count("\n")) == (1, 1)


def test_a_process_of_its_own_exits_the_same_way(db: str) -> None:
    missing = call_process("--db", db, "show", "nope")
    assert (missing.code, missing.out) == (1, "")
    assert missing.error.startswith("durable-trio: there is no run 'nope'")
    assert call_process("--db", db, "shwo").code == 2
    assert call_process("--version").out.startswith("durable-trio")


def test_a_closed_output_is_no_reason_to_fail(db: str) -> None:
    sends = shlex.join(command_line("--db", db, "signal", "order-10", "approval"))
    lists = shlex.join(command_line("--db", db, "list"))
    done = subprocess.run(
        ["sh", "-c", f"{sends} >&- && {lists} >&- 2>&-"],
        env=surroundings(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "sent 'approval' to 'order-10'\n")
