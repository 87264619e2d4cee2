"""What a user's function may do with the connection of a transaction step, and what is denied."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlite_utils

from durable_trio.errors import StepFailed, StepTimeout
from durable_trio.stores.contract import Fence
from durable_trio.stores.sqlite import SqliteStore, sqlite3
from durable_trio.testing.store_contract.kit import owned, row_of
from tests.stores.sqlite.accounts import amounts, insert, store_with_accounts, transact
from tests.stores.sqlite.numbers import last_change


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqliteStore]:
    """An open store with a table of the user's."""
    with store_with_accounts(":memory:" if request.param == "memory" else tmp_path / "runs.db") as store:
        yield store


@pytest.fixture
def fence(store: SqliteStore) -> Fence:
    """The fence of a run."""
    return owned(store)[1]


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
        "DROP INDEX runs_line",
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
    before = row_of(store), last_change(store)

    def attack(connection: Any) -> None:
        insert(connection)
        connection.execute(sql)

    with pytest.raises(sqlite3.DatabaseError):
        transact(store, fence, attack)
    assert amounts(store) == []
    assert (row_of(store), last_change(store)) == before
    assert transact(store, fence, insert) is True
    assert amounts(store) == [7]


@pytest.mark.parametrize(
    "trigger",
    [
        "CREATE TRIGGER mine AFTER INSERT ON account BEGIN UPDATE runs SET status = 'failed'; END",
        "CREATE TRIGGER mine AFTER UPDATE OF amount ON account BEGIN DELETE FROM history; END",
        "CREATE TRIGGER mine BEFORE DELETE ON account WHEN old.id > 5 BEGIN INSERT INTO reports VALUES (1, 2, 3); END",
        "CREATE TEMP TRIGGER mine AFTER INSERT ON account BEGIN UPDATE runs SET status = 'failed'; END",
        "CREATE TRIGGER mine INSTEAD OF DELETE ON seen BEGIN DELETE FROM runs WHERE id = old.id; END",
        'CREATE TRIGGER mine AFTER INSERT ON account BEGIN INSERT INTO "the ""log" VALUES (1); END',
    ],
)
def test_a_trigger_that_writes_the_engines_tables_is_refused_by_name_when_it_is_created(
    store: SqliteStore, fence: Fence, trigger: str
) -> None:
    """Also if the function goes on: else every later write to that table would be refused."""
    connection = store.connect()
    connection.executescript("""
        CREATE VIEW seen AS SELECT id FROM account;
        CREATE TABLE "the ""log" (x);
        CREATE TRIGGER theirs AFTER INSERT ON "the ""log" BEGIN UPDATE runs SET status = 'failed'; END;
    """)
    connection.close()

    def create(connection: Any) -> None:
        with pytest.raises(sqlite3.DatabaseError, match=r"'mine' on .* writes a table of the engine"):
            connection.execute(trigger)
        insert(connection)

    transact(store, fence, create)
    transact(store, fence, lambda connection: insert(connection, 8), seq=2)
    assert amounts(store) == [7, 8]


def test_a_trigger_among_the_users_tables_may_be_created(store: SqliteStore, fence: Fence) -> None:
    def create(connection: Any) -> None:
        connection.execute("CREATE TABLE doubled (amount, twice AS (2 * amount))")
        connection.execute(
            "CREATE TRIGGER mine AFTER INSERT ON account WHEN (SELECT count(*) FROM runs) > 0 "
            "BEGIN INSERT INTO doubled VALUES (2 * new.amount); END"
        )
        connection.execute("CREATE TRIGGER more AFTER INSERT ON doubled BEGIN SELECT 1; END")
        insert(connection)
        assert connection.execute("SELECT * FROM doubled").fetchall() == [(14, 28)]

    transact(store, fence, create)


def test_a_trigger_of_another_program_that_is_denied_is_named(store: SqliteStore, fence: Fence) -> None:
    connection = store.connect()
    connection.execute("CREATE TRIGGER theirs AFTER INSERT ON account BEGIN DELETE FROM runs; END")
    connection.close()
    with pytest.raises(sqlite3.DatabaseError) as caught:
        transact(store, fence, insert)
    assert "'theirs'" in "".join(caught.value.__notes__)


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
        lambda connection: connection.__init__(":memory:"),
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


ROLL_BACK = {
    "clause": "INSERT OR ROLLBACK INTO account (amount) VALUES (7)",
    "table": "INSERT INTO strict_account VALUES (7)",
    "trigger": "INSERT INTO watched VALUES (7)",
}


@pytest.mark.parametrize("how", ROLL_BACK)
def test_a_rollback_by_sqlite_that_the_function_swallows_is_its_failure(
    store: SqliteStore, fence: Fence, how: str
) -> None:
    connection = store.connect()
    connection.executescript(
        """
        CREATE TABLE strict_account (amount INTEGER UNIQUE ON CONFLICT ROLLBACK);
        INSERT INTO strict_account VALUES (7);
        CREATE TABLE watched (amount INTEGER);
        CREATE TRIGGER watch AFTER INSERT ON watched BEGIN SELECT RAISE(ROLLBACK, 'not that one'); END;
        """
    )
    connection.close()

    def attack(connection: Any) -> None:
        insert(connection)
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(ROLL_BACK[how])

    with pytest.raises(StepFailed, match="rolled the transaction back"):
        transact(store, fence, attack)

    def attack_and_write(connection: Any) -> None:
        attack(connection)
        for statement in ("SAVEPOINT mine", "BEGIN", "INSERT INTO account (amount) VALUES (8)"):
            with pytest.raises(sqlite3.DatabaseError):
                connection.execute(statement)

    with pytest.raises(StepFailed):
        transact(store, fence, attack_and_write)

    def attack_and_raise(connection: Any) -> None:
        insert(connection)
        connection.execute(ROLL_BACK[how])

    with pytest.raises(sqlite3.IntegrityError):
        transact(store, fence, attack_and_raise)
    assert amounts(store) == []
    assert transact(store, fence, insert) is True


def test_a_foreign_key_left_violated_until_the_commit_is_the_functions_failure(
    store: SqliteStore, fence: Fence
) -> None:
    connection = store.connect()
    connection.execute("CREATE TABLE entry (of INTEGER REFERENCES account (id) DEFERRABLE INITIALLY DEFERRED)")
    connection.close()
    with pytest.raises(StepFailed, match="FOREIGN KEY") as caught:
        transact(store, fence, lambda c: c.execute("INSERT INTO entry VALUES (99)"))
    assert "IntegrityError" in caught.value.type
    assert transact(store, fence, insert) is True


def test_what_is_left_open_or_taken_away_costs_the_step_at_most(store: SqliteStore, fence: Fence) -> None:
    """Rows that were not read to the end, a cursor behind our back, the connection itself."""
    kept: list[Any] = []

    def unread(connection: Any) -> None:
        kept.append(connection.execute("INSERT INTO account (amount) VALUES (1), (2) RETURNING amount"))

    def unread_behind(connection: Any) -> None:
        cursor = sqlite3.Cursor(connection)
        cursor.execute("INSERT INTO account (amount) VALUES (3), (4) RETURNING amount")
        kept.append(cursor)

    def closed(connection: Any) -> None:
        sqlite3.Connection.close(connection)

    assert transact(store, fence, unread) is True
    for spoil in (unread_behind, closed):
        with pytest.raises(StepFailed):
            transact(store, fence, spoil, seq=2)
        kept.clear()  # in memory even an aborted query of a connection that was closed keeps its lock
    assert transact(store, fence, lambda c: insert(c, 9), seq=2) is True
    assert amounts(store) == [1, 2, 9]


@pytest.mark.parametrize("name", ["backup", "deserialize"])
def test_what_would_wait_for_the_transaction_or_replace_the_database_is_refused(
    store: SqliteStore, fence: Fence, name: str
) -> None:
    if not hasattr(sqlite3.Connection, name):
        pytest.skip("this module has no such method")
    other = sqlite3.connect(":memory:")

    def attack(connection: Any) -> None:
        getattr(connection, name)(other if name == "backup" else b"")

    with pytest.raises(sqlite3.ProgrammingError, match=name):
        transact(store, fence, attack)
    other.close()
    assert transact(store, fence, insert) is True
