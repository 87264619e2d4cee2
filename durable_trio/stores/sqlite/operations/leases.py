"""An executor's lease: it begins with its registration, is renewed, and ends; then its runs are set free.

With it goes a kernel lock, which tells at once that a process has died (``executor_locks``). Renewals, which observers
count, tell of those that are stopped or hang.
"""

from __future__ import annotations

from typing import Any, Final

from durable_trio.processes import boot_id, monotonic_now
from durable_trio.rules.run_life import ACTIVE, WAITING
from durable_trio.stores.contract import ReapExecutor, RegisterExecutor, RenewLease, TellDeath
from durable_trio.stores.sqlite.library import is_of_the_schema, sqlite3
from durable_trio.stores.sqlite.operations.codes import forget_codes, register_codes
from durable_trio.stores.sqlite.operations.damage import update_each
from durable_trio.stores.sqlite.transaction import Transaction
from durable_trio.stores.statuses import is_none_of, is_one_of
from durable_trio.stores.untold import untold_text

__all__ = ["reap_executor", "register_executor", "renew_lease", "tell_death"]

# Rows of ended executors that are kept for people to look at; a process that restarts all day leaves no more.
_ENDED_KEPT: Final = 1000

REGISTER: Final = """
    INSERT INTO executors (pid, host, boot_id, started_at, renewed_at, lease) VALUES (?, ?, ?, ?, ?, ?)
"""
NAME_LOCK: Final = "UPDATE executors SET lock = ? WHERE id = ?"
FORGET: Final = "DELETE FROM executors WHERE id <= ? AND ended_at IS NOT NULL"
RENEW: Final = """
    UPDATE executors SET renewals = renewals + 1, renewed_at = ? WHERE id = ? AND ended_at IS NULL RETURNING renewals
"""
END: Final = """
    UPDATE executors SET ended_at = :now
    WHERE id = :executor AND ended_at IS NULL AND (:renewals IS NULL OR renewals = :renewals)
"""
SET_FREE: Final = f"""
    UPDATE runs SET
        owner = NULL,
        recoveries = CASE
            WHEN NOT (:crashed OR run IN (SELECT value FROM json_each(:crashed_runs)))
                OR {is_none_of(ACTIVE)} THEN recoveries
            WHEN EXISTS (SELECT 1 FROM history WHERE history.run = runs.run AND seq > claimed_seq) THEN 1
            ELSE recoveries + 1
        END,
        wake_at = CASE
            WHEN {is_one_of(WAITING)}
                AND NOT EXISTS (SELECT 1 FROM mailbox WHERE mailbox.run = runs.run AND seq IS NULL) THEN wake_at
            ELSE :now
        END
    WHERE owner = :executor
"""
OWNED: Final = "SELECT run FROM runs WHERE owner = :executor"
# Owners that are no living executors: only a damaged file has any, and nobody would ever set their runs free.
GHOSTS: Final = """
    SELECT DISTINCT owner FROM runs INDEXED BY runs_owned
    WHERE owner IS NOT NULL AND NOT EXISTS (SELECT 1 FROM executors WHERE id = owner AND ended_at IS NULL)
"""
PUT_DEATH: Final = """
    INSERT OR REPLACE INTO deaths (executor, pid, host, stage, runs, untold, teller) VALUES (?, ?, ?, ?, ?, ?, ?)
"""
CHANGE_DEATH: Final = "UPDATE deaths SET teller = ?, stage = ? WHERE executor = ? AND teller = ?"
REMOVE_DEATH: Final = "DELETE FROM deaths WHERE executor = ? AND teller = ?"
REMOVE: Final = "DELETE FROM executors WHERE id = ?"


def register_executor(transaction: Transaction, operation: RegisterExecutor) -> int:
    """Store a new executor (see ``RegisterExecutor``). Its lock is held before anybody can see its row."""
    values = (operation.pid, operation.host, boot_id(), operation.now, monotonic_now(), operation.lease)
    transaction.execute(REGISTER, values)
    executor = transaction.cursor.lastrowid
    assert executor is not None
    lock = transaction.locks.take(executor)
    transaction.registered.append(executor)
    transaction.execute(NAME_LOCK, (lock, executor))
    try:
        transaction.execute(FORGET, (executor - _ENDED_KEPT,))
    except sqlite3.Error as error:  # somebody else's table refers to one of them
        if not (is_of_the_schema(error) and transaction.is_there):
            raise
    register_codes(transaction, executor, operation)
    for (ghost,) in transaction.execute(GHOSTS).fetchall():
        _set_free(transaction, {"executor": ghost, "crashed": False, "crashed_runs": "[]", "now": operation.now})
    return executor


def renew_lease(transaction: Transaction, operation: RenewLease) -> bool:
    """Say that an executor lives (see ``RenewLease``)."""
    try:
        found = transaction.execute(RENEW, (monotonic_now(), operation.executor)).fetchall()
    except sqlite3.IntegrityError:  # its row is damaged: it becomes another one
        return False
    if not found:
        return False
    transaction.renewed = operation.executor, found[0][0]
    return True


def reap_executor(transaction: Transaction, operation: ReapExecutor) -> int | None:
    """Declare an executor dead and set its runs free (see ``ReapExecutor``)."""
    values = {
        "executor": operation.executor,
        "renewals": operation.renewals,
        "crashed": operation.crashed,
        "crashed_runs": str(sorted(operation.crashed_runs)),
        "now": operation.now,
    }
    has_ended = _end(transaction, values)
    if has_ended or operation.renewals is None:  # if others were first: what this store holds for it is of no use
        transaction.end_executor(operation.executor)
    if not has_ended:
        return None
    forget_codes(transaction, operation.executor)
    count = _set_free(transaction, values)
    if operation.death is not None:
        death = operation.death
        untold = untold_text(death.untold)
        stored = (operation.executor, death.pid, death.host, death.stage, count, untold, death.teller)
        transaction.execute(PUT_DEATH, stored)
    return count


def tell_death(transaction: Transaction, operation: TellDeath) -> bool:
    """Change who is to tell of a death, or remove it (see ``TellDeath``)."""
    becomes, known = operation.becomes, (operation.executor, operation.teller)
    if becomes is None:
        transaction.execute(REMOVE_DEATH, known)
    else:
        transaction.execute(CHANGE_DEATH, (becomes.teller, becomes.stage, *known))
    return transaction.cursor.rowcount == 1


def _end(transaction: Transaction, values: dict[str, Any]) -> bool:
    """Note that an executor has ended, and return whether it had not before. A damaged row cannot be kept."""
    try:
        transaction.execute(END, values)
    except sqlite3.IntegrityError:
        transaction.execute(REMOVE, (values["executor"],))
    return transaction.cursor.rowcount == 1


def _set_free(transaction: Transaction, values: dict[str, Any]) -> int:
    return update_each(transaction, SET_FREE, values, which=OWNED)
