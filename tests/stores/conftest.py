"""Fixtures of the store tests: real processes, and a disk small enough to be filled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import durable_trio
from tests.kit.forks import Forked

Spawn = Callable[..., "subprocess.Popen[str]"]

# What every script begins with.
_PRELUDE = """
import os, sys, time
from durable_trio.records import StepKind
from durable_trio.rows import HistoryRow, Key
from durable_trio.stores.contract import Advance, Fence, RegisterExecutor, StartRun
from durable_trio.stores.sqlite import SqliteStore

def say(*words):
    print(*words, flush=True)

def started(store, run_id):
    register = RegisterExecutor(pid=os.getpid(), host="h", lease=1, now=1)
    (executor,) = store.apply([register])
    start = StartRun(id=run_id, workflow="w", args="[]", args_digest=b"", seed=b"", created_at=1, due_at=1,
                     owner=executor)
    (outcome,) = store.apply([start])
    return Fence(outcome.row.run, executor, outcome.row.token)

def row(seq):
    return HistoryRow(seq=seq, key=Key("", "s", seq), kind=StepKind.STEP, started_at=1, finished_at=1)
"""


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Spawn]:
    """Start a Python process that runs a script; it is killed and waited for when the test ends.

    ``through``: the beginning of a command that starts it.
    """
    processes: list[subprocess.Popen[str]] = []
    root = Path(durable_trio.__file__).absolute().parents[1]

    def start(script: str, *arguments: object, through: Sequence[str] = ()) -> subprocess.Popen[str]:
        popen = subprocess.Popen if through else Forked
        process: subprocess.Popen[str] = popen(
            [*through, sys.executable, "-c", _PRELUDE + script, *map(str, arguments)],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])]),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        process.communicate(timeout=120)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root may mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
