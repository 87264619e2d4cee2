"""What is kept of histories that have ended, in the file itself."""

from __future__ import annotations

from contextlib import closing

from durable_trio.limits import UPKEEP_ROWS_MAX
from durable_trio.stores.contract import DeleteRun, Sweep
from durable_trio.stores.sqlite import SqliteStore
from durable_trio.testing.store_contract.generations import continued
from durable_trio.testing.store_contract.kit import finish, one, owned, step


def counts(store: SqliteStore) -> tuple[int, int]:
    """Return how many rows there are, of which nobody may know."""
    with closing(store.connect()) as connection:
        (headers,) = connection.execute("SELECT count(*) FROM earlier_generations").fetchone()
        (rows,) = connection.execute("SELECT count(*) FROM earlier_history").fetchone()
        return headers, rows


def test_of_what_is_not_kept_no_row_is_left(store: SqliteStore) -> None:
    _, fence = owned(store)
    for number in range(7):
        fence = continued(store, fence, *(step(n, n=n) for n in range(number)), kept=2)
    assert counts(store) == (2, 5 + 6)
    for _ in range(2):
        fence = continued(store, fence, kept=0)
    assert counts(store) == (0, 0)


def test_no_transaction_removes_more_rows_of_them_than_any_may(store: SqliteStore) -> None:
    _, fence = owned(store)
    for _ in range(4):
        fence = continued(store, fence, *(step(n, n=n) for n in range(UPKEEP_ROWS_MAX // 2)))
    finish(store, fence)
    before = sum(counts(store))
    assert one(store, DeleteRun(run_id="run")) is True
    while before:
        assert one(store, Sweep(hidden_before=1)) > 0
        after = sum(counts(store))
        assert before - after <= UPKEEP_ROWS_MAX
        before = after
