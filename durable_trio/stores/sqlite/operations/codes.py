"""Codes: which of them executors have, and which runs they have refused."""

from __future__ import annotations

from typing import Final

from durable_trio.errors import OwnershipLost
from durable_trio.limits import UPKEEP_ROWS_MAX
from durable_trio.rules.damage import DAMAGED
from durable_trio.rules.refused import codes_in, is_too_much, refused_text
from durable_trio.rules.run_life import LIFE, RunEvent
from durable_trio.stores.contract import ForgetDeadCodes, ParkDamaged, Refuse, Refused, RegisterExecutor
from durable_trio.stores.sqlite.layout import NO_INTEGER
from durable_trio.stores.sqlite.operations.damage import FORGET_REFUSALS, park_damaged, update_run
from durable_trio.stores.sqlite.parked import OF_LIVING
from durable_trio.stores.sqlite.tables import REFUSED
from durable_trio.stores.sqlite.transaction import Transaction, is_owned, ownership_lost
from durable_trio.stores.statuses import is_one_of, status_after, word_after

__all__ = [
    "forget_codes",
    "forget_dead_codes",
    "forget_other_refusals",
    "forget_refusals",
    "living_codes",
    "park_run",
    "refuse",
    "register_codes",
]

ADD_CODE: Final = """
    INSERT INTO codes (workflow, version, fingerprint, first_seen_at) VALUES (?, ?, ?, ?)
    ON CONFLICT (workflow, version, fingerprint) DO NOTHING
"""
ADD_EXECUTOR_CODE: Final = """
    INSERT INTO executor_codes (executor, code)
    SELECT ?, code FROM codes WHERE workflow = ? AND version = ? AND fingerprint = ?
"""
FORGET_CODES: Final = "DELETE FROM executor_codes WHERE executor = ?"
# Of executors that are none that live: only a damaged file has any.
FORGET_STRAY_CODES: Final = """
    DELETE FROM executor_codes
    WHERE NOT EXISTS (SELECT 1 FROM executors WHERE id = executor_codes.executor AND ended_at IS NULL)
"""
LIVING_OF_WORKFLOW: Final = f"SELECT DISTINCT codes.code FROM {OF_LIVING} WHERE codes.workflow = ?"
LIVING_OF_VERSION: Final = f"{LIVING_OF_WORKFLOW} AND codes.version = ?"
FIND_REFUSED: Final = "SELECT workflow, version, refused, status FROM runs WHERE run = ?"
REFUSE: Final = f"""
    UPDATE runs SET owner = NULL, status = {status_after(RunEvent.REFUSE)}, wake_at = ?, is_due = 1, waits_for = NULL,
        refused = ?, changed = ?
    WHERE run = ? AND {is_one_of(LIFE[RunEvent.REFUSE])}
"""
ADD_REFUSAL: Final = "INSERT OR REPLACE INTO refusals (run, code, refused_at, problem) VALUES (?, ?, ?, ?)"
FORGET_OTHERS: Final = "DELETE FROM refusals WHERE run = ? AND instr(?, ',' || code || ',') = 0"
FIND_OF_SET: Final = f"""
    SELECT run, is_due = 1 OR wake_at <= ? FROM runs INDEXED BY runs_refused
    WHERE {REFUSED} AND workflow = ? AND version = ? AND refused = ? AND run > ? ORDER BY run LIMIT ? + 0
"""
PARK: Final = f"""
    UPDATE runs SET owner = NULL, status = {word_after(RunEvent.PARK)}, wake_at = NULL, waits_for = NULL,
        problem = ?, fingerprint = '{DAMAGED}', refused = '', changed = ?
    WHERE run = ? AND {is_one_of(LIFE[RunEvent.PARK])}
"""
SET_REFUSED: Final = "UPDATE runs SET refused = ? WHERE run = ?"


def register_codes(transaction: Transaction, executor: int, operation: RegisterExecutor) -> None:
    """Note which codes a new executor has."""
    transaction.execute(FORGET_STRAY_CODES)
    for workflow, version, fingerprint in operation.codes:
        transaction.execute(ADD_CODE, (workflow, version, fingerprint, operation.now))
        transaction.execute(ADD_EXECUTOR_CODE, (executor, workflow, version, fingerprint))


def forget_codes(transaction: Transaction, executor: int) -> None:
    """An executor is no more: nobody has its codes because of it."""
    transaction.execute(FORGET_CODES, (executor,))


def living_codes(transaction: Transaction, workflow: str, version: int | None = None) -> set[int]:
    """Return the codes of a workflow, or of one version of it, that some executor has."""
    if version is None:
        found = transaction.execute(LIVING_OF_WORKFLOW, (workflow,))
    else:
        found = transaction.execute(LIVING_OF_VERSION, (workflow, version))
    return {code for (code,) in found.fetchall()}


def forget_refusals(transaction: Transaction, run: int) -> None:
    """A run is to be tried anew by all codes: what they said of it before is of no use."""
    transaction.execute(FORGET_REFUSALS, (run,))


def forget_other_refusals(transaction: Transaction, run: int, refused: str) -> None:
    """Only these codes have refused a run from now on."""
    transaction.execute(FORGET_OTHERS, (run, refused))


def refuse(transaction: Transaction, operation: Refuse) -> Refused | OwnershipLost:
    """Give a run back that a code does not fit (see ``Refuse``)."""
    fence = operation.fence
    if not is_owned(transaction, fence):
        return ownership_lost(transaction, fence)
    run = fence.run
    workflow, version, before, status = transaction.execute(FIND_REFUSED, (run,)).fetchone()
    living = living_codes(transaction, workflow, version)
    refused = (codes_in(before if isinstance(before, str) else "") & living) | {operation.code}
    if is_too_much(refused):
        park_run(transaction, ParkDamaged(fence=fence, problem=operation.problem))
        return Refused(())
    text = refused_text(refused)
    is_changed = update_run(transaction, REFUSE, (operation.now, text, transaction.change(), run), run=run)
    if is_changed and transaction.cursor.rowcount != 1:
        park_damaged(transaction, run, why=f"run {run} is owned, but status holds {status!r}")
        return Refused(())
    forget_other_refusals(transaction, run, text)
    transaction.execute(ADD_REFUSAL, (run, operation.code, operation.now, operation.problem))
    return Refused(tuple(sorted(living - refused)))


def park_run(transaction: Transaction, operation: ParkDamaged) -> bool | OwnershipLost:
    """Park a run that is damaged (see ``ParkDamaged``)."""
    fence = operation.fence
    if not is_owned(transaction, fence):
        return ownership_lost(transaction, fence)
    values = (operation.problem, transaction.change(), fence.run)
    if update_run(transaction, PARK, values, run=fence.run) and transaction.cursor.rowcount != 1:
        name = transaction.execute(FIND_REFUSED, (fence.run,)).fetchone()[-1]
        park_damaged(transaction, fence.run, why=f"run {fence.run} is owned, but status holds {name!r}")
    forget_refusals(transaction, fence.run)
    return True


def forget_dead_codes(transaction: Transaction, operation: ForgetDeadCodes) -> int | None:
    """Forget codes that nobody has of runs that sleep (see ``ForgetDeadCodes``)."""
    codes = set(operation.codes)
    left = codes & living_codes(transaction, operation.workflow, operation.version)
    if left == codes:
        return None
    after = NO_INTEGER if operation.after is None else operation.after
    which = (operation.now, operation.workflow, operation.version, refused_text(codes), after, UPKEEP_ROWS_MAX)
    rows = transaction.execute(FIND_OF_SET, which).fetchall()
    text = refused_text(left)
    for run, is_due in rows:
        if not is_due and update_run(transaction, SET_REFUSED, (text, run), run=run):
            forget_other_refusals(transaction, run, text)
    return rows[-1][0] if len(rows) == UPKEEP_ROWS_MAX else None
