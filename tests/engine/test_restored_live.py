"""An engine ends, and says why, when SQLite itself writes an earlier copy over the database that it has open."""

# ruff: noqa: ASYNC240  # files are what this is about
from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trio

from durable_trio import Context, Engine, StoreRewound, open_engine, workflow
from tests.engine.harness import PATIENCE_SECONDS, wait_until
from tests.engine.test_files_gone import LEAVES_NOTHING, only_error
from tests.kit import forks

pytestmark = pytest.mark.on_sqlite("its file is written over")

_APP = """
import logging, os, trio
from pathlib import Path
from durable_trio import Context, Engine, workflow

folder = Path(__file__).parent
path = str(folder / "app.db")

async def act(number):
    with open(folder / "ledger", "a") as file:
        file.write(f"{number}\\n")
    while not (folder / f"go-{number}").exists():
        await trio.sleep(0.005)

@workflow
async def work(ctx: Context) -> None:
    for number in range(20):
        await ctx.step("act", act, number)

logging.basicConfig(level=logging.INFO)
engine = Engine(path, workflows=[work], workers=int(os.environ.get("APP_WORKERS", "0")), app="app:engine")

async def main():
    async with Engine(path) as client:
        await client.start("work", id="run")
    await engine.serve()

if __name__ == "__main__":
    trio.run(main)
"""
_BACK_UP = """
import sqlite3, sys
source, target = map(sqlite3.connect, sys.argv[1:])
source.backup(target)
"""


def back_up(source: Path, target: Path) -> None:
    """Copy a database by another process, over what stands there."""
    forks.run([sys.executable, "-c", _BACK_UP, str(source), str(target)], check=True, timeout=60)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a process that serves; it is killed when the test ends."""
    processes: list[subprocess.Popen[str]] = []
    (tmp_path / "app.py").write_text(_APP)

    def start(workers: int = 0) -> subprocess.Popen[str]:
        process: forks.Forked[str] = (forks.ForkedParent if workers else forks.Forked)(
            [sys.executable, str(tmp_path / "app.py")],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).absolute().parents[2]), "APP_WORKERS": str(workers)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()  # its workers end with it


def output_of(process: subprocess.Popen[str]) -> str:
    """Return what a process says until it ends."""
    try:
        return process.communicate(timeout=PATIENCE_SECONDS)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f"it does not end, and has said:\n{process.communicate()[0]}")


def rows(path: Path) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return connection.execute("SELECT id, run, seq, name, n, result FROM history ORDER BY id").fetchall()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("comes", ["with a step under way", "right before its commit"])
async def test_steps_that_were_taken_back_end_the_engine_before_it_does_one_more(
    tmp_path: Path, serve: Callable[..., subprocess.Popen[str]], workers: int, comes: str
) -> None:
    ledger, path, copy = tmp_path / "ledger", tmp_path / "app.db", tmp_path / "copy.db"

    def done() -> list[str]:
        return ledger.read_text().split() if ledger.exists() else []

    process = serve(workers)
    for number in range(9):
        await wait_until(lambda: len(done()) == number + 1)  # noqa: B023  # it is called here
        if number == 4:
            back_up(path, copy)
        if number < 8:
            (tmp_path / f"go-{number}").touch()
    assert len(rows(path)) == 8
    if comes == "right before its commit":
        for number in range(8, 20):
            (tmp_path / f"go-{number}").touch()
            if number == 8:
                back_up(copy, path)
    else:
        back_up(copy, path)
    output = await trio.to_thread.run_sync(output_of, process)
    for number in range(8, 20):
        (tmp_path / f"go-{number}").touch()
    assert process.returncode != 0
    assert "StoreRewound: an earlier state of it was written over" in output
    if workers == 0:  # else a worker that has ended is started again, until its parent ends too
        assert rows(path) == rows(copy)
        assert len(rows(path)) == 4
        if comes == "with a step under way":
            assert done() == [str(number) for number in range(9)]
    assert not list(tmp_path.glob("*-stale-*"))


@workflow
async def waits(ctx: Context) -> None:
    await ctx.wait_signal("go")


@LEAVES_NOTHING
async def test_a_client_that_only_waits_for_a_result_ends_too(tmp_path: Path) -> None:
    path, copy = tmp_path / "app.db", tmp_path / "copy.db"
    with trio.fail_after(PATIENCE_SECONDS):
        async with Engine(str(path)):
            pass
        back_up(path, copy)
        with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012  # the block is what fails
            async with Engine(str(path)) as client:
                run = await client.start("waits")

                async def wait_for_result() -> None:
                    with pytest.raises(StoreRewound):
                        await run.result()

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(wait_for_result)
                    await trio.testing.wait_all_tasks_blocked()
                    await trio.to_thread.run_sync(back_up, copy, path)
                await trio.sleep_forever()
    assert isinstance(only_error(caught.value), StoreRewound)


@LEAVES_NOTHING
async def test_a_copy_that_is_put_back_while_nobody_has_it_open_is_simply_the_database(tmp_path: Path) -> None:
    path, copy = tmp_path / "app.db", tmp_path / "copy.db"
    with trio.fail_after(PATIENCE_SECONDS):
        async with open_engine(str(path), workflows=[waits]) as engine:
            await engine.start(waits, id="old")
            await trio.to_thread.run_sync(back_up, path, copy)
            await engine.start(waits, id="new")
        await trio.to_thread.run_sync(back_up, copy, path)
        async with open_engine(str(path), workflows=[waits]) as engine:
            await engine.send_signal("old", "go")
            await engine.get("old").result()
            await engine.start(waits, id="new")
