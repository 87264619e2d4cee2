"""Whether others have the database open, and the bell that rings when somebody comes."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from durable_trio import processes
from durable_trio.limits import FEED_ALONE_INTERVAL_SECONDS, FEED_INTERVAL_SECONDS
from durable_trio.stores.sqlite import SqliteStore, neighbours
from durable_trio.testing.store_contract.kit import start

PATIENCE_SECONDS = 60

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.readlink("/proc/self/ns/pid") != neighbours._NAMESPACE_OF_ALL,
    reason="here the system does not tell of all processes",
)

# A process that has the database open, by SQLite itself, until its input ends.
_OTHER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("SELECT count(*) FROM runs").fetchall()
print("open", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_SETTLED_SECONDS", 0.0)
    monkeypatch.setattr(neighbours, "_LOOK_SECONDS", 0.0)


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
    with subprocess.Popen(
        [sys.executable, "-I", "-c", _OTHER, store.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
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


def test_who_has_given_a_connection_away_is_never_alone(store: SqliteStore) -> None:
    assert is_alone(store)
    store.connect().close()
    assert not is_alone(store)


@pytest.mark.parametrize("lack", ["processes", "inotify", "locks"])
def test_where_the_system_does_not_tell_others_are_taken_to_be_there(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, lack: str
) -> None:
    if lack == "processes":
        monkeypatch.setattr(neighbours, "_NAMESPACE_OF_ALL", "pid:[1]")
    elif lack == "inotify":
        monkeypatch.setattr(neighbours, "_listen", lambda what: -1)
    else:
        monkeypatch.setattr(neighbours, "read_lock_holders", lambda path, byte: set())
    assert not is_alone(store)


def test_locks_are_looked_at_seldom(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []
    look = processes.read_lock_holders

    def counted(path: str, byte: int) -> set[int]:
        looks.append(time.monotonic())
        return look(path, byte)

    monkeypatch.setattr(neighbours, "read_lock_holders", counted)
    monkeypatch.setattr(neighbours, "_LOOK_SECONDS", 3600.0)
    for _ in range(100):
        assert store.poll_seconds == FEED_INTERVAL_SECONDS
    assert looks == []


def test_a_bell_is_closed_with_its_store(store: SqliteStore) -> None:
    assert is_alone(store)
    bell = store.doorbell
    assert bell is not None
    store.close()
    assert store.doorbell is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.read(bell, 1)
    assert not neighbours._open_here
