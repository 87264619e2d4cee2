"""Parts of a filter of which none is rare: their indexes are merged, and only runs that are in all are looked at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from durable_trio.records import RunStatus
from durable_trio.stores.questions import ListRuns, Order, RunFilter
from durable_trio.stores.sqlite import SqliteStore
from durable_trio.stores.sqlite.answers import merging, streams

S = RunStatus
ENDED_RUNS = 20_000

PAIRS_IN_COMMON_WITH_NONE = [
    RunFilter(workflow="w0", queue="q1"),
    RunFilter(workflow="w0", queue="q1", statuses=(S.COMPLETED,)),
    RunFilter(workflow="w0", queue="q1", statuses=(S.COMPLETED, S.FAILED)),
    RunFilter(workflow="w0", tags=(("t", "1"),)),
    RunFilter(queue="q0", tags=(("t", "1"),), statuses=(S.FAILED,)),
    RunFilter(queue="q0", parent_id="p1"),
]


@pytest.fixture(scope="module")
def paired() -> Iterator[SqliteStore]:
    """A store with many runs of two kinds, one after the other, that have nothing in common."""
    store = SqliteStore(":memory:")
    store.open()
    assert store._writer is not None
    store._writer.execute(
        """
        WITH RECURSIVE number (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM number WHERE n < ? - 1)
        INSERT INTO runs (id, workflow, status, changed, queue, created_at, started_at, finished_at, parent_id, seed,
            args_digest, tags, args, result)
        SELECT 'ended-' || n, 'w' || (n % 2), iif(n % 4 < 2, 'completed', 'failed'), 100 + n, 'q' || (n % 2),
            1000 + n / 6, 1000, 2000, 'p' || (n % 2), x'', x'', '{"t": "' || (n % 2) || '"}', '[]', '1' FROM number
        """,
        (ENDED_RUNS,),
    )
    yield store
    store.close()


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of runs that lists look at, piece by piece."""
    counts: list[int] = []

    at, next_of = streams._Look.at, streams._Look.next_of

    def look_at(look: Any, runs: list[int]) -> Any:
        counts.append(len(runs))
        return at(look, runs)

    def look_at_next_of(look: Any, sources: Any, before: Any, size: int, among: Any = None) -> Any:
        found = next_of(look, sources, before, size, among)
        counts.append(size if among is None else len(found.keys))
        return found

    monkeypatch.setattr(streams._Look, "at", look_at)
    monkeypatch.setattr(streams._Look, "next_of", look_at_next_of)
    return counts


@pytest.mark.parametrize("order", [Order.NEWEST, Order.OLDEST])
@pytest.mark.parametrize("which", PAIRS_IN_COMMON_WITH_NONE, ids=str)
def test_parts_of_a_filter_that_have_nothing_in_common_are_found_so_without_a_look_at_the_runs(
    paired: SqliteStore, looked_at: list[int], which: RunFilter, order: Order
) -> None:
    assert paired.ask(ListRuns(which, order=order, limit=20)) == ()
    assert sum(looked_at) == 0
    assert 0 < len(looked_at) < 6


def test_parts_of_a_filter_that_have_all_in_common_are_merged_as_far_as_is_asked(
    paired: SqliteStore, looked_at: list[int]
) -> None:
    which = RunFilter(workflow="w1", queue="q1", statuses=(S.COMPLETED,), tags=(("t", "1"),))
    page = paired.ask(ListRuns(which, limit=20))
    assert [row.id for row in page] == [f"ended-{ENDED_RUNS - 3 - 4 * n}" for n in range(20)]
    assert sum(looked_at) <= 250


@pytest.fixture(scope="module")
def lopsided() -> Iterator[SqliteStore]:
    """A store where most runs are completed; each tenth has a tag, and all of those have failed."""
    store = SqliteStore(":memory:")
    store.open()
    assert store._writer is not None
    store._writer.execute(
        """
        WITH RECURSIVE number (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM number WHERE n < ? - 1)
        INSERT INTO runs (id, workflow, status, changed, created_at, started_at, finished_at, seed, args_digest, tags,
            args, result)
        SELECT 'ended-' || n, 'w' || (n / 10 % 3), iif(n % 10, 'completed', 'failed'), 10000000 - n, 1000 + n / 6, 1000,
            5000000 - n, x'', x'', iif(n % 10, '{}', '{"t": "1"}'), '[]', '1' FROM number
        """,
        (3 * ENDED_RUNS,),
    )
    yield store
    store.close()


@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("workflow", [None, "w1"])
def test_a_part_with_far_more_runs_is_told_by_those_that_are_not_in_it(
    lopsided: SqliteStore, looked_at: list[int], workflow: str | None, order: Order
) -> None:
    """Then no run is looked at to find that they have nothing in common."""
    which = RunFilter(tags=(("t", "1"),), statuses=(S.COMPLETED,), workflow=workflow)
    assert lopsided.ask(ListRuns(which, order=order, limit=20)) == ()
    assert sum(looked_at) == 0


@pytest.mark.parametrize("order", [Order.CHANGED, Order.ENDED])
@pytest.mark.parametrize("statuses", [None, (S.FAILED,)])
def test_runs_of_a_part_are_looked_for_among_the_keys_of_an_order(
    lopsided: SqliteStore, looked_at: list[int], order: Order, statuses: tuple[S, ...] | None
) -> None:
    """So that only some are looked at, not all of the part."""
    which = RunFilter(tags=(("t", "1"),), statuses=statuses)
    page = lopsided.ask(ListRuns(which, order=order, limit=20))
    assert [row.id for row in page] == [f"ended-{10 * n}" for n in range(20)]
    assert 20 <= sum(looked_at) < 1000


def test_runs_are_looked_at_where_another_part_has_far_more(
    paired: SqliteStore, looked_at: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To read all of its index would take longer."""
    monkeypatch.setattr(merging, "_FOR_ONE", (1,))
    which = RunFilter(workflow="w0", queue="q1")
    assert paired.ask(ListRuns(which, limit=20)) == ()
    assert sum(looked_at) >= ENDED_RUNS // 2
