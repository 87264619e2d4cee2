"""Whatever the function of a transaction step does to its connection is that step's affair, and no other's."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3 as plain_sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from durable_trio import Context, Engine, RunFailed, RunStatus, StepFailed, sqlite3, workflow
from tests.engine.harness import PATIENCE_SECONDS, serving, wait_until

pytestmark = [pytest.mark.usefixtures("no_leaks"), pytest.mark.on_sqlite("what can end a transaction in SQL")]

FILES = pytest.mark.parametrize("store", ["file", ":memory:"])


def prepare(engine: Engine, script: str) -> None:
    """Make tables of the user's."""
    connection = engine.connect()
    connection.executescript(script)
    connection.close()


def rows(engine: Engine, sql: str) -> list[Any]:
    """Ask for what the user's tables hold."""
    connection = engine.connect()
    try:
        return list(connection.execute(sql).fetchall())
    finally:
        connection.close()


def place(store: str, tmp_path: Path) -> str:
    return store if store == ":memory:" else str(tmp_path / "app.db")


def roll_back(connection: Any) -> str:
    """Have SQLite end the transaction, and let nobody know."""
    connection.execute("INSERT INTO booked VALUES (1)")
    with contextlib.suppress(sqlite3.IntegrityError):
        connection.execute("INSERT OR ROLLBACK INTO booked VALUES (1)")
    return "fine"


def book(connection: Any) -> str:
    connection.execute("INSERT INTO booked VALUES (2)")
    return "booked"


def violate(connection: Any) -> str:
    connection.execute("INSERT INTO entries VALUES (99)")
    return "later"


BOOKED = """
CREATE TABLE booked (x UNIQUE);
CREATE TABLE entries (x REFERENCES booked (x) DEFERRABLE INITIALLY DEFERRED);
"""


@FILES
@pytest.mark.parametrize("function", [roll_back, violate])
async def test_a_transaction_that_sqlite_ends_is_a_failure_that_the_body_gets_and_replay_gives_back(
    store: str, tmp_path: Path, function: Callable[[Any], str]
) -> None:
    @workflow
    async def careful(ctx: Context) -> list[str]:
        texts: list[str] = []
        try:
            await ctx.transaction("spoilt", function)
        except StepFailed as error:
            texts.append(f"{error.step} {error.run_id}: {error}")
        await ctx.wait_signal("go")
        return [*texts, await ctx.transaction("good", book)]

    @workflow
    async def careless(ctx: Context) -> str:
        return await ctx.transaction("spoilt", function)

    path = place(store, tmp_path)
    async with serving(path, careful, careless) as engine:
        prepare(engine, BOOKED)
        with pytest.raises(RunFailed) as caught:
            await engine.run(careless)
        assert isinstance(caught.value.error, StepFailed)
        run = await engine.start(careful, id="careful")
        if path == ":memory:":
            await run.signal("go")
            text, booked = await run.result()
            assert text.startswith("spoilt#0 careful: ")
            assert booked == "booked"
        else:
            await wait_until(lambda: rows(engine, "SELECT 1 FROM history WHERE run = 2"))
    if path == ":memory:":
        return
    async with serving(path, careful, careless) as engine:
        await engine.get("careful").signal("go")
        text, booked = await engine.get("careful").result()
        assert text.startswith("spoilt#0 careful: ")
        assert booked == "booked"
        assert rows(engine, "SELECT x FROM booked") == [(2,)]


@FILES
async def test_rows_never_go_into_a_temporary_table_of_another_run(store: str, tmp_path: Path) -> None:
    def shadow(connection: Any) -> None:
        connection.execute("CREATE TEMP TABLE booked AS SELECT 0 AS x")

    @workflow
    async def shadowing(ctx: Context) -> None:
        await ctx.transaction("t", shadow)

    @workflow
    async def booking(ctx: Context) -> str:
        return await ctx.transaction("t", book)

    async with serving(place(store, tmp_path), shadowing, booking) as engine:
        prepare(engine, BOOKED)
        await engine.run(shadowing)
        assert await engine.run(booking) == "booked"
        assert rows(engine, "SELECT x FROM booked") == [(2,)]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes, which can be made larger."""
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("needs root and mount")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mount is not possible here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("manner", ["raises", "swallows", "wraps"])
async def test_a_transaction_that_fills_the_disk_before_its_commit_is_tried_again_until_there_is_room(
    disk: Path, manner: str
) -> None:
    calls: list[str] = []

    def load(connection: Any) -> int:
        calls.append(manner)
        connection.execute("CREATE TABLE IF NOT EXISTS blobs (x)")
        try:
            for _ in range(60):  # more than SQLite keeps in memory
                connection.execute("INSERT INTO blobs VALUES (zeroblob(100000))")
        except (sqlite3.Error, plain_sqlite3.Error):
            if manner == "raises":
                raise
            if manner == "wraps":
                raise LookupError("no luck") from None
        return int(connection.execute("SELECT count(*) FROM blobs").fetchone()[0]) if manner == "raises" else 60

    @workflow
    async def loading(ctx: Context) -> int:
        return await ctx.transaction("load", load)

    async with serving(str(disk / "app.db"), loading) as engine:
        run = await engine.start(loading)
        await wait_until(lambda: len(calls) >= 2)
        assert (await run.record()).status is RunStatus.RUNNING
        await trio.run_process(["mount", "-o", "remount,size=40m", str(disk)])
        with trio.fail_after(PATIENCE_SECONDS):
            assert await run.result() == 60
        assert rows(engine, "SELECT count(*) FROM blobs") == [(60,)]
