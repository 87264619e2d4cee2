"""Runs that have failed, with what people look for of their errors."""

from __future__ import annotations

import json
from typing import Any, Final

import attrs

from durable_trio.failures import causes_of
from durable_trio.records import RunStatus
from durable_trio.stores.questions import FailedRun, ListFailures, Order, RunFilter
from durable_trio.stores.sqlite.answers.lists import Slice
from durable_trio.stores.sqlite.answers.streams import matching
from durable_trio.stores.sqlite.columns import text_from
from durable_trio.stores.sqlite.library import sqlite3

__all__ = ["list_failures"]

# Of one transaction: each may have a traceback of some kilobytes.
_RUNS_AT_ONCE: Final = 250

FIND: Final = "SELECT run, id, workflow, error FROM runs NOT INDEXED WHERE run IN (SELECT value FROM json_each(?))"


def list_failures(connection: sqlite3.Connection, question: ListFailures) -> Slice:
    """Return runs that have failed, the last one first."""
    limit = min(question.limit, _RUNS_AT_ONCE)
    which = RunFilter(workflow=question.workflow, statuses=(RunStatus.FAILED,))
    keys, after = matching(connection, which, Order.ENDED, limit=limit, before=question.before)
    wanted = [key for key in keys if question.since is None or key[0] > question.since]
    if len(keys) == limit:
        after = keys[-1] if keys else None
    rest = None
    if after is not None and len(wanted) == len(keys) and question.limit > len(keys):
        rest = attrs.evolve(question, limit=question.limit - len(keys), before=after)
    rows = connection.execute(FIND, (json.dumps([run for _, run in wanted]),)).fetchall()
    found = {run: (text_from(run_id), text_from(workflow), error) for run, run_id, workflow, error in rows}
    return Slice(tuple(_failed_run(*found[run], finished_at=int(ended)) for ended, run in wanted), rest)


def _failed_run(run_id: str, workflow: str, error: Any, *, finished_at: int) -> FailedRun:
    return FailedRun(run_id=run_id, workflow=workflow, finished_at=finished_at, causes=causes_of(error))
