"""An executor's lease: it begins with its registration and ends with its death; then its runs are set free.

Whoever writes for an executor holds its row by a key share until the commit (``is_executor_alive``). So who declares it
dead takes the row ``FOR UPDATE``, which waits for all of them and lets none in: a mere UPDATE would not keep a key
share out, and a row of the dead one could be committed after its runs were set free.

What is set free is locked first, and looked at by later statements: these see what was committed meanwhile. Two that
declare each other dead wait for nobody: alone, such a transaction holds nothing of its own executor, and in a batch the
rows of all executors are locked first, in their order (``batch``).
"""

from __future__ import annotations

from typing import Final

from durable_trio.rules.run_life import ACTIVE, WAITING
from durable_trio.stores.contract import ReapExecutor, RegisterExecutor, TellDeath
from durable_trio.stores.postgres.operations.codes import FORGET_CODES, register_codes
from durable_trio.stores.postgres.operations.reports import FORGET_OPEN_BEFORE, forget_open_steps
from durable_trio.stores.postgres.texts import numbers
from durable_trio.stores.postgres.transaction import NOW, Transaction
from durable_trio.stores.statuses import is_none_of, is_one_of
from durable_trio.stores.untold import untold_text

__all__ = ["RENEW_MEANWHILE", "reap_executor", "register_executor", "tell_death"]

# Rows of ended executors that are kept for people to look at; a process that restarts all day leaves no more.
_ENDED_KEPT: Final = 1000

REGISTER: Final = f"""
    INSERT INTO executors (instance, pid, host, started_at, renewed_at, lease)
    VALUES ($1::bigint, $2::bigint, $3::text, $4::bigint, {NOW}, $5::bigint) RETURNING id
"""
# Those that another one is about to forget are left to it.
FORGET: Final = """
    DELETE FROM executors WHERE id IN (
        SELECT id FROM executors WHERE id <= $1::bigint AND ended_at IS NOT NULL FOR UPDATE SKIP LOCKED
    )
"""
LOCK_LIVING: Final = """
    SELECT 1 FROM executors
    WHERE id = $1::bigint AND ended_at IS NULL AND ($2::bigint IS NULL OR renewals = $2::bigint) FOR UPDATE
"""
LOCK_RUNS: Final = "SELECT run FROM runs WHERE owner = $1::bigint ORDER BY run FOR NO KEY UPDATE"
#: Without a batch around it, while the loop is blocked (``Store.renew_meanwhile``).
RENEW_MEANWHILE: Final = f"""
    UPDATE executors SET renewals = renewals + 1, renewed_at = {NOW} WHERE id = $1::bigint AND ended_at IS NULL
"""
END: Final = "UPDATE executors SET ended_at = $2::bigint WHERE id = $1::bigint"
# Not by EXISTS, for which the server may read a table whole.
SET_FREE: Final = f"""
    UPDATE runs SET
        owner = NULL,
        recoveries = CASE
            WHEN NOT ($3::boolean OR run = ANY ($4::bigint[])) OR {is_none_of(ACTIVE)} THEN recoveries
            WHEN (SELECT true FROM history WHERE history.run = runs.run AND seq > claimed_seq LIMIT 1) THEN 1
            ELSE recoveries + 1
        END,
        wake_at = CASE
            WHEN {is_one_of(WAITING)}
                AND (SELECT true FROM mailbox WHERE mailbox.run = runs.run AND seq IS NULL LIMIT 1) IS NULL THEN wake_at
            ELSE $2::bigint
        END
    WHERE owner = $1::bigint
"""
# Owners that are no living executors: nobody would ever set their runs free. One seek for each owner there is.
GHOSTS: Final = """
    WITH RECURSIVE owners (id) AS (
        (SELECT owner FROM runs WHERE owner IS NOT NULL ORDER BY owner LIMIT 1)
        UNION ALL
        SELECT (SELECT owner FROM runs WHERE owner > owners.id ORDER BY owner LIMIT 1) FROM owners
        WHERE owners.id IS NOT NULL
    )
    SELECT id FROM owners
    WHERE id IS NOT NULL
        AND NOT EXISTS (SELECT 1 FROM executors WHERE executors.id = owners.id AND ended_at IS NULL)
"""
PUT_DEATH: Final = """
    INSERT INTO deaths (executor, pid, host, stage, runs, untold, teller)
    VALUES ($1::bigint, $2::bigint, $3::text, $4::text, $5::bigint, $6::text, $7::text)
    ON CONFLICT (executor) DO UPDATE SET pid = excluded.pid, host = excluded.host, stage = excluded.stage,
        runs = excluded.runs, untold = excluded.untold, teller = excluded.teller
"""
CHANGE_DEATH: Final = """
    UPDATE deaths SET teller = $3::text, stage = $4::text WHERE executor = $1::bigint AND teller = $2::text
"""
REMOVE_DEATH: Final = "DELETE FROM deaths WHERE executor = $1::bigint AND teller = $2::text"


def register_executor(transaction: Transaction, operation: RegisterExecutor) -> int:
    """Store a new executor (see ``RegisterExecutor``). It is there as long as the open store that has it is."""
    values = (transaction.instance, operation.pid, operation.host, operation.now, operation.lease)
    executor: int = transaction.execute(REGISTER, *values).rows[0][0]
    register_codes(transaction, executor, operation)
    *_, ghosts = transaction.exchange(
        (FORGET_OPEN_BEFORE, (transaction.instance, executor)), (FORGET, (executor - _ENDED_KEPT,)), (GHOSTS, ())
    )
    for (ghost,) in ghosts.rows:
        _set_free(transaction, ghost, operation.now)
    return executor


def reap_executor(transaction: Transaction, operation: ReapExecutor) -> int | None:
    """Declare an executor dead and set its runs free (see ``ReapExecutor``)."""
    executor, now = operation.executor, operation.now
    if not transaction.execute(LOCK_LIVING, executor, operation.renewals).rows:
        return None
    transaction.exchange((END, (executor, now)), (FORGET_CODES, (executor,)))
    transaction.end_executor(executor)
    forget_open_steps(transaction, executor, has_died=operation.death is not None)
    count = _set_free(transaction, executor, now, crashed=operation.crashed, crashed_runs=operation.crashed_runs)
    if operation.death is not None:
        death = operation.death
        stored = (executor, death.pid, death.host, str(death.stage), count, untold_text(death.untold), death.teller)
        transaction.execute(PUT_DEATH, *stored)
    return count


def tell_death(transaction: Transaction, operation: TellDeath) -> bool:
    """Change who is to tell of a death, or remove it (see ``TellDeath``)."""
    becomes, known = operation.becomes, (operation.executor, operation.teller)
    if becomes is None:
        return transaction.execute(REMOVE_DEATH, *known).changed == 1
    return transaction.execute(CHANGE_DEATH, *known, becomes.teller, str(becomes.stage)).changed == 1


def _set_free(
    transaction: Transaction,
    executor: int,
    now: int,
    *,
    crashed: bool = False,
    crashed_runs: frozenset[int] = frozenset(),
) -> int:
    """Set the runs of an executor that is no more free, and return how many these are."""
    _, freed = transaction.exchange(
        (LOCK_RUNS, (executor,)), (SET_FREE, (executor, now, crashed, numbers(crashed_runs)))
    )
    return freed.changed
