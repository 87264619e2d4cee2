"""A word that this version does not know makes a damaged record, and never an error."""

from __future__ import annotations

from durable_trio.records import RunStatus, StepKind, StepStatus
from durable_trio.stores.postgres.store import PostgresStore
from durable_trio.stores.questions import CountRuns, FindRun, ListHistory, ListRuns, ListUnread, LoadRun, RunFilter
from tests.stores.postgres.kit import Rows


def test_words_of_a_newer_version_are_told_as_damage(store: PostgresStore, rows: Rows) -> None:
    rows.add_runs(1)
    rows.execute(
        "INSERT INTO history "
        "SELECT 1, gen_random_uuid(), 1, 0, 1, false, 1, 2, 'leap', 'vague', '', 'x', NULL, '1', NULL"
    )
    (row,) = store.ask(ListHistory(1))
    assert (row.kind, row.status) == (StepKind.UNREADABLE, StepStatus.UNREADABLE)
    assert row.damage is not None
    assert "in table history, the row with seq 1" in row.damage
    assert "kind holds 'leap'" in row.damage
    assert "status holds 'vague'" in row.damage
    assert store.ask(LoadRun(1)).damage == row.damage
    rows.execute("UPDATE history SET kind = 'step', status = 'completed'")
    assert store.ask(LoadRun(1)).damage is None
    rows.execute("INSERT INTO waits SELECT 1, gen_random_uuid(), 0, 7, 1, 1, 'hover', '', 'x', NULL, NULL")
    loaded = store.ask(LoadRun(1))
    assert loaded.waits[0].kind == "unreadable"
    assert loaded.damage is not None
    assert "kind holds 'hover'" in loaded.damage


def test_a_run_and_a_message_of_a_newer_version_are_told_as_damaged(store: PostgresStore, rows: Rows) -> None:
    rows.execute("ALTER TABLE runs DROP CONSTRAINT runs_status_check")
    rows.execute("ALTER TABLE mailbox DROP CONSTRAINT mailbox_kind_check")
    rows.add_runs(1, status="dreaming")
    rows.execute("INSERT INTO mailbox (run, created_at, kind, name) VALUES (1, 1, 'whisper', 'x')")
    row = store.ask(FindRun("run-0"))
    assert row is not None
    assert row.status is RunStatus.SUSPENDED
    assert row.damage is not None
    assert "in table runs, the row with run 1, id 'run-0': status holds 'dreaming'" in row.damage
    (entry,) = store.ask(ListUnread(1))
    assert entry.kind == "unreadable"
    assert entry.damage is not None
    assert store.ask(CountRuns()).runs_by_status == {RunStatus.SUSPENDED: 1}
    assert len(store.ask(ListRuns(RunFilter(), limit=9))) == 1


def test_a_run_that_has_ended_at_no_time_is_damaged(store: PostgresStore, rows: Rows) -> None:
    rows.add_runs(1, status="completed")
    rows.add_runs(1, finished_at=5)
    for run_id, what in (
        ("run-0", "'completed', but finished_at is NULL"),
        ("run-1", "'pending', but finished_at holds 5"),
    ):
        row = store.ask(FindRun(run_id))
        assert row is not None
        assert row.damage is not None
        assert what in row.damage
