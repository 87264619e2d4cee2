"""A file is brought up to date while nobody of an earlier version has it open."""

from __future__ import annotations

import gzip
import os
from contextlib import closing
from pathlib import Path

import pytest

from durable_trio.errors import SchemaTooNew, StoreInUse
from durable_trio.stores.contract import ReapExecutor
from durable_trio.stores.questions import ListExecutors
from durable_trio.stores.sqlite import SqliteStore, sqlite3
from durable_trio.stores.sqlite.tables import SCHEMA_VERSION
from durable_trio.testing.store_contract.kit import one, start
from tests.stores.sqlite.kit import Spawn, fill

pytestmark = pytest.mark.usefixtures("new_stores_are_made")


@pytest.fixture
def store(store: SqliteStore) -> SqliteStore:
    """An open store with a run and some history."""
    fill(store, "run")
    return store


@pytest.mark.parametrize("is_moved", [True, False])
def test_a_schema_that_a_newer_version_has_brought_up_to_date_is_not_written_to(
    store: SqliteStore, is_moved: bool
) -> None:
    with closing(store.connect()) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
        if is_moved:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    if not is_moved:  # a reader has kept the log where it is
        os.utime(store.path)
    with pytest.raises(SchemaTooNew, match="newer version"):
        start(store, "lost")
    with pytest.raises(SchemaTooNew, match="must not be used on"):
        start(store, "lost")
    store.close()
    with pytest.raises(SchemaTooNew):
        store.open()


_SERVE = """
from durable_trio.stores.sqlite import sqlite3
from durable_trio.stores.sqlite.executor_locks import open_executor_locks
owners = open_executor_locks(sys.argv[1])
owners.take(int(sys.argv[2]))
connection = sqlite3.connect(sys.argv[1])
connection.execute("PRAGMA journal_mode = WAL").fetchall()
connection.execute("SELECT count(*) FROM runs").fetchall()
say("serving")
sys.stdin.readline()
"""


def test_a_file_is_not_brought_up_to_date_while_somebody_serves_it_with_an_earlier_version(
    tmp_path: Path, spawn: Spawn
) -> None:
    path = tmp_path / "runs.db"
    data = Path(__file__).parents[2] / "versions" / "data" / "schema-2.db.gz"
    path.write_bytes(gzip.decompress(data.read_bytes()))
    process = spawn(_SERVE, path, 7)
    with closing(sqlite3.connect(path)) as connection, connection:
        values = (7, process.pid, "h", "b", 1, 1)
        connection.execute("DELETE FROM executors")
        connection.execute(
            "INSERT INTO executors (id, pid, host, boot_id, started_at, lease_until) VALUES (?, ?, ?, ?, ?, ?)", values
        )
    assert process.stdout is not None
    assert process.stdout.readline() == "serving\n"
    store = SqliteStore(path)
    with pytest.raises(StoreInUse, match=rf"process {process.pid} .* with an earlier version"):
        store.open()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (2,)
    process.kill()  # its row says that it lives, its lock does not
    process.wait(timeout=120)
    store.open()
    assert store._writer is not None
    assert store._writer.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    (dead,) = store.ask(ListExecutors())
    assert (dead.id, dead.is_locked, dead.renewals, dead.lease, dead.damage) == (7, False, 0, 30_000_000, None)
    assert one(store, ReapExecutor(executor=7, renewals=0, now=5)) == 0
    store.close()


_CLIENT = """
import fcntl, sqlite3
connection = sqlite3.connect(sys.argv[1])
connection.execute("SELECT count(*) FROM runs").fetchall()
if sys.argv[2] == "client":
    turn = open(sys.argv[1] + "-turn", "a")
say("ready")
sys.stdin.readline()
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="only Linux tells who has a file open")
@pytest.mark.parametrize("who", ["client", "another program"])
def test_a_file_is_not_brought_up_to_date_under_a_client_of_an_earlier_version(
    tmp_path: Path, spawn: Spawn, who: str
) -> None:
    """It holds no lock, but it writes; a program that is not of this library may go on reading."""
    path = tmp_path / "runs.db"
    data = Path(__file__).parents[2] / "versions" / "data" / "schema-2.db.gz"
    path.write_bytes(gzip.decompress(data.read_bytes()))
    process = spawn(_CLIENT, path, who)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    store = SqliteStore(path)
    if who == "client":
        with pytest.raises(StoreInUse, match=rf"process {process.pid} .* has it open with an earlier version"):
            store.open()
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA user_version").fetchone() == (2,)
        process.kill()
        process.wait(timeout=120)
    store.open()
    store.close()


def test_processes_of_this_version_that_come_together_bring_a_file_up_to_date(tmp_path: Path, spawn: Spawn) -> None:
    path = tmp_path / "runs.db"
    data = Path(__file__).parents[2] / "versions" / "data" / "schema-2.db.gz"
    path.write_bytes(gzip.decompress(data.read_bytes()))
    script = """
sys.stdin.readline()
store = SqliteStore(sys.argv[1])
store.open()
store.close()
say("done")
"""
    processes = [spawn(script, path) for _ in range(3)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.communicate(timeout=120)[0] for process in processes] == ["done\n"] * 3
