"""What a person sees in a real terminal of 80 by 24, compared with stored screens.

Times, durations, process ids and the lengths of bars differ from run to run and are made equal first. To store new
screens, after looking at them: ``STORE_SCREENS=1 pytest tests/cli/test_screens.py``.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.desk import PATIENCE_SECONDS, call, command_line, surroundings

_ENDED = re.compile(r"^ended with \d+$", re.MULTILINE)  # not the line that was typed
SCREENS = Path(__file__).with_name("screens")

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")

_DURATION = r"(?:<1 ms|\d+(?:\.\d)? (?:ms|s|m|h|d)(?: \d+ (?:s|m|h))?)\b"
_ALIKE = (
    (re.compile(r"(?:[A-Z][a-z]{2} \d{1,2} \d\d:\d\d|\d\d:\d\d:\d\d)"), "TIME"),
    (re.compile(_DURATION), "SPAN"),
    (re.compile(r"process \d+ on \S+"), "process PID"),
    (re.compile(r"process \d+ died"), "process PID died"),
    (re.compile(r"(█|░|▒)\1*"), r"\1"),
    (re.compile(r"[█░▒]([✗›])"), r"\1"),
    (re.compile(r" {2,}"), "  "),
    (re.compile(r"(RuntimeError|divergence|its|due|nobody)\b[^…\n]*…"), r"\1…"),  # cut where durations leave room
)


class Terminal:
    """A terminal of 80 by 24 in a tmux server of its own."""

    def __init__(self, folder: Path) -> None:
        self._socket = f"durable-trio-{uuid.uuid4().hex[:8]}"
        self._folder = folder
        env = surroundings(TERM="screen-256color", LC_ALL="C.UTF-8", PS1="$ ")
        del env["COLUMNS"]
        self._env = {key: value for key, value in env.items() if not key.startswith("TMUX")}
        self._tmux("-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", "/bin/sh")

    def _tmux(self, *words: str) -> str:
        done = subprocess.run(
            ["tmux", "-u", "-L", self._socket, *words],
            env=self._env,
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=True,
        )
        return done.stdout

    def type(self, text: str) -> None:
        self._tmux("send-keys", "-l", text)
        self._tmux("send-keys", "Enter")

    def press(self, key: str) -> None:
        self._tmux("send-keys", key)

    def screen(self) -> str:
        return self._tmux("capture-pane", "-p").rstrip() + "\n"

    def wait_for(self, text: re.Pattern[str]) -> str:
        """Return the screen once a text is on it."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not text.search(screen := self.screen()):
            assert time.monotonic() < deadline, screen
            time.sleep(0.05)
        return screen

    def shows(self, *words: str) -> str:
        """Call the program and return what stands on the screen when it has ended."""
        self.type(f"clear; {shlex.join(command_line(*words))}; echo ended with $?")
        return _ENDED.split(self.wait_for(_ENDED))[0].rstrip() + "\n"

    def close(self) -> None:
        subprocess.run(["tmux", "-L", self._socket, "kill-server"], check=False, capture_output=True, timeout=30)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    opened = Terminal(tmp_path)
    try:
        yield opened
    finally:
        opened.close()


def alike(screen: str) -> str:
    """Return a screen without what differs from run to run."""
    for pattern, replacement in _ALIKE:
        screen = pattern.sub(replacement, screen)
    return "\n".join(line.rstrip() for line in screen.splitlines()) + "\n"


def compare(name: str, screen: str) -> None:
    assert all(len(line) <= 80 for line in screen.splitlines())
    path = SCREENS / f"{name}.txt"
    if os.environ.get("STORE_SCREENS"):
        path.write_text(screen, encoding="utf-8")
    assert alike(screen) == alike(path.read_text(encoding="utf-8"))


def test_list(db: str, terminal: Terminal) -> None:
    compare("list", terminal.shows("--db", db, "list"))


_SHOWN = ("order-7", "order-8", "order-9", "order-10", "payroll-12", "pending-1", "slow-1", "stuck-1", "branches-1")


@pytest.mark.parametrize("run_id", _SHOWN)
def test_show(db: str, terminal: Terminal, run_id: str) -> None:
    compare(f"show-{run_id}", terminal.shows("--db", db, "show", run_id))


def test_check(db: str, terminal: Terminal) -> None:
    """The version of SQLite, and what there is to say of it, is the machine's."""
    lines = terminal.shows("--db", db, "check").splitlines(keepends=True)
    compare("check", "".join(line for line in lines if "SQLite" not in line and "install durable" not in line))


def test_watch_until_ctrl_c(db: str, terminal: Terminal) -> None:
    terminal.type(f"clear; {shlex.join(command_line('--db', db, 'watch', '--workflow', 'order'))}; echo ended with $?")
    terminal.wait_for(re.compile(r"order-8 +failed"))
    assert call("--db", db, "start", "order", "1", "--id", "order-77").code == 0
    terminal.wait_for(re.compile(r"order-77 +pending"))
    terminal.press("C-c")
    screen = terminal.wait_for(re.compile("^ended with 130$", re.MULTILINE))
    compare("watch", _ENDED.split(screen)[0].replace("^C", "").rstrip() + "\n")
