"""Runs an example as its user does: as a process, in a folder of its own, killed in the middle, started again.

    def test_a_kill_at_any_line_charges_once(tmp_path: Path) -> None:
        example = Example("checkout", tmp_path, speed=20_000)
        example.kill_at("order 7: charged")  # SIGKILL when that line has been printed
        lines = example.run()  # the same command again, to its end
        assert lines[-1] == "order 7: settled"
        assert [row["cents"] for row in example.rows("payments.db", "SELECT cents FROM charges")] == [4900]

Nothing here can hang: every process has a deadline, and is killed by its own pid when it passes.
"""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import filterfalse
from pathlib import Path
from typing import IO, Any, Final

from durable_trio import sqlite3
from tests.kit.forks import Forked

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"
DYING = Path(__file__).with_name("dying.py")
SECONDS_MAX = 120.0
# What the library logs of runs that go wrong; the order of that and of what is printed is not told apart.
_LOG: Final = re.compile("run '.*' of workflow ")


class NotReachedError(AssertionError):
    """A process has come to its end, and never printed what it was to be killed at."""


class Example:
    """One example and its folder. Each call of ``run``, ``kill_at`` or ``interrupt_at`` is one process.

    Args:
        name: the file's, without ``.py``.
        folder: where the process works; the example's own folder is made below it.
        speed: what ``--speed`` is given; default the example's own.
        options: further arguments for every process.
    """

    def __init__(self, name: str, folder: Path, *options: str, speed: float | None = None) -> None:
        self.folder = folder / f"{name}-data"
        self.lines: list[str] = []  # all that was printed, by all processes so far
        self._cwd = folder
        chosen = () if speed is None else ("--speed", str(speed))
        self._argv = [str(EXAMPLES / f"{name}.py"), self.folder.name, *chosen, *options]

    def run(self, *options: str, exit_status: int = 0) -> list[str]:
        """Run to the end and return the lines that were printed; standard error is among them."""
        return self._run([*self._argv, *options], exit_status)

    def kill_at(self, text: str, *options: str) -> list[str]:
        """Run until a line that contains ``text`` is printed, be killed by SIGKILL there, and return the lines.

        Raises:
            NotReachedError: it has ended without, and in good order.
        """
        return self._end_at(text, signal.SIGKILL, options, exit_status=-signal.SIGKILL)

    def interrupt_at(self, text: str, *options: str) -> list[str]:
        """Run until a line that contains ``text`` is printed, get SIGINT there as of Ctrl-C, and return the lines.

        Those that end it are among them, and those of steps that were under way and were let finish.
        """
        return self._end_at(text, signal.SIGINT, options, exit_status=0)

    @contextmanager
    def alive_at(self, text: str) -> Iterator[None]:
        """Run until a line that contains ``text`` is printed, and live on during the block; it ends with SIGKILL."""
        with self._process(self._argv) as process:
            assert any(text in line for line in _lines_of(process)), f"no line contained {text!r}"
            yield

    def rows(self, database: str, query: str) -> list[dict[str, Any]]:
        """Return what a query finds in a database of the example's folder; no process may be running."""
        with closing(sqlite3.connect(self.folder / database)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(query)]

    def steps(self, name: str) -> list[str]:
        """Return the statuses of all recorded outcomes of that name, of all runs, in order."""
        query = f"SELECT status FROM history WHERE name = '{name}' ORDER BY run, seq"
        return [row["status"] for row in self.rows("app.db", query)]

    def _end_at(self, text: str, os_signal: signal.Signals, options: tuple[str, ...], *, exit_status: int) -> list[str]:
        printed, status = self._end([str(DYING), str(int(os_signal)), text, *self._argv, *options])
        if status == 0 and not any(text in line for line in printed):
            raise NotReachedError(f"no line contained {text!r}:\n{_quoted(printed)}")
        assert status == exit_status, _quoted(printed)
        return printed

    def _run(self, argv: list[str], exit_status: int) -> list[str]:
        printed, status = self._end(argv)
        assert status == exit_status, _quoted(printed)
        return printed

    def _end(self, argv: list[str]) -> tuple[list[str], int]:
        with self._process(argv) as process:
            printed = list(_lines_of(process))
            self.lines += printed
            return printed, process.wait(SECONDS_MAX)

    @contextmanager
    def _process(self, argv: list[str]) -> Iterator[subprocess.Popen[bytes]]:
        # A warning, such as one of a file left open, is an error here: it would show among the lines.
        process: Forked[bytes] = Forked(
            [sys.executable, "-W", "error", *argv], cwd=self._cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        with process:
            try:
                yield process
            finally:
                process.kill()  # nothing, if it has ended


def _lines_of(process: subprocess.Popen[bytes]) -> Iterator[str]:
    """Yield the lines as they come, until the process closes its output or its time is over."""
    output: IO[bytes] | None = process.stdout
    assert output is not None
    deadline = time.monotonic() + SECONDS_MAX
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        while True:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError(f"{process.args!r} is not done after {SECONDS_MAX:g} s; unfinished line: {rest!r}")
            read = os.read(output.fileno(), 65_536)
            if not read:
                break
            *complete, rest = (rest + read).split(b"\n")
            yield from filterfalse(_LOG.match, (line.decode() for line in complete))
    if rest:
        yield rest.decode()


def _quoted(lines: list[str]) -> str:
    return "\n".join(f"    {line}" for line in lines)
