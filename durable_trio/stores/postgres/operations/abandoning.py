"""Ending a run that no code ends, in one transaction: whoever owns it, and whatever of it is not undone.

Its owner loses it without a word. So his row is taken as by a reaper (``leases``), which waits for what he has under
way. Then the parent, the run and its children are locked in order of their numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from durable_trio.errors import RunFinished, RunNotFound
from durable_trio.records import StepKind, StepStatus
from durable_trio.rows import HistoryRow, Key
from durable_trio.rules.compensation import compensation_key
from durable_trio.rules.run_life import FINAL, LIFE, RunEvent
from durable_trio.stores.contract import Abandoned, AbandonRun, RequestCancel, Sent
from durable_trio.stores.outcomes import already_ended, run_not_found
from durable_trio.stores.postgres.hot import apply_together
from durable_trio.stores.postgres.known import Changes
from durable_trio.stores.postgres.operations.damage import FORGET_REFUSALS, park_damaged
from durable_trio.stores.postgres.operations.finding import Found, lock_run
from durable_trio.stores.postgres.operations.generations import CLEAR_WAITS
from durable_trio.stores.postgres.operations.messages import tell_parent
from durable_trio.stores.postgres.rows import key_hash
from durable_trio.stores.postgres.texts import numbers, texts
from durable_trio.stores.postgres.transaction import TOUCH, Transaction
from durable_trio.stores.postgres.write import requests
from durable_trio.stores.statuses import is_one_of, word_after

__all__ = ["abandon_run"]

FIND: Final = "SELECT run, owner, parent FROM runs WHERE id = $1::text"
TAKE_OWNER: Final = "SELECT 1 FROM executors WHERE id = $1::bigint FOR UPDATE"
# Those that it let go of (attempt 0) live on by themselves.
FIND_CHILDREN: Final = """
    SELECT child.run, child.id FROM runs AS child JOIN history ON history.run = child.parent AND history.kind = 'child'
        AND md5(history.result) = md5(to_json(child.id)::text) AND history.result = to_json(child.id)::text
    WHERE child.parent = $1::bigint AND child.finished_at IS NULL AND history.attempt > 0 ORDER BY child.run
"""
LOCK: Final = "SELECT run FROM runs WHERE run = ANY ($1::bigint[]) ORDER BY run FOR NO KEY UPDATE"
# Nobody who owned it writes any more: not even one that takes it for its own still.
ABANDON: Final = f"""
    UPDATE runs SET owner = NULL, token = token + 1, status = {word_after(RunEvent.ABANDON)}, wake_at = NULL,
        is_due = false, waits_for = NULL, problem = NULL, refused = '', result = NULL, error = $2::text,
        finished_at = $3::bigint, compensation_errors = $4::text, {TOUCH}
    WHERE run = $1::bigint AND {is_one_of(LIFE[RunEvent.ABANDON])}
"""
FIND_COMPENSABLE: Final = "SELECT branch, name, n FROM history WHERE run = $1::bigint AND compensates ORDER BY seq DESC"
FIND_UNDONE: Final = "SELECT branch, name, n FROM history WHERE run = $1::bigint AND key = ANY ($2::uuid[])"
LAST_SEQ: Final = "SELECT coalesce(max(seq), 0) FROM history WHERE run = $1::bigint"
FIND_COMPENSATION_ERRORS: Final = """
    SELECT error FROM history WHERE run = $1::bigint AND kind = 'compensation' AND error IS NOT NULL ORDER BY seq
"""


def abandon_run(transaction: Transaction, operation: AbandonRun) -> Abandoned | RunNotFound | RunFinished:
    """End a run that no code ends (see ``AbandonRun``)."""
    locked = _lock(transaction, operation.run_id)
    if locked is None:
        return run_not_found(operation.run_id)
    found, children = locked
    before = row = found.row
    if row.damage is not None:  # what cannot be read is replaced, so that the rest can be changed
        row = park_damaged(transaction, row.run)
    if row.status in FINAL:
        return already_ended(row)
    told = [row.id] if row.owner is not None else []
    sent = _request(transaction, told, operation)
    not_undone = _note_not_undone(transaction, row.run, operation)
    errors = _array(error for (error,) in transaction.execute(FIND_COMPENSATION_ERRORS, row.run).rows)
    transaction.exchange(
        (ABANDON, (row.run, operation.error, operation.now, errors)),
        (CLEAR_WAITS, (row.run,)),
        (FORGET_REFUSALS, (row.run,)),
    )
    tell_parent(transaction, row.run, operation.now)
    sent += _request(transaction, children, operation)
    return Abandoned(row=before, not_undone_count=not_undone, sent=tuple(sent))


def _lock(transaction: Transaction, run_id: str) -> tuple[Found, list[str]] | None:
    """Lock what is concerned, and return the run with the ids of children that are to cancel."""
    owners = set[int]()
    while True:
        found = transaction.execute(FIND, run_id).rows
        if not found:
            return None
        run, owner, parent = found[0]
        if owner is not None and owner not in owners:
            transaction.execute(TAKE_OWNER, owner)
            owners.add(owner)
        children = transaction.execute(FIND_CHILDREN, run).rows
        concerned = [run, *([] if parent is None else [parent]), *(child for child, _ in children)]
        transaction.execute(LOCK, numbers(concerned))
        locked = lock_run(transaction, run_id)
        if locked is None or locked.row.owner is None or locked.row.owner in owners:
            return None if locked is None else (locked, [child_id for _, child_id in children])


def _request(transaction: Transaction, run_ids: Iterable[str], operation: AbandonRun) -> list[Sent]:
    """Ask runs to cancel. The abandoned run gets one as well: its owner reads it, and finds that it is his no more."""
    asked = [
        RequestCancel(run_id=each, reason=operation.reason, error=operation.error_of_child, now=operation.now)
        for each in run_ids
    ]
    return [outcome for outcome in apply_together(transaction, asked) if isinstance(outcome, Sent)] if asked else []


def _note_not_undone(transaction: Transaction, run: int, operation: AbandonRun) -> int:
    """Record of each compensation that has not run that it never will; return how many these are."""
    steps, last = transaction.exchange((FIND_COMPENSABLE, (run,)), (LAST_SEQ, (run,)))
    keys = [compensation_key(Key(*step)) for step in steps.rows]
    if not keys:
        return 0
    undone = {Key(*row) for row in transaction.execute(FIND_UNDONE, run, texts(map(key_hash, keys))).rows}
    seq, now = last.rows[0][0], operation.now
    rows = [
        HistoryRow(
            seq=seq + number,
            key=key,
            kind=StepKind.COMPENSATION,
            status=StepStatus.FAILED,
            attempt=0,
            error=operation.not_undone,
            started_at=now,
            finished_at=now,
        )
        for number, key in enumerate((key for key in dict.fromkeys(keys) if key not in undone), 1)
    ]
    transaction.wire.exchange(list(requests(Changes(history=[(run, row) for row in rows]))))
    return len(rows)


def _array(documents: Iterable[str]) -> str:
    """Return an array of those documents that are JSON."""
    found = []
    for text in documents:
        with suppress(ValueError):
            found.append(json.loads(text))
    return json.dumps(found, separators=(",", ":"))
