"""The second round trip of a batch: what was decided, as one statement for each table.

Nothing is refused here any more. What the database refuses all the same, such as a history row that is there, fails the
batch, which is done anew (``batch``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from durable_trio.rows import HistoryRow, Key, WaitRow
from durable_trio.stores.postgres.known import Changes, Run
from durable_trio.stores.postgres.rows import key_hash
from durable_trio.stores.postgres.texts import numbers, rows
from durable_trio.stores.postgres.transaction import NOW
from durable_trio.stores.postgres.wire import Request

__all__ = ["requests"]

ADD_HISTORY: Final = """
    INSERT INTO history (run, key, seq, n, attempt, compensates, started_at, finished_at, kind, status, branch, name,
        error, result, earlier)
    SELECT run, key, seq, n, attempt, compensates, started_at, finished_at, kind, status, branch, name,
        error, result, earlier
    FROM json_to_recordset($1::json) AS x (
        run bigint, key uuid, seq bigint, n bigint, attempt bigint, compensates boolean, started_at bigint,
        finished_at bigint, kind text, status text, branch text, name text, error text, result text, earlier text
    )
"""
# The array says once more which rows these are: a table that was small when the statement was planned would be walked
# through, and the document be searched for each of its rows.
CLEAR_WAITS: Final = """
    DELETE FROM waits USING json_to_recordset($1::json) AS x (run bigint, key uuid)
    WHERE waits.run = x.run AND waits.key = x.key AND waits.run = ANY($2::bigint[])
"""
CLEAR_ALL_WAITS: Final = "DELETE FROM waits WHERE run = ANY($1::bigint[])"
SET_WAITS: Final = """
    INSERT INTO waits (run, key, n, due_at, attempt, started_at, kind, branch, name, error, earlier)
    SELECT run, key, n, due_at, attempt, started_at, kind, branch, name, error, earlier
    FROM json_to_recordset($1::json) AS x (
        run bigint, key uuid, n bigint, due_at bigint, attempt bigint, started_at bigint, kind text, branch text,
        name text, error text, earlier text
    )
    ON CONFLICT (run, key) DO UPDATE SET due_at = excluded.due_at, attempt = excluded.attempt,
        started_at = excluded.started_at, kind = excluded.kind, error = excluded.error, earlier = excluded.earlier
"""
SEND: Final = """
    INSERT INTO mailbox (id, run, created_at, kind, name, signal_id, payload) OVERRIDING SYSTEM VALUE
    SELECT id, run, created_at, kind, name, signal_id, payload FROM json_to_recordset($1::json) AS x (
        id bigint, run bigint, created_at bigint, kind text, name text, signal_id text, payload text
    )
"""
TAKE: Final = """
    UPDATE mailbox SET seq = x.seq FROM json_to_recordset($1::json) AS x (id bigint, seq bigint)
    WHERE mailbox.id = x.id AND mailbox.id = ANY($2::bigint[])
"""
PUBLISH: Final = """
    INSERT INTO published (run, key, seq, n, value)
    SELECT run, key, seq, n, value
    FROM json_to_recordset($1::json) AS x (run bigint, key text, seq bigint, n bigint, value text)
    ON CONFLICT (run, key) DO UPDATE SET value = excluded.value, seq = excluded.seq, n = excluded.n
"""
CHANGE_RUNS: Final = """
    UPDATE runs SET status = x.status, owner = x.owner, wake_at = x.wake_at, is_due = x.is_due,
        waits_for = x.waits_for, problem = x.problem, refused = x.refused, changed = x.changed,
        stamp = CASE WHEN x.is_seen THEN pg_current_xact_id() ELSE runs.stamp END,
        error = CASE WHEN x.has_ended THEN x.error ELSE coalesce(x.error, runs.error) END,
        result = CASE WHEN x.has_ended THEN x.result ELSE runs.result END,
        compensation_errors = coalesce(x.compensation_errors, runs.compensation_errors),
        finished_at = coalesce(x.finished_at, runs.finished_at)
    FROM json_to_recordset($1::json) AS x (
        run bigint, status text, owner bigint, wake_at bigint, is_due boolean, waits_for text[], problem text,
        refused text, changed bigint, is_seen boolean, has_ended boolean, error text, result text,
        compensation_errors text, finished_at bigint
    )
    WHERE runs.run = x.run AND runs.run = ANY($2::bigint[])
"""
FORGET_REFUSALS: Final = "DELETE FROM refusals WHERE run = ANY($1::bigint[])"
REMOVE_RUNS: Final = "DELETE FROM runs WHERE run = ANY($1::bigint[])"
RENEW: Final = f"""
    UPDATE executors SET renewals = renewals + x.count, renewed_at = {NOW}
    FROM json_to_recordset($1::json) AS x (id bigint, count bigint) WHERE executors.id = x.id
"""


def requests(changes: Changes) -> Iterator[Request]:
    """Yield the statements that write what was decided."""
    if changes.unwanted:
        yield Request(REMOVE_RUNS, (numbers(changes.unwanted),))
    if changes.history:
        yield Request(ADD_HISTORY, (rows(_history(run, row) for run, row in changes.history),))
    yield from _waits(changes)
    if changes.sent:
        sent = (
            {
                "id": entry.id,
                "run": entry.run,
                "created_at": entry.created_at,
                "kind": entry.kind,
                "name": entry.name,
                "signal_id": signal_id,
                "payload": entry.payload,
            }
            for entry, signal_id in changes.sent
        )
        yield Request(SEND, (rows(sent),))
    if changes.taken:
        taken = ({"id": entry, "seq": seq} for entry, seq in changes.taken)
        yield Request(TAKE, (rows(taken), numbers(entry for entry, _ in changes.taken)))
    if changes.published:
        values = (
            {"run": run, "key": key, "seq": seq, "n": n, "value": value}
            for (run, key), (value, seq, n) in changes.published.items()
        )
        yield Request(PUBLISH, (rows(values),))
    if changes.runs:
        yield Request(CHANGE_RUNS, (rows(map(_run, changes.runs)), numbers(run.run for run in changes.runs)))
    if changes.unrefused:
        yield Request(FORGET_REFUSALS, (numbers(changes.unrefused),))
    if changes.renewals:
        yield Request(RENEW, (rows({"id": each, "count": count} for each, count in changes.renewals.items()),))


def _waits(changes: Changes) -> Iterator[Request]:
    cleared = [place for place, wait in changes.waits.items() if wait is None]
    if cleared:
        keys = ({"run": run, "key": key_hash(key)} for run, key in cleared)
        yield Request(CLEAR_WAITS, (rows(keys), numbers(run for run, _ in cleared)))
    ended = set(changes.over)
    open_now = [(run, wait) for (run, _), wait in changes.waits.items() if wait is not None and run not in ended]
    if open_now:
        yield Request(SET_WAITS, (rows(_wait(run, wait) for run, wait in open_now),))
    if changes.over:
        yield Request(CLEAR_ALL_WAITS, (numbers(changes.over),))


def _of_key(run: int, key: Key) -> dict[str, Any]:
    return {"run": run, "key": key_hash(key), "branch": key.branch, "name": key.name, "n": key.n}


def _history(run: int, row: HistoryRow) -> dict[str, Any]:
    key = row.key
    return {
        "run": run,
        "key": key_hash(key),
        "branch": key.branch,
        "name": key.name,
        "n": key.n,
        "seq": row.seq,
        "kind": row.kind._value_,  # without the calls of ``value``: each step passes here
        "status": row.status._value_,
        "attempt": row.attempt,
        "compensates": row.compensates,
        "started_at": row.started_at,
        "finished_at": row.finished_at,
        "result": row.result,
        "error": row.error,
        "earlier": row.earlier,
    }


def _wait(run: int, wait: WaitRow) -> dict[str, Any]:
    return {
        **_of_key(run, wait.key),
        "kind": wait.kind,
        "due_at": wait.due_at,
        "attempt": wait.attempt,
        "started_at": wait.started_at,
        "error": wait.error,
        "earlier": wait.earlier,
    }


def _run(run: Run) -> dict[str, Any]:
    return {
        "run": run.run,
        "status": run.status.value,
        "owner": run.owner,
        "wake_at": run.wake_at,
        "is_due": run.is_due,
        "waits_for": run.waits_for or None,
        "problem": run.problem,
        "refused": run.refused,
        "changed": run.changed,
        "is_seen": run.is_seen,
        "has_ended": run.has_ended,
        "error": run.error,
        "result": run.result,
        "compensation_errors": run.compensation_errors,
        "finished_at": run.finished_at,
    }
