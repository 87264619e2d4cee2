"""Histories that a run has ended to begin anew: the last ones are kept.

They stand in tables of their own: whoever looks up the history of a run finds the present one alone, at the cost of
that. All is done in the transaction that begins the next, so it is bounded: of a long history the last rows are kept,
and of generations that are not to be kept any more at most two go. One comes with each, so they become fewer.
"""

from __future__ import annotations

from typing import Final

from durable_trio.limits import GENERATION_ROWS_MAX
from durable_trio.stores.sqlite.transaction import Transaction

__all__ = ["drop_generations", "end_history"]

# ``+id``: by the index of the run, not by the number.
KEEP_HISTORY: Final = """
    INSERT INTO earlier_history (run, generation, seq, branch, name, n, kind, status, attempt, compensates, started_at,
        finished_at, error, result, earlier)
    SELECT run, (SELECT generation FROM runs WHERE run = :run), seq, branch, name, n, kind, status, attempt,
        compensates, started_at, finished_at, error, result, earlier
    FROM history
    WHERE run = :run AND +id > coalesce(
        (SELECT id FROM history WHERE run = :run ORDER BY id DESC LIMIT 1 OFFSET :rows_max + 0), -1
    ) ORDER BY id
"""
KEEP_GENERATION: Final = """
    INSERT INTO earlier_generations (run, generation, started_at, finished_at, left_out, version, args)
    SELECT run, generation, started_at, ?, ?, version, args FROM runs WHERE run = ?
"""
# How many are dropped at once.
FIND_DROPPED: Final = """
    SELECT max(generation) FROM (
        SELECT generation FROM earlier_generations
        WHERE run = :run AND generation <= (SELECT generation FROM runs WHERE run = :run) - 1 - :kept
        ORDER BY generation LIMIT 2
    )
"""
DROP: Final = (
    "DELETE FROM earlier_history WHERE run = ? AND generation <= ?",
    "DELETE FROM earlier_generations WHERE run = ? AND generation <= ?",
)
CLEAR_HISTORY: Final = "DELETE FROM history WHERE run = ?"


def end_history(transaction: Transaction, run: int, *, now: int, kept: int | None) -> None:
    """Take a run's history away, and keep it apart, with the arguments that it began with, unless none is kept."""
    kept_count = 0
    if kept != 0:
        transaction.execute(KEEP_HISTORY, {"run": run, "rows_max": GENERATION_ROWS_MAX})
        kept_count = transaction.cursor.rowcount
    transaction.execute(CLEAR_HISTORY, (run,))
    if kept != 0:
        transaction.execute(KEEP_GENERATION, (now, transaction.cursor.rowcount - kept_count, run))


def drop_generations(transaction: Transaction, run: int, *, kept: int | None) -> None:
    """Forget what a run, which is in its next generation now, is not to keep any more, the oldest first."""
    if kept is None:
        return
    (last,) = transaction.execute(FIND_DROPPED, {"run": run, "kept": kept}).fetchone()
    if last is not None:
        for statement in DROP:
            transaction.execute(statement, (run, last))
