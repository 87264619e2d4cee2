"""Removing runs: one by its id, old ones, and the rest of what could not go in one transaction.

A run with many rows is hidden first: it has another id and is in no list from then on. Its rows go piece by piece, the
run itself last, whoever asks for the next piece: the caller, or the janitor after a crash. So nobody ever sees a part
of a run, and no transaction removes more rows than ``UPKEEP_ROWS_MAX``.

Runs that are pruned or swept are passed over while somebody else holds them, or a child of theirs: he may be about to
remove them as well, or to resume them.

Tables of the user's may stand in the same database: a foreign key, or a trigger, may forbid a removal. Then that run is
passed over, and named. So a removal is tried in a savepoint, in which nothing is deferred to the commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from durable_trio.errors import RunConflict, RunNotFound
from durable_trio.limits import UPKEEP_ROWS_MAX
from durable_trio.rules.run_life import LIFE, RunEvent
from durable_trio.stores.contract import DeleteRun, Prune, Pruned, Stuck, Sweep
from durable_trio.stores.outcomes import RefusalError, cannot_be_deleted, cannot_be_removed, run_not_found
from durable_trio.stores.postgres.faults import ServerError
from durable_trio.stores.postgres.operations.finding import lock_run
from durable_trio.stores.postgres.operations.messages import tell_parent
from durable_trio.stores.postgres.sqlstates import CLASSES_OF_TRIGGERS
from durable_trio.stores.postgres.texts import numbers, texts
from durable_trio.stores.postgres.transaction import Transaction

__all__ = ["DISCARD", "HIDDEN_ID", "delete_run", "prune", "sweep"]

# Ended runs that one transaction looks at; children that are spared cost a look too.
_LOOKED_AT_MAX: Final = 200

_SEE: Final = "{}: see the tables and triggers of this database that are not of this library"

# With a control character: no run of a user has such an id.
HIDDEN_ID: Final = "chr(1) || 'hidden '"
HIDE: Final = f"""
    UPDATE runs SET id = {HIDDEN_ID} || run || ' ' || id, hidden_at = 0, wake_at = NULL, is_due = false, problem = NULL,
        queue = NULL, parent = NULL, parent_id = NULL
    WHERE run = ANY ($1::bigint[])
"""
#: Of a copy that is not finished: it goes as others do.
DISCARD: Final = "UPDATE runs SET hidden_at = 0 WHERE run = $1::bigint AND coalesce(hidden_at, -1) >= 0"
_TABLES: Final = ("history", "earlier_history", "earlier_generations", "mailbox", "waits", "published", "refusals")
_COUNTED_MAX: Final = UPKEEP_ROWS_MAX + 1
_COUNT: Final = " + ".join(
    f"(SELECT count(*) FROM (SELECT 1 FROM {table} WHERE {table}.{column} = those.run LIMIT {_COUNTED_MAX}) AS x)"
    for table, column in (*((table, "run") for table in _TABLES), ("runs", "parent"))
)
# A child whose parent goes on stays: the parent may still ask for its result, unless it has begun a new history.
_IS_SPARED: Final = """
    EXISTS (
        SELECT 1 FROM runs AS parents JOIN history ON history.run = parents.run AND kind = 'child'
            AND md5(history.result) = md5(to_json(those.id)::text) AND history.result = to_json(those.id)::text
        WHERE parents.run = those.parent AND parents.finished_at IS NULL
    )
"""
LOOK_AT: Final = f"""
    SELECT those.run, those.id, {_IS_SPARED}, {_COUNT} FROM runs AS those WHERE those.run = ANY ($1::bigint[])
"""
# By when they have ended, the first ones after a place.
OLDEST: Final = f"""
    SELECT found.finished_at, found.run FROM unnest($1::text[]) AS wanted (status), LATERAL (
        SELECT finished_at, run FROM runs
        WHERE runs.status = wanted.status AND finished_at IS NOT NULL AND hidden_at IS NULL
            AND (finished_at, run) > ($2::bigint, $3::bigint) AND finished_at < $4::bigint
        ORDER BY finished_at, run LIMIT {_LOOKED_AT_MAX}
    ) AS found
    ORDER BY found.finished_at, found.run LIMIT {_LOOKED_AT_MAX}
"""
# In words by which the server does not take it for a walk through all that have ended.
LOCK_ENDED: Final = """
    SELECT run FROM runs
    WHERE run = ANY ($1::bigint[]) AND CASE WHEN hidden_at IS NULL THEN finished_at IS NOT NULL ELSE false END
    ORDER BY run FOR UPDATE SKIP LOCKED
"""
# ``run + 0``: else it would walk through the runs in this order.
LOCK_CHILDREN: Final = "SELECT run FROM runs WHERE parent = ANY ($1::bigint[]) ORDER BY run + 0 FOR NO KEY UPDATE"
LOCK_FREE_CHILDREN: Final = f"{LOCK_CHILDREN} SKIP LOCKED"
FIND_CHILDREN: Final = "SELECT run, parent FROM runs WHERE parent = ANY ($1::bigint[])"
LOCK_PARENT: Final = """
    SELECT run FROM runs WHERE run = (SELECT parent FROM runs WHERE id = $1::text) FOR NO KEY UPDATE
"""
REMOVE: Final = (
    *(f"DELETE FROM {table} WHERE run = ANY ($1::bigint[])" for table in _TABLES),
    "UPDATE runs SET parent = NULL WHERE parent = ANY ($1::bigint[])",
    "DELETE FROM runs WHERE run = ANY ($1::bigint[])",
)
# Only what has such an id was hidden by us.
NEXT_HIDDEN: Final = f"""
    SELECT run, id, hidden_at FROM runs
    WHERE hidden_at IS NOT NULL AND (hidden_at, run) > ($1::bigint, $2::bigint) AND hidden_at < $3::bigint
        AND starts_with(id, {HIDDEN_ID})
    ORDER BY hidden_at, run LIMIT 1 FOR UPDATE SKIP LOCKED
"""
PIECES: Final = (
    *(
        f"""
        DELETE FROM {table} WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM {table} WHERE run = $1::bigint LIMIT $2::bigint
        ))
        """
        for table in _TABLES
    ),
    """
    UPDATE runs SET parent = NULL WHERE run = ANY (ARRAY(
        SELECT run FROM runs WHERE parent = $1::bigint ORDER BY run + 0 LIMIT $2::bigint FOR NO KEY UPDATE
    ))
    """,
)
_SAVEPOINT: Final = ("SAVEPOINT removal", ())
_CHECK: Final = ("SET CONSTRAINTS ALL IMMEDIATE", ())
_RELEASE: Final = ("RELEASE removal", ())
_BACK: Final = ("ROLLBACK TO removal", ())


class _Ended(NamedTuple):
    """A run that may be removed, and how many rows go with it, counted only as far as that matters."""

    run: int
    run_id: str
    is_spared: bool
    row_count: int


def delete_run(transaction: Transaction, operation: DeleteRun) -> bool | RunNotFound | RunConflict:
    """Remove a run that has ended, or is damaged (see ``DeleteRun``)."""
    transaction.execute(LOCK_PARENT, operation.run_id)  # before it: in order of their numbers
    found = lock_run(transaction, operation.run_id)
    if found is None:
        return run_not_found(operation.run_id)
    row = found.row
    is_over = row.status in LIFE[RunEvent.REMOVE]
    if not is_over:
        is_given_up = row.problem is not None and not found.is_refused
        if row.owner is not None or not (is_given_up or row.damage is not None):
            return cannot_be_deleted(row)
        tell_parent(transaction, row.run, 0)  # it would wait for ever
    _, looked = transaction.exchange((LOCK_CHILDREN, (numbers([row.run]),)), (LOOK_AT, (numbers([row.run]),)))
    _, why = _remove(transaction, _Ended(*looked.rows[0]))
    if why is not None:
        conflict = cannot_be_removed(row.id, why)
        if is_over:
            return conflict
        raise RefusalError(conflict)  # the parent was told already
    return True


def prune(transaction: Transaction, operation: Prune) -> Pruned:
    """Remove some of the final runs that ended long ago (see ``Prune``)."""
    candidates = _oldest(transaction, operation)
    if not candidates:
        return Pruned(0, 0, None)
    position = candidates[-1] if len(candidates) == _LOOKED_AT_MAX else None
    looked = transaction.execute(LOOK_AT, numbers(run for _, run in candidates)).rows
    known = {each.run: each for each in (_Ended(*row) for row in looked)}
    chosen: list[tuple[tuple[int, int], _Ended]] = []
    row_count = 0
    before = operation.after
    for candidate in candidates:
        ended = known.get(candidate[1])
        if len(chosen) == operation.limit:
            position = before
            break
        if ended is not None and not ended.is_spared:
            rows = ended.row_count
            if row_count and row_count + rows > UPKEEP_ROWS_MAX:
                position = before
                break
            row_count += 1 if rows > UPKEEP_ROWS_MAX else rows + 1
            chosen.append((candidate, ended))
        before = candidate
    free = _lock_free(transaction, [ended.run for _, ended in chosen])
    count, hidden_count, stuck = _remove_each(transaction, [each for each in chosen if each[1].run in free])
    return Pruned(count, hidden_count, position, tuple(stuck))


def sweep(transaction: Transaction, operation: Sweep) -> int | Stuck:
    """Remove some of the rows of a hidden run (see ``Sweep``)."""
    after = operation.after or (-1, -1)
    found = transaction.execute(NEXT_HIDDEN, *after, operation.hidden_before).rows
    if not found:
        return 0
    run, run_id, hidden_at = found[0]
    left = UPKEEP_ROWS_MAX
    transaction.exchange(_SAVEPOINT)
    try:
        for piece in PIECES:
            left -= transaction.execute(piece, run, left).changed
            if left == 0:
                transaction.exchange(_CHECK, _RELEASE)
                return UPKEEP_ROWS_MAX
        transaction.exchange(*((text, (numbers([run]),)) for text in REMOVE[-2:]), _CHECK, _RELEASE)
    except ServerError as error:
        if not _forbids(error):
            raise
        transaction.exchange(_BACK, _RELEASE)
        return Stuck(run_id.split(" ", 2)[-1], _SEE.format(error), (hidden_at, run))
    return UPKEEP_ROWS_MAX - left + 1


def _forbids(error: ServerError) -> bool:
    """Return whether somebody's schema has refused a statement: by a constraint, or by a trigger."""
    return error.is_of_operation or error.sqlstate[:2] in CLASSES_OF_TRIGGERS


def _oldest(transaction: Transaction, operation: Prune) -> list[tuple[int, int]]:
    statuses = [status.value for status in operation.statuses if status in LIFE[RunEvent.REMOVE]]
    if operation.limit <= 0 or not statuses:
        return []
    after = operation.after or (-1, -1)
    return [(at, run) for at, run in transaction.execute(OLDEST, texts(statuses), *after, operation.before).rows]


def _lock_free(transaction: Transaction, runs: Sequence[int]) -> set[int]:
    """Lock ended runs with all their children, and return those of which nobody else holds anything."""
    if not runs:
        return set()
    which = numbers(runs)
    locked, children, all_children = transaction.exchange(
        (LOCK_ENDED, (which,)), (LOCK_FREE_CHILDREN, (which,)), (FIND_CHILDREN, (which,))
    )
    held = {child for (child,) in children.rows}
    busy = {parent for child, parent in all_children.rows if child not in held}
    return {run for (run,) in locked.rows} - busy


def _remove_each(
    transaction: Transaction, chosen: Sequence[tuple[tuple[int, int], _Ended]]
) -> tuple[int, int, list[Stuck]]:
    """Remove runs that are locked, or hide those with many rows: return how many, how many are hidden, what stays."""
    large = [ended.run for _, ended in chosen if ended.row_count > UPKEEP_ROWS_MAX]
    small = [ended.run for _, ended in chosen if ended.row_count <= UPKEEP_ROWS_MAX]
    if not chosen:
        return 0, 0, []
    if _try_to_remove(transaction, small, large) is None:
        return len(chosen), len(large), []
    stuck: list[Stuck] = []
    count = hidden_count = 0
    for position, ended in chosen:  # one by one, to find who stays
        is_hidden, why = _remove(transaction, ended)
        if why is None:
            count += 1
            hidden_count += is_hidden
        else:
            stuck.append(Stuck(ended.run_id, why, position))
    return count, hidden_count, stuck


def _remove(transaction: Transaction, ended: _Ended) -> tuple[bool, str | None]:
    """Remove a run with all its rows, or hide it if they are many; return whether it is hidden, and why it stays.

    A hidden run has another id. Where rows refer to the one that it has, it goes at once, however many rows it has.
    """
    if ended.row_count > UPKEEP_ROWS_MAX and _try_to_remove(transaction, (), [ended.run]) is None:
        return True, None
    return False, _try_to_remove(transaction, [ended.run], ())


def _try_to_remove(transaction: Transaction, small: Sequence[int], large: Sequence[int]) -> str | None:
    """Remove some runs and hide others, all of them, or none: return why."""
    transaction.exchange(_SAVEPOINT)
    try:
        removed = transaction.exchange(
            *((text, (numbers(small),)) for text in (REMOVE if small else ())),
            *([(HIDE, (numbers(large),))] if large else ()),
            _CHECK,
        )
        if small and removed[len(REMOVE) - 1].changed != len(small):
            transaction.exchange(_BACK, _RELEASE)
            return _SEE.format("a trigger ignores the removal")
    except ServerError as error:
        if not _forbids(error):
            raise
        transaction.exchange(_BACK, _RELEASE)
        return _SEE.format(error)
    transaction.exchange(_RELEASE)
    return None
