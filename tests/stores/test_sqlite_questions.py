"""Lists, counts and the beginnings of watches cost little at any size of the file, and never a long transaction."""

from __future__ import annotations

import itertools
import json
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from durable_trio.records import RunRow, RunStatus
from durable_trio.stores.base import Finish, RunFilter
from durable_trio.stores.sqlite import SqliteStore, questions
from durable_trio.testing.store_contract.kit import claim, fence_of, owned, register, start, start_operation

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
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1
        return 0

    assert store._answerer is not None
    store._answerer.set_progress_handler(tick, 100)
    work()
    store._answerer.set_progress_handler(None, 0)
    return count


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
    RunFilter(run_id="running"),
    RunFilter(run_id="running", workflow="rare"),
]


@pytest.mark.parametrize("which", RARE, ids=str)
def test_no_list_walks_through_what_it_does_not_give(large: SqliteStore, which: RunFilter) -> None:
    cost = steps(large, lambda: large.list_runs(which, limit=20))
    assert cost < ENDED_RUNS // 100  # hundreds of instructions; some for each run would be many times that
    page = large.list_runs(which, limit=20)
    if page:
        last = (page[-1].created_at, page[-1].run)
        assert steps(large, lambda: large.list_runs(which, limit=20, before=last)) < ENDED_RUNS // 100


@pytest.mark.parametrize("which", [which for which in RARE if which.created_after is which.created_before], ids=str)
def test_no_watch_walks_through_what_it_does_not_give(large: SqliteStore, which: RunFilter) -> None:
    assert steps(large, lambda: large.changes_with_values(which, after=0, limit=20)) < ENDED_RUNS // 40


def test_a_status_does_not_count_what_is_most(large: SqliteStore) -> None:
    assert steps(large, large.status) < 10_000
    found = large.status()
    assert found.runs_by_status == {S.PENDING: 1, S.RUNNING: 1, S.COMPLETED: ENDED_RUNS, S.FAILED: 30}
    assert found.unfinished_by_workflow == {"rare": 1, "work": 1}


def test_counts_are_right_whatever_is_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "_COUNTED_FIRST", 2)
    store = SqliteStore(":memory:")
    store.open()
    executor = register(store)
    for workflow, count in (("a", 5), ("b", 40), ("c", 41), ("d", 1)):
        store.apply([start_operation(f"{workflow}-{n}", workflow=workflow) for n in range(count)])
    rows = claim(store, executor, workflows=("b", "c"), limit=30)
    ends = [S.FAILED] * 12 + [S.COMPLETED] * 7 + [S.CANCELLED]
    store.apply([Finish(fence=fence_of(row), status=status, now=1) for row, status in zip(rows, ends, strict=False)])
    found = store.status()
    assert found.runs_by_status == {S.PENDING: 57, S.RUNNING: 10, S.COMPLETED: 7, S.FAILED: 12, S.CANCELLED: 1}
    assert sum(found.unfinished_by_workflow.values()) == 67
    assert found.unfinished_by_workflow["a"] == 5
    store.close()


def test_where_nothing_is_rare_a_list_goes_in_slices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each is a short transaction, between which other questions have their turn; the answer is the same."""
    monkeypatch.setattr(questions, "_RARE_RUNS", 50)
    monkeypatch.setattr(questions, "_SLICE_RUNS", 100)
    monkeypatch.setattr(questions, "_RUNS_AT_ONCE", 30)
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
    assert [row.id for row in store.list_runs(both, limit=9)] == ["last"]
    assert len(begun) > 5
    begun.clear()
    assert [row.id for row in store.changes(both, after=0, limit=9)] == ["last"]
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
    thread = threading.Thread(target=store.list_runs, args=(RunFilter(),), kwargs={"limit": 9})
    thread.start()
    assert begun.wait(20)
    assert store.run("run") == row
    assert store.load(row.run).history == ()
    assert store.backlog(["work"], now=1, due_max=1).due_count == 0
    assert store.mailbox_after(0, limit=1) == ()
    assert len(store.news(after=0, limit=9)) == 1
    start(store, "another")
    go.set()
    thread.join()
    store.close()


@pytest.mark.parametrize("seed", range(4))
def test_every_filter_gives_what_a_look_at_each_run_gives(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(questions, "_RARE_RUNS", 6)
    monkeypatch.setattr(questions, "_SLICE_RUNS", 7)
    monkeypatch.setattr(questions, "_RUNS_AT_ONCE", 3)
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
    everything = store.list_runs(RunFilter(), limit=99)
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
        while page := store.list_runs(which, limit=4, before=before):
            found += page
            before = (page[-1].created_at, page[-1].run)
        assert found == expected
        changed, after = list[RunRow](), 0
        while part := store.changes(which, after=after, limit=3):
            changed += part
            after = part[-1].changed
        assert changed == sorted(expected, key=lambda row: (row.changed, row.run))
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
    assert [row.id for row in store.list_runs(which, limit=9)] == ["ended-completed3", "ended-completed1"]
    assert connection.execute("SELECT count(*) FROM tags").fetchone() == (2,)
    connection.execute("DELETE FROM runs")
    connection.commit()
    connection.close()
    assert store.list_runs(which, limit=9) == ()
    store.close()
