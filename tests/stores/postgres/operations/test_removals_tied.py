"""Removals where tables and triggers of somebody else's refer to what is to go."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from durable_trio.errors import RunConflict
from durable_trio.limits import UPKEEP_ROWS_MAX
from durable_trio.stores.contract import DeleteRun, Stuck, Sweep
from durable_trio.stores.postgres.store import PostgresStore
from durable_trio.testing.store_contract.kit import one, start_operation
from tests.kit.postgres import drop_schema, new_schema_url
from tests.stores.postgres.kit import Rows
from tests.stores.postgres.operations.kit import ended, prune


@pytest.fixture
def url() -> Iterator[str]:
    """Of a schema that a test may change."""
    new = new_schema_url()
    yield new
    drop_schema(new)


@pytest.mark.parametrize("deferrable", ["", "DEFERRABLE INITIALLY DEFERRED"])
def test_a_run_that_a_row_of_somebody_elses_table_refers_to_stays_and_is_named(
    store: PostgresStore, rows: Rows, deferrable: str
) -> None:
    first = ended(store, "first", now=40)
    kept = ended(store, "kept", now=50)
    rows.execute(f"CREATE TABLE notes (run bigint REFERENCES runs (run) {deferrable})")
    rows.execute("INSERT INTO notes VALUES (%s)", kept)
    outcomes = store.apply([DeleteRun(run_id="kept"), start_operation("new")])
    assert outcomes is not None
    refused, started = outcomes
    assert isinstance(refused, RunConflict)
    assert "run 'kept' cannot be removed: update or delete on table \"runs\" violates" in str(refused)
    assert started.created
    pruned = prune(store)
    assert (pruned.count, [each.run_id for each in pruned.stuck]) == (1, ["kept"])
    assert pruned.stuck[0].position == (50, kept)
    assert rows.all("SELECT run FROM history") == [(kept,)]
    assert rows.one("SELECT count(*) FROM runs WHERE run = %s", first) == 0
    rows.execute("DELETE FROM notes")
    assert prune(store).count == 1


def test_a_large_run_that_is_referred_to_by_its_number_is_hidden_and_stays_the_last_of_it(
    store: PostgresStore, rows: Rows
) -> None:
    run = ended(store, rows=UPKEEP_ROWS_MAX + 30)
    rows.execute("CREATE TABLE notes (run bigint REFERENCES runs (run))")
    rows.execute("INSERT INTO notes VALUES (%s)", run)
    assert one(store, DeleteRun(run_id="run")) is True
    assert one(store, Sweep(hidden_before=1)) == UPKEEP_ROWS_MAX
    stuck = one(store, Sweep(hidden_before=1))
    assert isinstance(stuck, Stuck)
    assert (stuck.run_id, stuck.position) == ("run", (0, run))
    assert one(store, Sweep(hidden_before=1, after=stuck.position)) == 0
    rows.execute("DELETE FROM notes")
    assert one(store, Sweep(hidden_before=1)) == 31
    assert rows.one("SELECT count(*) FROM runs") == 0


def test_a_large_run_that_is_referred_to_by_its_id_goes_at_once_or_stays(store: PostgresStore, rows: Rows) -> None:
    ended(store, "free", rows=UPKEEP_ROWS_MAX + 30)
    ended(store, "kept", rows=UPKEEP_ROWS_MAX + 30)
    rows.execute('CREATE TABLE notes (id text COLLATE "C" REFERENCES runs (id), more text)')
    rows.execute('CREATE TABLE ties (id text COLLATE "C" REFERENCES runs (id) ON DELETE CASCADE)')
    rows.execute("INSERT INTO notes VALUES ('kept', '')")
    rows.execute("INSERT INTO ties VALUES ('free')")
    assert isinstance(one(store, DeleteRun(run_id="kept")), RunConflict)
    assert one(store, DeleteRun(run_id="free")) is True
    assert rows.all("SELECT id FROM runs") == [("kept",)]
    assert rows.one("SELECT count(*) FROM history") == UPKEEP_ROWS_MAX + 30
    assert rows.all("SELECT * FROM ties") == []


def test_what_a_trigger_forbids_or_ignores_stays_and_is_named(store: PostgresStore, rows: Rows) -> None:
    for run_id in ("forbidden", "ignored", "free"):
        ended(store, run_id)
    rows.execute(
        "CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF OLD.id = 'forbidden' THEN RAISE EXCEPTION 'hands off'; END IF; "
        "IF OLD.id = 'ignored' THEN RETURN NULL; END IF; RETURN OLD; END $$"
    )
    rows.execute("CREATE TRIGGER guards BEFORE DELETE ON runs FOR EACH ROW EXECUTE FUNCTION guard()")
    assert "hands off" in str(one(store, DeleteRun(run_id="forbidden")))
    assert "a trigger ignores the removal" in str(one(store, DeleteRun(run_id="ignored")))
    pruned = prune(store)
    assert (pruned.count, [each.run_id for each in pruned.stuck]) == (1, ["forbidden", "ignored"])
    assert rows.one("SELECT count(*) FROM history") == 2
