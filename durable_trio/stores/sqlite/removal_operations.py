"""Removing runs: one by its id, old ones, and the rest of what could not go in one transaction.

A run with many rows is hidden first: it has another id and is in no list from then on. Its rows go piece by piece, the
run itself last, whoever asks for the next piece: the caller, or the janitor after a crash. So nobody ever sees a part
of a run, and no transaction removes more rows than ``UPKEEP_ROWS_MAX``.
"""

from __future__ import annotations

import heapq
from contextlib import suppress
from itertools import islice
from typing import Final

from durable_trio.errors import RunConflict, RunNotFound
from durable_trio.limits import UPKEEP_ROWS_MAX
from durable_trio.rules.damage import DAMAGED
from durable_trio.stores.base import DeleteRun, Prune, Pruned, Sweep
from durable_trio.stores.sqlite.library import sqlite3
from durable_trio.stores.sqlite.message_operations import run_not_found, tell_parent
from durable_trio.stores.sqlite.rows import run_from
from durable_trio.stores.sqlite.start_operations import FIND_RUN
from durable_trio.stores.sqlite.transaction import Transaction

__all__ = ["DISCARD", "HIDDEN_ID", "IS_HIDDEN", "delete_run", "prune", "sweep"]

# Ended runs that one transaction looks at; children that are spared cost a look too.
_LOOKED_AT_MAX: Final = 200

# With a control character: no run of a user has such an id.
HIDDEN_ID: Final = "char(1) || 'hidden '"
HIDE: Final = f"""
    UPDATE runs SET id = {HIDDEN_ID} || run, hidden_at = 0, wake_at = NULL, problem = NULL, queue = NULL, parent = NULL,
        parent_id = NULL
    WHERE run = ?
"""
# Of a copy that is not finished: it goes as others do.
DISCARD: Final = "UPDATE runs SET hidden_at = 0 WHERE run = ? AND hidden_at IS NOT NULL"
IS_SET_ASIDE: Final = f"SELECT 1 FROM runs WHERE run = ? AND problem IS NOT NULL AND fingerprint = '{DAMAGED}'"
COUNT_ROWS: Final = """
    SELECT (SELECT count(*) FROM (SELECT 1 FROM history WHERE run = :run LIMIT :limit))
        + (SELECT count(*) FROM (SELECT 1 FROM mailbox WHERE run = :run LIMIT :limit))
        + (SELECT count(*) FROM (SELECT 1 FROM waits WHERE run = :run LIMIT :limit))
        + (SELECT count(*) FROM (SELECT 1 FROM published WHERE run = :run LIMIT :limit))
        + (SELECT count(*) FROM (SELECT 1 FROM runs INDEXED BY runs_of_parent WHERE parent = :run LIMIT :limit))
"""
DELETE: Final = "DELETE FROM runs WHERE run = ?"
OLDEST: Final = """
    SELECT finished_at, run FROM runs INDEXED BY runs_finished
    WHERE status = ? AND finished_at IS NOT NULL AND {after} AND finished_at < ?
        AND run NOT IN (SELECT run FROM runs INDEXED BY runs_hidden WHERE hidden_at IS NOT NULL)
    ORDER BY finished_at, run LIMIT ?
"""
# A child whose parent goes on stays: the parent may still ask for its result, unless it has begun a new history.
IS_SPARED: Final = """
    SELECT 1 FROM runs AS ended JOIN runs AS parents ON parents.run = ended.parent
    WHERE ended.run = ? AND parents.finished_at IS NULL AND EXISTS (
        SELECT 1 FROM history INDEXED BY history_children
        WHERE history.run = parents.run AND kind = 'child' AND history.result = json_quote(CAST(ended.id AS TEXT))
    )
"""
# Only what has such an id was hidden by us: a number that a damaged file has there must not remove a run.
IS_HIDDEN: Final = f"substr(id, 1, length({HIDDEN_ID})) = {HIDDEN_ID}"
NEXT_HIDDEN: Final = f"""
    SELECT run FROM runs INDEXED BY runs_hidden
    WHERE hidden_at IS NOT NULL AND hidden_at < ? AND {IS_HIDDEN} ORDER BY hidden_at, run LIMIT 1
"""
PIECES: Final = (
    "DELETE FROM history WHERE id IN (SELECT id FROM history WHERE run = :run LIMIT :limit)",
    "DELETE FROM mailbox WHERE id IN (SELECT id FROM mailbox WHERE run = :run LIMIT :limit)",
    """
    DELETE FROM waits WHERE run = :run
        AND (branch, name, n) IN (SELECT branch, name, n FROM waits WHERE run = :run LIMIT :limit)
    """,
    "DELETE FROM published WHERE run = :run AND key IN (SELECT key FROM published WHERE run = :run LIMIT :limit)",
    """
    UPDATE runs SET parent = NULL
    WHERE run IN (SELECT run FROM runs INDEXED BY runs_of_parent WHERE parent = :run LIMIT :limit)
    """,
)


def delete_run(transaction: Transaction, operation: DeleteRun) -> bool | RunNotFound | RunConflict:
    """Remove a run that has ended, or is damaged (see ``DeleteRun``)."""
    found = transaction.execute(FIND_RUN, (operation.run_id,)).fetchone()
    if found is None:
        return run_not_found(operation.run_id)
    row = run_from(found)
    if not row.status.is_final:
        is_given_up = transaction.execute(IS_SET_ASIDE, (row.run,)).fetchone() is not None
        if row.owner is not None or not (is_given_up or row.damage is not None):
            return RunConflict(
                f"run {row.id!r} is {row.status}; only runs that have ended can be deleted: cancel it first",
                run_id=row.id,
            )
        tell_parent(transaction, row.run, 0)  # it would wait for ever
    _remove(transaction, row.run, _row_count(transaction, row.run))
    return True


def prune(transaction: Transaction, operation: Prune) -> Pruned:
    """Remove some of the final runs that ended long ago (see ``Prune``)."""
    candidates = _oldest(transaction, operation)
    position = operation.after
    count = hidden_count = row_count = 0
    for candidate in candidates:
        run = candidate[1]
        if count == operation.limit:
            return Pruned(count, hidden_count, position)
        if transaction.execute(IS_SPARED, (run,)).fetchone() is None:
            rows = _row_count(transaction, run)
            if row_count and row_count + rows > UPKEEP_ROWS_MAX:
                return Pruned(count, hidden_count, position)
            is_hidden = _remove(transaction, run, rows)
            row_count += 1 if is_hidden else rows + 1
            hidden_count += is_hidden
            count += 1
        position = candidate
    return Pruned(count, hidden_count, position if len(candidates) == _LOOKED_AT_MAX else None)


def sweep(transaction: Transaction, operation: Sweep) -> int:
    """Remove some of the rows of a hidden run (see ``Sweep``)."""
    found = transaction.execute(NEXT_HIDDEN, (operation.hidden_before,)).fetchone()
    if found is None:
        return 0
    left = UPKEEP_ROWS_MAX
    for sql in PIECES:
        transaction.execute(sql, {"run": found[0], "limit": left})
        left -= transaction.cursor.rowcount
        if left == 0:
            return UPKEEP_ROWS_MAX
    transaction.execute(DELETE, found)
    return UPKEEP_ROWS_MAX - left + 1


def _row_count(transaction: Transaction, run: int) -> int:
    """Return how many rows go with a run, or change; counted only as far as that matters."""
    limits = {"run": run, "limit": UPKEEP_ROWS_MAX + 1}
    count: int = transaction.execute(COUNT_ROWS, limits).fetchone()[0]
    return count


def _remove(transaction: Transaction, run: int, row_count: int) -> bool:
    """Remove a run with all its rows, or hide it if they are many; return whether it is hidden."""
    if row_count > UPKEEP_ROWS_MAX:
        with suppress(sqlite3.IntegrityError):  # its row is damaged, and cannot be changed
            transaction.execute(HIDE, (run,))
            return True
    transaction.execute(DELETE, (run,))
    return False


def _oldest(transaction: Transaction, operation: Prune) -> list[tuple[int, int]]:
    """Return ended runs by when they have ended, the first ones after a place."""
    found: list[list[tuple[int, int]]] = []
    for status in operation.statuses if operation.limit > 0 else ():
        if not status.is_final:
            continue
        # Not as a comparison of rows: SQLite seeks by the first column only of one that has the row's number in it.
        terms: list[tuple[str, tuple[int, ...]]] = [("true", ())]
        if operation.after is not None:
            terms = [("finished_at = ? AND run > ?", operation.after), ("finished_at > ?", operation.after[:1])]
        for term, place in terms:
            parameters = (status.value, *place, operation.before, _LOOKED_AT_MAX)
            found.append(transaction.execute(OLDEST.format(after=term), parameters).fetchall())
    return list(islice(heapq.merge(*found), _LOOKED_AT_MAX))
