"""What is special about the SQLite store: its connections, its errors, and batches that are done again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from durable_trio.errors import StoreCorrupt, StoreError, StoreFull, StoreInUse, StoreReadOnly
from durable_trio.stores.contract import Advance, ClaimDue, DeleteRun, ReapExecutor
from durable_trio.stores.examination_questions import Examine
from durable_trio.stores.questions import (
    FindRun,
    ListHistory,
    ListOpenSteps,
    ListRuns,
    ListUntold,
    Question,
    RunFilter,
)
from durable_trio.stores.sqlite import SqliteStore, sqlite3
from durable_trio.stores.sqlite.answers.table import ANSWERS
from durable_trio.stores.sqlite.connection import tells_json_from_harm
from durable_trio.stores.sqlite.library import translate
from durable_trio.stores.sqlite.operations import leases
from durable_trio.stores.sqlite.operations.table import HANDLERS
from durable_trio.testing.store_contract.kit import (
    add,
    codes_of,
    fence_of,
    one,
    owned,
    register,
    row_of,
    start,
    start_operation,
    step,
)
from tests.stores.sqlite.numbers import last_change

pytestmark = pytest.mark.usefixtures("new_stores_are_made")


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqliteStore]:
    """An open store."""
    store = SqliteStore(":memory:" if request.param == "memory" else tmp_path / "runs.db", durability="normal")
    store.open()
    yield store
    store.close()


def test_text_and_numbers_that_no_column_holds_are_refused(store: SqliteStore) -> None:
    row, fence = owned(store)
    for wrong in (step(1, "c", result='"\ud800"'), step(2**80, "d")):
        assert isinstance(one(store, Advance(fence=fence, rows=(step(0), wrong), now=20)), StoreError)
    assert store.ask(ListHistory(row.run)) == ()


def test_durability_is_one_of_two(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'full' or 'normal'"):
        SqliteStore(tmp_path / "runs.db", durability="off")
    assert SqliteStore(":memory:").durability == "memory"
    assert SqliteStore(tmp_path / "runs.db").durability == "full"


@pytest.mark.parametrize(("durability", "synchronous"), [("full", 2), ("normal", 1)])
def test_connections_are_set_up_for_their_durability(tmp_path: Path, durability: str, synchronous: int) -> None:
    store = SqliteStore(tmp_path / "runs.db", durability=durability)
    store.open()
    _row, fence = owned(store)
    store.transact(fence, lambda _: Advance(fence=fence, rows=(step(1),), now=1), seconds_max=5)
    assert store._user_connection is not None
    store._user_connection.allow_all()

    def pragma(connection: Any, name: str) -> Any:
        return connection.execute(f"PRAGMA {name}").fetchone()[0]

    for connection in (store._writer, store._user_connection):
        assert pragma(connection, "synchronous") == synchronous
        assert pragma(connection, "journal_mode") == "wal"
    for connection in (store._writer, store._reader, store._user_connection):
        assert pragma(connection, "foreign_keys") == 1
        assert pragma(connection, "trusted_schema") == (not tells_json_from_harm())
        assert pragma(connection, "mmap_size") == 0
    assert pragma(store._reader, "query_only") == 1
    connection = store.connect()
    assert pragma(connection, "foreign_keys") == 1
    assert pragma(connection, "busy_timeout") == 5000
    assert pragma(connection, "wal_autocheckpoint") == 0
    connection.close()
    store.close()


def test_a_store_that_is_not_open_says_so(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "runs.db")
    store.close()
    for call in (lambda: store.ask(FindRun("run")), lambda: store.apply([]), store.connect, store.foreign_changes):
        with pytest.raises(StoreError, match="not open"):
            call()


def test_memory_stores_are_strangers_to_each_other_and_end_when_closed() -> None:
    first, second = SqliteStore(":memory:"), SqliteStore(":memory:")
    first.open()
    second.open()
    start(first)
    assert second.ask(FindRun("run")) is None
    first.close()
    first.open()
    assert first.ask(FindRun("run")) is None
    first.close()
    second.close()


def test_each_question_has_an_answer() -> None:
    known = {item for item in Question.__subclasses__() if item.__module__.startswith("durable_trio.")}
    of_files = {Examine, ListOpenSteps, ListUntold}  # which stand beside the database, or are the database
    assert set(ANSWERS) | of_files == known


def test_an_unknown_operation_is_an_error_before_anything_is_written(store: SqliteStore) -> None:
    with pytest.raises(TypeError, match="no operation"):
        store.apply([start_operation(), object()])  # type: ignore[list-item]
    assert store.ask(FindRun("run")) is None


def test_an_unknown_wal_checkpoint_mode_is_an_error(store: SqliteStore) -> None:
    with pytest.raises(ValueError, match="mode"):
        store.wal_checkpoint("'; DROP TABLE runs")  # type: ignore[arg-type]


def test_an_error_in_the_middle_of_a_batch_rolls_it_back(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(HANDLERS, DeleteRun, interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.apply([start_operation(), DeleteRun(run_id="run")])
    assert store.ask(FindRun("run")) is None
    start(store)


def test_a_reader_does_not_wait_for_a_writer_and_never_sees_half_a_batch(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "runs.db", durability="normal")
    store.open()
    stop = threading.Event()
    seen: list[int] = []
    failures: list[object] = []

    def read() -> None:
        while not stop.is_set():
            rows = store.ask(ListRuns(RunFilter(), limit=10_000))
            seen.append(len(rows))
            if len(rows) % 20 or last_change(store) < len({row.changed for row in rows}):
                failures.append(len(rows))

    thread = threading.Thread(target=read)
    thread.start()
    for batch in range(30):
        store.apply([start_operation(f"run-{batch}-{n}") for n in range(20)])
    stop.set()
    thread.join()
    assert not failures
    assert seen
    store.close()


def test_a_user_connection_may_write_its_own_tables_beside_the_store(store: SqliteStore) -> None:
    connection = store.connect()
    with connection:
        connection.execute("CREATE TABLE mine (a)")
        connection.execute("INSERT INTO mine VALUES (1)")
    start(store)
    assert connection.execute("SELECT count(*) FROM runs").fetchone() == (1,)
    connection.close()


def test_a_user_transaction_makes_apply_without_blocking_give_way(store: SqliteStore) -> None:
    connection = store.connect()
    connection.execute("BEGIN IMMEDIATE")
    assert store.apply([start_operation()], block=False) is None
    connection.rollback()
    assert store.apply([start_operation()], block=False) is not None
    assert store.apply([start_operation("other")]) is not None
    connection.close()


def test_rows_of_executors_that_ended_long_ago_are_forgotten(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "_ENDED_KEPT", 2)
    living = register(store)
    for _ in range(5):
        one(store, ReapExecutor(executor=register(store), now=1))
    last = register(store)
    connection = store.connect()
    kept = [row[0] for row in connection.execute("SELECT id FROM executors ORDER BY id").fetchall()]
    connection.close()
    assert kept == [living, last - 1, last]
    assert one(store, ReapExecutor(executor=living + 1, now=1)) is None


def test_foreign_changes_cannot_be_told_during_a_commit_of_another_thread(store: SqliteStore) -> None:
    with store._write_lock:
        assert store.foreign_changes() is None
    assert store.foreign_changes() is False


@pytest.mark.parametrize(
    ("code", "committing", "expected"),
    [
        (5, False, StoreInUse),
        (6, False, StoreInUse),
        (8, False, StoreReadOnly),
        (8 | 7 << 8, False, StoreReadOnly),
        (10, False, StoreCorrupt),
        (10 | 4 << 8, True, StoreCorrupt),
        (11, False, StoreCorrupt),
        (13, True, StoreFull),
        (14, False, StoreError),
        (1, False, StoreError),
        (None, False, StoreError),
    ],
)
def test_errors_of_sqlite_become_errors_of_this_library(
    code: int | None, committing: bool, expected: type[StoreError]
) -> None:
    error = sqlite3.OperationalError("what SQLite says")
    if code is not None:
        error.sqlite_errorcode = code
    translated = translate(error, "/some/path", committing=committing)
    assert type(translated) is expected
    assert "/some/path" in str(translated)
    assert "what SQLite says" in str(translated)
    assert ("in doubt" in str(translated)) == (committing and expected is StoreCorrupt)


class _Failing:
    """A connection whose COMMIT fails with an I/O error."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def cursor(self) -> Any:
        """Return a cursor that fails in the same way."""
        return _FailingCursor(self._connection.cursor())


class _FailingCursor:
    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    def execute(self, sql: str, *values: Any) -> Any:
        """Run a statement that is no COMMIT."""
        if sql == "COMMIT":
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = 10
            raise error
        self._cursor.execute(sql, *values)
        return self


def test_a_failed_sync_is_in_doubt_never_tried_again_and_ends_the_store(store: SqliteStore) -> None:
    assert store._writer is not None
    writer = store._writer
    store._writer = _Failing(writer)  # type: ignore[assignment]
    with pytest.raises(StoreCorrupt, match="in doubt"):
        start(store)
    assert not writer.in_transaction
    store._writer = writer
    for call in (lambda: start(store), lambda: store.ask(FindRun("run")), store.foreign_changes, store.open):
        with pytest.raises(StoreCorrupt, match="must not be used on"):
            call()
    store.close()
    store.open()
    store.ask(FindRun("run"))


def test_a_claimed_run_goes_on_after_any_number_of_hands(store: SqliteStore) -> None:
    row, fence = owned(store)
    for token in range(2, 6):
        add(store, fence, step(token, "s", token))
        one(store, ReapExecutor(executor=fence.owner, now=1))
        executor = register(store)
        (row,) = one(store, ClaimDue(owner=executor, codes=codes_of("work"), now=5, limit=1))
        assert (row.token, row.recoveries) == (token, 1)
        fence = fence_of(row)
    assert len(store.ask(ListHistory(row_of(store).run))) == 4
