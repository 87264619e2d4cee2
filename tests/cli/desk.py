"""What the tests of the command line share: calling it, in this process or in one of its own, and its surroundings."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from durable_trio.cli.program import program
from tests.kit import forks

ROOT = Path(__file__).resolve().parent.parent.parent
#: Seconds after which something hangs; far above anything that a busy machine needs.
PATIENCE_SECONDS = 60

# What the machine of the tests has set must not show.
_SURROUNDINGS = {"TZ": "UTC", "DURABLE_TRIO_DB": "", "NO_COLOR": "", "COLUMNS": "80", "PYTHONIOENCODING": "utf-8"}


class Said:
    """What a command has written, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    def __repr__(self) -> str:
        return f"exit code {self.code}\n--- output\n{self.out}\n--- errors\n{self.err}"

    @property
    def json(self) -> Any:
        """The output as one JSON document."""
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line on standard error."""
        assert self.err.endswith("\n"), self
        assert self.err.count("\n") == 1, self
        return self.err[:-1]


def call(*args: str, env: Mapping[str, str] | None = None) -> Said:
    """Call the program in this process."""
    result = CliRunner().invoke(program, args, env=_SURROUNDINGS | dict(env or {}), prog_name="durable-trio")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Said(result.exit_code, result.stdout, result.stderr)


def surroundings(**more: str) -> dict[str, str]:
    """Return the environment for a process of its own."""
    path = os.pathsep.join([str(ROOT), *(item for item in sys.path if item)])
    return {**os.environ, **_SURROUNDINGS, "PYTHONPATH": path, **more}


def command_line(*args: str) -> list[str]:
    """Return the words that call the program in a process of its own."""
    return [sys.executable, "-m", "durable_trio", *args]


def call_process(*args: str, is_forked: bool = True, **env: str) -> Said:
    """Call the program in a process of its own; with an interpreter of its own too, if it is not to be forked."""
    start = forks.run if is_forked else subprocess.run
    done = start(
        command_line(*args),
        env=surroundings(**env),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    return Said(done.returncode, done.stdout, done.stderr)


def on_terminal(*words: str, answer: str = "") -> tuple[int, str, str]:
    """Call the program with a terminal for questions; return its exit code, its output, and what the terminal shows."""
    ours, its = pty.openpty()
    with open(ours, "rb", buffering=0) as terminal:
        process: forks.Forked[str] = forks.Forked(
            command_line(*words), env=surroundings(), stdin=its, stderr=its, stdout=subprocess.PIPE, text=True
        )
        os.close(its)
        shown, is_answered = b"", False
        try:
            while data := terminal.read(1024):
                shown += data
                if answer and not is_answered and b"[y/N]" in shown:
                    is_answered = True
                    os.write(ours, f"{answer}\n".encode())
        except OSError:  # the program has closed it
            pass
        assert process.stdout is not None
        with process.stdout:
            out = process.stdout.read()
        return process.wait(PATIENCE_SECONDS), out, shown.decode()


def until(condition: Callable[[], object]) -> None:
    """Return once something is so."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it has not become so"
        time.sleep(0.05)


@contextmanager
def process_of(*words: str, stdin: bool = False, stdout: int = subprocess.PIPE) -> Iterator[subprocess.Popen[str]]:
    """Run a process during a block; it is killed at the end, if it has not ended."""
    process: forks.Forked[str] = forks.Forked(
        words,
        env=surroundings(),
        stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        start_new_session=True,  # the test's Ctrl-C is not the process's
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=PATIENCE_SECONDS)


@contextmanager
def shop(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Fill a database and serve it during a block: it has a run in each status."""
    with process_of(sys.executable, str(Path(__file__).with_name("shop.py")), str(path)) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        if process.stdout.readline() != "ready\n":
            pytest.fail(f"the shop did not open: {process.stderr.read()}")
        yield process
