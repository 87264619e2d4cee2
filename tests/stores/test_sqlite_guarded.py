"""What a user's function may do with the connection of a transaction step, and what is denied."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlite_utils

from durable_trio.errors import RunConflict, StepTimeout, StoreError, StoreFull
from durable_trio.stores.base import Advance, Fence
from durable_trio.stores.sqlite import SqliteStore, sqlite3
from durable_trio.testing.store_contract.kit import add, owned, row_of, step


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqliteStore]:
    """An open store with a run, and a table of the user's."""
    store = SqliteStore(":memory:" if request.param == "memory" else tmp_path / "runs.db", durability="normal")
    store.open()
    connection = store.connect()
    connection.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, amount INTEGER NOT NULL UNIQUE)")
    connection.commit()
    connection.close()
    yield store
    store.close()


@pytest.fixture
def fence(store: SqliteStore) -> Fence:
    """The fence of a run."""
    return owned(store)[1]


def transact(store: SqliteStore, fence: Fence, do: Callable[[Any], object], seq: int = 1, seconds: float = 5.0) -> Any:
    """Run a function in a transaction step."""

    def fn(connection: Any) -> Advance:
        do(connection)
        return Advance(fence=fence, rows=(step(seq, "pay", seq),), now=20)

    return store.transact(fence, fn, seconds_max=seconds)


def amounts(store: SqliteStore) -> list[int]:
    """Return what the user's table holds."""
    connection = store.connect()
    try:
        return [row[0] for row in connection.execute("SELECT amount FROM account ORDER BY id").fetchall()]
    finally:
        connection.close()


def insert(connection: Any, amount: int = 7) -> None:
    """Write a row of the user's."""
    connection.execute("INSERT INTO account (amount) VALUES (?)", (amount,))


@pytest.mark.parametrize(
    "sql",
    [
        "COMMIT",
        "ROLLBACK",
        "BEGIN",
        "END",
        "ATTACH ':memory:' AS other",
        "DETACH main",
        "PRAGMA synchronous = OFF",
        "PRAGMA foreign_keys = OFF",
        "PRAGMA writable_schema = ON",
        "PRAGMA wal_checkpoint",
        "PRAGMA journal_mode = DELETE",
        "UPDATE runs SET status = 'completed'",
        "UPDATE RUNS SET owner = NULL",
        "DELETE FROM history",
        "INSERT INTO mailbox (run, kind, name, created_at) VALUES (1, 'signal', 'x', 1)",
        "REPLACE INTO change_counter VALUES (1, 0)",
        "WITH a AS (SELECT 1) DELETE FROM waits",
        "DROP TABLE published",
        "DROP INDEX runs_due",
        "CREATE INDEX mine ON runs (result)",
        "ALTER TABLE runs ADD COLUMN mine",
        "ALTER TABLE history RENAME TO mine",
        "CREATE TRIGGER mine AFTER UPDATE ON runs BEGIN SELECT 1; END",
        "CREATE TEMP TRIGGER mine AFTER UPDATE ON main.runs BEGIN SELECT 1; END",
        "CREATE TEMP TABLE runs (run, owner, token)",
        "CREATE TEMP VIEW executors AS SELECT 1 AS id",
        "UPDATE sqlite_sequence SET seq = 0",
        "UPDATE sqlite_schema SET sql = ''",
        "SELECT load_extension('evil')",
        "VACUUM",
    ],
)
def test_what_reaches_beyond_the_users_tables_is_denied(store: SqliteStore, fence: Fence, sql: str) -> None:
    before = row_of(store), store.last_change()

    def attack(connection: Any) -> None:
        insert(connection)
        connection.execute(sql)

    with pytest.raises(sqlite3.DatabaseError):
        transact(store, fence, attack)
    assert amounts(store) == []
    assert (row_of(store), store.last_change()) == before
    assert transact(store, fence, insert) is True
    assert amounts(store) == [7]


def test_a_trigger_of_the_user_does_not_reach_the_engines_tables_either(store: SqliteStore, fence: Fence) -> None:
    connection = store.connect()
    connection.execute("CREATE TRIGGER mine AFTER INSERT ON account BEGIN UPDATE runs SET owner = NULL; END")
    connection.commit()
    connection.close()
    with pytest.raises(sqlite3.DatabaseError) as caught:
        transact(store, fence, insert)
    assert "engine" in str(caught.value.__notes__)
    assert row_of(store).owner == fence.owner


@pytest.mark.parametrize(
    "call",
    [
        lambda connection: connection.commit(),
        lambda connection: connection.rollback(),
        lambda connection: connection.close(),
        lambda connection: connection.__enter__(),
        lambda connection: connection.executescript("SELECT 1"),
        lambda connection: connection.set_authorizer(None),
        lambda connection: connection.set_progress_handler(None, 0),
        lambda connection: setattr(connection, "isolation_level", None),
    ],
)
def test_methods_that_would_end_the_transaction_or_the_guard_are_refused(
    store: SqliteStore, fence: Fence, call: Callable[[Any], object]
) -> None:
    def attack(connection: Any) -> None:
        insert(connection)
        call(connection)

    with pytest.raises(sqlite3.Error):
        transact(store, fence, attack)
    assert amounts(store) == []
    assert transact(store, fence, insert) is True


def test_a_denial_that_the_function_swallows_does_no_harm(store: SqliteStore, fence: Fence) -> None:
    def attack(connection: Any) -> None:
        for sql in ("COMMIT", "UPDATE runs SET owner = NULL", "ROLLBACK"):
            with pytest.raises(sqlite3.DatabaseError):
                connection.execute(sql)
        insert(connection)

    assert transact(store, fence, attack) is True
    assert amounts(store) == [7]


def test_reading_savepoints_and_sqlite_utils_are_allowed(store: SqliteStore, fence: Fence) -> None:
    def work(connection: Any) -> None:
        assert connection.execute("SELECT id FROM runs").fetchall() == [("run",)]
        connection.execute("SAVEPOINT mine")
        insert(connection, 1)
        connection.execute("ROLLBACK TO mine")
        connection.execute("RELEASE mine")
        connection.execute("CREATE TABLE mine (a)")
        connection.execute("CREATE TEMP TABLE scratch (a)")
        database = sqlite_utils.Database(connection, recursive_triggers=False, execute_plugins=False)
        database.table("account").insert({"amount": 5})

    assert transact(store, fence, work) is True
    assert amounts(store) == [5]


def test_settings_and_cursors_of_one_function_do_not_reach_the_next(store: SqliteStore, fence: Fence) -> None:
    kept: list[Any] = []

    def leave(connection: Any) -> None:
        insert(connection, 1)
        insert(connection, 2)
        connection.row_factory = sqlite3.Row
        connection.text_factory = bytes
        cursor = connection.execute("SELECT amount FROM account")
        cursor.fetchone()
        kept.extend([connection, cursor])

    assert transact(store, fence, leave) is True
    with pytest.raises(sqlite3.Error):
        kept[1].fetchone()
    with pytest.raises(sqlite3.DatabaseError):
        kept[0].execute("DELETE FROM account")
    with pytest.raises(sqlite3.Error):
        kept[0].execute("SELECT 1")
    rows: list[Any] = []
    assert transact(store, fence, lambda c: rows.append(c.execute("SELECT 'a'").fetchone()), seq=2) is True
    assert rows == [("a",)]
    store.wal_checkpoint("truncate")


def test_an_endless_statement_is_interrupted(store: SqliteStore, fence: Fence) -> None:
    endless = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    begun = time.monotonic()

    def attack(connection: Any) -> None:
        insert(connection)
        connection.execute(endless)

    with pytest.raises(StepTimeout, match=r"0\.1 s"):
        transact(store, fence, attack, seconds=0.1)
    assert time.monotonic() - begun < 20

    def stubborn(connection: Any) -> None:
        insert(connection)
        with pytest.raises(sqlite3.OperationalError):
            connection.execute(endless)

    with pytest.raises(StepTimeout):
        transact(store, fence, stubborn, seconds=0.1)
    assert amounts(store) == []


def test_an_error_of_the_function_is_its_own(store: SqliteStore, fence: Fence) -> None:
    def twice(connection: Any) -> None:
        insert(connection)
        insert(connection)

    with pytest.raises(sqlite3.IntegrityError):
        transact(store, fence, twice)
    assert amounts(store) == []


def test_a_conflict_clause_that_ends_the_transaction_is_noticed(store: SqliteStore, fence: Fence) -> None:
    def attack(connection: Any) -> None:
        insert(connection)
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute("INSERT OR ROLLBACK INTO account (amount) VALUES (7)")

    with pytest.raises(StoreError, match="rolled the transaction back"):
        transact(store, fence, attack)

    def attack_and_write(connection: Any) -> None:
        attack(connection)
        insert(connection, 8)

    with pytest.raises(sqlite3.DatabaseError):
        transact(store, fence, attack_and_write)
    assert amounts(store) == []
    assert transact(store, fence, insert) is True


def test_a_full_database_inside_the_function_is_the_stores_error(store: SqliteStore, fence: Fence) -> None:
    assert transact(store, fence, lambda c: insert(c, 1)) is True
    assert store._guarded is not None
    store._guarded.allow_all()
    pages = store._guarded.execute("PRAGMA page_count").fetchone()[0]
    store._guarded.execute(f"PRAGMA max_page_count = {pages}").fetchall()

    def fill(connection: Any) -> None:
        for _ in range(1000):
            connection.execute("CREATE TABLE IF NOT EXISTS large (a)")
            connection.execute("INSERT INTO large VALUES (zeroblob(10000))")

    with pytest.raises(StoreFull):
        transact(store, fence, fill, seq=2)
    store._guarded.allow_all()
    store._guarded.execute(f"PRAGMA max_page_count = {pages + 1000}").fetchall()
    assert transact(store, fence, lambda c: insert(c, 2), seq=2) is True
    assert amounts(store) == [1, 2]


def test_a_checkpoint_that_is_refused_takes_the_rows_back_and_the_next_one_works(
    store: SqliteStore, fence: Fence
) -> None:
    add(store, fence, step(1, "pay", 1))
    assert isinstance(transact(store, fence, insert), RunConflict)
    assert amounts(store) == []
    assert transact(store, fence, insert, seq=2) is True
