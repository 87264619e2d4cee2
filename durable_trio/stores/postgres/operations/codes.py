"""Codes: which of them executors have, and which runs they have refused."""

from __future__ import annotations

from typing import Final

from durable_trio.errors import OwnershipLost
from durable_trio.limits import UPKEEP_ROWS_MAX
from durable_trio.rules.refused import codes_in, is_too_much, refused_text
from durable_trio.rules.run_life import LIFE, RunEvent
from durable_trio.stores.contract import ForgetDeadCodes, ParkDamaged, Refuse, Refused, RegisterExecutor
from durable_trio.stores.postgres.operations.damage import FORGET_REFUSALS, park_damaged
from durable_trio.stores.postgres.parked import OF_LIVING, REFUSED
from durable_trio.stores.postgres.texts import numbers
from durable_trio.stores.postgres.transaction import TOUCH, Transaction, is_owned, ownership_lost
from durable_trio.stores.statuses import is_one_of, status_after, word_after

__all__ = ["FORGET_CODES", "forget_dead_codes", "living_codes", "park_run", "refuse", "register_codes"]

# A number is taken only where there is something to add. In one order, so that two that register the same codes do not
# wait for each other.
ADD_CODE: Final = """
    INSERT INTO codes (workflow, version, fingerprint, first_seen_at)
    SELECT $1::text, $2::bigint, $3::text, $4::bigint WHERE NOT EXISTS (
        SELECT 1 FROM codes WHERE workflow = $1::text AND version = $2::bigint AND fingerprint = $3::text
    )
    ON CONFLICT (workflow, version, fingerprint) DO NOTHING
"""
# A statement of its own, and after that: it sees the one that another transaction has just added.
ADD_EXECUTOR_CODE: Final = """
    INSERT INTO executor_codes (executor, code)
    SELECT $1::bigint, code FROM codes WHERE workflow = $2::text AND version = $3::bigint AND fingerprint = $4::text
    ON CONFLICT DO NOTHING
"""
#: An executor is no more: nobody has its codes because of it.
FORGET_CODES: Final = "DELETE FROM executor_codes WHERE executor = $1::bigint"
# Of executors that are none that live.
FORGET_STRAY_CODES: Final = """
    DELETE FROM executor_codes
    WHERE NOT EXISTS (SELECT 1 FROM executors WHERE id = executor_codes.executor AND ended_at IS NULL)
"""
LIVING_OF_WORKFLOW: Final = f"SELECT DISTINCT codes.code FROM {OF_LIVING} WHERE codes.workflow = $1::text"
LIVING_OF_VERSION: Final = f"{LIVING_OF_WORKFLOW} AND codes.version = $2::bigint"
FIND_REFUSED: Final = "SELECT workflow, version, refused, status FROM runs WHERE run = $1::bigint"
REFUSE: Final = f"""
    UPDATE runs SET owner = NULL, status = {status_after(RunEvent.REFUSE)}, wake_at = $2::bigint, is_due = true,
        waits_for = NULL, refused = $3::text, {TOUCH}
    WHERE run = $1::bigint AND {is_one_of(LIFE[RunEvent.REFUSE])}
"""
ADD_REFUSAL: Final = """
    INSERT INTO refusals (run, code, refused_at, problem) VALUES ($1::bigint, $2::bigint, $3::bigint, $4::text)
    ON CONFLICT (run, code) DO UPDATE SET refused_at = excluded.refused_at, problem = excluded.problem
"""
FORGET_OTHERS: Final = """
    DELETE FROM refusals WHERE run = $1::bigint AND position(',' || code || ',' IN $2::text) = 0
"""
PARK: Final = f"""
    UPDATE runs SET owner = NULL, status = {word_after(RunEvent.PARK)}, wake_at = NULL, is_due = false,
        waits_for = NULL, problem = $2::text, refused = '', {TOUCH}
    WHERE run = $1::bigint AND {is_one_of(LIFE[RunEvent.PARK])}
"""
FIND_OF_SET: Final = f"""
    SELECT run FROM runs
    WHERE {REFUSED} AND workflow = $1::text AND version = $2::bigint AND refused = $3::text AND run > $4::bigint
    ORDER BY run LIMIT {UPKEEP_ROWS_MAX}
"""
# What somebody holds is about to be another's: left to whoever claims it.
LOCK_ASLEEP: Final = f"""
    SELECT run FROM runs
    WHERE run = ANY ($1::bigint[]) AND CASE WHEN {REFUSED} THEN
        refused = $2::text AND NOT is_due AND (wake_at IS NULL OR wake_at > $3::bigint) ELSE false END
    ORDER BY run FOR NO KEY UPDATE SKIP LOCKED
"""
SET_REFUSED: Final = "UPDATE runs SET refused = $2::text WHERE run = ANY ($1::bigint[])"
FORGET_OTHERS_OF: Final = """
    DELETE FROM refusals WHERE run = ANY ($1::bigint[]) AND position(',' || code || ',' IN $2::text) = 0
"""


def register_codes(transaction: Transaction, executor: int, operation: RegisterExecutor) -> None:
    """Note which codes a new executor has."""
    transaction.execute(FORGET_STRAY_CODES)
    for code in sorted(operation.codes):
        transaction.exchange((ADD_CODE, (*code, operation.now)), (ADD_EXECUTOR_CODE, (executor, *code)))


def living_codes(transaction: Transaction, workflow: str, version: int | None = None) -> set[int]:
    """Return the codes of a workflow, or of one version of it, that some executor has."""
    if version is None:
        found = transaction.execute(LIVING_OF_WORKFLOW, workflow)
    else:
        found = transaction.execute(LIVING_OF_VERSION, workflow, version)
    return {code for (code,) in found.rows}


def refuse(transaction: Transaction, operation: Refuse) -> Refused | OwnershipLost:
    """Give a run back that a code does not fit (see ``Refuse``)."""
    fence = operation.fence
    if not is_owned(transaction, fence):
        return ownership_lost(transaction, fence)
    run = fence.run
    workflow, version, before, status = transaction.execute(FIND_REFUSED, run).rows[0]
    living = living_codes(transaction, workflow, version)
    refused = (codes_in(before) & living) | {operation.code}
    if is_too_much(refused):
        park_run(transaction, ParkDamaged(fence=fence, problem=operation.problem))
        return Refused(())
    text = refused_text(refused)
    if transaction.execute(REFUSE, run, operation.now, text).changed != 1:
        park_damaged(transaction, run, why=f"run {run} is owned, but status holds {status!r}")
        return Refused(())
    transaction.exchange(
        (FORGET_OTHERS, (run, text)), (ADD_REFUSAL, (run, operation.code, operation.now, operation.problem))
    )
    return Refused(tuple(sorted(living - refused)))


def park_run(transaction: Transaction, operation: ParkDamaged) -> bool | OwnershipLost:
    """Park a run that is damaged (see ``ParkDamaged``)."""
    fence = operation.fence
    if not is_owned(transaction, fence):
        return ownership_lost(transaction, fence)
    run = fence.run
    parked, _, found = transaction.exchange(
        (PARK, (run, operation.problem)), (FORGET_REFUSALS, (run,)), (FIND_REFUSED, (run,))
    )
    if parked.changed != 1:
        park_damaged(transaction, run, why=f"run {run} is owned, but status holds {found.rows[0][-1]!r}")
    return True


def forget_dead_codes(transaction: Transaction, operation: ForgetDeadCodes) -> int | None:
    """Forget codes that nobody has of runs that sleep (see ``ForgetDeadCodes``)."""
    codes = set(operation.codes)
    left = codes & living_codes(transaction, operation.workflow, operation.version)
    if left == codes:
        return None
    before, text = refused_text(codes), refused_text(left)
    after = -1 if operation.after is None else operation.after
    found = transaction.execute(FIND_OF_SET, operation.workflow, operation.version, before, after).rows
    runs = [run for (run,) in found]
    asleep = [run for (run,) in transaction.execute(LOCK_ASLEEP, numbers(runs), before, operation.now).rows]
    if asleep:
        which = numbers(asleep)
        transaction.exchange((SET_REFUSED, (which, text)), (FORGET_OTHERS_OF, (which, text)))
    return runs[-1] if len(runs) == UPKEEP_ROWS_MAX else None
