"""Operations on executors: registration with its kernel lock, leases, and what becomes of the runs of a dead one."""

from __future__ import annotations

from typing import Final

from durable_trio.stores.base import ReapExecutor, RegisterExecutor, RenewLease
from durable_trio.stores.sqlite.transaction import Transaction

__all__ = ["reap_executor", "register_executor", "renew_lease"]

# Rows of ended executors that are kept for people to look at; a process that restarts all day leaves no more.
_ENDED_KEPT: Final = 1000

REGISTER: Final = "INSERT INTO executors (pid, host, boot_id, started_at, lease_until) VALUES (?, ?, ?, ?, ?)"
FORGET: Final = "DELETE FROM executors WHERE id <= ? AND ended_at IS NOT NULL"
RENEW: Final = "UPDATE executors SET lease_until = ? WHERE id = ? AND ended_at IS NULL"
END: Final = """
    UPDATE executors SET ended_at = :now
    WHERE id = :executor AND ended_at IS NULL AND (:lease_before IS NULL OR lease_until < :lease_before)
"""
SET_FREE: Final = """
    UPDATE runs SET
        owner = NULL,
        recoveries = CASE
            WHEN NOT (:crashed OR run IN (SELECT value FROM json_each(:crashed_runs)))
                OR status NOT IN ('running', 'compensating') THEN recoveries
            WHEN EXISTS (SELECT 1 FROM history WHERE history.run = runs.run AND seq > claimed_seq) THEN 1
            ELSE recoveries + 1
        END,
        wake_at = CASE
            WHEN status = 'suspended'
                AND NOT EXISTS (SELECT 1 FROM mailbox WHERE mailbox.run = runs.run AND seq IS NULL) THEN wake_at
            ELSE :now
        END
    WHERE owner = :executor
"""


def register_executor(transaction: Transaction, operation: RegisterExecutor) -> int:
    """Store a new executor (see ``RegisterExecutor``). Its lock is held before anybody can see its row."""
    values = (operation.pid, operation.host, operation.boot_id, operation.now, operation.lease_until)
    transaction.execute(REGISTER, values)
    executor = transaction.cursor.lastrowid
    assert executor is not None
    transaction.owners.take(executor)
    transaction.registered.append(executor)
    transaction.execute(FORGET, (executor - _ENDED_KEPT,))
    return executor


def renew_lease(transaction: Transaction, operation: RenewLease) -> bool:
    """Prolong an executor's lease (see ``RenewLease``)."""
    transaction.execute(RENEW, (operation.lease_until, operation.executor))
    return transaction.cursor.rowcount == 1


def reap_executor(transaction: Transaction, operation: ReapExecutor) -> int | None:
    """Declare an executor dead and set its runs free (see ``ReapExecutor``)."""
    values = {
        "executor": operation.executor,
        "lease_before": operation.lease_before,
        "crashed": operation.crashed,
        "crashed_runs": str(sorted(operation.crashed_runs)),
        "now": operation.now,
    }
    transaction.execute(END, values)
    if transaction.cursor.rowcount != 1:
        return None
    transaction.end_executor(operation.executor)
    transaction.execute(SET_FREE, values)
    return transaction.cursor.rowcount
