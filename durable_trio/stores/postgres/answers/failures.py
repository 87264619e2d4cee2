"""Runs that have failed, with what people look for of their errors."""

from __future__ import annotations

from typing import Final

from durable_trio.failures import causes_of
from durable_trio.records import RunStatus
from durable_trio.stores.postgres.answers.asking import Asking
from durable_trio.stores.postgres.answers.lists import keys_of
from durable_trio.stores.questions import FailedRun, ListFailures, ListRuns, Order, RunFilter

__all__ = ["list_failures"]

_FOUND: Final = """
    WITH page AS MATERIALIZED ({keys})
    SELECT id, workflow, finished_at, error FROM page JOIN runs USING (run){since} ORDER BY place DESC, run DESC
"""


def list_failures(asking: Asking, question: ListFailures) -> tuple[FailedRun, ...]:
    """Return runs that have failed, the last one first."""
    which = RunFilter(workflow=question.workflow, statuses=(RunStatus.FAILED,))
    listed = ListRuns(which, order=Order.ENDED, limit=max(0, question.limit), before=question.before)
    keys, values = keys_of(asking, listed)
    since = "" if question.since is None else f" WHERE place > {values.number(question.since)}"
    return tuple(
        FailedRun(run_id=run_id, workflow=workflow, finished_at=finished_at, causes=causes_of(error))
        for run_id, workflow, finished_at, error in asking.execute(
            _FOUND.format(keys=keys, since=since), *values.given
        ).rows
    )
