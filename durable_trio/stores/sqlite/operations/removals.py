"""Removing runs: one by its id, old ones, and the rest of what could not go in one transaction.

A run with many rows is hidden first: it has another id and is in no list from then on. Its rows go piece by piece, the
run itself last, whoever asks for the next piece: the caller, or the janitor after a crash. So nobody ever sees a part
of a run, and no transaction removes more rows than ``UPKEEP_ROWS_MAX``.

The user's tables stand in the same file: a foreign key, or a trigger that is set off by one, may forbid a removal, at
the statement or only at the commit. Then that run is passed over, and named. So a removal is tried in a savepoint, and
what the commit refuses is done again, each operation in a transaction of its own (``apply_apart``).
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Final, Self

import attrs

from durable_trio.errors import RunConflict, RunNotFound
from durable_trio.limits import UPKEEP_ROWS_MAX
from durable_trio.rules.damage import DAMAGED
from durable_trio.rules.run_life import LIFE, RunEvent
from durable_trio.stores.contract import DeleteRun, Operation, Prune, Pruned, Stuck, Sweep
from durable_trio.stores.outcomes import RefusalError, cannot_be_deleted, cannot_be_removed, run_not_found
from durable_trio.stores.sqlite.columns import run_from, text_from
from durable_trio.stores.sqlite.layout import NO_INTEGER
from durable_trio.stores.sqlite.library import is_of_the_schema, sqlite3
from durable_trio.stores.sqlite.operations.messages import tell_parent
from durable_trio.stores.sqlite.operations.starts import FIND_RUN
from durable_trio.stores.sqlite.references import References, find_references, is_known_by_id, what_keeps
from durable_trio.stores.sqlite.tables import WITHOUT_END
from durable_trio.stores.sqlite.transaction import Handler, Transaction, outcome_of

__all__ = ["DISCARD", "HIDDEN_ID", "IS_HIDDEN", "apply_apart", "delete_run", "prune", "sweep"]

# Ended runs that one transaction looks at; children that are spared cost a look too.
_LOOKED_AT_MAX: Final = 200

_SEE: Final = "{}: see the tables, triggers and indexes of this file that are not of this library"

# With a control character: no run of a user has such an id.
HIDDEN_ID: Final = "char(1) || 'hidden '"
HIDE: Final = f"""
    UPDATE runs SET id = {HIDDEN_ID} || run || ' ' || id, hidden_at = 0, wake_at = NULL, problem = NULL,
        queue = NULL, parent = NULL, parent_id = NULL
    WHERE run = ?
"""
# Of a copy that is not finished: it goes as others do.
DISCARD: Final = "UPDATE runs SET hidden_at = 0 WHERE run = ? AND hidden_at IS NOT NULL"
IS_DAMAGED: Final = f"SELECT 1 FROM runs WHERE run = ? AND problem IS NOT NULL AND fingerprint = '{DAMAGED}'"
COUNT_ROWS: Final = """
    SELECT (SELECT count(*) FROM (SELECT 1 FROM history WHERE run = :run LIMIT :limit + 0))
        + (SELECT count(*) FROM (SELECT 1 FROM earlier_history WHERE run = :run LIMIT :limit + 0))
        + (SELECT count(*) FROM (SELECT 1 FROM earlier_generations WHERE run = :run LIMIT :limit + 0))
        + (SELECT count(*) FROM (SELECT 1 FROM mailbox WHERE run = :run LIMIT :limit + 0))
        + (SELECT count(*) FROM (SELECT 1 FROM waits WHERE run = :run LIMIT :limit + 0))
        + (SELECT count(*) FROM (SELECT 1 FROM published WHERE run = :run LIMIT :limit + 0))
        + (SELECT count(*) FROM (SELECT 1 FROM runs INDEXED BY runs_of_parent WHERE parent = :run LIMIT :limit + 0))
"""
DELETE: Final = "DELETE FROM runs WHERE run = ?"
FIND_ID: Final = "SELECT id FROM runs WHERE run = ?"
OLDEST: Final = """
    SELECT finished_at, run FROM runs INDEXED BY runs_finished
    WHERE status = ? AND finished_at IS NOT NULL AND {after} AND finished_at < ?
        AND run NOT IN (SELECT run FROM runs INDEXED BY runs_hidden WHERE hidden_at IS NOT NULL)
    ORDER BY finished_at, run LIMIT ? + 0
"""
# As if they had ended when they were made.
OLDEST_WITHOUT_END: Final = f"""
    SELECT created_at, run FROM runs INDEXED BY runs_without_end
    WHERE status = ? AND {WITHOUT_END} AND {{after}} AND created_at < ?
        AND run NOT IN (SELECT run FROM runs INDEXED BY runs_hidden WHERE hidden_at IS NOT NULL)
    ORDER BY created_at, run LIMIT ? + 0
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
    SELECT run, id, hidden_at FROM runs INDEXED BY runs_hidden
    WHERE hidden_at IS NOT NULL AND hidden_at >= ? AND (hidden_at > ? OR run > ?) AND hidden_at < ? AND {IS_HIDDEN}
    ORDER BY hidden_at, run LIMIT 1
"""
PIECES: Final = (
    "DELETE FROM history WHERE id IN (SELECT id FROM history WHERE run = :run LIMIT :limit + 0)",
    "DELETE FROM earlier_history WHERE id IN (SELECT id FROM earlier_history WHERE run = :run LIMIT :limit + 0)",
    """
    DELETE FROM earlier_generations
    WHERE rowid IN (SELECT rowid FROM earlier_generations WHERE run = :run LIMIT :limit + 0)
    """,
    "DELETE FROM mailbox WHERE id IN (SELECT id FROM mailbox WHERE run = :run LIMIT :limit + 0)",
    """
    DELETE FROM waits WHERE run = :run
        AND (branch, name, n) IN (SELECT branch, name, n FROM waits WHERE run = :run LIMIT :limit + 0)
    """,
    "DELETE FROM published WHERE run = :run AND key IN (SELECT key FROM published WHERE run = :run LIMIT :limit + 0)",
    """
    UPDATE runs SET parent = NULL
    WHERE run IN (SELECT run FROM runs INDEXED BY runs_of_parent WHERE parent = :run LIMIT :limit + 0)
    """,
)


def delete_run(transaction: Transaction, operation: DeleteRun) -> bool | RunNotFound | RunConflict:
    """Remove a run that has ended, or is damaged (see ``DeleteRun``)."""
    found = transaction.execute(FIND_RUN, (operation.run_id,)).fetchone()
    if found is None:
        return run_not_found(operation.run_id)
    row = run_from(found)
    is_over = row.status in LIFE[RunEvent.REMOVE]
    if not is_over:
        is_given_up = transaction.execute(IS_DAMAGED, (row.run,)).fetchone() is not None
        if row.owner is not None or not (is_given_up or row.damage is not None):
            return cannot_be_deleted(row)
    transaction.removing = (row.id, (0, row.run))
    references = find_references(transaction)
    why = what_keeps(transaction, references, row.run)
    if why is None:
        if not is_over:
            tell_parent(transaction, row.run, 0)  # it would wait for ever
        _, why = _remove(transaction, references, row.run, _row_count(transaction, row.run))
    if why is not None:
        raise RefusalError(cannot_be_removed(row.id, why))  # the parent may have been told already
    return True


def prune(transaction: Transaction, operation: Prune) -> Pruned:
    """Remove some of the final runs that ended long ago (see ``Prune``)."""
    candidates = _oldest(transaction, operation)
    references = find_references(transaction) if candidates else ()
    position = operation.after
    stuck: list[Stuck] = []
    count = hidden_count = row_count = 0
    for candidate in candidates:
        run = candidate[1]
        if count == operation.limit:
            return Pruned(count, hidden_count, position, tuple(stuck))
        if transaction.execute(IS_SPARED, (run,)).fetchone() is None:
            rows = _row_count(transaction, run)
            if row_count and row_count + rows > UPKEEP_ROWS_MAX:
                return Pruned(count, hidden_count, position, tuple(stuck))
            transaction.removing = (text_from(transaction.execute(FIND_ID, (run,)).fetchone()[0]), candidate)
            is_hidden, why = False, what_keeps(transaction, references, run)
            if why is None:
                is_hidden, why = _remove(transaction, references, run, rows)
            if why is not None:
                stuck.append(_stuck(transaction, why))
            else:
                row_count += 1 if is_hidden else rows + 1
                hidden_count += is_hidden
                count += 1
        position = candidate
    return Pruned(count, hidden_count, position if len(candidates) == _LOOKED_AT_MAX else None, tuple(stuck))


def sweep(transaction: Transaction, operation: Sweep) -> int | Stuck:
    """Remove some of the rows of a hidden run (see ``Sweep``)."""
    hidden_at, after = operation.after or (NO_INTEGER, NO_INTEGER)
    found = transaction.execute(NEXT_HIDDEN, (hidden_at, hidden_at, after, operation.hidden_before)).fetchone()
    if found is None:
        return 0
    run, run_id, hidden_at = found
    transaction.removing = (_shown(run_id), (hidden_at, run))
    left = UPKEEP_ROWS_MAX
    with _Removal(transaction) as removal:
        for sql in PIECES:
            transaction.execute(sql, {"run": run, "limit": left})
            left -= transaction.cursor.rowcount
            if left == 0:
                return UPKEEP_ROWS_MAX
        removal.delete(run)
    return _stuck(transaction, removal.why) if removal.why else UPKEEP_ROWS_MAX - left + 1


def apply_apart(
    transaction: Transaction,
    handlers: Mapping[type, Handler],
    batch: Sequence[Operation],
    outcomes: list[Any],
) -> None:
    """Apply the operations of a batch that could not be committed, each in a transaction of its own.

    Only a foreign key of the user's has a commit refused: one that is deferred, to something that an operation removes.

    Args:
        outcomes: gets the outcome of each operation once it is committed, so that an error leaves those before it.
    """
    for operation in batch:
        outcomes.append(_apply_alone(transaction, handlers, operation))


def _apply_alone(transaction: Transaction, handlers: Mapping[type, Handler], operation: Operation) -> Any:
    if isinstance(operation, Prune):
        operation = attrs.evolve(operation, limit=min(1, operation.limit))
    transaction.begin()
    try:
        outcome = transaction.attempt(handlers[type(operation)], operation)
        transaction.change()  # by which the commit is known (``lineage``)
        transaction.commit()
    except sqlite3.IntegrityError as error:
        transaction.roll_back()
        if not isinstance(operation, DeleteRun | Prune | Sweep):
            return outcome_of(error)
        stuck = _stuck(transaction, _SEE.format(error))
        if isinstance(operation, DeleteRun):
            return cannot_be_removed(stuck.run_id, stuck.why)
        return Pruned(0, 0, stuck.position, (stuck,)) if isinstance(operation, Prune) else stuck
    return outcome


class _Removal:
    """Within the block rows are removed, or nothing is if the user's schema forbids it; then ``why`` says so."""

    def __init__(self, transaction: Transaction) -> None:
        self.why: str | None = None
        self._transaction = transaction

    def __enter__(self) -> Self:
        self._transaction.execute("SAVEPOINT removal")
        return self

    def delete(self, run: int) -> None:
        """Delete the row of the run itself, and with it what still belongs to it."""
        self._transaction.execute(DELETE, (run,))
        if self._transaction.cursor.rowcount != 1:
            raise sqlite3.IntegrityError("a trigger ignores the removal")

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> bool:
        if error is not None:
            if not (is_of_the_schema(error) and self._transaction.is_there):
                return False
            self.why = _SEE.format(error)
            self._transaction.execute("ROLLBACK TO removal")
        self._transaction.execute("RELEASE removal")
        return True


def _stuck(transaction: Transaction, why: str) -> Stuck:
    run_id, position = transaction.removing
    return Stuck(run_id, why, position)


def _shown(hidden_id: object) -> str:
    """Return the id that people know of a run that is hidden."""
    return text_from(hidden_id).split(" ", 2)[-1]


def _row_count(transaction: Transaction, run: int) -> int:
    """Return how many rows go with a run, or change; counted only as far as that matters."""
    limits = {"run": run, "limit": UPKEEP_ROWS_MAX + 1}
    count: int = transaction.execute(COUNT_ROWS, limits).fetchone()[0]
    return count


def _remove(transaction: Transaction, references: References, run: int, row_count: int) -> tuple[bool, str | None]:
    """Remove a run with all its rows, or hide it if they are many; return whether it is hidden, and why it stays.

    A hidden run has another id. Where rows refer to the one that it has, it goes at once, however many rows it has.
    """
    if row_count > UPKEEP_ROWS_MAX and not is_known_by_id(transaction, references, run):
        with suppress(sqlite3.IntegrityError):  # its row is damaged, and cannot be changed
            transaction.execute(HIDE, (run,))
            return True, None
    with _Removal(transaction) as removal:
        removal.delete(run)
    return False, removal.why


def _oldest(transaction: Transaction, operation: Prune) -> list[tuple[int, int]]:
    """Return ended runs by when they have ended, the first ones after a place."""
    found: list[list[tuple[int, int]]] = []
    for status in operation.statuses if operation.limit > 0 else ():
        if status not in LIFE[RunEvent.REMOVE]:
            continue
        # Not as a comparison of rows: SQLite seeks by the first column only of one that has the row's number in it.
        for sql, column in ((OLDEST, "finished_at"), (OLDEST_WITHOUT_END, "created_at")):
            terms: list[tuple[str, tuple[int, ...]]] = [("true", ())]
            if operation.after is not None:
                terms = [(f"{column} = ? AND run > ?", operation.after), (f"{column} > ?", operation.after[:1])]
            for term, place in terms:
                parameters = (status.value, *place, operation.before, _LOOKED_AT_MAX)
                found.append(transaction.execute(sql.format(after=term), parameters).fetchall())
    return list(islice(heapq.merge(*found), _LOOKED_AT_MAX))
