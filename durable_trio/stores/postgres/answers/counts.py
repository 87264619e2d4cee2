"""Counts of runs, by status and workflow, from an index that has both."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from durable_trio.records import RunStatus
from durable_trio.rules.run_life import FINAL, UNFINISHED
from durable_trio.stores.postgres.answers.asking import Asking
from durable_trio.stores.postgres.answers.filters import CREATED, OF_CELL, WORKFLOWS, Values
from durable_trio.stores.postgres.answers.parked import parked_runs
from durable_trio.stores.questions import CountByWorkflow, CountRuns, StoreStatus, WorkflowCounts
from durable_trio.stores.statuses import STATUS_OF, word

__all__ = ["count_by_workflow", "count_runs"]

# Ids of parked runs that a status names; more would only scroll.
_PARKED_MAX: Final = 1000
_LONG_MINUTES: Final = 10

# Of an index alone: whether a run is hidden stands in its row, so those few are taken off.
COUNTS: Final = "SELECT workflow, status, count(*) FROM runs GROUP BY workflow, status"
HIDDEN: Final = """
    SELECT workflow, status, -count(*) FROM runs WHERE hidden_at IS NOT NULL GROUP BY workflow, status
"""
# Those of version 0 are what is left of all.
OF_A_VERSION: Final = """
    SELECT workflow, version, count(*) FROM runs WHERE finished_at IS NULL AND version <> 0 AND hidden_at IS NULL
    GROUP BY workflow, version ORDER BY workflow, version
"""
PARKED: Final = f"""
    SELECT id FROM runs WHERE run IN (SELECT run FROM ({parked_runs()}) AS parked) ORDER BY run LIMIT {_PARKED_MAX}
"""
# The server's own count of what it has stored: history has no numbers of its own. It may be seconds behind.
RECORDED: Final = "SELECT pg_stat_get_tuples_inserted('history'::regclass)"
SERVER: Final = """
    SELECT current_setting('server_version'), current_setting('fsync')::boolean,
        current_setting('full_page_writes')::boolean,
        current_setting('synchronous_standby_names') <> '',
        -- Who may not see that is told of none.
        NOT pg_has_role('pg_read_all_stats', 'USAGE')
            OR EXISTS (SELECT FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum'))
"""
# Of others' transactions, as far as the role may see them.
OLDEST_TRANSACTION: Final = f"""
    SELECT pid, coalesce(nullif(application_name, ''), usename), extract(epoch FROM now() - xact_start)::bigint / 60
    FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
        AND xact_start < now() - interval '{_LONG_MINUTES} minutes'
    ORDER BY xact_start LIMIT 1
"""

_COUNTS_OF: Final = "SELECT workflow, status, {count} FROM runs WHERE {which} GROUP BY workflow, status"
_UNFINISHED: Final = ", ".join(f"({word(status)})" for status in RunStatus if status in UNFINISHED)
_OLDEST: Final = f"""
    SELECT named.workflow, oldest.id, oldest.created_at FROM ({{workflows}}) AS named (workflow), LATERAL (
        SELECT first.id, first.created_at
        FROM (VALUES {_UNFINISHED}) AS cell (status), LATERAL (
            SELECT id, created_at, run FROM runs
            WHERE {OF_CELL} AND hidden_at IS NULL ORDER BY {CREATED}, run LIMIT 1
        ) AS first
        ORDER BY first.created_at, first.run LIMIT 1
    ) AS oldest
"""
# A fork has the ``started_at`` of the run that it is a copy of.
_DURATIONS: Final = f"""
    SELECT named.workflow, last.duration
    FROM ({{workflows}}) AS named (workflow), (VALUES ({word(RunStatus.COMPLETED)})) AS cell (status), LATERAL (
        SELECT created_at, run, finished_at - greatest(created_at, started_at) AS duration FROM runs
        WHERE {OF_CELL} AND hidden_at IS NULL{{since}}
        ORDER BY {CREATED} DESC, run DESC LIMIT {{limit}}
    ) AS last
    ORDER BY named.workflow, last.created_at DESC, last.run DESC
"""

_Counts = dict[str, dict[RunStatus, int]]


def count_runs(asking: Asking, question: CountRuns) -> StoreStatus:
    """Return counts and warnings."""
    counts, hidden, versions, parked, recorded, server, oldest = asking.only(
        *((text, ()) for text in (COUNTS, HIDDEN, OF_A_VERSION, PARKED, RECORDED, SERVER, OLDEST_TRANSACTION))
    )
    of_workflows = _by_workflow(counts.rows, hidden.rows)
    by_status = {status: sum(found.get(status, 0) for found in of_workflows.values()) for status in RunStatus}
    unfinished = {
        workflow: sum(number for status, number in found.items() if status not in FINAL)
        for workflow, found in of_workflows.items()
    }
    by_version = {(workflow, version): number for workflow, version, number in versions.rows}
    left = dict(unfinished)
    for (workflow, _), number in by_version.items():
        left[workflow] = left.get(workflow, 0) - number
    ((server_version, *is_safe, must_answer, answers),) = server.rows
    return StoreStatus(
        runs_by_status={status: number for status, number in by_status.items() if number},
        parked=tuple(run_id for (run_id,) in parked.rows),
        unfinished_by_workflow={workflow: number for workflow, number in unfinished.items() if number},
        unfinished_by_version={
            **{(workflow, 0): number for workflow, number in left.items() if number > 0},
            **by_version,
        },
        store_version=f"PostgreSQL {server_version}, {'a' if must_answer else 'no'} standby must answer",
        warnings=tuple(_warnings(is_safe, must_answer and not answers, oldest.rows)),
        recorded_count=recorded.rows[0][0],
    )


def _by_workflow(*found: Iterable[tuple[Any, ...]]) -> _Counts:
    counts: _Counts = {}
    for rows in found:
        for workflow, status, number in rows:
            # One that this version does not know counts as what such a run is told as.
            known = STATUS_OF.get(status, RunStatus.SUSPENDED)
            by_status = counts.setdefault(workflow, {})
            by_status[known] = by_status.get(known, 0) + number
    return counts


def _warnings(is_safe: Iterable[bool], nobody_answers: bool, oldest: Iterable[tuple[Any, ...]]) -> Iterable[str]:
    for setting, is_on in zip(("fsync", "full_page_writes"), is_safe, strict=True):
        if not is_on:
            yield f"{setting} of the server is off: a power cut may damage the database; set it to on"
    if nobody_answers:
        yield "a standby must answer (synchronous_standby_names), and none is connected: commits wait until one is"
    for pid, name, minutes in oldest:
        yield (
            f"a transaction has been open for {minutes} minutes (process {pid} of the server, {name}): nothing that "
            "was removed or changed since can be cleaned up, and all becomes slower; end it"
        )


def count_by_workflow(asking: Asking, question: CountByWorkflow) -> tuple[WorkflowCounts, ...]:
    """Return the counts of each workflow, or of one."""
    counts, hidden, oldest, durations = asking.only(*_to_count(question))
    by_status = _by_workflow(counts.rows, hidden.rows)
    first = {workflow: (run_id, created_at) for workflow, run_id, created_at in oldest.rows}
    taken: dict[str, list[int]] = {}
    for workflow, duration in durations.rows:
        taken.setdefault(workflow, []).append(duration)
    found = (
        WorkflowCounts(
            workflow=workflow,
            by_status={status: by_status[workflow][status] for status in RunStatus if by_status[workflow].get(status)},
            oldest_unfinished=first.get(workflow),
            durations=tuple(taken.get(workflow, ())),
        )
        for workflow in sorted(by_status.keys() | first.keys())
        if by_status.setdefault(workflow, {}) is not None
    )
    return tuple(counts for counts in found if counts.by_status or counts.oldest_unfinished)


def _to_count(question: CountByWorkflow) -> list[tuple[str, tuple[Any, ...]]]:
    """Return the statements for counts, hidden ones, oldest runs and durations."""
    asked = []
    for count, more in (("count(*)", ""), ("-count(*)", " AND hidden_at IS NOT NULL")):
        values = Values()
        which = _of_workflow(question, values) + _since(question, values, "created_at") + more
        asked.append((_COUNTS_OF.format(count=count, which=which), tuple(values.given)))
    values = Values()
    asked.append((_OLDEST.format(workflows=_workflows(question, values)), tuple(values.given)))
    values = Values()
    text = _DURATIONS.format(
        workflows=_workflows(question, values),
        since=_since(question, values),
        limit=values.number(max(0, question.durations_max)),
    )
    return [*asked, (text, tuple(values.given))]


def _workflows(question: CountByWorkflow, values: Values) -> str:
    if question.workflow is not None:
        return f"SELECT {values.text(question.workflow)}"
    return WORKFLOWS if question.after is None else f"{WORKFLOWS} AND workflow > {values.text(question.after)}"


def _of_workflow(question: CountByWorkflow, values: Values) -> str:
    if question.workflow is not None:
        return f"workflow = {values.text(question.workflow)}"
    return "true" if question.after is None else f"workflow > {values.text(question.after)}"


def _since(question: CountByWorkflow, values: Values, column: str = CREATED) -> str:
    return "" if question.since is None else f" AND {column} > {values.number(question.since)}"
