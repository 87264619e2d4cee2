"""What is special about the store of the tests: its file, several who write to it, outages, and its clock."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from durable_trio.errors import NotADatabase, StoreAway, StoreCorrupt, StoreError
from durable_trio.stores.contract import Advance, ReapExecutor
from durable_trio.stores.questions import ListExecutors, ListHistory, ListRuns, RunFilter
from durable_trio.testing.store_contract.kit import one, owned, register, start, start_operation, step
from tests.kit import forks
from tests.logstore import LogStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.log"


@pytest.fixture
def store(path: Path) -> Iterator[LogStore]:
    with closing(LogStore(path)) as store:
        store.open()
        yield store


@pytest.fixture
def other(store: LogStore, path: Path) -> Iterator[LogStore]:
    with closing(LogStore(path)) as other:
        other.open()
        yield other


def ids(store: LogStore) -> list[str]:
    return sorted(row.id for row in store.ask(ListRuns(RunFilter(), limit=10**6)))


# ---- the file ------------------------------------------------------------------------------------------------------


def test_what_was_not_written_whole_is_nothing_and_is_cut_off_by_whoever_writes_next(
    path: Path, store: LogStore, other: LogStore
) -> None:
    start(store, "whole")
    size = path.stat().st_size
    start(store, "torn")
    for left in range(size, path.stat().st_size, 7):
        torn = path.with_name("torn.log")
        torn.write_bytes(path.read_bytes()[:left])
        with closing(LogStore(torn)) as later:
            later.open()
            assert ids(later) == ["whole"]
            start(later, "next")
            assert ids(later) == ["next", "whole"]


def test_damage_in_the_middle_is_told_to_whoever_writes(path: Path, store: LogStore) -> None:
    size = path.stat().st_size
    for number in range(3):
        start(store, f"run-{number}")
    data = bytearray(path.read_bytes())
    data[size + 20] ^= 1
    path.write_bytes(bytes(data))
    with closing(LogStore(path)) as later:
        later.open()
        with pytest.raises(StoreCorrupt, match="damaged at"):
            start(later)


def test_another_file_is_refused(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0 and more")
    with pytest.raises(NotADatabase):
        LogStore(path).open()


def write_for_ever(path: str) -> None:
    """Start runs until this process is killed."""
    store = LogStore(path)
    store.open()
    register(store)
    number = 0
    while True:
        store.apply([start_operation(f"{os.getpid()}-{number}-{each}", args='"x"' * 3000) for each in range(3)])
        number += 1
        print(number, flush=True)


def test_processes_that_are_killed_while_they_write_leave_whole_commits_and_everything_they_told(
    path: Path, store: LogStore
) -> None:
    code = "import sys, tests.logstore.test_log as log; log.write_for_ever(sys.argv[1])"
    where = {**os.environ, "PYTHONPATH": os.pathsep.join(item for item in sys.path if item)}
    command = [sys.executable, "-c", code, str(path)]
    pair = [forks.Forked(command, stdout=subprocess.PIPE, env=where, text=True) for _ in range(2)]
    told = {}
    for process in pair:
        assert process.stdout is not None
        for _ in range(5):
            told[process.pid] = process.stdout.readline()
    for process in pair:
        assert process.stdout is not None
        process.kill()
        process.wait()
        told[process.pid] = [told[process.pid], *process.stdout.read().split()][-1]
        process.stdout.close()
    for pid, last in told.items():
        own = [run_id for run_id in ids(store) if run_id.startswith(f"{pid}-")]
        assert len(own) >= 3 * int(last)
        assert len(own) == 3 * len({run_id.rpartition("-")[0] for run_id in own})
    assert [row.is_locked for row in store.ask(ListExecutors())] == [False, False]


# ---- several who write ---------------------------------------------------------------------------------------------


def test_stores_that_write_at_once_see_all_of_each_other(path: Path, store: LogStore, other: LogStore) -> None:
    def work(own: LogStore, name: str) -> None:
        for number in range(40):
            start(own, f"{name}-{number}")

    threads = [
        threading.Thread(target=work, args=(own, f"{place}-{name}"))
        for place, own in enumerate((store, other))
        for name in "ab"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ids(store) == ids(other)
    assert len(ids(store)) == 160
    numbers = [row.run for row in store.ask(ListRuns(RunFilter(), limit=10**6))]
    assert len(set(numbers)) == 160


def test_a_user_transaction_begins_again_if_what_it_has_read_was_changed(store: LogStore, other: LogStore) -> None:
    row, fence = owned(store)
    read: list[Any] = []

    def add(tables: Any) -> Advance:
        read.append(tables.get("account", "amount") or 0)
        if len(read) == 1:
            connection = other.connect()
            connection.put("account", "amount", 5)
            connection.commit()
        tables.put("account", "amount", read[-1] + 1)
        return Advance(fence=fence, rows=(step(1),), now=20)

    assert store.transact(fence, add, seconds_max=5.0) is True
    assert read == [0, 5]
    assert other.connect().get("account", "amount") == 6
    assert len(other.ask(ListHistory(row.run))) == 1


def test_two_user_transactions_run_at_the_same_time_beside_a_batch(store: LogStore) -> None:
    fences = [owned(store, f"run-{number}")[1] for number in range(2)]
    both = threading.Barrier(3, timeout=10)

    def work(number: int) -> None:
        def fn(tables: Any) -> Advance:
            both.wait()
            both.wait()
            tables.put("t", number, number)
            return Advance(fence=fences[number], rows=(step(1),), now=20)

        assert store.transact(fences[number], fn, seconds_max=20.0) is True

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    both.wait()
    start(store, "meanwhile")
    both.wait()
    for thread in threads:
        thread.join()
    assert [store.connect().get("t", number) for number in range(2)] == [0, 1]


# ---- outages -------------------------------------------------------------------------------------------------------


def test_an_outage_inside_a_users_function_is_the_stores_whatever_the_function_makes_of_it(store: LogStore) -> None:
    _, fence = owned(store)

    def fn(tables: Any) -> Advance:
        store.is_away = True
        with suppress(StoreError):
            tables.get("t", 1)
        return Advance(fence=fence, rows=(step(1),), now=20)

    with pytest.raises(StoreAway):
        store.transact(fence, fn, seconds_max=5.0)
    store.is_away = False
    assert store.ask(ListHistory(fence.run)) == ()


# ---- executors, and the clock --------------------------------------------------------------------------------------


def test_who_has_ended_in_order_leaves_no_lock_and_tidying_removes_those_of_the_dead(
    path: Path, store: LogStore, other: LogStore
) -> None:
    first, second = register(store), register(other)
    one(store, ReapExecutor(executor=first, now=5))
    assert len(list(path.parent.glob("*-executor-*"))) == 1
    other.close()
    one(store, ReapExecutor(executor=second, now=5))
    store.tidy()
    assert not list(path.parent.glob("*-executor-*"))


def test_its_clock_is_a_minute_ahead(store: LogStore) -> None:
    assert 50 < store.read_clock() / 1e6 - time.time() < 70
