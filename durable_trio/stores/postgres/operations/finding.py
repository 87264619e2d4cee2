"""The run that an operation is about, locked until the transaction ends."""

from __future__ import annotations

from typing import Final, NamedTuple

from durable_trio.rows import RunRow
from durable_trio.stores.postgres.parked import REFUSED
from durable_trio.stores.postgres.rows import RUN_COLUMNS, run_from
from durable_trio.stores.postgres.transaction import Transaction

__all__ = ["FIND_RUN", "Found", "lock_run", "read_run", "share_run"]

FIND_RUN: Final = f"SELECT {RUN_COLUMNS} FROM runs WHERE id = $1::text"
# Who has waited for a lock sees what was committed meanwhile with the next statement only.
LOCK: Final = "SELECT run FROM runs WHERE id = $1::text FOR NO KEY UPDATE"
#: It stays as it is, but that its owner goes on with its history; others may lock it like that as well.
SHARE: Final = "SELECT run FROM runs WHERE id = $1::text FOR SHARE"
FIND: Final = f"SELECT ({REFUSED}), {RUN_COLUMNS} FROM runs WHERE id = $1::text"


class Found(NamedTuple):
    """A run, and whether some code has refused it, and nobody executes it."""

    row: RunRow
    is_refused: bool


def lock_run(transaction: Transaction, run_id: str) -> Found | None:
    """Lock the run with an id, and return it as it is then."""
    return _found(transaction, LOCK, run_id)


def share_run(transaction: Transaction, run_id: str) -> Found | None:
    """Keep the run with an id as it is but for its history, and return it."""
    return _found(transaction, SHARE, run_id)


def _found(transaction: Transaction, lock: str, run_id: str) -> Found | None:
    locked, found = transaction.exchange((lock, (run_id,)), (FIND, (run_id,)))
    if not locked.rows or not found.rows:  # one that came in between is not locked
        return None
    is_refused, *columns = found.rows[0]
    return Found(run_from(tuple(columns)), is_refused)


def read_run(transaction: Transaction, run_id: str) -> RunRow:
    """Return a run that is there."""
    return run_from(transaction.execute(FIND_RUN, run_id).rows[0])
