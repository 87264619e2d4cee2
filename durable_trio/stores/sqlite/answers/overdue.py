"""Runs that are due and that nobody takes, in the order in which they were due.

No index has all of them in that order: one that claims cannot do without would cost each claim. Those in line stand
there by workflow, version, refusals, line and priority, and by time only within each of these; so each of them is gone
to the right place in. The price is a seek for each, whatever the number of runs.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

from durable_trio.stores.lines import BEGUN, NEW, SUSPECT
from durable_trio.stores.overdue_questions import ListOverdue, Overdue
from durable_trio.stores.sqlite.answers.cells import FIRST_WORKFLOW, NEXT_WORKFLOW, walk
from durable_trio.stores.sqlite.columns import RUN_COLUMNS, run_from
from durable_trio.stores.sqlite.groups import Walk
from durable_trio.stores.sqlite.layout import stored
from durable_trio.stores.sqlite.library import sqlite3
from durable_trio.stores.sqlite.parked import IS_PARKED
from durable_trio.stores.sqlite.tables import IN_LINE, LINE

__all__ = ["list_overdue"]

_OF_WORKFLOW: Final = f"{IN_LINE} AND workflow = CAST(:workflow AS TEXT)"
_OF_GROUP: Final = f"{_OF_WORKFLOW} AND version = :version AND refused = CAST(:refused AS TEXT)"
_OF_LINE: Final = f"{_OF_GROUP} AND {LINE} = :line"
GROUPS: Final = Walk(IN_LINE)
FIRST_PRIORITY: Final = f"SELECT priority FROM {_OF_LINE} ORDER BY priority DESC LIMIT 1"
NEXT_PRIORITY: Final = f"SELECT priority FROM {_OF_LINE} AND priority < :priority ORDER BY priority DESC LIMIT 1"
RANGES: Final = (
    f"{_OF_LINE} AND priority = :priority",
    *(
        "runs INDEXED BY runs_later WHERE workflow = CAST(:workflow AS TEXT) AND (token > 0) = "
        f"{begun} AND owner IS NULL AND wake_at IS NOT NULL AND is_due IS NOT 1"
        for begun in (1, 0)
    ),
)
DUE: Final = f"""
    SELECT wake_at, run FROM {{range}} AND wake_at >= :after AND wake_at <= :until
        AND (wake_at > :after OR run > :after_run) AND NOT {IS_PARKED}
    ORDER BY wake_at, run LIMIT :limit + 0
"""
NEXT_DUE: Final = "SELECT wake_at FROM {range} AND wake_at > :until ORDER BY wake_at LIMIT 1"
FIND: Final = f"SELECT {RUN_COLUMNS} FROM runs WHERE run IN (SELECT value FROM json_each(?))"

_Values = dict[str, Any]


def list_overdue(connection: sqlite3.Connection, question: ListOverdue) -> Overdue:
    """Return what is due within some time, and when the next is."""
    values = {
        "after": question.after[0],
        "after_run": question.after[1],
        "until": question.until,
        "limit": question.limit,
    }
    found: list[list[tuple[int, int]]] = []
    later: list[int] = []
    for range, of_range in _ranges(connection, question.workflow):
        found.append(connection.execute(DUE.format(range=range), values | of_range).fetchall())
        later += (row[0] for row in connection.execute(NEXT_DUE.format(range=range), values | of_range).fetchall())
    runs = [run for _, run in islice(heapq.merge(*found), question.limit)]
    rows = {row[0]: row for row in connection.execute(FIND, (json.dumps(runs),)).fetchall()} if runs else {}
    due_later = [each for each in later if isinstance(each, int)]
    return Overdue(
        rows=tuple(run_from(rows[run]) for run in runs if run in rows),
        next_due_at=min(due_later, default=None),
    )


def _ranges(connection: sqlite3.Connection, workflow: str | None) -> Iterator[tuple[str, _Values]]:
    """Give where runs stand in the order of time, and the values that name each of these."""
    names = walk(connection, FIRST_WORKFLOW, NEXT_WORKFLOW) if workflow is None else iter([workflow])
    for name in names:
        if isinstance(name, str):
            values: _Values = {"workflow": stored(name)}
            yield from ((range, values) for range in RANGES[1:])
            for version, refused in GROUPS.groups(connection.execute, name):
                group = values | {"version": version, "refused": stored(refused) if isinstance(refused, str) else b""}
                for line in (SUSPECT, BEGUN, NEW):
                    yield from ((RANGES[0], each) for each in _priorities(connection, group | {"line": line}))


def _priorities(connection: sqlite3.Connection, values: _Values) -> Iterator[_Values]:
    found = connection.execute(FIRST_PRIORITY, values).fetchone()
    while found is not None and isinstance(found[0], int):
        each = values | {"priority": found[0]}
        yield each
        found = connection.execute(NEXT_PRIORITY, each).fetchone()
