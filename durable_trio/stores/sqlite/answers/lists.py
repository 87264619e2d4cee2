"""Lists of runs, counts of them, and the changes that a watcher has missed; each at any size of the file.

A list is merged from *streams*: keys of runs, newest first, each read from one index, as far as they are needed. Of
several parts of a filter that an index can serve, the rarest is read, and the rest of the filter is asked of its runs.
Where none is rare, and few runs match all, many must be looked at: that is done in *slices*, each a short transaction
of its own, so that nothing waits for a list: neither the log's wal checkpoint nor another question.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

from durable_trio.records import RunStatus
from durable_trio.rows import RunRow
from durable_trio.rules.run_life import FINAL
from durable_trio.stores.questions import (
    Change,
    CountRuns,
    ListChanges,
    ListNews,
    ListRuns,
    Question,
    RunFilter,
    StoreStatus,
)
from durable_trio.stores.sqlite.answers.runs import values_of
from durable_trio.stores.sqlite.columns import RUN_COLUMNS, run_from, status_from, text_from
from durable_trio.stores.sqlite.layout import NO_INTEGER, NotText
from durable_trio.stores.sqlite.library import sqlite3, version_warnings
from durable_trio.stores.sqlite.tables import WITHOUT_END

__all__ = ["Slice", "count_runs", "list_changes", "list_news", "list_runs"]

# Runs that one slice looks at: some milliseconds.
_SLICE_RUNS: Final = 4000
# Runs that are looked at together: one statement.
_RUNS_AT_ONCE: Final = 250
# A part of a filter with fewer runs is rare: all of them can be looked at in one slice. If none is, they are counted
# further to find the rarest; beyond that it does not pay.
_RARE_RUNS: Final = 2000
_COMPARED_RUNS: Final = 20_000
# Streams that are worth merging: each costs a seek.
_STREAMS_MAX: Final = 2000
# Ended runs of one status that are counted at first; then eight times as many, as long as more than one has more.
_COUNTED_FIRST: Final = 10_000
# Ids of parked runs that a status names; more would only scroll.
_PARKED_MAX: Final = 1000

_EVERYTHING: Final = RunFilter()

# As bytes too: what is stored need not be UTF-8.
BY_STATUS: Final = "runs INDEXED BY runs_by_status WHERE"
OF_WORKFLOW: Final = f"{BY_STATUS} workflow = CAST(? AS TEXT)"
OF_STATUS: Final = f"{OF_WORKFLOW} AND status = CAST(? AS TEXT)"
OF_END: Final = "runs INDEXED BY runs_finished WHERE status = ? AND finished_at IS NOT NULL"
# The file is damaged, or was changed by another program.
OF_NO_END: Final = f"runs INDEXED BY runs_without_end WHERE status = ? AND {WITHOUT_END}"
OF_TAG: Final = "tags WHERE key = ? AND value = ?"
OF_QUEUE: Final = "runs INDEXED BY runs_of_queue WHERE queue = ?"
OF_PARENT: Final = "runs INDEXED BY runs_of_parent_id WHERE parent_id = ?"
OF_ALL: Final = "runs INDEXED BY runs_created WHERE true"
STREAM: Final = "SELECT created_at, run FROM {source} ORDER BY created_at DESC, run DESC"
COUNT: Final = "SELECT count(*) FROM (SELECT 1 FROM {source} LIMIT ? + 0)"
# Where no text stands: before all texts, and behind them. Only a damaged file has such a status or workflow, and a
# column that is NOT NULL is not searched for NULL, which stands before all else.
OF_NO_TEXT: Final = (f"{OF_WORKFLOW} AND status < ''", f"{OF_WORKFLOW} AND status >= x''")
OF_NO_WORKFLOW: Final = (f"{BY_STATUS} workflow < ''", f"{BY_STATUS} workflow >= x''")
# SQLite seeks by the first column only of a comparison of rows; so in two steps.
NEXT_STATUS: Final = f"SELECT status FROM {OF_WORKFLOW} AND status > CAST(? AS TEXT) ORDER BY status LIMIT 1"
NEXT_WORKFLOW: Final = f"SELECT workflow FROM {BY_STATUS} workflow > CAST(? AS TEXT) ORDER BY workflow LIMIT 1"
# The first one, and the first text.
FIRST_STATUS: Final = (
    f"SELECT status FROM {OF_WORKFLOW} ORDER BY status LIMIT 1",
    f"SELECT status FROM {OF_WORKFLOW} AND status >= '' ORDER BY status LIMIT 1",
)
FIRST_WORKFLOW: Final = (
    f"SELECT workflow FROM {BY_STATUS} true ORDER BY workflow LIMIT 1",
    f"SELECT workflow FROM {BY_STATUS} workflow >= '' ORDER BY workflow LIMIT 1",
)
COUNT_ALL: Final = "SELECT count(*) FROM runs"  # without a condition it counts pages, not rows
COUNT_HIDDEN: Final = """
    SELECT workflow, status, finished_at IS NOT NULL, count(*) FROM runs INDEXED BY runs_hidden
    WHERE hidden_at IS NOT NULL GROUP BY 1, 2, 3
"""
# By the index: the column itself stands behind the payloads.
IS_SHOWN: Final = "run NOT IN (SELECT run FROM runs INDEXED BY runs_hidden WHERE hidden_at IS NOT NULL)"
# First which of some runs match, without their payloads.
MATCHING: Final = f"""
    SELECT changed, run FROM runs NOT INDEXED
    WHERE run IN (SELECT value FROM json_each(?)) AND {IS_SHOWN} AND {{which}}
"""
CHANGES: Final = f"""
    SELECT changed, run FROM runs INDEXED BY runs_changed
    WHERE changed > ? AND changed <= ? AND {IS_SHOWN} AND {{which}} ORDER BY changed, run LIMIT ? + 0
"""
FIND: Final = f"SELECT {RUN_COLUMNS} FROM runs WHERE run IN (SELECT value FROM json_each(?))"
END_OF_SLICE: Final = """
    SELECT changed FROM runs INDEXED BY runs_changed WHERE changed > ? ORDER BY changed LIMIT 1 OFFSET ?
"""
HAS_TAG: Final = """
    EXISTS (SELECT 1 FROM tags WHERE key = ? AND value = ? AND created_at = runs.created_at AND run = runs.run)
"""
NEWEST_HISTORY: Final = "SELECT coalesce(max(id), 0) FROM history"
PARKED: Final = "SELECT id FROM runs INDEXED BY runs_parked WHERE problem IS NOT NULL ORDER BY run LIMIT ? + 0"
_LAST: Final = 2**63 - 1

_Key = tuple[int, int]  # created_at, run


class Slice(NamedTuple):
    """Some of what is asked for, and the question for the rest of it; ``None`` at the end."""

    found: tuple[Any, ...]
    rest: Question[tuple[Any, ...]] | None


class _Source(NamedTuple):
    """Where keys of runs are read from: a table with its condition, and the parameters of that."""

    sql: str
    parameters: tuple[Any, ...]


def list_runs(connection: sqlite3.Connection, question: ListRuns) -> Slice:
    """Return runs, newest first."""
    which, limit, before = question.which, question.limit, question.before
    term, parameters = _conditions(which)
    sql = MATCHING.format(which=term)
    keys = _keys(connection, which, before)
    found: list[int] = []
    looked_at = 0
    while len(found) < limit and looked_at < _SLICE_RUNS:
        wanted = limit - len(found)
        part = list(islice(keys, wanted if looked_at == 0 else _RUNS_AT_ONCE))
        if not part:
            return Slice(_rows(connection, found), None)
        looked_at += len(part)
        runs = json.dumps([run for _, run in part])
        matching = {run for _, run in connection.execute(sql, (runs, *parameters)).fetchall()}
        for before in part:
            if before[1] in matching:
                found.append(before[1])
                if len(found) == limit:
                    break
    rest = ListRuns(which, limit=limit - len(found), before=before) if len(found) < limit else None
    return Slice(_rows(connection, found), rest)


def list_changes(connection: sqlite3.Connection, question: ListChanges) -> Slice:
    """Return runs that have changed since, in order of changes, and what they have published."""
    which, limit = question.which, question.limit
    runs, position = _changed(connection, which, after=question.after, limit=limit)
    rest = None
    if position is not None and len(runs) < limit:
        rest = ListChanges(which, after=position, limit=limit - len(runs))
    return Slice(_changes(connection, runs), rest)


def list_news(connection: sqlite3.Connection, question: ListNews) -> tuple[Change, ...]:
    """Return what ``list_changes`` does of all runs, which is never in slices."""
    runs, _ = _changed(connection, _EVERYTHING, after=question.after, limit=question.limit)
    return _changes(connection, runs)


def _changes(connection: sqlite3.Connection, runs: Sequence[int]) -> tuple[Change, ...]:
    rows = _rows(connection, runs)
    published = values_of(connection, [row.run for row in rows])
    return tuple(Change(row, published[row.run]) for row in rows)


def _changed(
    connection: sqlite3.Connection, which: RunFilter, *, after: int, limit: int
) -> tuple[list[int], int | None]:
    """Return runs in order of their changes, those of one change together; and where to go on, ``None`` at the end."""
    term, parameters = _conditions(which)
    if which.run_id is not None or (which != _EVERYTHING and _rarest(connection, which).key_count < _RARE_RUNS):
        runs = json.dumps([run for _, run in _keys(connection, which, None)])
        matching = connection.execute(MATCHING.format(which=term), (runs, *parameters)).fetchall()
        found = sorted(key for key in matching if isinstance(key[0], int) and key[0] > after)
        last = found[min(limit, len(found)) - 1][0] if found and limit > 0 else after
        return [run for changed, run in found if changed <= last], None
    end = None
    if which != _EVERYTHING:
        end = connection.execute(END_OF_SLICE, (after, _SLICE_RUNS)).fetchone()
    until = _LAST if end is None else end[0]
    sql = CHANGES.format(which=term)
    found = connection.execute(sql, (after, until, *parameters, max(0, limit))).fetchall()
    if found and len(found) >= limit:
        last = found[-1][0]
        rest = connection.execute(sql, (last - 1, last, *parameters, -1)).fetchall()
        found = [key for key in found if key[0] < last] + rest
    return [run for _, run in found], None if end is None else until


def _rows(connection: sqlite3.Connection, runs: Sequence[int]) -> tuple[RunRow, ...]:
    found = {row[0]: row for row in connection.execute(FIND, (json.dumps(runs),)).fetchall()} if runs else {}
    return tuple(run_from(found[run]) for run in runs)


def count_runs(connection: sqlite3.Connection, question: CountRuns) -> StoreStatus:
    """Return counts and warnings."""
    unfinished: dict[str, int] = {}
    by_status: dict[RunStatus, int] = {}
    for (workflow, name), count in _counts_of_unfinished(connection).items():
        status = status_from(name)
        by_status[status] = by_status.get(status, 0) + count
        name = text_from(workflow)
        unfinished[name] = unfinished.get(name, 0) + count
    for status, count in _counts_of_ended(connection, sum(by_status.values())).items():
        by_status[status] = by_status.get(status, 0) + count
    return StoreStatus(
        runs_by_status={status: by_status[status] for status in RunStatus if by_status.get(status)},
        parked=tuple(text_from(row[0]) for row in connection.execute(PARKED, (_PARKED_MAX,)).fetchall()),
        unfinished_by_workflow={workflow: count for workflow, count in unfinished.items() if count},
        library_version=sqlite3.sqlite_version,
        warnings=version_warnings(sqlite3.sqlite_version),
        recorded_count=connection.execute(NEWEST_HISTORY).fetchone()[0],
    )


def _counts_of_unfinished(connection: sqlite3.Connection) -> dict[tuple[str, str], int]:
    """Return how many runs have not ended, by workflow and status."""
    counts: dict[tuple[str, str], int] = {}
    for cell in _cells(connection):
        if not status_from(cell.status).is_final:
            key = (text_from(cell.workflow), text_from(cell.status))
            counts[key] = counts.get(key, 0) + _count(connection, [cell.source], _LAST)
    for workflow, status, _, count in connection.execute(COUNT_HIDDEN).fetchall():
        if not status_from(status).is_final:
            key = (text_from(workflow), text_from(status))
            counts[key] = counts.get(key, 0) - count
    return counts


def _counts_of_ended(connection: sqlite3.Connection, unfinished_count: int) -> dict[RunStatus, int]:
    """Return how many runs have ended, by status. The largest number is not counted: it is what is left of all."""
    counts: dict[RunStatus, int] = {}
    final = list(FINAL)
    without_end = {status: _count(connection, [_Source(OF_NO_END, (status.value,))], _LAST) for status in final}
    uncounted = final
    counted_max = _COUNTED_FIRST
    while len(uncounted) > 1:
        large = []
        for status in uncounted:
            counts[status] = _count(connection, [_Source(OF_END, (status.value,))], counted_max)
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
        others = sum(count for status, count in counts.items() if status is not uncounted[0])
        others += sum(without_end.values())
        counts[uncounted[0]] = all_count - unfinished_count - others
    for _, name, _, count in hidden:
        if (status := status_from(name)).is_final:
            counts[status] = counts.get(status, 0) - count
    return {status: counts.get(status, 0) + without_end[status] for status in final}


class _Cell(NamedTuple):
    """Runs of one workflow and one status; ``None`` stands for what is no text."""

    workflow: str | None
    status: str | None
    source: _Source


def _cells(connection: sqlite3.Connection) -> Iterator[_Cell]:
    """Give each pair of a workflow and a status that some run has, by a seek each."""
    for workflow in _walk(connection, FIRST_WORKFLOW, NEXT_WORKFLOW):
        if isinstance(workflow, str):
            yield from _cells_of_workflow(connection, workflow)
        else:
            yield _Cell(None, None, _Source(OF_NO_WORKFLOW[workflow], ()))


def _cells_of_workflow(connection: sqlite3.Connection, workflow: str) -> Iterator[_Cell]:
    stored = _stored(workflow)
    for status in _walk(connection, FIRST_STATUS, NEXT_STATUS, stored):
        if isinstance(status, str):
            yield _Cell(workflow, status, _Source(OF_STATUS, (stored, _stored(status))))
        else:
            yield _Cell(workflow, None, _Source(OF_NO_TEXT[status], (stored,)))


def _walk(
    connection: sqlite3.Connection, first: tuple[str, str], following: str, *parameters: str | bytes
) -> Iterator[str | int]:
    """Give each text of an index's column; 0 before them if there is something that is none, 1 behind them."""
    found = connection.execute(first[0], parameters).fetchone()
    if found is not None and not isinstance(found[0], str | bytes):
        yield 0
        found = connection.execute(first[1], parameters).fetchone()
    while found is not None and isinstance(found[0], str):
        yield found[0]
        found = connection.execute(following, (*parameters, _stored(found[0]))).fetchone()
    if found is not None:
        yield 1


def _stored(text: str) -> str | bytes:
    return text.raw if isinstance(text, NotText) else text


# ---- streams -----------------------------------------------------------------------------------------------------


class _Part(NamedTuple):
    """A part of a filter that indexes can serve: its sources, and how many keys they have; counted up to a limit."""

    sources: Sequence[_Source]
    key_count: int


def _keys(connection: sqlite3.Connection, which: RunFilter, before: _Key | None) -> Iterator[_Key]:
    """Give the keys of runs among which are all that match, newest first."""
    if which.run_id is not None:
        rows = connection.execute("SELECT created_at, run FROM runs WHERE id = ?", (which.run_id,)).fetchall()
        found = list(map(_key, rows))
        return iter([key for key in found if before is None or key < before])
    streams = [_stream(connection, source, before) for source in _rarest(connection, which).sources]
    return heapq.merge(*streams, reverse=True)


def _stream(connection: sqlite3.Connection, source: _Source, before: _Key | None) -> Iterator[_Key]:
    sql, parameters = source
    if before is not None:  # not as a comparison of rows, as above
        same = f"{sql} AND created_at = ? AND run < ?"
        yield from map(_key, connection.execute(STREAM.format(source=same), (*parameters, *before)))
        sql, parameters = f"{sql} AND created_at < ?", (*parameters, before[0])
    yield from map(_key, connection.execute(STREAM.format(source=sql), parameters))


def _key(row: tuple[Any, int]) -> _Key:
    """Return the key of a run; one whose time is no number comes where it stands in the index."""
    created_at, run = row
    if type(created_at) is int:
        return row
    return (NO_INTEGER if created_at is None else _LAST, run)


def _rarest(connection: sqlite3.Connection, which: RunFilter) -> _Part:
    """Return the rarest part of a filter that indexes can serve; all runs, if there is none."""
    found: list[list[_Source]] = []
    if which.statuses is not None or which.workflow is not None:
        cells = list(islice(_cells_of(connection, which), _STREAMS_MAX + 1))
        if len(cells) <= _STREAMS_MAX:
            found.append([cell.source for cell in cells])
    found += ([_Source(OF_TAG, tag)] for tag in which.tags)
    if which.queue is not None:
        found.append([_Source(OF_QUEUE, (which.queue,))])
    if which.parent_id is not None:
        found.append([_Source(OF_PARENT, (which.parent_id,))])
    parts = [
        [_Source(*_created(source.sql, source.parameters, which)) for source in sources]
        for sources in found or [[_Source(OF_ALL, ())]]
    ]
    rarest = _Part(parts[0], _RARE_RUNS)
    for limit in (_RARE_RUNS, _COMPARED_RUNS):
        counted = [_Part(part, _count(connection, part, limit)) for part in parts]
        rarest = min(counted, key=lambda part: part.key_count)
        if rarest.key_count < limit or len(parts) == 1:
            break
    return rarest


def _cells_of(connection: sqlite3.Connection, which: RunFilter) -> Iterator[_Cell]:
    cells = _cells(connection) if which.workflow is None else _cells_of_workflow(connection, which.workflow)
    statuses = which.statuses
    # The statuses of runs without a workflow are looked at one by one.
    return (cell for cell in cells if statuses is None or cell.workflow is None or status_from(cell.status) in statuses)


def _created(sql: str, parameters: tuple[Any, ...], which: RunFilter) -> tuple[str, tuple[Any, ...]]:
    if which.created_after is not None:
        sql, parameters = f"{sql} AND created_at > ?", (*parameters, which.created_after)
    if which.created_before is not None:
        sql, parameters = f"{sql} AND created_at < ?", (*parameters, which.created_before)
    return sql, parameters


def _count(connection: sqlite3.Connection, sources: Sequence[_Source], limit: int) -> int:
    count = 0
    for source in sources:
        if count < limit:
            sql = COUNT.format(source=source.sql)
            count += connection.execute(sql, (*source.parameters, limit - count)).fetchone()[0]
    return count


def _conditions(which: RunFilter) -> tuple[str, list[Any]]:
    """Return a filter as a condition on ``runs``, and its parameters. Only fixed text goes into the statement."""
    terms: list[str] = []
    parameters: list[Any] = []

    def add(term: str, *given: Any) -> None:
        terms.append(term)
        parameters.extend(given)

    if which.run_id is not None:
        add("id = ?", which.run_id)
    if which.statuses is not None:
        # One that cannot be read counts as suspended (``status_from``).
        is_damage = RunStatus.SUSPENDED in which.statuses
        named = [status.value for status in RunStatus if (status in which.statuses) is not is_damage]
        marks = ", ".join("?" * len(named))
        add(f"coalesce(status NOT IN ({marks}), true)" if is_damage else f"status IN ({marks})", *named)
    if which.workflow is not None:
        add("workflow = ?", which.workflow)
    for key, value in which.tags:
        add(HAS_TAG, key, value)
    if which.queue is not None:
        add("queue = ?", which.queue)
    if which.parent_id is not None:
        add("parent_id = ?", which.parent_id)
    if which.created_after is not None:
        add("created_at > ?", which.created_after)
    if which.created_before is not None:
        add("created_at < ?", which.created_before)
    return " AND ".join(terms) or "true", parameters
