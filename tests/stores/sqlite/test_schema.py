"""The schema: migrations, and indexes that keep the hot path from growing with what it does not touch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlite_utils.utils

from durable_trio.errors import StoreError
from durable_trio.limits import SUSPECT_RECOVERIES
from durable_trio.records import RunStatus, StepKind
from durable_trio.rows import Key, RunRow
from durable_trio.stores.contract import (
    NO_POSITION,
    Advance,
    ClaimDue,
    CopyHistory,
    DeleteRun,
    Finish,
    ForkRun,
    Prune,
    Release,
    SendSignal,
    Sweep,
)
from durable_trio.stores.lines import SUSPECT
from durable_trio.stores.questions import CountBacklog, LoadRun, LookAtMailbox, Order
from durable_trio.stores.sqlite import SqliteStore, counters, library, opening, sqlite3
from durable_trio.stores.sqlite import tables as schema
from durable_trio.stores.sqlite.answers import cells, executors, lists, mailbox, ordered, parked, parts, runs, streams
from durable_trio.stores.sqlite.migrations import migrate
from durable_trio.stores.sqlite.operations import claims as claim_operations
from durable_trio.stores.sqlite.operations import codes, forks, leases, progress
from durable_trio.stores.sqlite.operations import messages as message_operations
from durable_trio.stores.sqlite.operations import removals as removal_operations
from durable_trio.stores.sqlite.tables import LINE
from durable_trio.testing.store_contract.kit import (
    claim,
    codes_of,
    fence_of,
    next_due,
    one,
    owned,
    register,
    row_of,
    signal,
    start,
    start_operation,
    step,
    suspend,
)
from tests.stores.sqlite.kit import ticks
from tests.stores.sqlite.numbers import last_change

pytestmark = pytest.mark.usefixtures("new_stores_are_made")


@pytest.fixture
def store() -> Iterator[SqliteStore]:
    """An open store in memory."""
    store = SqliteStore(":memory:")
    store.open()
    yield store
    store.close()


def write_old_file(path: Path, version: int) -> None:
    """Write a database as an older version of the schema has left it; version 0 has the mark and nothing else."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    if version > 0:
        migrate(connection, stop_before=str(version + 1))
    assert connection.execute("PRAGMA user_version").fetchone()[0] == version
    connection.close()


@pytest.mark.parametrize("version", range(schema.SCHEMA_VERSION + 1))
def test_every_older_schema_is_brought_up_to_date(tmp_path: Path, version: int) -> None:
    write_old_file(tmp_path / "runs.db", version)
    for _ in range(2):
        store = SqliteStore(tmp_path / "runs.db")
        store.open()
        start(store)
        assert row_of(store).id == "run"
        store.close()
    connection = sqlite3.connect(tmp_path / "runs.db")
    assert connection.execute("PRAGMA user_version").fetchone()[0] == schema.SCHEMA_VERSION
    connection.close()


def test_published_values_of_an_older_file_are_kept_without_a_position(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    write_old_file(path, 2)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(
        "INSERT INTO runs (run, id, workflow, status, changed, created_at, seed, args_digest, args) "
        "VALUES (7, 'run', 'order', 'suspended', 0, 1, x'00', x'00', '[]')"
    )
    connection.execute("INSERT INTO published (run, key, value) VALUES (7, 'state', '1')")
    connection.close()
    store = SqliteStore(str(path))
    store.open()
    loaded = store.ask(LoadRun(7))
    store.close()
    assert (loaded.values, loaded.positions) == ({"state": "1"}, {"state": NO_POSITION})


def test_sqlite_utils_has_taken_the_same_library_and_is_imported_only_where_there_is_something_to_migrate(
    tmp_path: Path,
) -> None:
    assert sqlite_utils.utils.sqlite3 is sqlite3  # type: ignore[attr-defined]
    store = SqliteStore(tmp_path / "runs.db")
    store.open()
    store.close()
    script = """
import sys
from durable_trio import Engine
from durable_trio.stores.sqlite import SqliteStore
store = SqliteStore(sys.argv[1])
store.open()
store.close()
print("sqlite_utils" in sys.modules)
"""
    for name, has_something in (("runs.db", False), ("new.db", True)):
        done = subprocess.run(
            [sys.executable, "-c", script, tmp_path / name], capture_output=True, text=True, check=True
        )
        assert done.stdout == f"{has_something}\n"


def test_migrating_again_changes_nothing() -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate(connection)
    everything = "SELECT * FROM sqlite_schema", "SELECT * FROM _sqlite_migrations", "SELECT * FROM change_counter"
    before = [connection.execute(sql).fetchall() for sql in everything]
    migrate(connection)
    assert [connection.execute(sql).fetchall() for sql in everything] == before
    connection.close()


def test_a_migration_that_fails_leaves_the_old_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "runs.db"
    write_old_file(path, 0)
    with monkeypatch.context() as patch:
        first, *others = schema.VERSIONS
        patch.setattr(schema, "VERSIONS", ((*first, "CREATE TABLE runs (again)"), *others))
        with pytest.raises(StoreError):
            SqliteStore(path).open()
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT name FROM sqlite_schema").fetchall() == []
    connection.close()
    store = SqliteStore(path)
    store.open()
    store.close()


def test_an_sqlite_that_is_too_old_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "VERSION_MIN", (99, 0, 0))
    with pytest.raises(StoreError, match="too old"):
        SqliteStore(":memory:").open()


@pytest.mark.parametrize(
    ("version", "is_affected"),
    [
        ("3.6.23", False),
        ("3.7.0", True),
        ("3.40.1", True),
        ("3.44.5", True),
        ("3.44.6", False),
        ("3.50.6", True),
        ("3.50.7", False),
        ("3.51.2", True),
        ("3.51.3", False),
        ("3.53.4", False),
        ("4.0.0", False),
    ],
)
def test_versions_with_the_wal_reset_fault_are_named(version: str, is_affected: bool) -> None:
    warnings = library.version_warnings(version)
    assert len(warnings) == is_affected
    assert all(version in warning and "durable-trio[sqlite]" in warning for warning in warnings)


def plan(store: SqliteStore, sql: str, values: Any) -> str:
    """Return how SQLite would run a statement."""
    assert store._writer is not None
    rows = store._writer.execute(f"EXPLAIN QUERY PLAN {sql}", values).fetchall()
    return " | ".join(row[3] for row in rows)


AFTER = " AND created_at = ? AND run < ?"
NEWEST = ordered.WAYS[Order.NEWEST].stream("{source}")
SORTED = (
    "runs_line",
    "runs_refused",
    "runs_later",
    "runs_changed",
    "runs_created",
    "runs_by_status",
    "runs_of_queue",
    "runs_of_parent_id",
)


@pytest.mark.parametrize(
    ("sql", "values", "index"),
    [
        (claim_operations.FIND_IN_LINE, ("w", 0, "", 1, 1), "runs_line"),
        (claim_operations.GROUPS.first, ("w",), "runs_line"),
        (claim_operations.GROUPS.next_refused, ("w", 0, ""), "runs_line"),
        (claim_operations.GROUPS.next_version, ("w", 0), "runs_line"),
        (parked.GROUPS.first, ("w",), "runs_refused"),
        (parked.GROUPS.next_refused, ("w", 0, ""), "runs_refused"),
        (parked.GROUPS.next_version, ("w", 0), "runs_refused"),
        (parked.NEXT_WORKFLOW, ("w",), "runs_refused"),
        (codes.FIND_OF_SET, (1, "w", 0, ",1,", 1, 1), "runs_refused"),
        (codes.LIVING_OF_VERSION, ("w", 0), "sqlite_autoindex_codes_1"),
        (claim_operations.FIND_LATER, ("w", 1, 1, 1), "runs_later"),
        (mailbox.UNREAD, (1,), "mailbox_of_run"),
        (mailbox.UNREAD_AFTER, (1, 1, 1), "mailbox_of_run"),
        (mailbox.SIGNALS_NAMED, (1, "x", 1, 1), "mailbox_unread"),
        (mailbox.CONTROLS_AFTER, (1, 1), "mailbox_unread"),
        (mailbox.LAST_UNREAD, (1,), "mailbox_of_run"),
        (runs.HISTORY, (1,), "sqlite_autoindex_history_1"),
        (lists.CHANGES.format(which="true"), (1, 1, 1, 2, 1), "runs_changed"),
        (lists.END_OF_SLICE, (1, 9), "runs_changed"),
        (NEWEST.format(source=ordered.OF_ALL + AFTER), (1, 1), "runs_created"),
        (NEWEST.format(source=cells.OF_STATUS + AFTER), ("w", "failed", 1, 1), "runs_by_status"),
        (cells.COUNT.format(source=ordered.OF_END), ("failed", 1), "runs_finished"),
        (ordered.WAYS[Order.OLDEST].stream(cells.OF_STATUS), ("w", "failed"), "runs_by_status"),
        (ordered.WAYS[Order.CHANGED].stream(ordered.OF_CHANGES), (), "runs_changed"),
        (ordered.WAYS[Order.ENDED].stream(ordered.OF_END), ("failed",), "runs_finished"),
        (cells.COUNT.format(source=parked.OF_REFUSED), ("w", 0, ",1,", 1), "runs_refused"),
        (cells.COUNT.format(source=parked.OF_DAMAGED), (1,), "runs_parked"),
        (cells.COUNT.format(source=parts.OF_RETRYING), (1,), "waits_retrying"),
        (cells.COUNT.format(source=parts.OF_OVERDUE[0]), ("w", 5, 1), "runs_line"),
        (cells.COUNT.format(source=parts.OF_OVERDUE[1]), ("w", 5, 1), "runs_later"),
        (f"SELECT 1 FROM runs NOT INDEXED WHERE run = 5 AND {streams.IS_RETRYING}", (), "waits_retrying"),
        (NEWEST.format(source=parts.OF_QUEUE + AFTER), ("q", 1, 1), "runs_of_queue"),
        (NEWEST.format(source=parts.OF_PARENT + AFTER), ("p", 1, 1), "runs_of_parent_id"),
        (cells.NEXT_WORKFLOW, ("",), "runs_by_status"),
        (cells.NEXT_STATUS, ("w", ""), "runs_by_status"),
        (
            removal_operations.OLDEST.format(after="finished_at = ? AND run > ?"),
            ("failed", 1, 1, 1, 1),
            "runs_finished",
        ),
        (
            removal_operations.OLDEST_WITHOUT_END.format(after="created_at = ? AND run > ?"),
            ("failed", 1, 1, 1, 1),
            "runs_without_end",
        ),
        (cells.COUNT.format(source=streams.OF_NO_END), ("failed", 1), "runs_without_end"),
        (message_operations.IS_AWAITED, {"run": 1, "name": "x"}, "mailbox_unread"),
        (progress.IS_LOST_CHILD, ("x", 1, "[]"), "history_children"),
        (removal_operations.IS_SPARED, (1,), "history_children"),
        (removal_operations.NEXT_HIDDEN, (0, 0, 0, 1), "runs_hidden"),
        (forks.COPY_ROW, (2, 1, 9, "", "step", 0), "sqlite_autoindex_history_1"),
        (leases.SET_FREE, {"executor": 1, "crashed": 0, "crashed_runs": "[1]", "now": 1}, "runs_owned"),
        (message_operations.FIND_CANCEL, (1,), "mailbox_cancel"),
        (message_operations.FIND_SIGNAL, (1, "x"), "mailbox_signal_id"),
        (progress.IS_WANTED_UNREAD, {"run": 1, "names": "[]"}, "mailbox_unread"),
        (progress.HAS_UNREAD, (1, "x", 1, 2), "mailbox_unread"),
        ("SELECT 1 FROM runs WHERE parent_id = ?", ("x",), "runs_of_parent_id"),
        ("DELETE FROM runs WHERE parent = ?", (1,), "runs_of_parent"),
    ],
)
def test_hot_statements_use_their_index(store: SqliteStore, sql: str, values: Any, index: str) -> None:
    found = plan(store, sql, values)
    assert f"USING INDEX {index}" in found or f"USING COVERING INDEX {index}" in found
    if index in SORTED:
        assert "TEMP B-TREE" not in found


def test_values_of_runs_are_found_by_the_run(store: SqliteStore) -> None:
    assert "SEARCH published USING PRIMARY KEY (run=?)" in plan(store, runs.PUBLISHED_OF, ("[]",))


def test_the_backlog_is_counted_by_index_seeks(store: SqliteStore) -> None:
    found = plan(store, executors.BACKLOG, {"codes": "[]", "now": 1, "due_max": 1})
    assert "SCAN runs" not in found
    in_line = "INDEX runs_line (workflow=? AND version"
    assert found.count(in_line) == found.count("INDEX runs_line")
    assert found.count(f"{in_line}=? AND refused=? AND <expr>=?)") == 2
    assert found.count(f"{in_line}=? AND refused") == 5
    assert found.count("SEARCH runs USING INDEX runs_later (workflow=? AND <expr>=?") == 2
    assert found.count("ORDER BY") == 2  # of what is asked for, not of runs


@pytest.mark.parametrize("sql", removal_operations.PIECES)
def test_pieces_of_a_removal_are_found_by_the_run(store: SqliteStore, sql: str) -> None:
    assert "SCAN" not in plan(store, sql, {"run": 1, "limit": 9})


@pytest.mark.parametrize("sql", [counters.STRAYED, counters.LAST_CHANGE, counters.LOST])
def test_opening_a_file_walks_through_none_of_its_runs(store: SqliteStore, sql: str) -> None:
    assert "SCAN" not in plan(store, sql, ())


@pytest.mark.parametrize("what", ["prune", "delete", "sweep", "fork", "spared children"])
def test_a_step_of_upkeep_costs_the_same_whatever_the_size(store: SqliteStore, what: str) -> None:
    """Of a run with many rows, and of a live parent with many ended children."""

    def fill(count: int) -> Any:
        name = f"{what}-{count}"
        row, fence = owned(store, name)
        kind = StepKind.CHILD if what == "spared children" else StepKind.STEP
        for n in range(0, count, 500):
            rows = tuple(step(m + 1, n=m, kind=kind, result=f'"{name}/{m}"') for m in range(n, n + 500))
            assert one(store, Advance(fence=fence, rows=rows, now=9)) is True
        if what == "spared children":
            started = store.apply(
                [start_operation(f"{name}/{m}", parent=row.run, owner=fence.owner) for m in range(count)]
            )
            assert started is not None
            ends = [
                Finish(fence=fence_of(child.row), status=RunStatus.COMPLETED, now=m) for m, child in enumerate(started)
            ]
            store.apply(ends)
            return Prune(before=10**6, statuses=tuple(RunStatus), limit=200, after=(count - 400, 0))
        if what == "fork":
            draft = one(store, ForkRun(run_id=name, before=Key("", "step", count - 1), id=f"{name}-copy", now=9))
            keys = tuple(Key("", "step", n) for n in range(500))
            return CopyHistory(run_id=name, draft=draft, keys=keys, now=9)
        one(store, Finish(fence=fence, status=RunStatus.COMPLETED, now=9))
        if what == "delete":
            return DeleteRun(run_id=name)
        if what == "sweep":
            one(store, DeleteRun(run_id=name))
            return Sweep(hidden_before=1)
        return Prune(before=10**6, statuses=tuple(RunStatus), limit=200)

    def measure(count: int) -> int:
        operation = fill(count)
        cost = steps(store, lambda: one(store, operation))
        while one(store, Sweep(hidden_before=100)):
            pass
        return cost

    few, many = measure(1500), measure(6000)
    assert many <= few * 1.2 + 200


def steps(store: SqliteStore, work: Callable[[], object]) -> int:
    """Return how many instructions of SQLite's machine some work takes."""
    return ticks(store._writer, work, each=1)


def test_a_claim_costs_nothing_for_runs_that_it_does_not_take(store: SqliteStore) -> None:
    executor = register(store)

    def measure() -> tuple[int, int, int]:
        start(store, f"due-{last_change(store)}", due_at=5, priority=3)
        claimed: list[object] = []
        cost = steps(store, lambda: claimed.append(claim(store, executor, now=10, limit=4)))
        assert len(claimed[0]) == 1  # type: ignore[arg-type]
        empty = steps(store, lambda: claim(store, executor, now=10, limit=4))
        return cost, empty, steps(store, lambda: next_due(store, ["work"]))

    start(store, "later", due_at=1000)
    before = measure()
    store.apply([start_operation(f"later-{n}", due_at=1000 + n) for n in range(3000)])
    store.apply([start_operation(f"unknown-{n}", workflow="unknown", due_at=1) for n in range(3000)])
    outcomes = store.apply([start_operation(f"finished-{n}", owner=executor) for n in range(1000)])
    assert outcomes is not None
    store.apply([Finish(fence=fence_of(o.row), status=RunStatus.COMPLETED, now=9) for o in outcomes])
    after = measure()
    assert all(new <= old * 1.1 + 20 for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize("waiting", ["of many priorities", "later, of many high priorities", "begun and asleep"])
def test_a_claim_costs_the_same_whatever_waits_beside_it(store: SqliteStore, waiting: str) -> None:
    executor = register(store)

    def measure() -> tuple[int, int]:
        start(store, f"urgent-{last_change(store)}", due_at=5, priority=1_000_000)
        claimed: list[list[RunRow]] = []
        cost = steps(store, lambda: claimed.append(claim(store, executor, now=10, limit=1)))
        assert claimed[0][0].id.startswith("urgent")
        return cost, steps(store, lambda: store.ask(CountBacklog(codes_of("work"), now=10, due_max=1)))

    numbers = range(3000)
    if waiting == "of many priorities":
        start(store, "waiting", due_at=1)
        operations = [start_operation(f"waiting-{n}", due_at=1, priority=n) for n in numbers]
    elif waiting == "later, of many high priorities":
        start(store, "waiting", due_at=1000)
        operations = [start_operation(f"waiting-{n}", due_at=1000, priority=2_000_000 + n) for n in numbers]
    else:
        _, fence = owned(store, "waiting")
        suspend(store, fence, wake_at=1000)
        operations = [start_operation(f"waiting-{n}", owner=executor, priority=2_000_000 + n) for n in numbers]
    before = measure()
    rows = [outcome.row for outcome in store.apply(operations) or ()]
    asleep = [row for row in rows if row.owner is not None]
    store.apply([Release(fence=fence_of(row), status=RunStatus.SUSPENDED, wake_at=1000) for row in asleep])
    after = measure()
    assert all(new <= old * 1.1 + 30 for old, new in zip(before, after, strict=True))


def test_very_many_that_become_due_together_are_put_in_line_a_part_at_a_time(store: SqliteStore) -> None:
    executor = register(store)
    store.apply([start_operation(f"run-{n}", due_at=1000 + n) for n in range(3000)])
    few = steps(store, lambda: claim(store, executor, now=1010, limit=8))
    many = steps(store, lambda: claim(store, executor, now=1600, limit=8))
    assert many < 100 * few
    claimed = [row.id for _ in range(40) for row in claim(store, executor, now=5000, limit=100)]
    assert claimed == [f"run-{n}" for n in range(16, 3000)]


def test_a_run_in_line_by_a_clock_that_was_ahead_is_not_claimed_early(store: SqliteStore) -> None:
    start(store, "ahead", created_at=900, due_at=800, priority=9)
    start(store, "due", due_at=10)
    executor = register(store)
    assert claim(store, executor, now=50, limit=1) == ()  # it stood in the way once
    assert [row.id for row in claim(store, executor, now=50, limit=1)] == ["due"]
    assert [row.id for row in claim(store, executor, now=800, limit=1)] == ["ahead"]


def test_a_claim_does_not_sort_the_backlog(store: SqliteStore) -> None:
    executor = register(store)
    store.apply([start_operation(f"run-{n}", due_at=1, priority=n % 3) for n in range(3000)])
    cost = steps(store, lambda: claim(store, executor, now=10, limit=8))
    assert cost < 4000
    claimed = one(store, ClaimDue(owner=executor, codes=codes_of("work"), now=10, limit=5000))
    assert len(claimed) == 2992
    assert [row.priority for row in claimed] == sorted((row.priority for row in claimed), reverse=True)


def test_a_message_costs_the_same_however_many_are_unread(store: SqliteStore) -> None:
    """Sending, looking, consuming, releasing and loading; of a name that was sent before or behind all the others."""

    def measure() -> list[int]:
        entry = signal(store, name="go").entry
        row = row_of(store)
        fence = fence_of(row)
        waiting = Release(fence=fence, status=RunStatus.SUSPENDED, wake_at=None, waits_for=("go", "x"))
        late = Advance(fence=fence, waits=(), unless_unread=("x", 99), now=9)
        taking = Advance(fence=fence, taken=((entry.id, 1),), now=9)
        return [
            steps(store, lambda: signal(store, name="noise", unread_max=10_000)),
            steps(store, lambda: store.ask(LookAtMailbox(row.run, after=entry.id, names={"go": 0}, limit=9))),
            steps(store, lambda: store.ask(LoadRun(row.run))),
            steps(store, lambda: one(store, waiting)),
            steps(store, lambda: one(store, late)),
            steps(store, lambda: one(store, taking)),
        ]

    owned(store)
    for _ in range(300):
        signal(store, name="noise")
    before = measure()
    noise = SendSignal(run_id="run", name="noise", payload="1", signal_id=None, now=60)
    store.apply([noise] * 6000)
    after = measure()
    assert all(new <= old * 1.1 + 30 for old, new in zip(before, after, strict=True)), (before, after)


def test_the_tables_are_readable_by_people(store: SqliteStore) -> None:
    row, _ = owned(store, args='["Grüße"]')
    connection = store.connect()
    found = connection.execute("SELECT id, workflow, status, args, created_at FROM runs").fetchall()
    connection.close()
    assert found == [("run", "work", "running", '["Grüße"]', row.created_at)]


def test_suspects_stand_in_a_line_of_their_own_from_the_limit_on() -> None:
    """The number is written into an index: another limit needs a new version of the schema."""
    assert LINE.startswith(f"CASE WHEN recoveries >= {SUSPECT_RECOVERIES} THEN {SUSPECT} ")
