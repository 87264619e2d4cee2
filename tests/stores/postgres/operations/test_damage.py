"""Runs with a status that this version does not know: they are parked, and can be given up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from durable_trio.errors import RunConflict
from durable_trio.records import RunStatus
from durable_trio.rows import Key
from durable_trio.stores.contract import (
    Abandoned,
    ClaimDue,
    ClaimRun,
    ContinueAsNew,
    DeleteRun,
    ForkRun,
    Operation,
    ParkDamaged,
    Refuse,
    Refused,
    ResumeRun,
)
from durable_trio.stores.postgres.store import PostgresStore
from durable_trio.stores.questions import FindRun, ListUnread
from durable_trio.testing.store_contract.kit import (
    abandon_operation,
    add,
    codes_of,
    finish,
    one,
    owned,
    register,
    row_of,
    start,
    step,
)
from tests.kit.postgres import drop_schema, new_schema_url
from tests.stores.postgres.kit import Rows


@pytest.fixture
def url() -> Iterator[str]:
    """Of a schema that a test may change."""
    new = new_schema_url()
    yield new
    drop_schema(new)


@pytest.fixture(autouse=True)
def _any_status(rows: Rows) -> None:
    rows.execute("ALTER TABLE runs DROP CONSTRAINT runs_status_check")


def due(owner: int) -> ClaimDue:
    return ClaimDue(owner=owner, codes=codes_of("work"), now=1000, limit=9)


def dream(rows: Rows, run_id: str = "run") -> None:
    rows.execute("UPDATE runs SET status = 'dreaming' WHERE id = %s", run_id)


def test_a_run_with_a_status_that_nobody_knows_is_parked_and_the_others_are_claimed(
    store: PostgresStore, rows: Rows
) -> None:
    rows.add_runs(1, status="dreaming")
    rows.add_runs(1)
    damaged, sound = one(store, due(register(store)))
    assert "status holds 'dreaming'" in damaged.damage
    assert (damaged.owner, sound.damage) == (None, None)
    assert rows.all("SELECT status, problem LIKE %s FROM runs WHERE id = 'run-0'", "%dreaming%") == [
        ("suspended", True)
    ]
    assert one(store, due(register(store))) == ()


def test_its_owner_gets_it_parked_whatever_he_says(store: PostgresStore, rows: Rows) -> None:
    said: dict[str, Any] = {}
    for run_id in ("refused", "parked", "continued"):
        _, fence = owned(store, run_id)
        dream(rows, run_id)
        operations: dict[str, Operation] = {
            "refused": Refuse(fence=fence, code=1, problem="{}", now=40),
            "parked": ParkDamaged(fence=fence, problem="{}"),
            "continued": ContinueAsNew(fence=fence, args="[]", now=40),
        }
        said[run_id] = one(store, operations[run_id])
    assert (said["refused"], said["parked"]) == (Refused(()), True)
    assert isinstance(said["continued"], RunConflict)
    for run_id in ("refused", "parked"):
        row = row_of(store, run_id)
        assert (row.owner, row.status, row.damage) == (None, RunStatus.SUSPENDED, None)
        assert "status holds 'dreaming'" in (row.problem or "")


def test_claimed_by_its_id_it_is_parked_and_only_a_word_lets_it_go_on(store: PostgresStore, rows: Rows) -> None:
    start(store)
    dream(rows)
    claim = ClaimRun(owner=register(store), run_id="run", codes=codes_of("work"), now=50)
    assert "dreaming" in str(one(store, claim))
    assert "only somebody's word" in str(one(store, claim))
    assert row_of(store).owner is None
    asked = ClaimRun(owner=claim.owner, run_id="run", codes=codes_of("work"), is_asked_for=True, now=50)
    assert (one(store, asked).status, row_of(store).problem) == (RunStatus.RUNNING, None)


def test_it_can_be_resumed_abandoned_and_deleted(store: PostgresStore, rows: Rows) -> None:
    for run_id in ("resumed", "abandoned", "deleted"):
        start(store, run_id)
        dream(rows, run_id)
    resumed = one(store, ResumeRun(run_id="resumed", now=50))
    assert (resumed.status, resumed.problem, resumed.wake_at) == (RunStatus.SUSPENDED, None, 50)
    assert isinstance(one(store, abandon_operation("abandoned")), Abandoned)
    assert row_of(store, "abandoned").status is RunStatus.CANCELLED
    assert one(store, DeleteRun(run_id="deleted")) is True
    assert store.ask(FindRun("deleted")) is None
    assert [row.id for row in one(store, due(register(store)))] == ["resumed"]


def test_its_parent_is_told_when_it_is_deleted(store: PostgresStore, rows: Rows) -> None:
    parent, _ = owned(store, "parent")
    start(store, parent=parent.run)
    dream(rows)
    assert one(store, DeleteRun(run_id="run")) is True
    assert [(entry.kind, entry.name) for entry in store.ask(ListUnread(parent.run))] == [("child", "run")]


def test_it_is_not_copied_and_one_with_an_unknown_row_is_not_resumed(store: PostgresStore, rows: Rows) -> None:
    _, fence = owned(store)
    add(store, fence, step(1, "a"), step(2, "b"))
    finish(store, fence, RunStatus.FAILED)
    rows.execute("UPDATE history SET kind = 'dream' WHERE name = 'b'")
    assert "kind holds 'dream'" in str(one(store, ResumeRun(run_id="run", now=50)))
    dream(rows)
    copied = one(store, ForkRun(run_id="run", before=Key("", "b", 0), id="copy", now=60))
    assert isinstance(copied, RunConflict)
    assert "status holds 'dreaming'" in str(copied)
