"""Ctrl-C while ``prune`` removes runs: what is gone cannot be asked for afterwards, so it is said."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import trio

from durable_trio import Context, Engine, open_engine, workflow
from tests.cli.desk import surroundings
from tests.engine.harness import PATIENCE_SECONDS
from tests.kit import forks

RUN_COUNT = 40

# It interrupts itself at a moment of its own, and removes a few runs at a time.
PROGRAM = """
import os, runpy, signal, sys
from durable_trio.cli import client
from durable_trio.cli.commands import prune
from durable_trio.engine import removals
removals._PRUNE_BATCH, client._END_SECONDS = 2, 0.2
show, tell = prune._Removal._show, prune._tell
moment, database = sys.argv[1:3]

def interrupt():
    os.kill(os.getpid(), signal.SIGINT)

def show_and_interrupt(self, count):
    show(self, count)
    if count == 4 and moment != "told":
        if moment == "held":
            from durable_trio import sqlite3
            global other
            other = sqlite3.connect(database, isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
        interrupt()

def interrupt_and_tell(*arguments, **options):
    if moment == "told":
        interrupt()
    tell(*arguments, **options)

prune._Removal._show, prune._tell = show_and_interrupt, interrupt_and_tell
sys.argv = ["durable-trio", "--db", database, "prune", "--before", "0s", "--yes", "--json"]
runpy.run_module("durable_trio", run_name="__main__")
"""


@workflow
async def nothing(ctx: Context) -> None:
    """Ends at once."""


@pytest.fixture
def many(file_path: str) -> str:
    """A database with runs that have ended."""

    async def fill() -> None:
        async with open_engine(file_path, workflows=[nothing]) as engine, trio.open_nursery() as nursery:
            for _ in range(RUN_COUNT):
                nursery.start_soon(engine.run, nothing)

    trio.run(fill)
    return file_path


def left_in(database: str) -> int:
    async def count() -> int:
        async with Engine(database) as client:
            return len((await client.list_runs(limit=1000)).runs)

    return trio.run(count)


def interrupted(database: str, moment: str) -> str:
    """Return what it says on standard error."""
    done = forks.run(
        [sys.executable, "-c", PROGRAM, moment, database],
        env=surroundings(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
        cwd=Path(database).parent,
    )
    assert done.returncode == 130, done.stderr
    assert done.stdout == ""
    return str(done.stderr)


@pytest.mark.parametrize("moment", ["between two commits", "held"])
def test_ctrl_c_tells_how_many_are_gone(many: str, moment: str) -> None:
    """Also if it does not get so far as to stop in order, for somebody else holds the file."""
    said = re.fullmatch(r"removed (\d+) runs; the others are still there\n", interrupted(many, moment))
    assert said is not None
    assert 4 <= int(said[1]) < RUN_COUNT
    assert left_in(many) == RUN_COUNT - int(said[1])


def test_ctrl_c_after_the_last_commit_tells_so_too(many: str) -> None:
    assert interrupted(many, "told") == f"removed {RUN_COUNT} runs\n"
    assert left_in(many) == 0
