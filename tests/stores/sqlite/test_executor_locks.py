"""The kernel locks of executors, by either of the two ways."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from durable_trio.errors import StoreFull
from durable_trio.stores.contract import Advance, ReapExecutor, RegisterExecutor
from durable_trio.stores.questions import ListExecutors
from durable_trio.stores.sqlite import SqliteStore
from durable_trio.stores.sqlite.executor_locks import ByteLocks, FileLocks
from durable_trio.testing.store_contract.kit import one, owned, register

Spawn = Callable[..., "subprocess.Popen[str]"]
Locks = ByteLocks | FileLocks


@pytest.fixture(params=[ByteLocks, FileLocks])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Locks]]:
    """Open the same locks as often as a test likes."""
    opened: list[Locks] = []

    def open_locks() -> Locks:
        opened.append(request.param(str(tmp_path / "locks")))
        return opened[-1]

    yield open_locks
    for locks in opened:
        locks.close()


def test_a_lock_is_held_until_it_is_released_for_its_owner_and_for_others(make: Callable[[], Locks]) -> None:
    ours, theirs = make(), make()
    ours.take(1)
    theirs.take(2**40)
    for locks in (ours, theirs):
        assert locks.is_held(1)
        assert locks.is_held(2**40)
        assert not locks.is_held(2)
    theirs.release(1)  # not theirs to release
    assert ours.is_held(1)
    assert theirs.is_held(1)
    ours.release(1)
    assert not ours.is_held(1)
    assert not theirs.is_held(1)


def test_closing_releases_all_locks(make: Callable[[], Locks]) -> None:
    ours, theirs = make(), make()
    ours.take(1)
    ours.take(2)
    ours.close()
    ours.close()
    assert not theirs.is_held(1)
    assert not theirs.is_held(2)


def test_a_lock_is_taken_once(make: Callable[[], Locks]) -> None:
    ours, theirs = make(), make()
    ours.take(1)
    with pytest.raises(BlockingIOError):
        theirs.take(1)
    assert ours.is_held(1)


def test_where_locks_of_descriptions_are_missing_files_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(fcntl, "F_OFD_SETLK", raising=False)
    store, other = SqliteStore(tmp_path / "runs.db"), SqliteStore(tmp_path / "runs.db")
    store.open()
    other.open()
    executor = register(store)
    assert [(row.id, row.is_locked) for row in other.ask(ListExecutors())] == [(executor, True)]
    store.close()
    # The file is gone with it, as if somebody had removed it: so that it does not renew is to tell.
    assert [(row.id, row.is_locked) for row in other.ask(ListExecutors())] == [(executor, None)]
    other.close()
    assert not [name for name in os.listdir(tmp_path) if "owner-" in name]


def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path: Path, spawn: Spawn) -> None:
    store = SqliteStore(tmp_path / "runs.db")
    store.open()
    script = """
store = SqliteStore(sys.argv[1])
store.open()
say(started(store, "theirs").owner)
time.sleep(60)
"""
    process = spawn(script, store.path)
    assert process.stdout is not None
    executor = int(process.stdout.readline())
    assert store.executor_is_alive(executor)
    process.kill()
    process.wait()
    assert not store.executor_is_alive(executor)
    assert one(store, ReapExecutor(executor=executor, now=5)) == 1
    store.close()


@pytest.mark.parametrize("path", [":memory:", "runs.db"])
def test_a_registration_that_is_rolled_back_keeps_no_lock(tmp_path: Path, path: str) -> None:
    store = SqliteStore(path if path == ":memory:" else tmp_path / path)
    store.open()
    _, fence = owned(store)
    assert store._writer is not None
    pages = store._writer.execute("PRAGMA page_count").fetchone()[0]
    store._writer.execute(f"PRAGMA max_page_count = {pages}").fetchall()
    with pytest.raises(StoreFull):
        store.apply(
            [
                RegisterExecutor(pid=1, host="h", lease=1, now=1),
                Advance(fence=fence, published=(("k", "x" * 100_000),), now=1),
            ]
        )
    assert not store.executor_is_alive(fence.owner + 1)
    store.close()
