"""Statements take their words for a status from the table of a run's life; what a schema says agrees with it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from durable_trio.errors import RunConflict
from durable_trio.records import RunStatus
from durable_trio.rules.run_life import FINAL, LIFE, RunEvent
from durable_trio.stores import statuses
from durable_trio.stores.contract import ParkDamaged
from durable_trio.stores.sqlite import SqliteStore
from durable_trio.stores.sqlite.tables import WITHOUT_END
from durable_trio.stores.statuses import is_none_of, is_one_of, status_after, word_after
from durable_trio.testing.store_contract.kit import finish, one, owned, row_of

ROOM = Path(statuses.__file__).parent


def test_the_partial_index_of_ended_runs_is_of_the_final_statuses() -> None:
    """Its words are data, and stay: the planner compares them with those of the statements."""
    assert f"finished_at IS NULL AND {is_one_of(FINAL)}" == WITHOUT_END


def test_the_table_of_runs_takes_every_status_and_no_other() -> None:
    store = SqliteStore(":memory:")
    store.open()
    try:
        connection = store.connect()
        (sql,) = connection.execute("SELECT sql FROM sqlite_schema WHERE name = 'runs'").fetchone()
        connection.close()
    finally:
        store.close()
    assert f"CHECK ({is_one_of(RunStatus)})" in sql


def test_no_statement_names_a_status_by_itself() -> None:
    """Else it would not follow when the table changes. The schema's own words are compared above."""
    named = re.compile("|".join(f"'{status.value}'" for status in RunStatus))
    for path in sorted(ROOM.rglob("*.py")):
        if path.name == "tables.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not named.search(node.value), f"{path}:{node.lineno}"


@pytest.mark.parametrize(("name", "ended_at", "after"), [("pending", None, "suspended"), ("failed", 9, "failed")])
def test_an_owned_run_whose_status_no_owned_run_can_have_is_set_aside_if_its_owner_says_so(
    name: str, ended_at: int | None, after: str
) -> None:
    """Only a damaged file has such a run. It must not stay with its owner, who has let go of it."""
    store = SqliteStore(":memory:")
    store.open()
    try:
        _, fence = owned(store)
        assert store._writer is not None
        store._writer.execute("UPDATE runs SET status = ?, finished_at = ?", (name, ended_at))
        assert isinstance(finish(store, fence), RunConflict)
        assert one(store, ParkDamaged(fence=fence, problem="{}")) is True
        row = row_of(store)
        assert (row.owner, row.status.value, row.finished_at) == (None, after, ended_at)
        assert (row.problem is None) == row.status.is_final
    finally:
        store.close()


def test_the_words_are_literals() -> None:
    assert is_one_of([RunStatus.FAILED, None]) == "status = 'failed'"
    assert is_one_of({RunStatus.FAILED, RunStatus.PENDING}) == "status IN ('pending', 'failed')"
    assert is_none_of({RunStatus.FAILED}) == "status <> 'failed'"
    assert is_none_of({RunStatus.FAILED, RunStatus.PENDING}) == "status NOT IN ('pending', 'failed')"
    assert word_after(RunEvent.PARK) == "'suspended'"


def test_sqlite_computes_what_follows_as_the_table_says() -> None:
    store = SqliteStore(":memory:")
    store.open()
    try:
        connection = store.connect()
        for event in (RunEvent.CLAIM, RunEvent.CLAIM_UNDOING, RunEvent.RECORD, RunEvent.FAIL):
            for status in RunStatus:
                found = connection.execute(f"SELECT {status_after(event)} FROM (SELECT ? AS status)", [status.value])
                assert found.fetchone()[0] == LIFE[event].get(status, status)
        connection.close()
    finally:
        store.close()
