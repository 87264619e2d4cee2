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

    def look_at_next_of(look: Any, source: Any, before: Any, size: int) -> Any:
        counts.append(size)
        return next_of(look, source, before, size)

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


def test_runs_are_looked_at_where_another_part_has_far_more(
    paired: SqliteStore, looked_at: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To read all of its index would take longer."""
    monkeypatch.setattr(merging, "_FOR_ONE_MAX", 1)
    which = RunFilter(workflow="w0", queue="q1")
    assert paired.ask(ListRuns(which, limit=20)) == ()
    assert sum(looked_at) >= ENDED_RUNS // 2
