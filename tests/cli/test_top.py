"""``top``: what it shows, what keys do, and that it leaves the terminal as it was."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_trio import EngineStatus, RunRecord, RunStatus
from durable_trio.cli.keyboard import split_keys
from durable_trio.cli.screen import Screen
from durable_trio.cli.text import width_of
from durable_trio.cli.top_state import Action, Look, TopState
from durable_trio.cli.top_state import Pane as Part
from durable_trio.cli.top_view import draw
from durable_trio.views.run import RunView
from tests.cli.desk import call, call_process, command_line
from tests.cli.server import kill, serving, start
from tests.cli.tmux import Pane, in_tmux, opened

SCREENS = Path(__file__).with_name("screens")
NOW = datetime(2026, 3, 12, 12, 0, tzinfo=UTC)

# ---- keys ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (b"q", ["q"]),
        (b"\x1b[A\x1b[B\x1bOB", ["up", "down", "down"]),
        (b"\x1b[5~\x1b[6~\x1b[H\x1b[4~", ["page_up", "page_down", "home", "end"]),
        ("aß値🙂".encode(), ["a", "ß", "値", "🙂"]),
        (b"\r\x7f\t", ["enter", "backspace", "tab"]),
        (b"\x1b[200~x\x1b[1;5C\x1bxy", ["x", "y"]),  # those without a meaning here
        (b"\x00\x01\xff", []),
    ],
)
def test_keys_are_told_apart(data: bytes, keys: list[str]) -> None:
    assert split_keys(data) == (keys, b"")


@given(st.binary(max_size=40), st.integers(0, 40))
def test_it_does_not_matter_where_a_key_was_cut_in_two(data: bytes, at: int) -> None:
    first, rest = split_keys(data[:at])
    second, end = split_keys(rest + data[at:])
    assert (first + second, end) == split_keys(data)


# ---- state ---------------------------------------------------------------------------------------------------------


def record(id: str, **more: Any) -> RunRecord:
    fields: dict[str, Any] = {
        "id": id,
        "workflow": "order",
        "status": RunStatus.SUSPENDED,
        "args": (),
        "result": None,
        "error": None,
        "problem": None,
        "queue": None,
        "priority": 0,
        "tags": {},
        "parent_id": None,
        "created_at": NOW - timedelta(minutes=5),
        "started_at": NOW - timedelta(minutes=5),
        "finished_at": None,
        "wake_at": None,
        "ttl_at": None,
        "recoveries": 0,
        "generation": 0,
        "compensation_errors": (),
    }
    return RunRecord(**fields | more)


def look(*runs: RunRecord) -> Look:
    status = EngineStatus(
        durability="full",
        executors=(),
        runs_by_status={RunStatus.SUSPENDED: len(runs)},
        parked=(),
        unknown_workflows={},
        resident_runs=0,
        store_version="",
        warnings=(),
    )
    view = RunView(record=runs[0], steps=(), waits=(), unread=(), children=(), owner=None) if runs else None
    return Look(at=NOW, status=status, runs=runs, view=view)


def state(*ids: str) -> TopState:
    made = TopState()
    made.take(look(*map(record, ids)))
    return made


def press(top: TopState, *keys: str) -> list[Action | None]:
    return [top.press(key) for key in keys]


def test_the_selection_moves_and_stays_within_the_list() -> None:
    top = state("a", "b", "c")
    for keys, selected in ((["up"], "a"), (["down", "down", "down"], "c"), (["home"], "a"), (["page_down"], "c")):
        press(top, *keys)
        assert top.selected_id == selected


def test_the_selection_stays_on_its_run_and_else_at_its_place() -> None:
    top = state("a", "b", "c")
    press(top, "down")
    top.take(look(*map(record, ["new", "a", "b", "c"])))
    assert top.selected_id == "b"
    top.take(look(*map(record, ["new", "a", "c"])))
    assert top.selected_id == "c"
    top.take(look())
    assert top.selected_id is None
    assert press(top, "down", "c", "r", "enter") == [None, None, None, None]
    assert top.asks_to_cancel is None


def test_a_run_is_cancelled_only_after_the_question() -> None:
    top = state("a", "b")
    assert press(top, "c", "n") == [None, None]
    assert press(top, "c", "enter") == [None, None]
    assert press(top, "c") == [None]
    top.take(look(record("b")))  # another run is selected meanwhile; asked was for a
    assert press(top, "y") == [Action.CANCEL]
    assert top.asks_to_cancel == "a"


def test_the_filter_takes_keys_until_enter_and_goes_with_escape() -> None:
    top = TopState()
    top.take(look(record("quick-1"), record("slow-2", workflow="payroll"), record("c-3", status=RunStatus.RUNNING)))
    assert press(top, "/", *"payr") == [None, *[Action.READ] * 4]
    assert [item.id for item in top.runs()] == ["slow-2"]
    assert top.selected_id == "slow-2"
    press(top, *["backspace"] * 4, *"RUNN", "enter")
    assert [item.id for item in top.runs()] == ["c-3"]
    assert press(top, "q") == [Action.QUIT]
    press(top, "escape")
    assert len(top.runs()) == 3


# ---- drawing -------------------------------------------------------------------------------------------------------


@given(
    ids=st.lists(st.text("aé値\x1b", min_size=1, max_size=50), max_size=30, unique=True),
    width=st.integers(20, 130),
    height=st.integers(4, 50),
    keys=st.lists(st.sampled_from(["down", "enter", "t", "c", "/", "x", "end", "escape"]), max_size=6),
    is_unicode=st.booleans(),
)
def test_every_screen_has_its_lines_and_none_is_too_wide(
    ids: list[str], width: int, height: int, keys: list[str], is_unicode: bool
) -> None:
    top = state(*ids)
    press(top, *keys)
    lines = draw(top, "app.db", NOW, Screen(width=width, is_unicode=is_unicode), height)
    assert len(lines) == height
    for line in lines:
        assert width_of(click.unstyle(line)) <= width
        assert "\x1b" not in click.unstyle(line)


def test_the_selected_run_is_always_on_the_screen() -> None:
    top = state(*(f"run-{number}" for number in range(50)))
    for _ in range(50):
        lines = [click.unstyle(line) for line in draw(top, "app.db", NOW, Screen(), 24)]
        assert sum(line.startswith(f"> {top.selected_id} ") for line in lines) == 1
        top.press("down")


def test_a_long_pane_can_be_read_to_its_end() -> None:
    top = state("a")
    values = {f"key-{number:02}": number for number in range(60)}
    shown = RunView(record=record("a", values=values), steps=(), waits=(), unread=(), children=(), owner=None)
    top.take(Look(at=NOW, status=look(record("a")).status, runs=(record("a"),), view=shown))
    assert "key-59" not in "".join(draw(top, "app.db", NOW, Screen(), 24))
    press(top, "enter", "end")
    assert "key-59" in "".join(draw(top, "app.db", NOW, Screen(), 24))
    press(top, "up", "up")
    assert "key-59" not in "".join(draw(top, "app.db", NOW, Screen(), 24))
    press(top, "escape")
    assert top.pane is Part.RUN
    assert not top.is_pane_alone


# ---- what is refused -----------------------------------------------------------------------------------------------


def test_without_a_terminal_it_says_what_to_use(db: str) -> None:
    said = call_process("--db", db, "top")
    assert said.code == 1
    assert "needs a terminal" in said.error


def test_without_the_extra_it_says_how_to_install_it(db: str, tmp_path: Path) -> None:
    """Found as the interpreter finds modules: here there is no rich."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *more: None if name == 'rich' else find(name, *more)\n"
    )
    path = f"{tmp_path}:{Path(__file__).parent.parent.parent}"
    said = call_process("--db", db, "top", is_forked=False, PYTHONPATH=path)
    assert said.code == 1
    assert "pip install 'durable-trio[tui]'" in said.error


def test_an_interval_too_short_is_wrong_usage(db: str) -> None:
    assert call("--db", db, "top", "--interval", "1ms").code == 2


# ---- in a terminal -------------------------------------------------------------------------------------------------

_DURATION = r"(?:<1 ms|\d+(?:\.\d)? (?:ms|s|m|h|d)(?: \d+ (?:s|m|h))?)"
_ALIKE = (
    (re.compile(r"(?:[A-Z][a-z]{2} \d{1,2} \d\d:\d\d|\d\d:\d\d:\d\d)"), "TIME"),
    (re.compile(_DURATION), "SPAN"),
    (re.compile(r"process \d+ on \S+"), "process PID"),
    (re.compile(r"top  /\S+"), "top  DATABASE"),
    (re.compile(r"(█|░|▒|─)\1*"), r"\1"),
    (re.compile(r"[█░▒]([✗›])"), r"\1"),
    (re.compile(r" {2,}"), "  "),
    (re.compile(r"(moon|divergence|its|due|nobody)\b[^…\n]*…"), r"\1…"),
)


def alike(screen: str) -> str:
    for pattern, replacement in _ALIKE:
        screen = pattern.sub(replacement, screen)
    return "\n".join(line.rstrip() for line in screen.splitlines()) + "\n"


def compare(name: str, screen: str) -> None:
    """Compare with a stored screen, but for times; with STORE_SCREENS=1 store it, after looking at it."""
    assert len(screen.splitlines()) == 24
    assert all(width_of(line) <= 80 for line in screen.splitlines())
    path = SCREENS / f"{name}.txt"
    if os.environ.get("STORE_SCREENS"):
        path.write_text(screen, encoding="utf-8")
    assert alike(screen) == alike(path.read_text(encoding="utf-8"))


@pytest.fixture
def pane(tmp_path: Path) -> Iterator[Pane]:
    with opened(tmp_path) as pane:
        yield pane


def begin(pane: Pane, db: str) -> None:
    pane.command(*command_line("--db", db, "top", "--interval", "200ms"))
    pane.until("enter open", "── run")


def select(pane: Pane, run_id: str) -> str:
    """Go down until a run is selected, and return the screen once it is shown below as well."""
    pane.press("Home")
    for _ in range(30):
        if f"> {run_id} " in pane.screen():
            return pane.until(f"> {run_id} ", f"\n{run_id}  ")
        before = re.search(r"^> \S+", pane.screen(), re.MULTILINE)
        pane.press("Down")
        assert before is not None
        pane.until_gone(before[0] + " ")
    raise AssertionError(pane.screen())


@in_tmux
def test_runs_timelines_and_trees_are_shown(db: str, pane: Pane) -> None:
    begin(pane, db)
    screen = pane.until("> stuck-1", "\nstuck-1  compensating", "\nreserve#0 ", "q quit")
    compare("top", screen)
    select(pane, "order-8")
    pane.press("Enter")
    compare("top-run", pane.until("ship#0", "pay#0       undo", "q quit"))
    pane.press("Escape")
    pane.until("> order-8")
    pane.press("t")
    pane.until("── processes", "nobody serves")
    pane.press("q")
    screen = pane.until("ended with 0")
    assert "order-8" not in screen  # the shell's own screen is back
    pane.assert_whole()


@in_tmux
def test_a_run_is_cancelled_after_a_question_and_another_resumed(db: str, pane: Pane) -> None:
    begin(pane, db)
    select(pane, "pending-1")
    pane.press("c")
    pane.until("cancel 'pending-1'? y: yes")
    pane.press("n")
    pane.until("c cancel")
    assert call("--db", db, "show", "pending-1", "--json").json["run"]["status"] == "pending"
    pane.press("c")
    pane.until("cancel 'pending-1'? y: yes")
    pane.press("y")
    pane.until("asked 'pending-1' to cancel", "2 cancelled")
    assert call("--db", db, "show", "pending-1", "--json").json["run"]["status"] == "cancelled"

    select(pane, "payroll-12")
    pane.until("payroll-12  parked", "1 parked")
    pane.press("r")
    pane.until("'payroll-12' goes on when an executor takes it", "payroll-12  suspended")
    assert call("--db", db, "show", "payroll-12", "--json").json["run"]["problem"] is None

    select(pane, "order-8")
    pane.press("r")
    pane.until("order-8", "compensat")  # it has undone something: refused, in a line
    pane.press("q")
    pane.until("ended with 0")


@in_tmux
def test_a_filter_finds_runs_by_status_or_workflow(db: str, pane: Pane) -> None:
    begin(pane, db)
    pane.press("/")
    pane.type("cancelled")
    pane.until("/cancelled_", "> order-9")
    pane.press("Enter")
    pane.until_gone("stuck-1")
    pane.press("Escape")
    pane.until("payroll-12")
    pane.press("q")
    pane.until("ended with 0")


@in_tmux
def test_servers_may_come_and_go(tmp_path: Path, pane: Pane) -> None:
    with serving(tmp_path) as server:
        server.says("event=started")
        start(server.db, "wait", id="wait-1")
        begin(pane, server.db)
        pane.until("1 server  1 executor", "> wait-1  suspended")
        kill(server.pid)
        server.ends()
        pane.until("0 servers  0 executors  1 dead")
    with serving(tmp_path) as server:
        pane.until("1 server  1 executor")
        assert call("--db", server.db, "signal", "wait-1", "go on").code == 0
        pane.until("1 completed", "wait-1  completed")
        server.send(signal.SIGTERM)
        assert server.ends() == 0
        pane.until("nobody serves this database")
    pane.press("q")
    pane.until("ended with 0")


@in_tmux
def test_ctrl_c_and_sigterm_leave_the_terminal_whole(db: str, pane: Pane) -> None:
    begin(pane, db)
    pane.press("C-c")
    pane.until("ended with 130")
    pane.assert_whole()
    pane.press("C-u")
    code = 'echo $$ >pid; exec "$@"'
    pane.command("sh", "-c", code, "sh", *command_line("--db", db, "top"))
    pane.until("enter open")
    os.kill(int((Path(db).parent / "pid").read_text()), signal.SIGTERM)
    pane.until("ended with 143")
    pane.assert_whole()


@in_tmux
def test_ctrl_z_gives_the_terminal_back_until_it_goes_on(db: str, pane: Pane) -> None:
    pane.type("set -m")
    pane.press("Enter")
    begin(pane, db)
    pane.press("C-z")
    pane.until("topped")  # Stopped, or stopped
    pane.command("seq", "3")
    pane.until("\n3\nended with 0")
    pane.type("fg")
    pane.press("Enter")
    pane.until("enter open", "> stuck-1")
    pane.press("Down")
    pane.until("> slow-1")
    pane.press("q")
    pane.until_gone("slow-1")


@in_tmux
def test_it_fits_any_terminal(db: str, pane: Pane) -> None:
    begin(pane, db)
    pane.resize(132, 40)
    pane.until_lines(40, "compensating", "q quit", "divergence: the code of")
    pane.resize(40, 10)
    pane.until_lines(10, "durable-trio top", "select  enter open")
    pane.resize(80, 24)
    pane.until_lines(24, "durable-trio top", "── run", "q quit")
    pane.press("q")
    pane.until("ended with 0")
