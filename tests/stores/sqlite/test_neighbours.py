"""Whether others have the database open, and the bell that rings when somebody comes."""

from __future__ import annotations

import fcntl
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from durable_trio.limits import FEED_ALONE_INTERVAL_SECONDS, FEED_INTERVAL_SECONDS
from durable_trio.stores.sqlite import SqliteStore, neighbours
from durable_trio.stores.sqlite.executor_locks import FileLocks, open_executor_locks
from durable_trio.testing.store_contract.kit import register, start
from tests.kit.forks import Forked

PATIENCE_SECONDS = 60

pytestmark = pytest.mark.skipif(
    not (sys.platform == "linux" and hasattr(fcntl, "F_OFD_SETLK")), reason="here the system does not tell"
)

# A process that has a store open on the database until its input ends.
_OTHER = """
import sys
from durable_trio.stores.sqlite import SqliteStore
store = SqliteStore(sys.argv[1])
store.open()
print("open", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_SETTLED_SECONDS", 0.0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path / "app.db")
    store.open()
    yield store
    store.close()


def is_alone(store: SqliteStore) -> bool:
    """Return what the store thinks, once it has a bell."""
    store.poll_seconds  # noqa: B018  # hangs the bell
    return store.poll_seconds == FEED_ALONE_INTERVAL_SECONDS


def rings(store: SqliteStore) -> bool:
    """Return whether the bell has rung, and silence it."""
    assert store.doorbell is not None
    is_ringing = bool(select.select([store.doorbell], [], [], 0)[0])
    if is_ringing:
        os.read(store.doorbell, 64 * 1024)
    return is_ringing


def wait_for_bell(store: SqliteStore) -> None:
    assert store.doorbell is not None
    assert select.select([store.doorbell], [], [], PATIENCE_SECONDS)[0]
    rings(store)


def test_a_process_that_opens_the_database_rings_and_is_known_until_it_has_ended(store: SqliteStore) -> None:
    assert is_alone(store)
    assert not rings(store)
    with Forked(
        [sys.executable, "-c", _OTHER, store.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        wait_for_bell(store)
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        assert store.poll_seconds == FEED_INTERVAL_SECONDS
        other.communicate()
    assert is_alone(store)


def test_another_store_of_the_same_process_is_a_neighbour(store: SqliteStore, tmp_path: Path) -> None:
    assert is_alone(store)
    other = SqliteStore(tmp_path / "app.db")
    other.open()
    assert rings(store)
    assert not is_alone(store)
    assert not is_alone(other)
    other.close()
    assert is_alone(store)


def test_own_commits_do_not_ring(store: SqliteStore) -> None:
    assert is_alone(store)
    for number in range(20):
        start(store, f"run-{number}")
    store.tidy()
    assert not rings(store)
    assert is_alone(store)


@pytest.mark.parametrize("how", ["copied over", "moved over", "removed", "log removed"])
def test_it_rings_when_the_file_is_another_or_none(store: SqliteStore, tmp_path: Path, how: str) -> None:
    start(store)
    assert is_alone(store)
    other = tmp_path / "elsewhere" / "other.db"
    other.parent.mkdir()
    subprocess.run(["cp", store.path, str(other)], check=True)  # by another process, or our locks would be gone
    assert rings(store)
    if how == "copied over":
        subprocess.run(["cp", str(other), store.path], check=True)
    elif how == "moved over":
        other.replace(store.path)
    else:
        Path(store.path + ("-wal" if how == "log removed" else "")).unlink()
    assert rings(store)


def test_a_program_that_only_looks_is_no_neighbour(store: SqliteStore) -> None:
    assert is_alone(store)
    with closing(store.connect()) as connection:
        connection.execute("SELECT count(*) FROM runs").fetchall()
        assert is_alone(store)


def test_whoever_takes_his_time_to_open_it_rings_once_he_is_there(store: SqliteStore, tmp_path: Path) -> None:
    assert is_alone(store)
    other = open_executor_locks(store.path)
    rings(store)  # somebody has opened a file
    assert is_alone(store)
    other.announce()
    assert rings(store)
    assert not is_alone(store)
    other.close()
    assert is_alone(store)


def test_executors_are_no_company_by_themselves_and_company_is_no_executor(store: SqliteStore) -> None:
    other = open_executor_locks(store.path)
    other.announce()
    assert not other.are_any_held()
    assert not store._locks.are_any_held()
    register(store)
    assert other.are_any_held()
    assert not store._locks.are_any_held()
    other.close()
    assert is_alone(store)


@pytest.mark.parametrize("lack", ["inotify", "locks"])
def test_where_the_system_does_not_tell_others_are_taken_to_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lack: str
) -> None:
    if lack == "inotify":
        monkeypatch.setattr(neighbours, "_listen", lambda what: -1)
    else:
        monkeypatch.setattr("durable_trio.stores.sqlite.opening.open_executor_locks", FileLocks)
    with closing(SqliteStore(tmp_path / "app.db")) as store:
        store.open()
        assert not is_alone(store)
        assert not is_alone(store)


def test_in_a_file_that_is_not_there_any_more_nothing_can_be_told(store: SqliteStore) -> None:
    assert is_alone(store)
    Path(store.path + "-owners").unlink()
    assert not is_alone(store)


def test_a_bell_is_closed_with_its_store(store: SqliteStore) -> None:
    assert is_alone(store)
    bell = store.doorbell
    assert bell is not None
    store.close()
    assert store.doorbell is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.read(bell, 1)
