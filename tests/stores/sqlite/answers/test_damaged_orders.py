"""Whatever a damaged file holds in a column that lists are ordered by, pages end, and each run is in one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from durable_trio import Engine
from durable_trio.engine.filters import make_cursor, read_cursor
from durable_trio.records import RunStatus
from durable_trio.stores.contract import Finish
from durable_trio.stores.questions import ListFailures, ListRuns, Order, RunFilter
from durable_trio.stores.sqlite import SqliteStore
from durable_trio.stores.sqlite.answers import parts, streams
from durable_trio.testing.store_contract.kit import fence_of, register, start
from tests.engine.damage_kit import loosened

#: By the column: what is put into it, several runs of each, so that a page ends between them.
VALUES = (
    "'text'",
    "'text ' || id",
    "'12'",
    "x'ff00'",
    "CAST(x'ff61' AS TEXT)",
    "NULL",
    "12.5",
    "1e300",
    "-1e300",
    "9223372036854775807",
    "-9223372036854775808",
    "4611686018427387905",
    "-5",
)
COLUMN = {
    Order.NEWEST: "created_at",
    Order.OLDEST: "created_at",
    Order.CHANGED: "changed",
    Order.ENDED: "finished_at",
}
FILTERS = [
    RunFilter(),
    RunFilter(workflow="w"),
    RunFilter(statuses=(RunStatus.FAILED,)),
    RunFilter(queue="q"),
    RunFilter(workflow="w", queue="q"),
    RunFilter(tags=(("team", "a"),)),
]


def made(path: Path, column: str, values: tuple[str, ...]) -> SqliteStore:
    """Return a store in which runs have these values in a column, four each, between others that are sound."""
    store = SqliteStore(path)
    store.open()
    executor = register(store)
    for number in range(4 * len(values) + 8):
        row = start(
            store, f"r{number:03}", workflow="w", owner=executor, queue="q", created_at=number, tags='{"team": "a"}'
        )
        store.apply([Finish(fence=fence_of(row), status=RunStatus.FAILED, now=number + 1)])
    store.close()
    with loosened(path) as connection:
        for place, value in enumerate(values):
            for number in range(4):
                run_id = f"r{place + number * (len(values) + 2):03}"
                connection.execute(f"UPDATE runs SET {column} = {value} WHERE id = ?", (run_id,))
    store.open()
    return store


def pages(store: SqliteStore, which: RunFilter, order: Order, limit: int) -> list[str]:
    """Return the ids of all runs, page by page, each page as a program asks for it."""
    found: list[str] = []
    before: Any = None
    while True:
        rows = store.ask(ListRuns(which, order=order, limit=limit + 1, before=before))
        found += [row.id for row in rows[:limit]]
        assert len(found) <= 1000, f"it does not end: {found[:40]}"
        if len(rows) <= limit:
            return found
        before = read_cursor(make_cursor(rows[limit - 1], order), order)


@pytest.mark.parametrize("is_gathered", [True, False])
@pytest.mark.parametrize("order", list(Order))
def test_pages_end_and_have_each_run_once(
    order: Order, is_gathered: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_gathered:
        monkeypatch.setattr(parts, "RARE_RUNS", 2)
        monkeypatch.setattr(parts, "COMPARED_RUNS", 4)
    monkeypatch.setattr(streams, "SLICE_RUNS", 7)
    store = made(tmp_path / "runs.db", COLUMN[order], VALUES)
    for which in FILTERS:
        whole = [row.id for row in store.ask(ListRuns(which, order=order, limit=1000))]
        assert len(whole) == len(set(whole))
        if not which.tags:  # a tag is known by the time of its run, so it is not found of one whose time is damaged
            is_ended = order is Order.ENDED
            lost = 4 * sum(value == "NULL" for value in VALUES) if is_ended else 0  # nobody knows that they have ended
            assert len(whole) == 4 * len(VALUES) + 8 - lost, which
        for limit in (1, 3):
            assert pages(store, which, order, limit) == whole, (which, limit)
    store.close()


@pytest.mark.parametrize("value", ["'text'", "NULL", "x'ff00'"])
def test_each_value_by_itself(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "RARE_RUNS", 2)
    monkeypatch.setattr(parts, "COMPARED_RUNS", 4)
    for column in dict.fromkeys(COLUMN.values()):
        store = made(tmp_path / f"{column}.db", column, (value,))
        for order in (order for order in Order if COLUMN[order] == column):
            whole = [row.id for row in store.ask(ListRuns(RunFilter(), order=order, limit=1000))]
            assert pages(store, RunFilter(), order, 2) == whole
        store.close()


def test_failures_are_read_to_their_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("durable_trio.stores.sqlite.answers.failures._RUNS_AT_ONCE", 3)
    store = made(tmp_path / "runs.db", "finished_at", VALUES)
    found = [failed.run_id for failed in store.ask(ListFailures(limit=1000))]
    assert len(found) == len(set(found)) == 4 * len(VALUES) + 8 - 4
    store.close()


def test_a_program_that_pages_sees_each_run_once(tmp_path: Path) -> None:
    made(tmp_path / "runs.db", "created_at", ("'text'",)).close()

    async def read() -> list[str]:
        found: list[str] = []
        cursor = None
        async with Engine(tmp_path / "runs.db") as client:
            for _ in range(50):
                page = await client.list_runs(limit=2, cursor=cursor, sort="oldest")
                found += [record.id for record in page.runs]
                cursor = page.next_cursor
                if cursor is None:
                    break
        return found

    found = trio.run(read)
    assert len(found) == len(set(found)) == 12
