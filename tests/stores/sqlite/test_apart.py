"""A batch that the database refuses is committed one by one: what comes between leaves what was committed known."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from typing import Any

import pytest
import trio

from durable_trio.errors import RunConflict, StoreCorrupt, StoreFull, StoreInUse, StoreReadOnly
from durable_trio.stores.contract import Advance, Fence, Operation, RegisterExecutor
from durable_trio.stores.questions import FindRun, ListHistory
from durable_trio.stores.sqlite import SqliteStore, sqlite3
from durable_trio.stores.sqlite import store as store_module
from durable_trio.stores.sqlite.transaction import Transaction
from durable_trio.stores.writer import Writer
from durable_trio.testing.probes import ProbedStore
from durable_trio.testing.store_contract.kit import one, start, start_operation, step
from tests.engine.harness import PATIENCE_SECONDS
from tests.stores.scripted import Outcomes, nobody
from tests.stores.sqlite.acts import REFUSED, keep_ended_run, prepare

Spawn = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def store(file_path: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqliteStore]:
    """Nobody waits long for a lock."""
    monkeypatch.setattr(store_module, "BUSY_TIMEOUT_MS", 10)
    store = SqliteStore(file_path)
    store.open()
    yield store
    store.close()


@pytest.fixture
def fence(store: SqliteStore) -> Fence:
    """A run; the removal of another one is refused by the commit."""
    fence = prepare(store)
    keep_ended_run(store)
    return fence


class Middle:
    """Calls something before the transaction of that number begins, counted from the one of the whole batch as 0."""

    def __init__(self, store: SqliteStore, act: Callable[[Any], object], number: int = 2) -> None:
        self.store, self.act, self.left = store, act, number
        store._writer.set_trace_callback(self.look)  # type: ignore[union-attr]

    def look(self, statement: str) -> None:
        if statement == "BEGIN IMMEDIATE":
            self.left -= 1
            if self.left == -1:
                self.act(self.store._writer)


class Lock:
    """Another program that locks the file."""

    def __init__(self, store: SqliteStore) -> None:
        self.connection = sqlite3.connect(store.path, check_same_thread=False, isolation_level=None)

    def take(self, _: Any = None) -> None:
        self.connection.execute("BEGIN IMMEDIATE")

    def release(self) -> None:
        self.connection.execute("ROLLBACK")


@pytest.fixture
def lock(store: SqliteStore) -> Iterator[Lock]:
    lock = Lock(store)
    yield lock
    lock.connection.close()


def fill(connection: Any) -> None:
    """Leave the database no room."""
    (count,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {count}").fetchone()


def make_room(store: SqliteStore) -> None:
    store._writer.execute("PRAGMA max_page_count = 1000000").fetchone()  # type: ignore[union-attr]


def advance(fence: Fence, number: int, *, is_large: bool = False) -> Advance:
    """A step; the next one cannot be stored before it, nor itself twice."""
    result = '"' + "x" * 100_000 + '"' if is_large else "1"
    return Advance(fence=fence, rows=(step(number, "s", number, result=result),), now=20)


def numbers(store: SqliteStore, fence: Fence) -> list[int]:
    history = store.ask(ListHistory(fence.run))
    return [row.seq for row in history if row.seq >= 50]


def applied(store: SqliteStore, *batch: Operation, block: bool = True) -> list[Any]:
    outcomes = store.apply(batch, block=block)
    assert outcomes is not None
    return outcomes


# ---- the store -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [2, 3])
def test_a_lock_in_the_middle_leaves_the_outcomes_of_what_was_committed(
    store: SqliteStore, fence: Fence, lock: Lock, number: int
) -> None:
    Middle(store, lock.take, number)
    outcomes = applied(store, advance(fence, 50), REFUSED, advance(fence, 51))
    assert [type(outcome) for outcome in outcomes] == [bool, RunConflict][: number - 1]
    with pytest.raises(StoreInUse):
        store.apply([advance(fence, 51)])
    lock.release()
    assert numbers(store, fence) == [50]
    assert applied(store, advance(fence, 51)) == [True]


def test_a_lock_before_the_first_one_by_one_is_raised(store: SqliteStore, fence: Fence, lock: Lock) -> None:
    Middle(store, lock.take, 1)
    with pytest.raises(StoreInUse):
        store.apply([advance(fence, 50), REFUSED])
    lock.release()
    assert numbers(store, fence) == []


def test_one_that_must_not_block_is_left_undone_if_somebody_locks_the_file_before_it_is_done_again(
    store: SqliteStore, fence: Fence, lock: Lock
) -> None:
    Middle(store, lock.take, 1)
    assert store.apply([REFUSED], block=False) is None
    lock.release()
    assert isinstance(one(store, REFUSED), RunConflict)


def test_a_full_disk_in_the_middle_leaves_the_outcomes_of_what_was_committed(store: SqliteStore, fence: Fence) -> None:
    Middle(store, fill)
    batch = (REFUSED, advance(fence, 50, is_large=True), advance(fence, 51))
    assert [type(outcome) for outcome in applied(store, *batch)] == [RunConflict]
    with pytest.raises(StoreFull):
        store.apply(batch[1:])
    make_room(store)
    assert applied(store, *batch[1:]) == [True, True]


@pytest.mark.parametrize(("code", "expected"), [("READONLY", StoreReadOnly), ("IOERR", StoreCorrupt)])
def test_whatever_else_comes_in_the_middle_is_met_by_the_rest(
    store: SqliteStore, fence: Fence, monkeypatch: pytest.MonkeyPatch, code: str, expected: type[Exception]
) -> None:
    error = sqlite3.OperationalError(code)
    error.sqlite_errorcode = getattr(sqlite3, f"SQLITE_{code}", None) or {"READONLY": 8, "IOERR": 10}[code]
    begin = Transaction.begin
    begins = 0

    def begin_once(transaction: Any) -> None:
        nonlocal begins
        begins += 1
        if begins >= 2:
            raise error
        begin(transaction)

    monkeypatch.setattr(Transaction, "begin", begin_once)
    assert applied(store, advance(fence, 50), REFUSED, advance(fence, 51)) == [True]
    if expected is StoreCorrupt:  # whatever comes later
        with pytest.raises(expected, match="failed before"):
            store.apply([advance(fence, 51)])
    else:
        with pytest.raises(expected):
            store.apply([REFUSED])


def test_an_executor_that_was_registered_before_one_that_is_refused_keeps_its_lock(
    store: SqliteStore, fence: Fence
) -> None:
    """Else others take it for dead, and its runs."""
    register = RegisterExecutor(pid=1, host="h", lease=1000, now=0)
    executor, refused, _ = applied(store, register, REFUSED, advance(fence, 50))
    assert isinstance(refused, RunConflict)
    assert store.executor_is_alive(executor)
    other = SqliteStore(store.path)
    other.open()
    try:
        assert other.executor_is_alive(executor)
    finally:
        other.close()


# ---- the writer ------------------------------------------------------------------------------------------------------


async def outcomes_of(store: SqliteStore, *batch: Operation, then: Callable[[], object]) -> dict[str, Any]:
    """Submit a batch at once to a writer, clear the obstacle when the outcomes before it have come; return all."""
    outcomes, found = Outcomes(), {}
    writer = Writer(store, failed=nobody, still_away=nobody, committed_untold=nobody)
    async with trio.open_nursery() as nursery:
        await nursery.start(writer.run)
        for number, operation in enumerate(batch):
            writer.submit(operation, partial(outcomes.take, str(number)))
        await outcomes.wait(1)
        then()
        found = dict(await outcomes.wait(len(batch)))
        nursery.cancel_scope.cancel()
    return found


@pytest.fixture(autouse=True)
def try_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("durable_trio.stores.kept.STORE_RETRY_SECONDS", 0.02)


async def test_a_step_that_was_committed_before_a_lock_is_told_so(store: SqliteStore, fence: Fence, lock: Lock) -> None:
    Middle(store, lock.take)
    batch = (advance(fence, 50), REFUSED, advance(fence, 51))
    found = await outcomes_of(store, *batch, then=lock.release)
    assert (found["0"], found["2"]) == (True, True)
    assert isinstance(found["1"], RunConflict | StoreInUse)  # a caller may meet the lock
    assert numbers(store, fence) == [50, 51]


async def test_a_step_that_was_committed_before_the_disk_was_full_is_told_so(store: SqliteStore, fence: Fence) -> None:
    Middle(store, fill, 3)
    batch = (advance(fence, 50), REFUSED, advance(fence, 51, is_large=True), advance(fence, 52))
    found = await outcomes_of(store, *batch, then=lambda: make_room(store))
    assert isinstance(found.pop("1"), RunConflict)
    assert found == {"0": True, "2": True, "3": True}
    assert numbers(store, fence) == [50, 51, 52]


async def test_a_start_behind_a_lock_in_the_middle_is_stored_once(store: SqliteStore, fence: Fence, lock: Lock) -> None:
    Middle(store, lock.take)
    batch = (advance(fence, 50), REFUSED, start_operation("new"))
    found = await outcomes_of(store, *batch, then=lock.release)
    assert found["0"] is True
    if isinstance(found["2"], StoreInUse):
        start(store, "new")
    else:
        assert found["2"].created
    assert store.ask(FindRun("new")) is not None


async def test_a_writer_that_is_cancelled_while_a_batch_is_done_one_by_one_tells_each_the_truth(
    store: SqliteStore, fence: Fence, lock: Lock
) -> None:
    outcomes = Outcomes()
    writer = Writer(store, failed=nobody, still_away=nobody, committed_untold=nobody)
    store.hurry()
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            await nursery.start(writer.run)

            def take_and_cancel(_: Any) -> None:
                lock.take()
                trio.from_thread.run_sync(nursery.cancel_scope.cancel, trio_token=token)

            token = trio.lowlevel.current_trio_token()
            Middle(store, take_and_cancel)
            outcomes.submit(writer, advance(fence, 50), REFUSED)
            writer.submit(advance(fence, 51), partial(outcomes.take, "51"))
    found = dict(outcomes.found)
    assert found[str(fence.run)] is True
    assert isinstance(found["51"], Exception)
    lock.release()
    assert numbers(store, fence) == [50]


async def test_a_caller_that_is_cancelled_meanwhile_gets_the_outcome_of_its_commit(
    store: SqliteStore, fence: Fence, lock: Lock
) -> None:
    """The wait for a commit is not given up."""
    writer = Writer(store, failed=nobody, still_away=nobody, committed_untold=nobody)
    found = []

    async def write(operation: Operation) -> None:
        found.append(await writer.write(operation))

    async with trio.open_nursery() as nursery:
        await nursery.start(writer.run)
        Middle(store, lock.take)
        writer.submit(advance(fence, 50), found.append)  # so that there are several
        async with trio.open_nursery() as callers:
            callers.start_soon(write, advance(fence, 51))

            def cancel(_: Any) -> None:
                callers.cancel_scope.cancel()
                lock.release()

            writer.submit(REFUSED, cancel)
        nursery.cancel_scope.cancel()
    assert found == [True, True]
    assert numbers(store, fence) == [50, 51]


# ---- a process that is killed ----------------------------------------------------------------------------------------

KILLED = """
from tests.stores.sqlite.acts import REFUSED, keep_ended_run, prepare
from tests.stores.sqlite.test_apart import Middle, advance
store = SqliteStore(sys.argv[1])
store.open()
fence = prepare(store)
keep_ended_run(store)
Middle(store, lambda _: os.kill(os.getpid(), 9))
store.apply([advance(fence, 50), REFUSED, advance(fence, 51)])
"""


def test_a_process_that_is_killed_in_the_middle_leaves_what_it_has_committed(file_path: str, spawn: Spawn) -> None:
    process = spawn(KILLED, file_path)
    assert process.wait(PATIENCE_SECONDS) == -signal.SIGKILL
    store = SqliteStore(file_path)
    store.open()
    try:
        row = store.ask(FindRun("run"))
        assert row is not None
        assert numbers(store, Fence(row.run, 1, 1)) == [50]
        with closing(store.connect()) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        store.close()


def test_a_probe_is_reached_by_what_was_committed_only(store: SqliteStore, fence: Fence, lock: Lock) -> None:
    reached: list[str] = []
    for kind, expected in (("step", True), ("delete", False), ("start", False)):
        probed = ProbedStore(store, kill_at=f"after:{kind}", kill=partial(reached.append, kind))
        Middle(store, lock.take)
        number = 50 + len(numbers(store, fence))
        probed.apply([advance(fence, number), REFUSED, start_operation("new")])
        lock.release()
        assert (kind in reached) == expected
