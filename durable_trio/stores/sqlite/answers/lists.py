"""Lists of runs, and the changes that a watcher has missed; each at any size of the file.

Where no part of a filter is rare, and few runs match all, many must be looked at: that is done in *slices*, each a
short transaction of its own, so that nothing waits for a list: neither the log's wal checkpoint nor another question.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from durable_trio.rows import RunRow
from durable_trio.stores.news_questions import Change, ChangePage, ListChanges, ListNews
from durable_trio.stores.questions import ListRuns, Question, RunFilter
from durable_trio.stores.sqlite.answers import streams
from durable_trio.stores.sqlite.answers.cursors import Point, known_point, present_point
from durable_trio.stores.sqlite.answers.runs import values_of
from durable_trio.stores.sqlite.answers.streams import IS_SHOWN, LAST, LISTED, MATCHING, conditions, few_runs, matching
from durable_trio.stores.sqlite.columns import RUN_COLUMNS, run_from
from durable_trio.stores.sqlite.library import sqlite3

__all__ = ["Slice", "list_changes", "list_news", "list_runs"]

_EVERYTHING: Final = RunFilter()

CHANGES: Final = f"""
    SELECT changed, run FROM runs INDEXED BY runs_changed
    WHERE changed >= ? AND (changed, run) > (?, ?) AND changed <= ? AND {IS_SHOWN} AND {{which}}
    ORDER BY changed, run LIMIT ? + 0
"""
FIND: Final = f"SELECT {RUN_COLUMNS} FROM runs WHERE run IN (SELECT value FROM json_each(?))"
END_OF_SLICE: Final = """
    SELECT changed FROM runs INDEXED BY runs_changed WHERE changed > ? ORDER BY changed LIMIT 1 OFFSET ?
"""


class Slice(NamedTuple):
    """Some of what is asked for, and the question for the rest of it; ``None`` at the end.

    ``whole``: what the answer is, made of all that was found.
    """

    found: tuple[Any, ...]
    rest: Question[Any] | None
    whole: Callable[[tuple[Any, ...]], Any] = tuple


def list_runs(connection: sqlite3.Connection, question: ListRuns) -> Slice:
    """Return runs, in an order."""
    which, order, limit = question.which, question.order, question.limit
    found, after = matching(connection, which, order, limit=limit, before=question.before)
    rest = None if after is None else ListRuns(which, order=order, limit=limit - len(found), before=after)
    return Slice(_rows(connection, [run for _, run in found]), rest)


def list_changes(connection: sqlite3.Connection, question: ListChanges) -> Slice:
    """Return runs that have changed since, in order of changes, and what they have published."""
    which, limit = question.which, question.limit
    keys, goes_on_at = _changed(connection, which, after=known_point(connection, question.after), limit=limit)
    if goes_on_at is not None and len(keys) < limit:
        rest = ListChanges(which, after=goes_on_at.cursor, limit=limit - len(keys))
        return Slice(_changes(connection, keys), rest)
    is_last = len(keys) < limit
    present = present_point(connection).cursor if is_last else keys[-1].cursor
    return Slice(_changes(connection, keys), None, lambda found: ChangePage(found, present, is_last))


def list_news(connection: sqlite3.Connection, question: ListNews) -> ChangePage:
    """Return what ``list_changes`` does of all runs, which is never in slices."""
    after = known_point(connection, question.after)
    keys, _ = _changed(connection, _EVERYTHING, after=after, limit=question.limit)
    is_last = len(keys) < question.limit
    cursor = present_point(connection).cursor if is_last else keys[-1].cursor
    return ChangePage(_changes(connection, keys), cursor, is_last)


def _changes(connection: sqlite3.Connection, keys: Sequence[Point]) -> tuple[Change, ...]:
    rows = _rows(connection, [key.run for key in keys])
    published = values_of(connection, [row.run for row in rows])
    return tuple(Change(row, published[row.run], key.cursor) for row, key in zip(rows, keys, strict=True))


def _changed(
    connection: sqlite3.Connection, which: RunFilter, *, after: Point, limit: int
) -> tuple[list[Point], Point | None]:
    """Return the points of runs, in order of their changes; and where to go on, ``None`` at the end."""
    term, parameters = conditions(which)
    few = None if which == _EVERYTHING else few_runs(connection, which)
    if few is not None:
        sql = MATCHING.format(which=term, key="changed", runs=LISTED)
        keys = connection.execute(sql, (json.dumps(few), *parameters)).fetchall()
        found = sorted(tuple(key) for key in keys if isinstance(key[0], int) and tuple(key) > after[:2])
        return [Point(*key) for key in found[: max(0, limit)]], None
    end = None
    if which != _EVERYTHING:
        end = connection.execute(END_OF_SLICE, (after.changed, streams.SLICE_RUNS)).fetchone()
    until = LAST if end is None else end[0]
    sql = CHANGES.format(which=term)
    found = connection.execute(
        sql, (after.changed, after.changed, after.run, until, *parameters, max(0, limit))
    ).fetchall()
    return [Point(*key) for key in found], None if end is None else Point(until + 1, 0)


def _rows(connection: sqlite3.Connection, runs: Sequence[int]) -> tuple[RunRow, ...]:
    found = {row[0]: row for row in connection.execute(FIND, (json.dumps(runs),)).fetchall()} if runs else {}
    return tuple(run_from(found[run]) for run in runs)
