"""What there is to be said against a database."""

from __future__ import annotations

from durable_trio.stores.examination_questions import Examine
from durable_trio.stores.postgres.store import PostgresStore
from tests.stores.postgres.kit import Rows


def test_rows_without_their_run_are_counted(store: PostgresStore, rows: Rows) -> None:
    rows.add_runs(1)
    rows.execute("INSERT INTO published (run, key, value) VALUES (1, 'k', '1'), (2, 'k', '1')")
    rows.execute("INSERT INTO waits SELECT 3, gen_random_uuid(), 0, 7, 1, 1, 'retry', '', 'x', NULL, NULL")
    assert store.ask(Examine(due_before=1, set_aside="x")).dangling_count == 2
