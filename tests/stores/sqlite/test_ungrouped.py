"""Runs whose set of refusing codes, or version, is none that was written here: they are in no group of a claim."""

from __future__ import annotations

from typing import Any

import pytest

from durable_trio.records import RunStatus
from durable_trio.stores.questions import CountBacklog, CountRuns, ListRuns, RunFilter
from durable_trio.stores.sqlite import SqliteStore
from durable_trio.testing.store_contract.kit import claim, codes_of, register, row_of, start


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("refused", "CAST(x'2c312c00' AS TEXT)"),
        ("refused", "CAST(x'00' AS TEXT)"),
        ("refused", "CAST(x'2c00ff' AS TEXT)"),
        ("refused", "CAST(x'ff' AS TEXT)"),
        ("refused", "'all'"),
        ("refused", "',١,'"),
        ("version", "-2"),
        ("version", "9223372036854775807"),
    ],
)
def test_a_run_in_no_group_is_set_aside_and_holds_up_no_other(column: str, value: Any) -> None:
    store = SqliteStore(":memory:")
    store.open()
    try:
        for name in ("before", "damaged", "after"):
            start(store, name, version=0)
        assert store._writer is not None
        store._writer.execute(f"UPDATE runs SET {column} = {value} WHERE id = 'damaged'")
        store._writer.execute("UPDATE runs SET refused = ',7,' WHERE id = 'after'")
        executor = register(store)
        claimed: set[str] = set()
        for _ in range(4):
            claimed |= {row.id for row in claim(store, executor) if row.damage is None}
        assert claimed == {"before", "after"}
        damaged = row_of(store, "damaged")
        assert (damaged.status, damaged.wake_at) == (RunStatus.SUSPENDED, None)
        assert damaged.problem is not None
        assert store.ask(CountBacklog(codes_of("work"), now=1000, due_max=9)).due_count == 0
    finally:
        store.close()


@pytest.mark.parametrize("value", ["CAST(x'2c31ff' AS TEXT)", "CAST(x'2c3100' AS TEXT)", "'all'", "5", "x'2c31'"])
def test_one_whose_set_cannot_be_read_hides_no_other_that_is_parked(value: str) -> None:
    store = SqliteStore(":memory:")
    store.open()
    try:
        for name, workflow in (("first", "a"), ("damaged", "a"), ("second", "a"), ("third", "b")):
            start(store, name, version=0, workflow=workflow)
        assert store._writer is not None
        execute = store._writer.execute
        execute("UPDATE runs SET refused = ',1,'")
        execute("UPDATE runs SET refused = ',2,' WHERE id = 'second'")
        execute("PRAGMA writable_schema = ON")
        sql = "REPLACE(sql, 'refused TEXT NOT NULL', 'refused ANY NOT NULL')"
        execute(f"UPDATE sqlite_schema SET sql = {sql} WHERE name = 'runs'")
        execute("PRAGMA writable_schema = RESET")
        execute(f"UPDATE runs SET refused = {value} WHERE id = 'damaged'")
        for which in (RunFilter(is_parked=True), RunFilter(is_parked=True, workflow="a")):
            found = {row.id for row in store.ask(ListRuns(which, limit=9))}
            assert found >= ({"first", "second", "third"} if which.workflow is None else {"first", "second"})
        assert {"first", "second", "third"} <= set(store.ask(CountRuns()).parked)
    finally:
        store.close()
