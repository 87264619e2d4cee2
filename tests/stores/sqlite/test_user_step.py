"""What one function of the user's leaves is not there for the next; and errors of the store inside of one."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from durable_trio.errors import RunConflict, StoreCorrupt, StoreFull
from durable_trio.stores.contract import Fence
from durable_trio.stores.sqlite import SqliteStore, sqlite3
from durable_trio.stores.sqlite import store as store_module
from durable_trio.stores.sqlite.connection import open_connection
from durable_trio.stores.sqlite.library import is_of_the_store
from durable_trio.testing.store_contract.kit import add, owned, step
from tests.stores.sqlite.accounts import amounts, insert, store_with_accounts, transact


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqliteStore]:
    """An open store with a table of the user's."""
    with store_with_accounts(":memory:" if request.param == "memory" else tmp_path / "runs.db") as store:
        yield store


@pytest.fixture
def fence(store: SqliteStore) -> Fence:
    """The fence of a run."""
    return owned(store)[1]


# ---- what one function leaves is not there for the next -------------------------------------------------------------


def _leave_trace(connection: Any) -> None:
    connection.set_trace_callback(lambda _: pytest.fail("it still listens"))
    connection.set_trace_callback(lambda sql: pytest.fail("it still listens") if "999" in sql else None)


LEFT: dict[str, Callable[[Any], object]] = {
    "temporary table": lambda c: c.execute("CREATE TEMP TABLE account AS SELECT 0 AS id, 0 AS amount"),
    "temporary table by schema": lambda c: c.execute("CREATE TABLE temp.account (id, amount)"),
    "temporary view": lambda c: c.execute("CREATE TEMP VIEW account AS SELECT 0 AS id, 0 AS amount"),
    "temporary trigger": lambda c: c.execute(
        "CREATE TEMP TRIGGER mine BEFORE INSERT ON main.account BEGIN SELECT RAISE(IGNORE); END"
    ),
    "function": lambda c: c.create_function("abs", 1, lambda _: 5),
    "aggregate": lambda c: c.create_aggregate("max", 1, type("A", (), {"step": print, "finalize": lambda _: 5})),
    "collation": lambda c: c.create_collation("NOCASE", lambda *_: 1),
    "trace": _leave_trace,
    "row factory": lambda c: setattr(c, "row_factory", lambda *_: "row"),
    "text factory": lambda c: setattr(c, "text_factory", bytes),
    "attribute": lambda c: setattr(c, "execute", None),
}


@pytest.mark.parametrize("what", LEFT)
def test_a_function_finds_a_connection_as_if_nobody_had_used_it(store: SqliteStore, fence: Fence, what: str) -> None:
    assert transact(store, fence, lambda c: insert(c, -1)) is True  # so that it is not the first use either
    assert transact(store, fence, LEFT[what], seq=2) is True
    found: list[Any] = []

    def look(connection: Any) -> None:
        connection.execute("INSERT INTO account (amount) VALUES (-999)")
        found.append(connection.execute("SELECT abs(max(amount)), 'a' FROM account").fetchone())
        found.append(connection.execute("SELECT 'a' = 'A' COLLATE nocase").fetchone())
        found.append(connection.execute("SELECT count(*) FROM temp.sqlite_schema").fetchone())

    assert transact(store, fence, look, seq=3) is True
    assert found == [(1, "a"), (1,), (0,)]
    assert amounts(store) == [-1, -999]


def test_a_temporary_table_of_a_function_that_fails_is_gone_as_well(store: SqliteStore, fence: Fence) -> None:
    def fail(connection: Any) -> None:
        connection.create_function("mine", 0, lambda: 1)
        raise LookupError("no such customer")

    with pytest.raises(LookupError):
        transact(store, fence, fail)
    with pytest.raises(sqlite3.OperationalError, match="no such function"):
        transact(store, fence, lambda c: c.execute("SELECT mine()"))


def test_a_kept_connection_does_not_reach_into_the_transaction_of_another_run(store: SqliteStore, fence: Fence) -> None:
    kept: list[Any] = []
    assert transact(store, fence, kept.append) is True

    def use_the_kept_one(connection: Any) -> None:
        assert connection is not kept[0]
        with pytest.raises(sqlite3.ProgrammingError):
            kept[0].execute("INSERT INTO account (amount) VALUES (1)")
        with pytest.raises(sqlite3.ProgrammingError):
            kept[0].interrupt()
        insert(connection, 2)

    assert transact(store, fence, use_the_kept_one, seq=2) is True
    assert amounts(store) == [2]


def test_the_connection_works_in_its_functions_thread_only(store: SqliteStore, fence: Fence) -> None:
    errors: list[BaseException] = []

    def elsewhere(do: Callable[[], object]) -> None:
        def run() -> None:
            try:
                do()
            except sqlite3.Error as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()

    def work(connection: Any) -> None:
        cursor = connection.execute("SELECT 1 UNION SELECT 2")
        elsewhere(lambda: connection.execute("DELETE FROM account"))
        elsewhere(lambda: cursor.execute("DELETE FROM account"))
        elsewhere(cursor.fetchone)
        elsewhere(lambda: connection.create_function("mine", 0, lambda: 1))
        insert(connection)

    assert transact(store, fence, work) is True
    assert [type(error) for error in errors] == [sqlite3.ProgrammingError] * 4
    assert amounts(store) == [7]


def test_a_function_that_leaves_nothing_costs_no_new_connection(
    store: SqliteStore, fence: Fence, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []
    monkeypatch.setattr(store_module, "open_connection", lambda *_, **__: pytest.fail("a connection was opened"))

    def work(connection: Any) -> None:
        connection.row_factory = sqlite3.Row
        rows = connection.execute("SELECT amount FROM account ORDER BY amount DESC")
        opened.append(rows.fetchone())
        connection.executemany("INSERT INTO account (amount) VALUES (?)", [(len(opened),)])
        cursor = connection.cursor()
        cursor.execute("SELECT 1")
        for _ in cursor:
            pass

    monkeypatch.undo()
    assert transact(store, fence, work) is True
    monkeypatch.setattr(store_module, "open_connection", lambda *_, **__: pytest.fail("a connection was opened"))
    for seq in range(2, 6):
        assert transact(store, fence, work, seq=seq) is True


# ---- errors of the store, inside the function -----------------------------------------------------------------------


def _swallow(connection: Any) -> None:
    with contextlib.suppress(sqlite3.Error):
        _fill(connection)


def _wrap(connection: Any) -> None:
    try:
        _fill(connection)
    except sqlite3.Error:
        raise ValueError("not today") from None


def _fill(connection: Any) -> None:
    connection.execute("CREATE TABLE IF NOT EXISTS large (a)")
    for _ in range(1000):
        connection.execute("INSERT INTO large VALUES (zeroblob(10000))")


def _fill_many(connection: Any) -> None:
    connection.execute("CREATE TABLE IF NOT EXISTS large (a)")
    cursor = connection.cursor(type("Mine", (sqlite3.Cursor,), {}))
    cursor.executemany("INSERT INTO large VALUES (zeroblob(?))", [(10_000,)] * 1000)


def _fill_by_returning(connection: Any) -> None:
    connection.execute("CREATE TABLE IF NOT EXISTS large (a)")
    for _ in connection.execute(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) "
        "INSERT INTO large SELECT zeroblob(10000) FROM n RETURNING 1"
    ):
        pass


@pytest.mark.parametrize("fill", [_fill, _fill_many, _fill_by_returning, _swallow, _wrap])
def test_a_full_database_inside_the_function_is_the_stores_error(
    store: SqliteStore, fence: Fence, monkeypatch: pytest.MonkeyPatch, fill: Callable[[Any], None]
) -> None:
    def open_small(*arguments: Any, **options: Any) -> Any:
        connection = open_connection(*arguments, **options)
        connection.execute("PRAGMA max_page_count = 200").fetchall()
        return connection

    monkeypatch.setattr(store_module, "open_connection", open_small)
    for _ in range(2):
        with pytest.raises(StoreFull):
            transact(store, fence, fill)
    monkeypatch.undo()
    assert transact(store, fence, insert) is True
    assert amounts(store) == [7]


def test_damage_that_the_function_meets_and_swallows_is_the_stores_error(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "runs.db")
    store.open()
    fence = owned(store)[1]
    connection = store.connect()
    _fill(connection)
    connection.commit()
    root = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'large'").fetchone()[0]
    connection.close()
    store.wal_checkpoint("truncate")
    with (tmp_path / "runs.db").open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(b"\xff" * 4096)

    def swallow(connection: Any) -> None:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("SELECT count(*) FROM large").fetchall()

    with pytest.raises(StoreCorrupt):
        transact(store, fence, swallow)
    store.close()


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        (13, "database or disk is full", True),
        (5, "database is locked", True),
        (5, "cannot release savepoint - SQL statements in progress", False),
        (6, "database table is locked", False),  # by a query of the same connection
        (8, "attempt to write a readonly database", False),  # a value that was opened for reading
        (779, "database disk image is malformed", True),
        (267, "database disk image is malformed", False),  # a virtual table's own affair
        (19, "UNIQUE constraint failed", False),
        (0, "no code", False),
    ],
)
def test_which_errors_are_the_stores(code: int, text: str, expected: bool) -> None:
    error = sqlite3.OperationalError(text)
    vars(error)["sqlite_errorcode"] = code
    assert is_of_the_store(error) is expected


def test_a_checkpoint_that_is_refused_takes_the_rows_back_and_the_next_one_works(
    store: SqliteStore, fence: Fence
) -> None:
    add(store, fence, step(1, "pay", 1))
    assert isinstance(transact(store, fence, insert), RunConflict)
    assert amounts(store) == []
    assert transact(store, fence, insert, seq=2) is True
