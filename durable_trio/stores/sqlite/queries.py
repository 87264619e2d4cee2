"""What an engine reads of a store, on a connection that the caller has to itself. Each answer is of one instant.

Runs wait for these reads: each costs a few seeks and the rows that it gives. What people ask is in ``questions``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, Final

import attrs

from durable_trio.limits import MAILBOX_ENTRIES_READ
from durable_trio.rows import ExecutorRow, HistoryRow, MailboxEntry, ReportRow, RunRow, WaitRow
from durable_trio.stores.contract import NOTHING_LOADED, Backlog, Loaded, MailLook, NamedSignals, SetBack
from durable_trio.stores.sqlite.columns import (
    ENTRY_COLUMNS,
    EXECUTOR_COLUMNS,
    HISTORY_COLUMNS,
    REPORT_COLUMNS,
    RUN_COLUMNS,
    WAIT_COLUMNS,
    entry_from,
    executor_from,
    histories_from,
    report_from,
    run_from,
    text_from,
    wait_from,
)
from durable_trio.stores.sqlite.layout import COUNT_MAX
from durable_trio.stores.sqlite.library import sqlite3
from durable_trio.stores.sqlite.operations.claims import FIND_IN_LINE
from durable_trio.stores.sqlite.operations.starts import FIND_RUN
from durable_trio.stores.sqlite.tables import BEGUN, NEW, SUSPECT

__all__ = [
    "backlog",
    "executors",
    "executors_and_locks",
    "history",
    "last_change",
    "last_mailbox_id",
    "load",
    "load_many",
    "mail",
    "mailbox_after",
    "missing_runs",
    "reports",
    "run",
    "set_back",
    "unread",
    "values",
    "waits",
]

# Runs whose values are asked for by one statement: below SQLite's oldest limit of parameters.
_RUNS_AT_ONCE: Final = 500

_DAMAGE: Final = attrgetter("damage")

HISTORY: Final = f"SELECT {HISTORY_COLUMNS} FROM history WHERE run = ? ORDER BY seq, id"
WAITS: Final = f"SELECT {WAIT_COLUMNS} FROM waits WHERE run = ? ORDER BY branch, name, n"
UNREAD: Final = f"SELECT {ENTRY_COLUMNS} FROM mailbox WHERE run = ? AND seq IS NULL ORDER BY id"
UNREAD_AFTER: Final = f"""
    SELECT {ENTRY_COLUMNS} FROM mailbox INDEXED BY mailbox_of_run
    WHERE run = ? AND seq IS NULL AND id > ? ORDER BY id LIMIT ?
"""
SIGNALS_NAMED: Final = f"""
    SELECT {ENTRY_COLUMNS} FROM mailbox INDEXED BY mailbox_unread
    WHERE run = ? AND kind = 'signal' AND name = ? AND seq IS NULL AND id > ? ORDER BY id LIMIT ?
"""
CONTROLS_AFTER: Final = f"""
    SELECT {ENTRY_COLUMNS} FROM mailbox INDEXED BY mailbox_unread
    WHERE run = ? AND kind IN ('cancel', 'child') AND seq IS NULL AND id > ? ORDER BY id
"""
LAST_UNREAD: Final = "SELECT max(id) FROM mailbox INDEXED BY mailbox_of_run WHERE run = ? AND seq IS NULL"
OWNED: Final = f"SELECT {RUN_COLUMNS} FROM runs INDEXED BY runs_owned WHERE owner = ? ORDER BY run"
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
PUBLISHED_OF: Final = "SELECT run, key, value FROM published WHERE run IN ({marks}) ORDER BY run, key"
LAST_CHANGE: Final = "SELECT changed FROM change_counter"
MISSING: Final = """
    SELECT value FROM json_each(?) AS wanted WHERE NOT EXISTS (SELECT 1 FROM runs WHERE id = wanted.value)
"""
MAILBOX_AFTER: Final = f"SELECT {ENTRY_COLUMNS} FROM mailbox WHERE id > ? ORDER BY id LIMIT ?"
LAST_MAILBOX_ID: Final = "SELECT seq FROM sqlite_sequence WHERE name = 'mailbox'"
LOCKS: Final = "SELECT id, lock FROM executors WHERE ended_at IS NULL"
LIVING: Final = f"SELECT {EXECUTOR_COLUMNS} FROM executors WHERE ended_at IS NULL ORDER BY id"
OWNING: Final = f"""
    SELECT {EXECUTOR_COLUMNS} FROM executors
    WHERE ended_at IS NULL OR EXISTS (SELECT 1 FROM runs WHERE owner = executors.id) ORDER BY id
"""
REPORTS: Final = f"SELECT {REPORT_COLUMNS} FROM reports ORDER BY process"
COUNT_IN_LINE: Final = """
    SELECT count(*) FROM (
        SELECT 1 FROM runs INDEXED BY runs_line
        WHERE workflow = ? AND owner IS NULL AND wake_at IS NOT NULL AND is_due = 1 LIMIT ?
    )
"""
SET_BACK: Final = """
    SELECT id, workflow, wake_at, max(created_at, coalesce((SELECT max(started_at) FROM waits WHERE run = runs.run), 0))
    FROM runs
    WHERE workflow IN (SELECT value FROM json_each(:workflows)) AND owner IS NULL AND wake_at IS NOT NULL
        AND wake_at > :now
        AND (created_at > :now OR EXISTS (SELECT 1 FROM waits WHERE run = runs.run AND started_at > :now))
    ORDER BY wake_at, run LIMIT :limit
"""
COUNT_LATER: Final = """
    SELECT count(*) FROM (
        SELECT 1 FROM runs INDEXED BY runs_later
        WHERE workflow = ? AND (token > 0) = ? AND owner IS NULL AND wake_at IS NOT NULL AND is_due IS NOT 1
            AND wake_at <= ? LIMIT ?
    )
"""
NEXT_LATER: Final = """
    SELECT wake_at FROM runs INDEXED BY runs_later
    WHERE workflow = ? AND (token > 0) = ? AND owner IS NULL AND wake_at IS NOT NULL AND is_due IS NOT 1
    ORDER BY wake_at LIMIT 1
"""
COUNT_LIVING: Final = "SELECT count(*) FROM executors INDEXED BY executors_living WHERE ended_at IS NULL"
COUNT_OWNED: Final = "SELECT owner, count(*) FROM runs INDEXED BY runs_owned WHERE owner IS NOT NULL GROUP BY owner"


def run(connection: sqlite3.Connection, run_id: str) -> RunRow | None:
    """Return the run with that id."""
    row = connection.execute(FIND_RUN, (run_id,)).fetchone()
    return None if row is None else run_from(row)


def load(connection: sqlite3.Connection, run: int) -> Loaded:
    """Return what an executor needs to go on with a run; call it within a transaction, for one instant."""
    rows = history(connection, run)
    calls = waits(connection, run)
    entries, left_out = _mailbox(connection, run)
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


def _mailbox(connection: sqlite3.Connection, run: int) -> tuple[tuple[MailboxEntry, ...], tuple[int, int] | None]:
    """Return unread entries, and between which ids signals were left out, if they are many."""
    found = _entries(connection, UNREAD_AFTER, run, 0, MAILBOX_ENTRIES_READ + 1)
    if len(found) <= MAILBOX_ENTRIES_READ:
        return found, None
    found = found[:-1]
    controls = _entries(connection, CONTROLS_AFTER, run, found[-1].id)
    last = connection.execute(LAST_UNREAD, (run,)).fetchone()[0]
    return found + controls, (found[-1].id, last)


def load_many(connection: sqlite3.Connection, runs: Sequence[int]) -> tuple[Loaded, ...]:
    """Return what an executor needs to go on with some runs; call it within a transaction, for one instant."""
    found = dict(connection.execute(NOT_EMPTY, (json.dumps(list(runs)),)).fetchall())
    return tuple(_load(connection, run, has_stray=found[run]) if run in found else NOTHING_LOADED for run in runs)


def _load(connection: sqlite3.Connection, run: int, *, has_stray: bool) -> Loaded:
    loaded = load(connection, run)
    if not has_stray:
        return loaded
    damage = f"in table mailbox, a row with run {run}: seq is no number of a row of the history"
    return attrs.evolve(loaded, damage=loaded.damage or damage)


def history(connection: sqlite3.Connection, run: int) -> tuple[HistoryRow, ...]:
    """Return the history of a run in order of seq."""
    return histories_from(connection.execute(HISTORY, (run,)).fetchall())


def last_change(connection: sqlite3.Connection) -> int:
    """Return the highest change number given out so far."""
    return int(connection.execute(LAST_CHANGE).fetchone()[0])


def values(connection: sqlite3.Connection, runs: Sequence[int]) -> dict[int, Mapping[str, str]]:
    """Return the published values of some runs; call it within a transaction."""
    found: dict[int, dict[str, str]] = {run: {} for run in runs}
    wanted = list(found)
    for start in range(0, len(wanted), _RUNS_AT_ONCE):
        part = wanted[start : start + _RUNS_AT_ONCE]
        sql = PUBLISHED_OF.format(marks=", ".join("?" * len(part)))
        for run, key, value in connection.execute(sql, part).fetchall():
            found[run][text_from(key)] = text_from(value)
    return dict(found)


def missing_runs(connection: sqlite3.Connection, run_ids: Sequence[str]) -> tuple[str, ...]:
    """Return those of some ids that no run has."""
    return tuple(run_id for (run_id,) in connection.execute(MISSING, (json.dumps(list(run_ids)),)).fetchall())


def mailbox_after(connection: sqlite3.Connection, entry: int, *, limit: int) -> tuple[MailboxEntry, ...]:
    """Return later mailbox entries, in order."""
    return _entries(connection, MAILBOX_AFTER, entry, max(0, limit))


def last_mailbox_id(connection: sqlite3.Connection) -> int:
    """Return the highest mailbox id given out so far, also if that entry is gone."""
    row = connection.execute(LAST_MAILBOX_ID).fetchone()
    return 0 if row is None else int(row[0])


def waits(connection: sqlite3.Connection, run: int) -> tuple[WaitRow, ...]:
    """Return the open waits of a run."""
    return tuple(map(wait_from, connection.execute(WAITS, (run,)).fetchall()))


def unread(connection: sqlite3.Connection, run: int) -> tuple[MailboxEntry, ...]:
    """Return the unread mailbox entries of a run, in order of arrival."""
    return _entries(connection, UNREAD, run)


def mail(connection: sqlite3.Connection, run: int, *, after: int, names: Mapping[str, int], limit: int) -> MailLook:
    """Return what has come into a run's mailbox, and signals by name; call it within a transaction."""
    named = {}
    for name, above in names.items():
        found = _entries(connection, SIGNALS_NAMED, run, name, above, limit + 1)
        named[name] = NamedSignals(above, found[:limit], len(found) <= limit)
    found = _entries(connection, UNREAD_AFTER, run, after, limit + 1)
    return MailLook(after, found[:limit], len(found) <= limit, named)


def _entries(connection: sqlite3.Connection, sql: str, *parameters: object) -> tuple[MailboxEntry, ...]:
    return tuple(map(entry_from, connection.execute(sql, parameters).fetchall()))


def backlog(connection: sqlite3.Connection, workflows: Sequence[str], *, now: int, due_max: int) -> Backlog:
    """Return what waits to be claimed; call it within a transaction."""
    heads: list[int] = []
    due_count = 0

    def count(sql: str, *parameters: object) -> None:
        nonlocal due_count
        if due_count < due_max:
            due_count += connection.execute(sql, (*parameters, due_max - due_count)).fetchone()[0]

    for workflow in dict.fromkeys(workflows):
        for line in (SUSPECT, BEGUN, NEW):
            found = connection.execute(FIND_IN_LINE, (workflow, line, 1)).fetchall()
            heads += (wake_at if isinstance(wake_at, int) else now for _, wake_at, _ in found)
        count(COUNT_IN_LINE, workflow)
        for has_begun in (True, False):
            later = connection.execute(NEXT_LATER, (workflow, has_begun)).fetchone()
            if later is not None and isinstance(later[0], int):
                heads.append(later[0])
                if later[0] <= now:
                    count(COUNT_LATER, workflow, has_begun, now)
    (executor_count,) = connection.execute(COUNT_LIVING).fetchone()
    counts = connection.execute(COUNT_OWNED).fetchall()
    owned = {owner: count for owner, count in counts if isinstance(owner, int)}
    return Backlog(
        executor_count=executor_count, next_due_at=min(heads, default=None), due_count=due_count, owned_counts=owned
    )


def set_back(connection: sqlite3.Connection, workflows: Sequence[str], *, now: int, limit: int) -> tuple[SetBack, ...]:
    """Return runs whose due time was stored before the clock was set back."""
    parameters = {"workflows": json.dumps(list(workflows)), "now": now, "limit": limit}
    found = connection.execute(SET_BACK, parameters).fetchall()
    return tuple(SetBack(*row) for row in found if isinstance(row[2], int) and isinstance(row[3], int))


def owned(connection: sqlite3.Connection, executor: int) -> tuple[RunRow, ...]:
    """Return the runs that an executor owns."""
    return tuple(map(run_from, connection.execute(OWNED, (executor,)).fetchall()))


def executors(connection: sqlite3.Connection, *, ended: bool) -> tuple[ExecutorRow, ...]:
    """Return executors."""
    return tuple(map(executor_from, connection.execute(OWNING if ended else LIVING).fetchall()))


def executors_and_locks(
    connection: sqlite3.Connection, *, ended: bool
) -> tuple[tuple[ExecutorRow, ...], dict[int, str | None]]:
    """Return executors, and which files the locks of the living ones are in."""
    return executors(connection, ended=ended), dict(connection.execute(LOCKS).fetchall())


def reports(connection: sqlite3.Connection) -> tuple[ReportRow, ...]:
    """Return what processes have said of themselves."""
    found = connection.execute(REPORTS).fetchall()
    return tuple(report for report in map(report_from, found) if report is not None)
