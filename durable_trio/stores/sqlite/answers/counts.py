"""Counts of runs: by status and workflow, each at any size of the file."""

from __future__ import annotations

from operator import itemgetter
from typing import Final

import attrs

from durable_trio.records import RunStatus
from durable_trio.rules.run_life import FINAL
from durable_trio.stores.code_questions import CountParked
from durable_trio.stores.questions import CountByWorkflow, CountRuns, StoreStatus, WorkflowCounts
from durable_trio.stores.sqlite.answers.cells import (
    FIRST_WORKFLOW,
    NEXT_WORKFLOW,
    Source,
    cells,
    cells_of_workflow,
    count,
    walk,
)
from durable_trio.stores.sqlite.answers.lists import Slice
from durable_trio.stores.sqlite.answers.ordered import OF_END
from durable_trio.stores.sqlite.answers.parked import of_parked
from durable_trio.stores.sqlite.answers.streams import IS_SHOWN, LAST, OF_NO_END
from durable_trio.stores.sqlite.answers.versions import count_of_versions
from durable_trio.stores.sqlite.columns import status_from, text_from
from durable_trio.stores.sqlite.layout import NO_INTEGER, stored
from durable_trio.stores.sqlite.library import sqlite3, version_warnings

__all__ = ["count_by_workflow", "count_parked", "count_runs"]

# Ended runs of one status that are counted at first; then eight times as many, as long as more than one has more.
_COUNTED_FIRST: Final = 10_000
# Ids of parked runs that a status names; more would only scroll.
_PARKED_MAX: Final = 1000

COUNT_ALL: Final = "SELECT count(*) FROM runs"  # without a condition it counts pages, not rows
COUNT_HIDDEN: Final = """
    SELECT workflow, status, finished_at IS NOT NULL, count(*) FROM runs INDEXED BY runs_hidden
    WHERE hidden_at IS NOT NULL GROUP BY 1, 2, 3
"""
HIDDEN_OF: Final = """
    SELECT status, count(*) FROM runs INDEXED BY runs_hidden
    WHERE hidden_at IS NOT NULL AND workflow = CAST(? AS TEXT) AND created_at > ? GROUP BY status
"""
OLDEST: Final = f"SELECT created_at, id FROM {{source}} AND {IS_SHOWN} ORDER BY created_at, run LIMIT 1"
# A fork has the ``started_at`` of the run that it is a copy of.
DURATIONS: Final = f"""
    SELECT created_at, started_at, finished_at FROM {{source}} AND {IS_SHOWN}
    ORDER BY created_at DESC, run DESC LIMIT ? + 0
"""
NEWEST_HISTORY: Final = "SELECT coalesce(max(id), 0) FROM history"


def count_runs(connection: sqlite3.Connection, question: CountRuns) -> StoreStatus:
    """Return counts and warnings."""
    unfinished: dict[str, int] = {}
    by_status: dict[RunStatus, int] = {}
    for (workflow, name), number in _counts_of_unfinished(connection).items():
        status = status_from(name)
        by_status[status] = by_status.get(status, 0) + number
        name = text_from(workflow)
        unfinished[name] = unfinished.get(name, 0) + number
    for status, number in _counts_of_ended(connection, sum(by_status.values())).items():
        by_status[status] = by_status.get(status, 0) + number
    return StoreStatus(
        runs_by_status={status: by_status[status] for status in RunStatus if by_status.get(status)},
        parked=_parked(connection),
        unfinished_by_workflow={workflow: number for workflow, number in unfinished.items() if number},
        unfinished_by_version=_by_version(connection, unfinished),
        store_version=f"SQLite {sqlite3.sqlite_version}",
        warnings=version_warnings(sqlite3.sqlite_version),
        recorded_count=connection.execute(NEWEST_HISTORY).fetchone()[0],
    )


def count_parked(connection: sqlite3.Connection, question: CountParked) -> int:
    """Return how many runs are parked."""
    return sum(count(connection, [source], _COUNTED_FIRST) for source in of_parked(connection, None))


def _by_version(connection: sqlite3.Connection, unfinished: dict[str, int]) -> dict[tuple[str, int], int]:
    by_version = count_of_versions(connection)
    left = dict(unfinished)
    for (workflow, _), number in by_version.items():
        left[workflow] = left.get(workflow, 0) - number
    return {**{(workflow, 0): number for workflow, number in left.items() if number > 0}, **by_version}


def _parked(connection: sqlite3.Connection) -> tuple[str, ...]:
    found: list[tuple[int, str]] = []
    for source in of_parked(connection, None):
        sql = f"SELECT run, id FROM {source.sql} ORDER BY run LIMIT ? + 0"
        found += connection.execute(sql, (*source.parameters, _PARKED_MAX)).fetchall()
    return tuple(text_from(text) for _, text in sorted(found, key=itemgetter(0))[:_PARKED_MAX])


def count_by_workflow(connection: sqlite3.Connection, question: CountByWorkflow) -> Slice:
    """Return the counts of one workflow; those of the next ones are asked for in a transaction each."""
    is_one = question.workflow is not None
    workflow = question.workflow if is_one else _workflow_after(connection, question.after)
    if workflow is None:
        return Slice((), None)
    found = _counts_of(connection, workflow, question)
    rest = None if is_one else attrs.evolve(question, after=workflow)
    return Slice((found,) if found.by_status or found.oldest_unfinished else (), rest)


def _workflow_after(connection: sqlite3.Connection, after: str | None) -> str | None:
    """Return the next workflow by name; what is no text at all is passed over."""
    if after is None:
        return next((name for name in walk(connection, FIRST_WORKFLOW, NEXT_WORKFLOW) if isinstance(name, str)), None)
    found = connection.execute(NEXT_WORKFLOW, (stored(after),)).fetchone()
    return found[0] if found is not None and isinstance(found[0], str) else None


def _counts_of(connection: sqlite3.Connection, workflow: str, question: CountByWorkflow) -> WorkflowCounts:
    since = question.since
    by_status: dict[RunStatus, int] = {}
    oldest: list[tuple[int, str]] = []
    durations: tuple[int, ...] = ()
    for cell in cells_of_workflow(connection, workflow):
        status = status_from(cell.status)
        if not status.is_final:
            oldest += connection.execute(OLDEST.format(source=cell.source.sql), cell.source.parameters).fetchall()
        sql, parameters = cell.source
        if since is not None:
            sql, parameters = f"{sql} AND created_at > ?", (*parameters, since)
        by_status[status] = by_status.get(status, 0) + count(connection, [Source(sql, parameters)], LAST)
        if status is RunStatus.COMPLETED:
            rows = connection.execute(DURATIONS.format(source=sql), (*parameters, question.durations_max)).fetchall()
            durations = tuple(ended - max(begun) for *begun, ended in rows if _are_instants(*begun, ended))
    for word, number in connection.execute(HIDDEN_OF, (stored(workflow), NO_INTEGER if since is None else since)):
        by_status[status_from(word)] = by_status.get(status_from(word), 0) - number
    first = min((each for each in oldest if _are_instants(each[0])), default=None)
    return WorkflowCounts(
        workflow=text_from(workflow),
        by_status={status: by_status[status] for status in RunStatus if by_status.get(status)},
        oldest_unfinished=None if first is None else (text_from(first[1]), first[0]),
        durations=durations,
    )


def _are_instants(*values: object) -> bool:
    return all(type(value) is int for value in values)


def _counts_of_unfinished(connection: sqlite3.Connection) -> dict[tuple[str, str], int]:
    """Return how many runs have not ended, by workflow and status."""
    counts: dict[tuple[str, str], int] = {}
    for cell in cells(connection):
        if not status_from(cell.status).is_final:
            key = (text_from(cell.workflow), text_from(cell.status))
            counts[key] = counts.get(key, 0) + count(connection, [cell.source], LAST)
    for workflow, status, _, number in connection.execute(COUNT_HIDDEN).fetchall():
        if not status_from(status).is_final:
            key = (text_from(workflow), text_from(status))
            counts[key] = counts.get(key, 0) - number
    return counts


def _counts_of_ended(connection: sqlite3.Connection, unfinished_count: int) -> dict[RunStatus, int]:
    """Return how many runs have ended, by status. The largest number is not counted: it is what is left of all."""
    counts: dict[RunStatus, int] = {}
    final = list(FINAL)
    without_end = {status: count(connection, [Source(OF_NO_END, (status.value,))], LAST) for status in final}
    uncounted = final
    counted_max = _COUNTED_FIRST
    while len(uncounted) > 1:
        large = []
        for status in uncounted:
            counts[status] = count(connection, [Source(OF_END, (status.value,))], counted_max)
            if counts[status] == counted_max:
                large.append(status)
        if not large:
            break
        uncounted = large
        counted_max *= 8
    hidden = connection.execute(COUNT_HIDDEN).fetchall()
    if len(uncounted) == 1:
        is_unfinished = [not status_from(row[1]).is_final for row in hidden]
        all_count = connection.execute(COUNT_ALL).fetchone()[0]
        all_count -= sum(row[3] for row, is_open in zip(hidden, is_unfinished, strict=True) if is_open)
        others = sum(number for status, number in counts.items() if status is not uncounted[0])
        others += sum(without_end.values())
        counts[uncounted[0]] = all_count - unfinished_count - others
    for _, name, _, number in hidden:
        if (status := status_from(name)).is_final:
            counts[status] = counts.get(status, 0) - number
    return {status: counts.get(status, 0) + without_end[status] for status in final}
