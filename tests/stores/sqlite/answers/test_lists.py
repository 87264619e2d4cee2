"""Lists, counts and the beginnings of watches cost little at any size of the file, and never a long transaction."""

from __future__ import annotations

import itertools
import json
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pytest

from durable_trio.records import RunStatus
from durable_trio.rows import Key, RunRow, WaitRow
from durable_trio.stores.contract import Advance, DeleteRun, Finish, Prune, Pruned, Release
from durable_trio.stores.news_questions import ListChanges, ListNews, ListSent
from durable_trio.stores.questions import CountBacklog, CountRuns, FindRun, ListRuns, LoadRun, Order, RunFilter
from durable_trio.stores.sqlite import SqliteStore, sqlite3
from durable_trio.stores.sqlite.answers import counts, merging, parts, streams
from durable_trio.testing.store_contract.kit import (
    changed_runs,
    claim,
    codes_of,
    fence_of,
    one,
    owned,
    park,
    register,
    row_of,
    start,
    start_operation,
)
from tests.engine.damage_kit import loosened
from tests.stores.sqlite.kit import ticks
from tests.stores.sqlite.numbers import BEGINNING

S = RunStatus
ENDED_RUNS = 20_000


def add_ended_runs(connection: Any, count: int, *, status: str = "completed", tags: str = "{}") -> None:
    """Store runs that have ended by SQL, as fast as can be."""
    connection.execute(
        """
        WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < ?)
        INSERT INTO runs (id, workflow, status, changed, queue, created_at, started_at, finished_at, parent_id, seed,
            args_digest, tags, args, result)
        SELECT 'ended-' || ? || n, 'ended', ?, 100 + n, 'q', 1000 + n, 1000 + n, 2000 + n, 'parent', x'', x'', ?,
            '[]', '1' FROM number
        """,
        (count, status, status, tags),
    )
    connection.execute("UPDATE change_counter SET changed = changed + ?", (200 + count,))


@pytest.fixture(scope="module")
def large() -> Iterator[SqliteStore]:
    """A store with many runs that have ended, and a few others."""
    store = SqliteStore(":memory:")
    store.open()
    assert store._writer is not None
    add_ended_runs(store._writer, ENDED_RUNS, tags='{"team": "many"}')
    add_ended_runs(store._writer, 30, status="failed", tags='{"team": "few", "x": "1"}')
    start(store, "child", parent=None, workflow="rare", queue="rare", created_at=5, tags='{"team": "rare"}')
    owned(store, "running", created_at=500_000)
    yield store
    store.close()


def steps(store: SqliteStore, work: Callable[[], object]) -> int:
    """Return how many hundreds of instructions of SQLite's machine some work takes."""
    return ticks(store._answerer, work, each=100)


RARE = [
    RunFilter(),
    RunFilter(workflow="ended"),
    RunFilter(workflow="rare"),
    RunFilter(workflow="nobody"),
    *(RunFilter(statuses=(status,)) for status in RunStatus),
    RunFilter(statuses=(S.RUNNING, S.SUSPENDED, S.COMPENSATING)),
    RunFilter(statuses=(S.FAILED, S.COMPLETED)),
    RunFilter(workflow="ended", statuses=(S.FAILED,)),
    RunFilter(workflow="rare", statuses=(S.COMPLETED,)),
    RunFilter(tags=(("team", "many"),)),
    RunFilter(tags=(("team", "few"),)),
    RunFilter(tags=(("team", "nobody"),)),
    RunFilter(tags=(("team", "many"), ("x", "1"))),
    RunFilter(tags=(("team", "many"),), statuses=(S.FAILED,)),
    RunFilter(tags=(("team", "few"),), workflow="ended"),
    RunFilter(tags=(("team", "many"),), workflow="rare"),
    RunFilter(queue="q"),
    RunFilter(queue="rare"),
    RunFilter(queue="nobody"),
    RunFilter(queue="q", statuses=(S.CANCELLED,)),
    RunFilter(queue="q", tags=(("team", "rare"),)),
    RunFilter(parent_id="parent"),
    RunFilter(parent_id="nobody"),
    RunFilter(parent_id="parent", workflow="rare"),
    RunFilter(created_after=400_000),
    RunFilter(created_before=100),
    RunFilter(created_after=600_000),
    RunFilter(workflow="ended", created_before=1010),
    RunFilter(statuses=(S.COMPLETED,), created_after=400_000),
    RunFilter(is_parked=True),
    RunFilter(is_retrying=True),
    RunFilter(overdue_at=10**6),
    RunFilter(is_retrying=True, workflow="ended"),
    RunFilter(is_parked=True, tags=(("team", "many"),)),
    RunFilter(run_id="running"),
    RunFilter(run_id="running", workflow="rare"),
]


@pytest.mark.parametrize("which", RARE, ids=str)
def test_no_list_walks_through_what_it_does_not_give(large: SqliteStore, which: RunFilter) -> None:
    cost = steps(large, lambda: large.ask(ListRuns(which, limit=20)))
    assert cost < ENDED_RUNS // 100  # hundreds of instructions; some for each run would be many times that
    page = large.ask(ListRuns(which, limit=20))
    if page:
        last = (page[-1].created_at, page[-1].run)
        assert steps(large, lambda: large.ask(ListRuns(which, limit=20, before=last))) < ENDED_RUNS // 100


@pytest.mark.parametrize("which", [which for which in RARE if which.created_after is which.created_before], ids=str)
def test_no_watch_walks_through_what_it_does_not_give(large: SqliteStore, which: RunFilter) -> None:
    assert steps(large, lambda: large.ask(ListChanges(which, after=None, limit=20))) < ENDED_RUNS // 40


def test_a_status_does_not_count_what_is_most(large: SqliteStore) -> None:
    assert steps(large, lambda: large.ask(CountRuns())) < 10_000
    found = large.ask(CountRuns())
    assert found.runs_by_status == {S.PENDING: 1, S.RUNNING: 1, S.COMPLETED: ENDED_RUNS, S.FAILED: 30}
    assert found.unfinished_by_workflow == {"rare": 1, "work": 1}


def test_counts_are_right_whatever_is_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts, "_COUNTED_FIRST", 2)
    store = SqliteStore(":memory:")
    store.open()
    executor = register(store)
    for workflow, count in (("a", 5), ("b", 40), ("c", 41), ("d", 1)):
        store.apply([start_operation(f"{workflow}-{n}", workflow=workflow) for n in range(count)])
    rows = claim(store, executor, workflows=("b", "c"), limit=30)
    ends = [S.FAILED] * 12 + [S.COMPLETED] * 7 + [S.CANCELLED]
    store.apply([Finish(fence=fence_of(row), status=status, now=1) for row, status in zip(rows, ends, strict=False)])
    found = store.ask(CountRuns())
    assert found.runs_by_status == {S.PENDING: 57, S.RUNNING: 10, S.COMPLETED: 7, S.FAILED: 12, S.CANCELLED: 1}
    assert sum(found.unfinished_by_workflow.values()) == 67
    assert found.unfinished_by_workflow["a"] == 5
    assert found.store_version == f"SQLite {sqlite3.sqlite_version}"
    store.close()


@pytest.mark.parametrize("merged_at_once", [0, 100])
def test_where_nothing_is_rare_a_list_goes_in_slices(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, merged_at_once: int
) -> None:
    """Each is a short transaction, between which other questions have their turn; the answer is the same."""
    monkeypatch.setattr(parts, "RARE_RUNS", 50)
    monkeypatch.setattr(streams, "SLICE_RUNS", 100)
    monkeypatch.setattr(streams, "_RUNS_AT_ONCE", 30)
    monkeypatch.setattr(streams, "AT_ONCE", merged_at_once)
    monkeypatch.setattr(merging, "READ_OF_A_LOOK", 1)
    store = SqliteStore(tmp_path / "runs.db")
    store.open()
    connection = store.connect()
    add_ended_runs(connection, 1000, tags='{"kind": "a"}')
    add_ended_runs(connection, 1000, status="failed", tags='{"kind": "b"}')
    connection.commit()
    connection.close()
    start(store, "last", workflow="ended", created_at=1, tags='{"kind": "a"}')
    begun: list[str] = []
    assert store._answerer is not None
    store._answerer.set_trace_callback(lambda sql: begun.append(sql) if sql.startswith("BEGIN") else None)
    both = RunFilter(statuses=(S.FAILED, S.PENDING), tags=(("kind", "a"),))
    assert [row.id for row in store.ask(ListRuns(both, limit=9))] == ["last"]
    assert len(begun) > 5
    begun.clear()
    assert [row.id for row in changed_runs(store, both, limit=9)] == ["last"]
    assert len(begun) > 5
    store.close()


def test_what_runs_wait_for_does_not_wait_for_a_list(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "runs.db")
    store.open()
    row, _ = owned(store)
    begun, go = threading.Event(), threading.Event()

    def hold() -> int:
        begun.set()
        assert go.wait(20)
        return 0

    assert store._answerer is not None
    store._answerer.set_progress_handler(hold, 1)
    thread = threading.Thread(target=store.ask, args=(ListRuns(RunFilter(), limit=9),))
    thread.start()
    assert begun.wait(20)
    assert store.ask(FindRun("run")) == row
    assert store.ask(LoadRun(row.run)).history == ()
    assert store.ask(CountBacklog(codes_of("work"), now=1, due_max=1)).due_count == 0
    assert store.ask(ListSent(BEGINNING, limit=1)).sent == ()
    assert len(store.ask(ListNews(after=BEGINNING, limit=9)).changes) == 1
    start(store, "another")
    go.set()
    thread.join()
    store.close()


@pytest.mark.parametrize("for_one_max", [1, 2, 100])
@pytest.mark.parametrize("seed", range(4))
def test_every_filter_gives_what_a_look_at_each_run_gives(
    monkeypatch: pytest.MonkeyPatch, seed: int, for_one_max: int
) -> None:
    monkeypatch.setattr(parts, "RARE_RUNS", 6)
    monkeypatch.setattr(streams, "SLICE_RUNS", 7)
    monkeypatch.setattr(streams, "_RUNS_AT_ONCE", 3)
    monkeypatch.setattr(streams, "AT_ONCE", 5)
    monkeypatch.setattr(merging, "_FOR_ONE", (1, for_one_max))
    monkeypatch.setattr(merging, "READ_OF_A_LOOK", 2)
    generator = random.Random(seed)
    store = SqliteStore(":memory:")
    store.open()
    executor = register(store)
    for number in range(60):
        tags = {key: generator.choice("12") for key in "xy" if generator.random() < 0.7}
        start(
            store,
            f"run-{number}",
            workflow=generator.choice("vw"),
            queue=generator.choice(["q", "r", None]),
            created_at=generator.randrange(20),
            tags=json.dumps(tags),
        )
    rows = claim(store, executor, workflows=("v", "w"), limit=40)
    statuses = [S.COMPLETED, S.FAILED, S.CANCELLED]
    store.apply([Finish(fence=fence_of(row), status=generator.choice(statuses), now=1) for row in rows[:30]])
    everything = store.ask(ListRuns(RunFilter(), limit=99))
    assert len(everything) == 60
    assert [(row.created_at, row.run) for row in everything] == sorted(
        ((row.created_at, row.run) for row in everything), reverse=True
    )
    choices: dict[str, list[Any]] = {
        "statuses": [None, (S.FAILED,), (S.PENDING, S.COMPLETED), (S.SUSPENDED,)],
        "workflow": [None, "v", "nobody"],
        "tags": [(), (("x", "1"),), (("x", "1"), ("y", "2"))],
        "queue": [None, "q"],
        "created_after": [None, 5],
        "created_before": [None, 15],
    }
    for values in itertools.product(*choices.values()):
        which = RunFilter(**dict(zip(choices, values, strict=True)))
        expected = [row for row in everything if _matches(which, row)]
        found: list[RunRow] = []
        before = None
        while page := store.ask(ListRuns(which, limit=4, before=before)):
            found += page
            before = (page[-1].created_at, page[-1].run)
        assert found == expected
        changed, part = list[RunRow](), store.ask(ListChanges(which, after=None, limit=3))
        while part.changes:
            changed += [change.row for change in part.changes]
            part = store.ask(ListChanges(which, after=part.cursor, limit=3))
        assert changed == sorted(expected, key=lambda row: (row.changed, row.run))
    store.close()


_KEYS: dict[Order, Callable[[RunRow], tuple[Any, int]]] = {
    Order.NEWEST: lambda row: (-row.created_at, -row.run),
    Order.OLDEST: lambda row: (row.created_at, row.run),
    Order.CHANGED: lambda row: (-row.changed, -row.run),
    Order.ENDED: lambda row: (-(row.finished_at or 0), -row.run),
}
_CURSORS: dict[Order, Callable[[RunRow], Any]] = {
    Order.NEWEST: lambda row: row.created_at,
    Order.OLDEST: lambda row: row.created_at,
    Order.CHANGED: lambda row: row.changed,
    Order.ENDED: lambda row: row.finished_at,
}


@pytest.mark.parametrize(
    ("compared", "looked_through"),
    [(0, 1), (15, 1), (20_000, 0), (20_000, 100)],
    ids=["never gathered", "gathered if few", "gathered at last", "looked for among those of the order"],
)
def test_every_order_and_state_gives_what_a_look_at_each_run_gives(
    monkeypatch: pytest.MonkeyPatch, compared: int, looked_through: int
) -> None:
    """Whether runs are gathered, or found in the order's own index."""
    monkeypatch.setattr(streams, "_LOOKED_THROUGH_FIRST", 1)
    monkeypatch.setattr(streams, "_LOOKED_THROUGH_MAX", 4 + looked_through)
    monkeypatch.setattr(streams, "AT_ONCE", 5)
    monkeypatch.setattr(parts, "RARE_RUNS", min(6, compared))
    monkeypatch.setattr(parts, "COMPARED_RUNS", compared)
    monkeypatch.setattr(streams, "SLICE_RUNS", 7)
    monkeypatch.setattr(streams, "_RUNS_AT_ONCE", 3)
    generator = random.Random(compared)
    store = SqliteStore(":memory:")
    store.open()
    executor = register(store)
    for number in range(60):
        queue = generator.choice(["q", None])
        start(store, f"run-{number}", workflow=generator.choice("vw"), queue=queue, created_at=generator.randrange(20))
    rows = list(claim(store, executor, workflows=("v", "w"), limit=45))
    generator.shuffle(rows)
    retrying, parked, overdue = set[str](), set[str](), set[str]()
    for index, row in enumerate(rows):
        fence = fence_of(row)
        if index < 20:
            status = generator.choice([S.COMPLETED, S.FAILED, S.CANCELLED])
            store.apply([Finish(fence=fence, status=status, now=generator.randrange(50, 60))])
        elif index < 30:
            waits = tuple(WaitRow(key=Key("", "x", n), kind="retry", due_at=5, started_at=1) for n in range(index % 3))
            one(store, Advance(fence=fence, waits=waits, status=S.SUSPENDED, now=20))
            retrying |= {row.id} if waits else set()
            wake_at = generator.randrange(30)
            if index % 2:
                one(store, Release(fence=fence, status=S.SUSPENDED, wake_at=wake_at))
                overdue |= {row.id} if wake_at <= 15 else set()
        elif index < 36:
            park(store, fence)
            parked.add(row.id)
    everything = store.ask(ListRuns(RunFilter(), limit=99))
    overdue |= {row.id for row in everything if row.owner is None and row.wake_at is not None and row.wake_at <= 15}
    assert all((retrying, parked, overdue, len(everything) == 60))
    choices: dict[str, list[Any]] = {
        "statuses": [None, (S.FAILED,), (S.PENDING, S.COMPLETED, S.SUSPENDED), ()],
        "workflow": [None, "v", "nobody"],
        "queue": [None, "q"],
        "created_after": [None, 5],
        "is_parked": [False, True],
        "is_retrying": [False, True],
        "overdue_at": [None, 15],
    }
    for *values, order in itertools.product(*choices.values(), Order):
        which = RunFilter(**dict(zip(choices, values, strict=True)))
        expected = [
            row
            for row in everything
            if _matches(which, row)
            and (row.id in parked or not which.is_parked)
            and (row.id in retrying or not which.is_retrying)
            and (row.id in overdue or which.overdue_at is None)
            and (row.status.is_final or order is not Order.ENDED)
        ]
        found: list[RunRow] = []
        before = None
        while page := store.ask(ListRuns(which, order=order, limit=4, before=before)):
            found += page
            before = (_CURSORS[order](page[-1]), page[-1].run)
        assert found == sorted(expected, key=_KEYS[order])
    store.close()


def _matches(which: RunFilter, row: RunRow) -> bool:
    tags = json.loads(row.tags)
    return (
        (which.statuses is None or row.status in which.statuses)
        and which.workflow in (None, row.workflow)
        and all(tags.get(key) == value for key, value in which.tags)
        and which.queue in (None, row.queue)
        and (which.created_after is None or row.created_at > which.created_after)
        and (which.created_before is None or row.created_at < which.created_before)
    )


def test_tags_are_found_whoever_writes_and_removes_the_runs(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "runs.db")
    store.open()
    which = RunFilter(tags=(("a", "1"),))
    connection = store.connect()
    add_ended_runs(connection, 3, tags='{"a": "1", "b": 2}')
    connection.execute("DELETE FROM runs WHERE id = 'ended-completed2'")
    connection.commit()
    assert [row.id for row in store.ask(ListRuns(which, limit=9))] == ["ended-completed3", "ended-completed1"]
    assert connection.execute("SELECT count(*) FROM tags").fetchone() == (2,)
    connection.execute("DELETE FROM runs")
    connection.commit()
    connection.close()
    assert store.ask(ListRuns(which, limit=9)) == ()
    store.close()


# ---- damaged files -------------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(tmp_path: Path) -> Iterator[Callable[[str], SqliteStore]]:
    """Make a store with five runs, in which a statement has done what this library never does."""
    store = SqliteStore(tmp_path / "runs.db")

    def make(statement: str) -> SqliteStore:
        store.open()
        for number in range(3):
            _, fence = owned(store, f"ended-{number}", workflow="w")
            store.apply([Finish(fence=fence, status=S.COMPLETED, now=50)])
        owned(store, "running", workflow="w")
        start(store, "pending", workflow="w")
        with closing(store.connect()) as connection:
            connection.execute("PRAGMA ignore_check_constraints = ON")
            connection.execute(statement)
            connection.commit()
        return store

    yield make
    store.close()


NOT_UTF8 = "CAST (x'ff80' AS TEXT)"


@pytest.mark.parametrize(
    ("statement", "by_status", "by_workflow"),
    [
        (
            f"UPDATE runs SET workflow = {NOT_UTF8} WHERE id IN ('pending', 'ended-0')",
            {S.PENDING: 1, S.RUNNING: 1, S.COMPLETED: 3},
            {"w": 1, r"\xff\x80": 1},
        ),
        (
            f"UPDATE runs SET status = {NOT_UTF8} WHERE id = 'pending'",
            {S.RUNNING: 1, S.SUSPENDED: 1, S.COMPLETED: 3},
            {"w": 2},
        ),
        (
            f"UPDATE runs SET workflow = {NOT_UTF8}, status = {NOT_UTF8} WHERE id = 'pending'",
            {S.RUNNING: 1, S.SUSPENDED: 1, S.COMPLETED: 3},
            {"w": 1, r"\xff\x80": 1},
        ),
        (
            "UPDATE runs SET finished_at = NULL WHERE id = 'ended-0'",
            {S.PENDING: 1, S.RUNNING: 1, S.COMPLETED: 3},
            {"w": 2},
        ),
        (
            "UPDATE runs SET finished_at = NULL, status = 'failed' WHERE id LIKE 'ended%'",
            {S.PENDING: 1, S.RUNNING: 1, S.FAILED: 3},
            {"w": 2},
        ),
    ],
)
@pytest.mark.parametrize("is_large", [False, True])
def test_each_run_counts_once_however_damaged_it_is(
    damaged: Callable[[str], SqliteStore],
    monkeypatch: pytest.MonkeyPatch,
    statement: str,
    by_status: dict[RunStatus, int],
    by_workflow: dict[str, int],
    is_large: bool,
) -> None:
    if is_large:
        monkeypatch.setattr(counts, "_COUNTED_FIRST", 1)
    store = damaged(statement)
    found = store.ask(CountRuns())
    order = list(S)
    assert found.runs_by_status == dict(sorted(by_status.items(), key=lambda item: order.index(item[0])))
    assert found.unfinished_by_workflow == by_workflow
    which = RunFilter(statuses=(S.PENDING,))
    assert len(store.ask(ListRuns(which, limit=9))) == by_status.get(S.PENDING, 0)


def test_a_run_that_has_ended_nobody_knows_when_is_removed_with_those_of_its_beginning(
    damaged: Callable[[str], SqliteStore],
) -> None:
    store = damaged("UPDATE runs SET finished_at = NULL, created_at = 20 WHERE id = 'ended-1'")
    early = Prune(before=20, statuses=(S.COMPLETED,), limit=9)
    assert store.apply([early]) == [Pruned(0, 0, None)]
    assert store.apply([attrs.evolve(early, before=21)]) == [Pruned(1, 0, None)]
    assert (store.ask(FindRun("ended-1")), store.ask(CountRuns()).runs_by_status[S.COMPLETED]) == (None, 2)
    assert store.apply([attrs.evolve(early, before=51, limit=1)]) == [Pruned(1, 0, (50, 1))]
    assert store.apply([attrs.evolve(early, before=51, after=(50, 1))]) == [Pruned(1, 0, None)]


def test_a_long_run_that_has_ended_nobody_knows_when_leaves_no_count_behind(
    damaged: Callable[[str], SqliteStore],
) -> None:
    store = damaged("UPDATE runs SET finished_at = NULL WHERE id = 'ended-1'")
    run = row_of(store, "ended-1")
    with closing(store.connect()) as connection:
        connection.execute(
            """
            WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < 600)
            INSERT INTO history (run, seq, branch, name, n, kind, status, attempt, compensates, started_at, finished_at)
            SELECT ?, n, '', 's', n, 'step', 'completed', 1, 0, 1, 1 FROM number
            """,
            (run.run,),
        )
        connection.commit()
    assert store.apply([DeleteRun(run_id="ended-1")]) == [True]
    found = store.ask(CountRuns())
    assert (found.runs_by_status[S.COMPLETED], found.unfinished_by_workflow) == (2, {"w": 2})


_DAMAGES = ("'bogus'", "''", "CAST(x'ff61' AS TEXT)", "CAST(x'5b22ff225d' AS TEXT)", "7", "x'ff00'", "NULL")


@pytest.mark.parametrize("column", ["status", "workflow"])
def test_a_run_is_found_by_the_status_that_it_is_shown_with(tmp_path: Path, column: str) -> None:
    """Also one whose status, or workflow, cannot be read: it is shown as suspended, as what is parked is."""
    path = tmp_path / "runs.db"
    store = SqliteStore(path)
    store.open()
    executor = register(store)
    for workflow in ("", "work", "zoo"):
        for number in range(len(_DAMAGES) + 3):
            row = start(store, f"{workflow}-{number}", workflow=workflow, owner=executor if number % 2 else None)
            if number % 4 == 1:
                store.apply([Finish(fence=fence_of(row), status=S.COMPLETED, now=1)])
    store.close()
    with loosened(path) as connection:
        for number, value in enumerate(_DAMAGES):
            connection.execute(f"UPDATE runs SET {column} = {value} WHERE id GLOB '*-{number}'")
    store.open()
    shown = store.ask(ListRuns(RunFilter(), limit=100))
    assert len(shown) == 3 * (len(_DAMAGES) + 3)

    def is_of(row: RunRow, workflow: str | None) -> bool:
        is_readable = column == "status" or row.damage is None or "bogus" in row.workflow
        return workflow is None or (row.workflow == workflow and is_readable)

    for statuses in [(status,) for status in S] + [(S.SUSPENDED, S.COMPLETED), (S.RUNNING, S.PENDING), tuple(S)]:
        for asked in (None, "", "work", "zoo", "bogus"):
            for limit in (100, 2):
                found = store.ask(ListRuns(RunFilter(statuses=statuses, workflow=asked), limit=limit))
                expected = [row for row in shown if row.status in statuses and is_of(row, asked)]
                assert [row.id for row in found] == [row.id for row in expected[:limit]]
                watched = changed_runs(store, RunFilter(statuses=statuses, workflow=asked), limit=100)
                assert {row.id for row in watched} == {row.id for row in expected}
    unfinished = store.ask(CountRuns()).unfinished_by_workflow
    for name in ("", "work", "bogus"):
        found = store.ask(ListRuns(RunFilter(workflow=name), limit=100))
        expected = [row for row in shown if is_of(row, name)]
        assert [row.id for row in found] == [row.id for row in expected]
        assert unfinished.get(name, 0) == len([row for row in expected if not row.status.is_final])
    store.close()
