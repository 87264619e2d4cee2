"""A terminal of 80 by 24, with a shell in it, in a tmux server of its own."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.desk import PATIENCE_SECONDS, surroundings

in_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")


class Pane:
    """What stands on the screen, and keys for it."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self._socket = f"durable-trio-{uuid.uuid4().hex[:8]}"
        self._folder = folder
        without = ("TMUX", "COLUMNS", "LINES")
        self._env = {key: value for key, value in env.items() if not key.startswith(without)}
        self._tmux("-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", "/bin/sh")
        self.type("PS1='$ '")  # shells give root another one
        self.press("Enter")

    def _tmux(self, *words: str) -> str:
        done = subprocess.run(
            ["tmux", "-u", "-L", self._socket, *words],
            env=self._env,
            cwd=self._folder,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=PATIENCE_SECONDS,
            check=True,
        )
        return done.stdout

    def type(self, text: str) -> None:
        """Type a text as it is."""
        self._tmux("send-keys", "-l", text)

    def press(self, *keys: str) -> None:
        """Press keys, by tmux's names."""
        self._tmux("send-keys", *keys)

    def command(self, *words: str) -> None:
        """Have the shell run a command on a cleared screen, and say how it has ended."""
        self.type(f"clear; {shlex.join(words)}; echo ended with $?")
        self.press("Enter")

    def resize(self, columns: int, rows: int) -> None:
        """Give the terminal another size."""
        self._tmux("resize-window", "-x", str(columns), "-y", str(rows))

    def screen(self) -> str:
        """Return the lines of the screen."""
        return self._tmux("capture-pane", "-p").rstrip() + "\n"

    def until(self, *texts: str) -> str:
        """Return the screen once all of these are on it."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while any(text not in (screen := self.screen()) for text in texts):
            assert time.monotonic() < deadline, f"{texts!r} is not on the screen:\n{screen}"
            time.sleep(0.05)
        return screen

    def until_lines(self, count: int, *texts: str) -> str:
        """Return the screen once it has so many lines, and all of these texts: after a resize an old one may have."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len((screen := self.until(*texts)).splitlines()) != count:
            assert time.monotonic() < deadline, f"the screen has no {count} lines:\n{screen}"
            time.sleep(0.05)
        return screen

    def until_gone(self, text: str) -> str:
        """Return the screen once a text is not on it any more."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while text in (screen := self.screen()):
            assert time.monotonic() < deadline, f"{text!r} is still on the screen:\n{screen}"
            time.sleep(0.05)
        return screen

    def assert_whole(self) -> None:
        """Fail unless the terminal is as a shell wants it: it echoes, and the last line is not reserved."""
        self.command("seq", "100")
        lines = self.until("\n100\nended with 0\n$").splitlines()
        assert len(lines) == 24
        assert lines[-3:-1] == ["100", "ended with 0"]
        self.type("echo seen")
        assert self.until("$ echo seen")

    def close(self) -> None:
        """End the terminal and what runs in it."""
        subprocess.run(["tmux", "-L", self._socket, "kill-server"], check=False, capture_output=True, timeout=30)


@contextmanager
def opened(folder: Path, **more: str) -> Iterator[Pane]:
    """Open a terminal for a block."""
    pane = Pane(folder, surroundings(TERM="screen-256color", LC_ALL="C.UTF-8", **more))
    try:
        yield pane
    finally:
        pane.close()
