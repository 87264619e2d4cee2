"""Where the parked runs are: those of each set of codes that have refused them, found by a seek each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from durable_trio.stores.code_questions import ListRefusedSets, RefusedSet
from durable_trio.stores.sqlite.answers.cells import Source, stored
from durable_trio.stores.sqlite.library import sqlite3
from durable_trio.stores.sqlite.parked import OF_LIVING, codes_in
from durable_trio.stores.sqlite.tables import REFUSED

__all__ = ["OF_DAMAGED", "OF_REFUSED", "list_refused_sets", "of_parked"]

OF_DAMAGED: Final = "runs INDEXED BY runs_parked WHERE problem IS NOT NULL"
_IN_ORDER: Final = f"runs INDEXED BY runs_refused WHERE {REFUSED}"
OF_REFUSED: Final = f"{_IN_ORDER} AND workflow = CAST(? AS TEXT) AND version = ? AND refused = ?"
_OF_WORKFLOW: Final = f"SELECT workflow, version, refused FROM {_IN_ORDER} AND workflow = CAST(? AS TEXT)"
FIRST_OF_WORKFLOW: Final = f"{_OF_WORKFLOW} ORDER BY version, refused LIMIT 1"
NEXT_REFUSED: Final = f"{_OF_WORKFLOW} AND version = ? AND refused > CAST(? AS TEXT) ORDER BY refused LIMIT 1"
NEXT_VERSION: Final = f"{_OF_WORKFLOW} AND version > ? ORDER BY version, refused LIMIT 1"
NEXT_WORKFLOW: Final = f"""
    SELECT workflow, version, refused FROM {_IN_ORDER} AND workflow > CAST(? AS TEXT)
    ORDER BY workflow, version, refused LIMIT 1
"""
LIVING: Final = f"SELECT DISTINCT codes.workflow, codes.version, codes.code FROM {OF_LIVING}"


class _Group(NamedTuple):
    workflow: str
    version: int
    refused: str


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


def _groups(connection: sqlite3.Connection, workflow: str | None) -> Iterator[_Group]:
    """Give each version, and set of codes that have refused it, that some run has. What is damaged is passed over."""
    if workflow is None:
        row = connection.execute(NEXT_WORKFLOW, (b"",)).fetchone()
    else:
        row = connection.execute(FIRST_OF_WORKFLOW, (stored(workflow),)).fetchone()
    while row is not None and isinstance(row[0], str):  # behind all texts stands what is none
        name, (_, version, refused) = stored(row[0]), row
        if type(version) is int and type(refused) is str:
            yield _Group(*row)
        row = None
        if type(version) is int and not isinstance(refused, bytes):
            behind = stored(refused) if isinstance(refused, str) else b""  # numbers stand before all texts
            row = connection.execute(NEXT_REFUSED, (name, version, behind)).fetchone()
        if row is None and type(version) is int:
            row = connection.execute(NEXT_VERSION, (name, version)).fetchone()
        if row is None and workflow is None:
            row = connection.execute(NEXT_WORKFLOW, (name,)).fetchone()
