"""Word of a run's end for its parent, where that is ended by other statements than most (``letters``)."""

from __future__ import annotations

from typing import Final

from durable_trio.rules.run_life import FINAL, WAITING
from durable_trio.stores.postgres.transaction import Transaction
from durable_trio.stores.statuses import is_none_of, is_one_of

__all__ = ["tell_parent"]

TELL: Final = f"""
    INSERT INTO mailbox (run, created_at, kind, name, payload)
    SELECT parents.run, $2::bigint, 'child', child.id, to_json(child.status)::text
    FROM (SELECT run FROM runs WHERE run = (SELECT parent FROM runs WHERE run = $1::bigint) AND {is_none_of(FINAL)})
        AS parents, (SELECT id, status FROM runs WHERE run = $1::bigint) AS child
"""
WAKE: Final = f"""
    UPDATE runs SET wake_at = least(coalesce(wake_at, $2::bigint), $2::bigint), is_due = true
    WHERE run = (SELECT parent FROM runs WHERE run = $1::bigint) AND owner IS NULL AND {is_one_of(WAITING)}
        AND problem IS NULL
"""


def tell_parent(transaction: Transaction, run: int, now: int) -> None:
    """Leave word of a run's end with its parent, if it has one that has not ended, and wake it if it sleeps.

    Both are locked.
    """
    transaction.exchange((TELL, (run, now)), (WAKE, (run, now)))
