"""Tables of the user's in the same file that refer to runs: what they forbid is named and passed over."""

from __future__ import annotations

from contextlib import closing

import pytest

from durable_trio.clock import INSTANT_MAX
from durable_trio.errors import RunConflict, StoreError
from durable_trio.records import RunStatus
from durable_trio.stores.contract import (
    Advance,
    ContinueAsNew,
    DeleteRun,
    Prune,
    Pruned,
    RegisterExecutor,
    Stuck,
    Sweep,
)
from durable_trio.stores.questions import FindRun, ListHistory
from durable_trio.stores.sqlite import SqliteStore
from durable_trio.testing.store_contract.kit import add, finish, one, owned, start, step

ALL = (RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED)

OF_RUN = "INSERT INTO orders (run) SELECT run FROM runs WHERE id = 'kept'"
GRANDCHILD = (
    "CREATE TABLE orders (run INTEGER PRIMARY KEY REFERENCES runs (run) ON DELETE CASCADE)",
    "CREATE TABLE items (run REFERENCES orders (run) {})",
    OF_RUN,
    "INSERT INTO items SELECT run FROM orders",
)
CASCADES = "CREATE TABLE orders (run REFERENCES runs (run) ON DELETE CASCADE)"
TRIGGER = "CREATE TRIGGER keep BEFORE DELETE ON orders BEGIN SELECT RAISE ({}, 'no'); END"

SCHEMAS: dict[str, tuple[tuple[str, ...], str]] = {
    "a foreign key": (("CREATE TABLE orders (run REFERENCES runs)", OF_RUN), "'orders' refers to it"),
    "one on the id": (
        ('CREATE TABLE "my ""orders" (x TEXT REFERENCES RUNS (id))', 'INSERT INTO "my ""orders" VALUES (\'kept\')'),
        "refers to it",
    ),
    "a deferred one": (
        ("CREATE TABLE orders (run REFERENCES runs (run) DEFERRABLE INITIALLY DEFERRED)", OF_RUN),
        "'orders' refers to it",
    ),
    "one of two columns": (
        (
            "CREATE UNIQUE INDEX mine ON runs (workflow, id)",
            "CREATE TABLE orders (w, i, FOREIGN KEY (w, i) REFERENCES runs (workflow, id))",
            "INSERT INTO orders SELECT workflow, id FROM runs WHERE id = 'kept'",
        ),
        "'orders' refers to it",
    ),
    "one on a row of its history": (
        (
            "CREATE TABLE orders (step REFERENCES HISTORY)",
            "INSERT INTO orders SELECT history.id FROM history JOIN runs USING (run) WHERE runs.id = 'kept'",
        ),
        "refers to its rows in 'history' (step)",
    ),
    "a deferred one on a row of its history": (
        (
            "CREATE TABLE orders (step REFERENCES history (id) DEFERRABLE INITIALLY DEFERRED)",
            "INSERT INTO orders SELECT history.id FROM history JOIN runs USING (run) WHERE runs.id = 'kept'",
        ),
        "refers to its rows in 'history' (step)",
    ),
    "one on a call": (
        (
            "CREATE TABLE orders (r, b, c, n, FOREIGN KEY (r, b, c, n) REFERENCES history (run, branch, name, n))",
            "INSERT INTO orders SELECT run, '', 'step', 0 FROM runs WHERE id = 'kept'",
        ),
        "refers to its rows in 'history' (r, b, c, n)",
    ),
    "one on a message": (
        (
            "CREATE TABLE orders (m REFERENCES mailbox)",
            "INSERT INTO mailbox (run, kind, name, created_at) SELECT run, 'signal', 'go', 1 FROM runs",
            "DELETE FROM mailbox WHERE run <> (SELECT run FROM runs WHERE id = 'kept')",
            "INSERT INTO orders SELECT id FROM mailbox",
        ),
        "refers to its rows in 'mailbox'",
    ),
    "one behind one that cascades": (tuple(sql.format("") for sql in GRANDCHILD), "FOREIGN KEY"),
    "a deferred one behind one that cascades": (
        tuple(sql.format("DEFERRABLE INITIALLY DEFERRED") for sql in GRANDCHILD),
        "FOREIGN KEY",
    ),
    "one that sets what must not be NULL": (
        ("CREATE TABLE orders (run NOT NULL REFERENCES runs (run) ON DELETE SET NULL)", OF_RUN),
        "NOT NULL",
    ),
    "a trigger that aborts": ((CASCADES, TRIGGER.format("ABORT"), OF_RUN), "no"),
    "a trigger that fails": ((CASCADES, TRIGGER.format("FAIL"), OF_RUN), "no"),
    "a trigger that rolls back": ((CASCADES, TRIGGER.format("ROLLBACK"), OF_RUN), "no"),
    "a trigger on the runs": (
        ("CREATE TRIGGER lost BEFORE DELETE ON runs WHEN old.id GLOB '*kept' BEGIN SELECT RAISE (IGNORE); END",),
        "a trigger ignores",
    ),
}


def change(store: SqliteStore, *statements: str) -> None:
    with closing(store.connect()) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def ended(store: SqliteStore, run_id: str, *, row_count: int = 1) -> None:
    _, fence = owned(store, run_id)
    for first in range(0, row_count, 500):
        add(store, fence, *(step(n + 1, n=n) for n in range(first, min(row_count, first + 500))))
    finish(store, fence, now=50)


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_run_that_cannot_be_removed_is_named_and_all_others_go(store: SqliteStore, schema: str) -> None:
    statements, why = SCHEMAS[schema]
    for run_id in ("a", "kept", "z"):
        ended(store, run_id)
    change(store, *statements)
    conflict = one(store, DeleteRun(run_id="kept"))
    assert isinstance(conflict, RunConflict)
    assert ("'kept'" in str(conflict), why in str(conflict)) == (True, True)
    ended(store, "beside")
    assert store.apply([DeleteRun(run_id="beside"), DeleteRun(run_id="kept")]) is not None
    assert store.ask(FindRun("beside")) is None
    count, stuck, position = 0, set(), None
    while True:
        pruned: Pruned = one(store, Prune(before=1000, statuses=ALL, limit=200, after=position))
        count, position = count + pruned.count, pruned.position
        stuck |= {(item.run_id, why in item.why) for item in pruned.stuck}
        if position is None:
            break
    assert (count, stuck) == (2, {("kept", True)})
    assert [store.ask(FindRun(run_id)) is not None for run_id in ("a", "kept", "z")] == [False, True, False]
    assert start(store, "new").id == "new"


@pytest.mark.parametrize(
    "statements",
    [
        (CASCADES, "CREATE TRIGGER lost BEFORE DELETE ON orders BEGIN DELETE FROM nowhere; END"),
        ("CREATE TABLE orders (w REFERENCES runs (workflow))",),  # which is no key
    ],
)
def test_a_schema_that_forbids_all_removals_is_named(store: SqliteStore, statements: tuple[str, ...]) -> None:
    ended(store, "a")
    ended(store, "b")
    change(store, *statements)
    assert isinstance(one(store, DeleteRun(run_id="a")), RunConflict)
    pruned: Pruned = one(store, Prune(before=1000, statuses=ALL, limit=200))
    assert (pruned.count, [item.run_id for item in pruned.stuck], pruned.position) == (0, ["a", "b"], None)


@pytest.mark.parametrize("schema", ["one behind one that cascades", "a deferred one behind one that cascades"])
def test_a_hidden_run_that_cannot_be_removed_is_named_and_the_next_ones_go(store: SqliteStore, schema: str) -> None:
    for run_id in ("kept", "z"):
        ended(store, run_id, row_count=600)
    change(store, *SCHEMAS[schema][0])
    assert one(store, DeleteRun(run_id="kept")) is True  # nobody looks so far beforehand
    assert one(store, DeleteRun(run_id="z")) is True
    stuck, after = [], None
    while outcome := one(store, Sweep(hidden_before=INSTANT_MAX, after=after)):
        if isinstance(outcome, Stuck):
            stuck.append(outcome.run_id)
            after = outcome.position
    assert stuck == ["kept"]
    change(store, "DELETE FROM items")
    while one(store, Sweep(hidden_before=INSTANT_MAX)):
        pass
    with closing(store.connect()) as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (0,)


@pytest.mark.parametrize("schema", ["a foreign key", "one on a row of its history", "one on a message"])
def test_a_long_run_to_which_something_refers_is_not_hidden(store: SqliteStore, schema: str) -> None:
    ended(store, "kept", row_count=600)
    change(store, *SCHEMAS[schema][0])
    assert isinstance(one(store, DeleteRun(run_id="kept")), RunConflict)
    assert store.ask(FindRun("kept")) is not None


def test_a_table_that_lets_its_rows_go_keeps_nothing(store: SqliteStore) -> None:
    ended(store, "kept")
    change(store, CASCADES, OF_RUN)
    assert one(store, DeleteRun(run_id="kept")) is True
    with closing(store.connect()) as connection:
        assert connection.execute("SELECT count(*) FROM orders").fetchone() == (0,)


BY_ID = "INSERT INTO orders (i) SELECT id FROM runs"


@pytest.mark.parametrize("row_count", [1, 600])
@pytest.mark.parametrize("how", ["delete", "prune"])
@pytest.mark.parametrize("deferred", ["", "DEFERRABLE INITIALLY DEFERRED"])
@pytest.mark.parametrize("update", ["", "ON UPDATE SET NULL", "ON UPDATE CASCADE", "ON UPDATE SET DEFAULT"])
@pytest.mark.parametrize(("delete", "left"), [("CASCADE", []), ("SET NULL", [(None,)])])
def test_a_long_run_goes_with_what_refers_to_its_id_as_a_short_one_does(
    store: SqliteStore, row_count: int, how: str, deferred: str, update: str, delete: str, left: list[object]
) -> None:
    ended(store, "long", row_count=row_count)
    change(store, f"CREATE TABLE orders (i REFERENCES runs (id) ON DELETE {delete} {update} {deferred})", BY_ID)
    if how == "delete":
        assert one(store, DeleteRun(run_id="long")) is True
    else:
        assert one(store, Prune(before=1000, statuses=ALL, limit=10)).count == 1
    assert store.ask(FindRun("long")) is None
    while one(store, Sweep(hidden_before=INSTANT_MAX)):
        pass
    with closing(store.connect()) as connection:
        assert connection.execute("SELECT * FROM orders").fetchall() == left
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM history").fetchone() == (0,)


def test_a_long_run_to_whose_id_nothing_refers_goes_piece_by_piece(store: SqliteStore) -> None:
    ended(store, "long", row_count=600)
    change(store, "CREATE TABLE orders (i REFERENCES runs (id) ON DELETE CASCADE)")
    assert one(store, DeleteRun(run_id="long")) is True
    assert one(store, Sweep(hidden_before=INSTANT_MAX)) > 0


@pytest.mark.parametrize("deferred", ["", "DEFERRABLE INITIALLY DEFERRED"])
def test_a_history_that_must_stay_keeps_nobody_but_its_run_from_going_on(store: SqliteStore, deferred: str) -> None:
    fence = owned(store, "kept")[1]
    other = owned(store, "other")[1]
    add(store, fence, step(1))
    change(
        store,
        f"CREATE TABLE orders (step REFERENCES history (id) {deferred})",
        "INSERT INTO orders SELECT id FROM history",
    )
    outcomes = store.apply(
        [
            Advance(fence=other, rows=(step(1),), now=20),
            ContinueAsNew(fence=fence, args="[]", now=20),
            Advance(fence=other, rows=(step(2, n=2),), now=20),
        ]
    )
    assert outcomes is not None
    assert (outcomes[0], outcomes[2]) == (True, True)
    assert type(outcomes[1]) is StoreError
    assert "FOREIGN KEY" in str(outcomes[1])
    assert len(store.ask(ListHistory(fence.run))) == 1
    assert len(store.ask(ListHistory(other.run))) == 2
    change(store, "DELETE FROM orders")
    assert one(store, ContinueAsNew(fence=fence, args="[]", now=20)) is True


def test_executors_to_which_something_refers_do_not_keep_others_from_beginning(store: SqliteStore) -> None:
    register = RegisterExecutor(pid=1, host="h", lease=1, now=1)
    executor = one(store, register)
    change(
        store,
        "CREATE TABLE audit (executor REFERENCES executors (id))",
        f"INSERT INTO audit VALUES ({executor})",
        f"UPDATE executors SET ended_at = 2 WHERE id = {executor}",
        "UPDATE sqlite_sequence SET seq = 5000 WHERE name = 'executors'",
    )
    assert one(store, register) == 5001
