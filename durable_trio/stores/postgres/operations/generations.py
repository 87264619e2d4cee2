"""A run begins anew: its history ends, and the last ones are kept apart, as ``stores.sqlite.operations.generations``
tells.
"""

from __future__ import annotations

from typing import Final

from durable_trio.errors import OwnershipLost, RunConflict
from durable_trio.limits import GENERATION_ROWS_MAX
from durable_trio.records import RunStatus
from durable_trio.rows import OWN_KEYS
from durable_trio.rules.run_life import LIFE, RunEvent
from durable_trio.stores.contract import ContinueAsNew
from durable_trio.stores.outcomes import cannot_become
from durable_trio.stores.postgres.operations.damage import FORGET_REFUSALS
from durable_trio.stores.postgres.transaction import TOUCH, Transaction, is_owned, ownership_lost
from durable_trio.stores.statuses import STATUS_OF, word_after

__all__ = ["CLEAR_WAITS", "continue_as_new"]

FIND: Final = "SELECT status, generation FROM runs WHERE run = $1::bigint"
_COLUMNS: Final = """
    key, seq, n, attempt, compensates, started_at, finished_at, kind, status, branch, name, error, result, earlier
"""
KEEP_HISTORY: Final = f"""
    INSERT INTO earlier_history (run, generation, {_COLUMNS})
    SELECT run, $2::bigint, {_COLUMNS} FROM history WHERE run = $1::bigint
    ORDER BY seq DESC LIMIT {GENERATION_ROWS_MAX}
"""
KEEP_GENERATION: Final = """
    INSERT INTO earlier_generations (run, generation, started_at, finished_at, left_out, version, args)
    SELECT run, generation, started_at, $2::bigint, $3::bigint, version, args FROM runs WHERE run = $1::bigint
"""
# How many are dropped at once.
FIND_DROPPED: Final = """
    SELECT max(generation) FROM (
        SELECT generation FROM earlier_generations WHERE run = $1::bigint AND generation <= $2::bigint
        ORDER BY generation LIMIT 2
    ) AS oldest
"""
DROP: Final = (
    "DELETE FROM earlier_history WHERE run = $1::bigint AND generation <= $2::bigint",
    "DELETE FROM earlier_generations WHERE run = $1::bigint AND generation <= $2::bigint",
)
CLEAR_HISTORY: Final = "DELETE FROM history WHERE run = $1::bigint"
CLEAR_WAITS: Final = "DELETE FROM waits WHERE run = $1::bigint"
FORGET_CONSUMED: Final = "DELETE FROM mailbox WHERE run = $1::bigint AND seq IS NOT NULL AND signal_id IS NULL"
UNTIE_CONSUMED: Final = "UPDATE mailbox SET seq = -1 WHERE run = $1::bigint AND seq >= 0"
FORGET_POSITIONS: Final = "UPDATE published SET seq = -1 WHERE run = $1::bigint"
CONTINUE: Final = f"""
    UPDATE runs SET owner = NULL, status = {word_after(RunEvent.CONTINUE_AS_NEW)}, generation = generation + 1,
        args = $2::text, version = coalesce($3::bigint, version), wake_at = $4::bigint, is_due = true, waits_for = NULL,
        started_at = NULL, error = NULL, recoveries = 0, claimed_seq = -1, keys = {OWN_KEYS}, refused = '', {TOUCH}
    WHERE run = $1::bigint
"""


def continue_as_new(transaction: Transaction, operation: ContinueAsNew) -> bool | OwnershipLost | RunConflict:
    """Let a run begin anew with other arguments (see ``ContinueAsNew``).

    Sequence numbers begin anew too, so what an earlier generation has consumed is no longer tied to one of them; of
    it only signals with an id are kept, to know them again.
    """
    fence = operation.fence
    if not is_owned(transaction, fence):
        return ownership_lost(transaction, fence)
    run, kept = fence.run, operation.generations_kept
    word, generation = transaction.execute(FIND, run).rows[0]
    if STATUS_OF.get(word) not in LIFE[RunEvent.CONTINUE_AS_NEW]:
        return cannot_become(run, word, RunStatus.PENDING)
    if kept == 0:
        transaction.execute(CLEAR_HISTORY, run)
    else:
        copied, cleared = transaction.exchange((KEEP_HISTORY, (run, generation)), (CLEAR_HISTORY, (run,)))
        transaction.execute(KEEP_GENERATION, run, operation.now, cleared.changed - copied.changed)
    if kept is not None:
        _drop(transaction, run, generation - kept)
    transaction.exchange(
        (CONTINUE, (run, operation.args, operation.version, operation.now)),
        *((text, (run,)) for text in (CLEAR_WAITS, FORGET_CONSUMED, UNTIE_CONSUMED, FORGET_POSITIONS, FORGET_REFUSALS)),
    )
    return True


def _drop(transaction: Transaction, run: int, last: int) -> None:
    """Forget generations up to one that are not to be kept any more, the oldest first and two at most."""
    ((found,),) = transaction.execute(FIND_DROPPED, run, last).rows
    if found is not None:
        transaction.exchange(*((text, (run, found)) for text in DROP))
