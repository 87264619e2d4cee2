"""Operations on reports: what the processes of this file say of themselves, for people to look at."""

from __future__ import annotations

from typing import Final

from durable_trio.stores.contract import PutReport
from durable_trio.stores.sqlite.transaction import Transaction

__all__ = ["put_report"]

PUT: Final = """
    INSERT INTO reports (process, updated_at, report) VALUES (?, ?, ?)
    ON CONFLICT (process) DO UPDATE SET updated_at = excluded.updated_at, report = excluded.report
"""
REMOVE: Final = "DELETE FROM reports WHERE process = ?"


def put_report(transaction: Transaction, operation: PutReport) -> None:
    """Store or remove the report of a process (see ``PutReport``)."""
    if operation.report is None:
        transaction.execute(REMOVE, (operation.process,))
    else:
        transaction.execute(PUT, (operation.process, operation.now, operation.report))
