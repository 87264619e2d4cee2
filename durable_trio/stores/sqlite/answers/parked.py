"""Where the parked runs are: those of each set of codes that have refused them, found by a seek each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from durable_trio.rules.refused import codes_in
from durable_trio.stores.code_questions import ListRefusedSets, RefusedSet
from durable_trio.stores.lines import Group
from durable_trio.stores.sqlite.answers.cells import Source
from durable_trio.stores.sqlite.groups import Walk
from durable_trio.stores.sqlite.layout import stored
from durable_trio.stores.sqlite.library import sqlite3
from durable_trio.stores.sqlite.parked import OF_LIVING
from durable_trio.stores.sqlite.tables import REFUSED

__all__ = ["OF_DAMAGED", "OF_REFUSED", "list_refused_sets", "of_parked"]

OF_DAMAGED: Final = "runs INDEXED BY runs_parked WHERE problem IS NOT NULL"
_IN_ORDER: Final = f"runs INDEXED BY runs_refused WHERE {REFUSED}"
OF_REFUSED: Final = f"{_IN_ORDER} AND workflow = CAST(? AS TEXT) AND version = ? AND refused = ?"
GROUPS: Final = Walk(_IN_ORDER)
NEXT_WORKFLOW: Final = f"""
    SELECT workflow FROM {_IN_ORDER} AND workflow > CAST(? AS TEXT) ORDER BY workflow LIMIT 1
"""
LIVING: Final = f"SELECT DISTINCT codes.workflow, codes.version, codes.code FROM {OF_LIVING}"


def of_parked(connection: sqlite3.Connection, workflow: str | None) -> list[Source]:
    """Return sources of all runs that are parked, or of those of one workflow, and of no other run that executes."""
    living: dict[tuple[str, int], set[int]] = {}
    for name, version, code in connection.execute(LIVING).fetchall():
        living.setdefault((name, version), set()).add(code)
    found = [
        Source(OF_REFUSED, (stored(group.workflow), group.version, group.refused))
        for group in _groups(connection, workflow)
        if living.get((group.workflow, group.version), set()) <= codes_in(group.refused)
    ]
    if workflow is None:
        return [*found, Source(OF_DAMAGED, ())]
    return [*found, Source(f"{OF_DAMAGED} AND workflow = ?", (workflow,))]


def list_refused_sets(connection: sqlite3.Connection, question: ListRefusedSets) -> tuple[RefusedSet, ...]:
    """Return by which sets of codes runs were refused. What is damaged is left out."""
    return tuple(
        RefusedSet(group.workflow, group.version, frozenset(codes_in(group.refused)))
        for group in _groups(connection, None)
        if type(group.workflow) is str
    )


def _groups(connection: sqlite3.Connection, workflow: str | None) -> Iterator[Group]:
    """Give each version, and set of codes that have refused it, that some run has. What is damaged is passed over."""
    for name in _workflows(connection) if workflow is None else (workflow,):
        for version, refused in GROUPS.groups(connection.execute, name):
            if type(version) is int and type(refused) is str:
                yield Group(name, version, refused)


def _workflows(connection: sqlite3.Connection) -> Iterator[str]:
    row = connection.execute(NEXT_WORKFLOW, (b"",)).fetchone()
    while row is not None and isinstance(row[0], str):  # behind all texts stands what is none
        yield row[0]
        row = connection.execute(NEXT_WORKFLOW, (stored(row[0]),)).fetchone()
