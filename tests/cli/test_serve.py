"""``serve``: what it says, how it ends, and that it looks after its workers."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.desk import PATIENCE_SECONDS, Said, call_process, command_line, surroundings
from tests.cli.server import Server, field, is_alive, kill, reach, served_surroundings, serving, start
from tests.cli.tmux import Pane, in_tmux, opened
from tests.kit.forks import Forked

_HERE = Path(__file__).parent

EXITS = """
import os
import sys

from durable_trio import Engine, workflow


@workflow(max_recoveries=1)
async def exits(ctx):
    await ctx.step("exit", lambda: sys.exit(3))


engine = Engine(os.environ["SERVED_DATABASE"], workflows=[exits])
"""

# Should Python see the first Ctrl-C all the same, before it hangs, that is no reason to end.
HANGS_IN_C = """
import ctypes
import pathlib

while True:
    try:
        pathlib.Path(__file__).with_name("begun").touch()
        ctypes.PyDLL(None).sleep(10_000)
    except KeyboardInterrupt:
        pass
"""

# An application whose first import, and whose second, wait until they may go on.
SLOW_TO_IMPORT = """
import pathlib
import time

from durable_trio import Engine

folder = pathlib.Path(__file__).parent
number = len(list(folder.glob("importing-*"))) + 1
(folder / f"importing-{number}").touch()
while not (folder / f"go-on-{number}").exists():
    time.sleep(0.01)
engine = Engine(folder / "app.db")
"""


def serve(folder: Path, *words: str) -> Said:
    """Serve something that ends by itself."""
    env = served_surroundings(folder)
    return call_process(
        "serve", *words, SERVED_DATABASE=env["SERVED_DATABASE"], PYTHONPATH=f"{_HERE}:{env['PYTHONPATH']}"
    )


# ---- log lines -----------------------------------------------------------------------------------------------------


def test_without_a_terminal_each_event_is_a_line_with_fields(tmp_path: Path) -> None:
    """A worker that is killed is replaced, and the log says which, why, and by whom."""
    with serving(tmp_path, "--workers", "2") as server:
        (started,) = server.says("event=started")
        assert (field(started, "pid"), field(started, "workers")) == (str(server.pid), "2")
        workers = server.says("event=worker_started", count=2)
        pids = {field(line, "worker"): int(field(line, "pid")) for line in workers}
        assert sorted(pids) == ["worker-1", "worker-2"]

        start(server.db, "greet", '"anna"', id="greet-1")
        reach(server.db, "greet-1", "completed")
        (hello,) = server.says("hello anna")
        assert int(field(hello, "pid")) in pids.values()
        assert field(hello, "level") == "info"

        kill(pids["worker-1"])
        (exited,) = server.says("event=worker_exited")
        assert field(exited, "worker") == "worker-1"
        assert int(field(exited, "pid")) == pids["worker-1"]
        assert field(exited, "reason") == "signal SIGKILL"
        (restarted,) = server.says("event=worker_restarted")
        assert (field(restarted, "worker"), field(restarted, "restarts")) == ("worker-1", "1")
        successor = int(field(restarted, "pid"))
        assert successor not in pids.values()

        server.send(signal.SIGTERM)
        assert server.ends() == 0
        events = [field(line, "event") for line in server.err.splitlines() if " event=" in line]
        assert events.index("draining") < events.index("stopped") == len(events) - 1
        assert server.says("event=draining")[0].endswith("signal=SIGTERM")
        assert not any(map(is_alive, [*pids.values(), successor]))
        assert server.out == ""


def test_a_worker_that_is_killed_is_told_of_once_and_so_are_its_runs(tmp_path: Path) -> None:
    """By the parent, and by whoever sets its runs free; the others look too, and have nothing to say."""
    with serving(tmp_path, "--workers", "3") as server:
        workers = server.says("event=worker_started", count=3)
        for count, line in enumerate(workers, start=1):
            kill(int(field(line, "pid")))
            server.says("event=worker_restarted", count=count)
        start(server.db, "greet", '"anna"', id="greet-1")
        reach(server.db, "greet-1", "completed")
        server.send(signal.SIGTERM)
        assert server.ends() == 0
        lines = [line for line in server.err.splitlines() if "reason=stopped" not in line]
        for line in workers:
            pid = field(line, "pid")
            about = [line for line in lines if f"pid={pid} logger=" not in line]  # not what it told itself
            told = [line for line in about if re.search(rf"(?:pid=|process ){pid}\b", line)]  # no part of a time
            assert len(told) == 3, told  # that it was ready, has ended, and that its runs are free
            assert "event=worker_started" in told[0]
            assert sum("event=process_died" in line for line in told) == 1
            assert sum("level=warning" in line for line in told) == 1
            assert sum("has died; it had no runs" in line for line in told) == 1
        assert "before it was ready" not in server.err
        assert "crashed" not in server.err


@pytest.mark.parametrize("options", [(), ("--workers", "2")])
def test_a_database_that_is_gone_is_one_line_for_each_process(tmp_path: Path, options: tuple[str, ...]) -> None:
    """It says what to do; no traceback tells more."""
    with serving(tmp_path, *options) as server:
        server.says("event=runs")
        for path in tmp_path.glob("app.db*"):
            path.unlink()
        assert server.ends() == 1
        assert "Traceback" not in server.err
        lines = [line for line in server.err.splitlines() if line.startswith("the engine has failed: ")]
        assert len(lines) <= len(options)
        assert "and start again" in server.err.splitlines()[-1]
        assert server.err.splitlines()[-1].startswith("durable-trio: ")


def test_counters_are_logged_when_they_have_changed(tmp_path: Path) -> None:
    with serving(tmp_path, app="served:counting") as server:
        (first,) = server.says("event=runs")
        assert field(first, "unfinished") == "0"
        start(server.db, "wait", id="wait-1")
        second = server.says("event=runs", count=2)[1]
        assert (field(second, "suspended"), field(second, "unfinished")) == ("1", "1")


def test_runs_of_a_workflow_that_nobody_knows_any_more_are_told_of_once(tmp_path: Path) -> None:
    with serving(tmp_path, app="served:counting") as server:
        server.says("event=runs")
        start(server.db, "gone", id="gone-1")
        start(server.db, "gone", id="gone-2")
        (told,) = server.says("event=unknown_workflow")
        assert (field(told, "level"), field(told, "workflow")) == ("warning", "gone")
        start(server.db, "wait", id="wait-1")
        server.says("suspended=1")
        assert server.err.count("event=unknown_workflow") == 1


def test_with_log_json_each_line_is_a_document(tmp_path: Path) -> None:
    with serving(tmp_path, "--workers", "1", "--log-json") as server:
        server.says('"event":"worker_started"')
        start(server.db, "greet", '"\\u001b[2J"', id="greet-1")
        server.says("hello")
        server.send(signal.SIGTERM)
        assert server.ends() == 0
        documents = [json.loads(line) for line in server.err.splitlines()]
    assert all({"time", "level"} <= document.keys() for document in documents)
    (hello,) = [document for document in documents if document.get("message", "").startswith("hello")]
    assert hello["message"] == "hello \x1b[2J"
    assert "\x1b" not in json.dumps(documents)
    assert [document["event"] for document in documents if "event" in document][-1] == "stopped"


def test_an_application_keeps_the_log_handlers_that_it_has(tmp_path: Path) -> None:
    for number, options in enumerate(((), ("--workers", "1"))):
        folder = tmp_path / str(number)
        folder.mkdir()
        with serving(folder, *options, app="served:chatty") as server:
            server.says("event=started")
            start(server.db, "greet", '"bert"', id="greet-1")
            assert server.says("hello bert") == ["own format: hello bert"]
            server.send(signal.SIGTERM)
            assert server.ends() == 0


# ---- the tree ------------------------------------------------------------------------------------------------------


def test_the_tree_is_printed_once_it_is_up_and_after_it_has_changed(tmp_path: Path) -> None:
    with serving(tmp_path, "--workers", "1", "--tree") as server:
        server.until(lambda: "dispatcher" in server.out)
        assert server.out.count("engine ") == 1
        assert re.search(rf"^engine .* pid {server.pid} ", server.out, re.MULTILINE)
        pid = int(field(server.says("event=worker_started")[0], "pid"))
        assert re.search(rf"worker-1 .* pid {pid} ", server.out)
        kill(pid)
        server.until(lambda: re.search(r"worker-1 .* restarted 1×", server.out))


@pytest.mark.parametrize("options", [(), ("--workers", "1")])
def test_sigusr1_prints_the_tree_of_the_family_at_any_time(tmp_path: Path, options: tuple[str, ...]) -> None:
    with serving(tmp_path, *options) as server:
        server.says("event=started")
        server.send(signal.SIGUSR1)
        server.says("─ runs")
        assert server.says("─ dispatcher +task · running")
        server.send(signal.SIGTERM)
        assert server.ends() == 0
        assert server.out == ""


def test_sigusr1_while_the_server_starts_does_no_harm(tmp_path: Path) -> None:
    """Its default would be to end the process: it is sent while the application is imported, here and by the worker."""
    (tmp_path / "slow.py").write_text(SLOW_TO_IMPORT)
    with serving(tmp_path, "--workers", "1", app=f"{tmp_path / 'slow.py'}:engine") as server:
        for number in (1, 2):  # the parent, and then the worker
            server.until((tmp_path / f"importing-{number}").exists)
            server.send(signal.SIGUSR1)
            (tmp_path / f"go-on-{number}").touch()
        server.says("event=started")
        assert server.process.poll() is None


def test_the_second_ctrl_c_ends_an_import_that_hangs_in_c(tmp_path: Path) -> None:
    """There Python sees neither of them."""
    (tmp_path / "app.py").write_text(HANGS_IN_C)
    process: Forked[bytes] = Forked(
        command_line("serve", f"{tmp_path / 'app.py'}:engine"), env=surroundings(), start_new_session=True
    )
    server = Server(process, tmp_path)
    try:
        server.until((tmp_path / "begun").exists)
        process.send_signal(signal.SIGINT)
        server.until(lambda: not catches(process.pid, signal.SIGINT))  # else both were one
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=PATIENCE_SECONDS) == -signal.SIGINT
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(timeout=PATIENCE_SECONDS)


def catches(pid: int, os_signal: signal.Signals) -> bool:
    """Whether a process has a handler for a signal, as the kernel says."""
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.partition("SigCgt:")[2].split()[0], 16) >> (os_signal - 1) & 1)


# ---- how it ends ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--workers", "1")])
def test_a_second_signal_stops_at_once(tmp_path: Path, options: tuple[str, ...]) -> None:
    """What it was doing goes on when the database is served again; nothing has failed."""
    mark = tmp_path / "blocked"
    with serving(tmp_path, *options) as server:
        server.says("event=started")
        start(server.db, "hang", json.dumps(str(mark)), id="hang-1")
        server.until(mark.exists)
        server.send(signal.SIGTERM)
        server.says("event=draining")
        assert server.process.poll() is None
        server.send(signal.SIGTERM)
        assert server.ends() == -signal.SIGTERM
    reach(server.db, "hang-1", "running")


@pytest.mark.parametrize(
    ("code", "app", "error"),
    [
        ("", "app:engine", "module 'app' has no 'engine'"),
        ("x = 1\ny = x / 0\n", "app:engine", "ZeroDivisionError: division by zero (at app.py:2)"),
        ("x = (\n", "app:engine", "'(' was never closed (app.py, line 1)"),
        ("import that_is_not_there", "app:engine", "No module named 'that_is_not_there' (at app.py:1)"),
        ("engine = 7", "app:engine", "is 7; it must be an Engine"),
        ("engine = ['workflow'] * 999", "app:engine", "it must be an Engine"),
        ("class Odd(list): serve = start = print\nengine = Odd('x' * 999)", "app:engine", "is of type Odd; it must"),
        ("", "other:engine", "there is no module 'other'"),
        ("import durable_trio as d\nengine = d.Engine('/no/such/app.db')", "app:engine", "'/no/such' does not exist"),
        ("import durable_trio as d\nengine = d.Engine('app.py')", "app.py:engine", "is not an SQLite database"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, app: str, error: str
) -> None:
    (tmp_path / "app.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    said = call_process("serve", app)
    assert said.code == 1, said
    assert error in said.error
    assert len(said.error) < 500
    assert said.out == ""


def test_with_log_json_a_failure_is_a_document_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "app.py").write_text("import durable_trio as d\nengine = d.Engine('/no/such/app.db')")
    monkeypatch.chdir(tmp_path)
    for app, error in (("app:engine", "'/no/such' does not exist"), ("other:engine", "there is no module 'other'")):
        said = call_process("serve", app, "--log-json")
        assert said.code == 1, said
        (line,) = said.error.splitlines()
        assert error in json.loads(line)["error"]


@pytest.mark.parametrize("words", [("app",), ("app:",), ("none.py:engine",), ("app:engine", "--workers", "-1"), ()])
def test_wrong_usage_is_told_from_failure(tmp_path: Path, words: tuple[str, ...]) -> None:
    said = serve(tmp_path, *words)
    assert said.code == 2, said
    assert "--help" in said.error


def test_workers_need_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "app.py").write_text("import durable_trio as d\nengine = d.Engine(':memory:')")
    monkeypatch.chdir(tmp_path)
    said = call_process("serve", "app:engine", "--workers", "2")
    assert said.code == 1
    assert "a store in memory belongs to one process" in said.error


def test_a_tree_that_fails_names_the_child_and_why_and_logs_the_traceback(tmp_path: Path) -> None:
    with serving(tmp_path, app="served:broken") as server:
        assert server.ends() == 1
        last = server.err.splitlines()[-1]
        assert last == (
            "durable-trio: the engine has failed: engine/services/janitor crashed too often: "
            "RuntimeError: out of brooms"
        )
        (failed,) = server.says("event=failed")
        assert "Traceback (most recent call last)" in failed
        crashed = server.says("event=child_crashed")
        assert field(crashed[0], "child") == "engine/services/janitor"


@pytest.mark.parametrize("options", [(), ("--workers", "1")])
def test_code_that_exits_is_named_with_its_run(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Alone the server ends, with one line; a worker is replaced, with one line, until the run is set aside."""
    (tmp_path / "exits.py").write_text(EXITS)
    with serving(tmp_path, *options, app=f"{tmp_path / 'exits.py'}:engine") as server:
        server.says("event=started")
        start(server.db, "exits", id="exits-1")
        (told, *_) = server.says("has ended this executor, in step 'exit#0': SystemExit: 3")
        assert (field(told, "event"), field(told, "run_id")) == ("executor_ended", "exits-1")
        if options:
            (exited, *_) = server.says("event=worker_exited")
            assert field(exited, "reason") == "code 71, ended by code that it runs: SystemExit: 3"
            reach(server.db, "exits-1", "failed")
        else:
            assert server.ends() == 1
            assert server.err.splitlines()[-1] == "durable-trio: ended by code that it runs: SystemExit: 3"


def test_a_file_can_be_named_instead_of_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder is where its modules are looked for, by the workers too."""
    folder = tmp_path / "somewhere"
    folder.mkdir()
    (folder / "beside.py").write_text("import served\nengine = served.make()\n")
    shutil.copyfile(_HERE / "served.py", folder / "served.py")
    with serving(tmp_path, "--workers", "1", app=f"{folder}/beside.py:engine") as server:
        server.says("event=worker_started")
        start(server.db, "greet", '"anna"', id="greet-1")
        reach(server.db, "greet-1", "completed")


# ---- on a terminal -------------------------------------------------------------------------------------------------


@pytest.fixture
def pane(tmp_path: Path) -> Iterator[Pane]:
    with opened(_HERE, SERVED_DATABASE=str(tmp_path / "app.db")) as pane:
        yield pane


def last_line(screen: str) -> str:
    return screen.rstrip("\n").splitlines()[-1]


@in_tmux
def test_on_a_terminal_progress_stays_at_the_bottom_and_a_killed_worker_is_told(pane: Pane, tmp_path: Path) -> None:
    pane.command(*command_line("serve", "served:make", "--workers", "2"))
    screen = pane.until(" steps/s")
    assert "2/2 workers · 0 running · 0 suspended · 0 steps/s" in last_line(screen)
    start(str(tmp_path / "app.db"), "wait", id="wait-1")
    assert "1 suspended" in last_line(pane.until("1 suspended"))
    found = re.search(r"worker-2 is ready \(process (\d+)\)", pane.screen())
    assert found is not None, screen
    kill(int(found[1]))
    screen = pane.until("worker-2 was restarted", "restarted 1×")
    assert f"worker-2 has ended (process {found[1]}): signal SIGKILL" in screen
    assert "2/2 workers" in last_line(screen)
    assert len(screen.splitlines()) == 24

    pane.press("C-c")
    screen = pane.until("ended with 0")
    assert "draining … (again to stop at once)" in screen
    assert "steps/s" not in screen
    pane.assert_whole()


@in_tmux
def test_the_line_follows_the_size_of_the_terminal(pane: Pane) -> None:
    pane.command(*command_line("serve", "served:make"))
    pane.until("steps/s")
    pane.resize(30, 12)
    pane.until_gone("steps/s")
    assert len(pane.until("0 suspended").splitlines()) == 12
    pane.resize(80, 24)
    screen = pane.until("steps/s")
    assert len(screen.splitlines()) == 24
    assert screen.count(" running ·") == 1
    pane.press("C-c")
    pane.until("ended with 0")
    pane.assert_whole()


@in_tmux
def test_ctrl_c_twice_ends_at_once_and_leaves_the_terminal_whole(pane: Pane, tmp_path: Path) -> None:
    pane.command(*command_line("serve", "served:make"))
    pane.until("steps/s")
    mark = tmp_path / "blocked"
    start(str(tmp_path / "app.db"), "hang", json.dumps(str(mark)), id="hang-1")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not mark.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    pane.press("C-c")
    pane.until("draining …")
    pane.press("C-c")
    pane.until("^C\n$")
    pane.type("echo it was $?")
    pane.press("Enter")
    pane.until("it was 130")  # for the shell; it is the signal itself that has ended it
    pane.assert_whole()
