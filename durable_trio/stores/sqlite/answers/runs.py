"""What an engine reads of runs: each answer costs a few seeks and the rows that it gives."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, Final

import attrs

from durable_trio.rows import GenerationRow, HistoryRow, RunRow, WaitRow
from durable_trio.rules.run_life import FINAL, UNFINISHED
from durable_trio.stores.generation_questions import ListGeneration, ListGenerations
from durable_trio.stores.questions import (
    NOTHING_LOADED,
    AwaitedRows,
    FindEnded,
    FindMissing,
    FindRun,
    ListAwaited,
    ListHistory,
    ListOwned,
    ListWaits,
    Loaded,
    LoadRun,
    LoadRuns,
    OpenChild,
    ReadValues,
)
from durable_trio.stores.sqlite.answers.mailbox import unread_of
from durable_trio.stores.sqlite.columns import (
    GENERATION_COLUMNS,
    HISTORY_COLUMNS,
    OWNED_COLUMNS,
    WAIT_COLUMNS,
    earlier_histories_from,
    generation_from,
    histories_from,
    run_from,
    text_from,
    wait_from,
)
from durable_trio.stores.sqlite.layout import COUNT_MAX
from durable_trio.stores.sqlite.library import sqlite3
from durable_trio.stores.sqlite.operations.starts import FIND_RUN
from durable_trio.stores.statuses import is_none_of

__all__ = [
    "find_ended",
    "find_missing",
    "find_run",
    "list_awaited",
    "list_generation",
    "list_generations",
    "list_history",
    "list_owned",
    "list_waits",
    "load_run",
    "load_runs",
    "read_values",
    "values_of",
]

_DAMAGE: Final = attrgetter("damage")

HISTORY: Final = f"SELECT {HISTORY_COLUMNS} FROM history WHERE run = ? ORDER BY seq, id"
EARLIER_HISTORY: Final = (
    f"SELECT {HISTORY_COLUMNS} FROM earlier_history WHERE run = ? AND generation = ? ORDER BY seq, id"
)
GENERATIONS: Final = f"""
    SELECT {GENERATION_COLUMNS} FROM earlier_generations WHERE run = ? AND generation < ?
    ORDER BY generation DESC LIMIT ? + 0
"""
IS_PRESENT: Final = "SELECT 1 FROM runs WHERE run = ? AND generation = ?"
IS_KEPT: Final = "SELECT 1 FROM earlier_generations WHERE run = ? AND generation = ?"
WAITS: Final = f"SELECT {WAIT_COLUMNS} FROM waits WHERE run = ? ORDER BY branch, name, n"
WAITS_FIRST: Final = f"""
    SELECT {WAIT_COLUMNS} FROM waits WHERE run = ?
    ORDER BY due_at IS NULL, due_at, started_at, branch, name, n LIMIT ? + 0
"""
# Those that have ended may be many: it is looked among the newest.
CHILDREN_OPEN: Final = f"""
    SELECT id, workflow FROM (
        SELECT run, id, workflow, status FROM runs INDEXED BY runs_of_parent
        WHERE parent = ? ORDER BY run DESC LIMIT 200
    ) WHERE {is_none_of(FINAL)} AND run NOT IN (
        SELECT run FROM runs INDEXED BY runs_hidden WHERE hidden_at IS NOT NULL
    ) LIMIT ? + 0
"""
OWNED: Final = f"SELECT {OWNED_COLUMNS} FROM runs INDEXED BY runs_owned WHERE owner = ? ORDER BY run"
PUBLISHED: Final = "SELECT key, value, seq, n FROM published WHERE run = ? ORDER BY key"
# Those of some runs that have anything to load: a run that has just been started has nothing.
# With each, whether an entry of its mailbox has been consumed by what no row of a history can be.
NOT_EMPTY: Final = f"""
    SELECT value, EXISTS (SELECT 1 FROM mailbox WHERE run = wanted.value AND seq > {COUNT_MAX})
    FROM json_each(?) AS wanted
    WHERE EXISTS (SELECT 1 FROM history WHERE run = wanted.value)
        OR EXISTS (SELECT 1 FROM mailbox WHERE run = wanted.value AND seq IS NULL)
        OR EXISTS (SELECT 1 FROM mailbox WHERE run = wanted.value AND seq > {COUNT_MAX})
        OR EXISTS (SELECT 1 FROM waits WHERE run = wanted.value)
        OR EXISTS (SELECT 1 FROM published WHERE run = wanted.value)
"""
PUBLISHED_OF: Final = """
    SELECT run, key, value FROM published WHERE run IN (SELECT value FROM json_each(?)) ORDER BY run, key
"""
ENDED: Final = f"""
    SELECT json_group_array(value) FROM json_each(?) AS wanted
    WHERE EXISTS (SELECT 1 FROM runs WHERE id = wanted.value AND {is_none_of(UNFINISHED)})
"""
MISSING: Final = """
    SELECT value FROM json_each(?) AS wanted WHERE NOT EXISTS (SELECT 1 FROM runs WHERE id = wanted.value)
"""


def find_run(connection: sqlite3.Connection, question: FindRun) -> RunRow | None:
    """Return the run with that id."""
    row = connection.execute(FIND_RUN, (question.run_id,)).fetchone()
    return None if row is None else run_from(row)


def load_run(connection: sqlite3.Connection, question: LoadRun) -> Loaded:
    """Return what an executor needs to go on with a run."""
    return _loaded(connection, question.run)


def load_runs(connection: sqlite3.Connection, question: LoadRuns) -> tuple[Loaded, ...]:
    """Return what an executor needs to go on with some runs."""
    found = dict(connection.execute(NOT_EMPTY, (json.dumps(list(question.runs)),)).fetchall())
    return tuple(
        _checked(_loaded(connection, run), run, has_stray=found[run]) if run in found else NOTHING_LOADED
        for run in question.runs
    )


def _checked(loaded: Loaded, run: int, *, has_stray: bool) -> Loaded:
    if not has_stray:
        return loaded
    damage = f"in table mailbox, a row with run {run}: seq is no number of a row of the history"
    return attrs.evolve(loaded, damage=loaded.damage or damage)


def _loaded(connection: sqlite3.Connection, run: int) -> Loaded:
    rows = _history(connection, run)
    calls = _waits(connection, run)
    entries, left_out = unread_of(connection, run)
    published = connection.execute(PUBLISHED, (run,)).fetchall()
    return Loaded(
        history=rows,
        waits=calls,
        unread=entries,
        values={text_from(key): text_from(value) for key, value, _, _ in published},
        positions={text_from(key): (seq, n) for key, _, seq, n in published if type(seq) is type(n) is int},
        left_out=left_out,
        damage=next(filter(None, map(_DAMAGE, chain[Any](rows, calls, entries))), None),
    )


def list_history(connection: sqlite3.Connection, question: ListHistory) -> tuple[HistoryRow, ...]:
    """Return the history of a run in order of seq."""
    return _history(connection, question.run)


def list_generations(connection: sqlite3.Connection, question: ListGenerations) -> tuple[GenerationRow, ...]:
    """Return which earlier generations of a run are kept."""
    before = COUNT_MAX if question.before is None else question.before
    rows = connection.execute(GENERATIONS, (question.run, before, question.limit)).fetchall()
    return tuple(map(generation_from, rows))


def list_generation(connection: sqlite3.Connection, question: ListGeneration) -> tuple[HistoryRow, ...] | None:
    """Return the history of one generation of a run."""
    which = (question.run, question.generation)
    if connection.execute(IS_PRESENT, which).fetchone() is not None:
        return _history(connection, question.run)
    if connection.execute(IS_KEPT, which).fetchone() is None:
        return None
    return earlier_histories_from(connection.execute(EARLIER_HISTORY, which).fetchall())


def _history(connection: sqlite3.Connection, run: int) -> tuple[HistoryRow, ...]:
    return histories_from(connection.execute(HISTORY, (run,)).fetchall())


def list_waits(connection: sqlite3.Connection, question: ListWaits) -> tuple[WaitRow, ...]:
    """Return the open waits of a run."""
    return _waits(connection, question.run)


def _waits(connection: sqlite3.Connection, run: int) -> tuple[WaitRow, ...]:
    return tuple(map(wait_from, connection.execute(WAITS, (run,)).fetchall()))


def list_awaited(connection: sqlite3.Connection, question: ListAwaited) -> Mapping[int, AwaitedRows]:
    """Return what some runs wait for."""
    limit = question.limit
    found = {}
    for run in question.runs:  # a statement for each: a run may have thousands
        waits = tuple(map(wait_from, connection.execute(WAITS_FIRST, (run, limit)).fetchall()))
        children = tuple(
            OpenChild(text_from(child), text_from(workflow))
            for child, workflow in connection.execute(CHILDREN_OPEN, (run, limit)).fetchall()[::-1]
        )
        found[run] = AwaitedRows(waits, children)
    return found


def list_owned(connection: sqlite3.Connection, question: ListOwned) -> tuple[RunRow, ...]:
    """Return the runs that an executor owns."""
    return tuple(map(run_from, connection.execute(OWNED, (question.executor,)).fetchall()))


def find_ended(connection: sqlite3.Connection, question: FindEnded) -> tuple[str, ...]:
    """Return those of some ids whose runs have ended."""
    (found,) = connection.execute(ENDED, (json.dumps(list(question.run_ids)),)).fetchone()
    return tuple(json.loads(found))


def find_missing(connection: sqlite3.Connection, question: FindMissing) -> tuple[str, ...]:
    """Return those of some ids that no run has."""
    return tuple(run_id for (run_id,) in connection.execute(MISSING, (json.dumps(list(question.run_ids)),)).fetchall())


def read_values(connection: sqlite3.Connection, question: ReadValues) -> Mapping[int, Mapping[str, str]]:
    """Return the published values of some runs."""
    return values_of(connection, question.runs)


def values_of(connection: sqlite3.Connection, runs: Sequence[int]) -> dict[int, Mapping[str, str]]:
    """Return the published values of some runs, by run and key."""
    found: dict[int, dict[str, str]] = {run: {} for run in runs}
    for run, key, value in connection.execute(PUBLISHED_OF, (json.dumps(list(found)),)).fetchall():
        found[run][text_from(key)] = text_from(value)
    return dict(found)
