"""Operations on reports: what the processes at this database say of themselves, for people to look at."""

from __future__ import annotations

from typing import Final

from durable_trio.stores.contract import PutReport
from durable_trio.stores.postgres.transaction import Transaction

__all__ = ["put_report"]

PUT: Final = """
    INSERT INTO reports (process, instance, updated_at, report) VALUES ($1::text, $2::bigint, $3::bigint, $4::text)
    ON CONFLICT (process) DO UPDATE SET instance = excluded.instance, updated_at = excluded.updated_at,
        report = excluded.report
"""
REMOVE: Final = "DELETE FROM reports WHERE process = $1::text"


def put_report(transaction: Transaction, operation: PutReport) -> None:
    """Store or remove the report of a process (see ``PutReport``)."""
    if operation.report is None:
        transaction.execute(REMOVE, operation.process)
    else:
        transaction.execute(PUT, operation.process, transaction.instance, operation.now, operation.report)
