"""Runs by workflow and status: each pair that some run has, found by a seek each; and how many there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from durable_trio.stores.sqlite.layout import stored
from durable_trio.stores.sqlite.library import sqlite3

__all__ = ["FIRST_WORKFLOW", "NEXT_WORKFLOW", "Cell", "Source", "cells", "cells_of_workflow", "count", "walk"]

# As bytes too: what is stored need not be UTF-8.
BY_STATUS: Final = "runs INDEXED BY runs_by_status WHERE"
OF_WORKFLOW: Final = f"{BY_STATUS} workflow = CAST(? AS TEXT)"
OF_STATUS: Final = f"{OF_WORKFLOW} AND status = CAST(? AS TEXT)"
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


class Source(NamedTuple):
    """Where keys of runs are read from: a table with its condition, and the parameters of that."""

    sql: str
    parameters: tuple[Any, ...]


class Cell(NamedTuple):
    """Runs of one workflow and one status; ``None`` stands for what is no text."""

    workflow: str | None
    status: str | None
    source: Source


def cells(connection: sqlite3.Connection) -> Iterator[Cell]:
    """Give each pair of a workflow and a status that some run has, by a seek each."""
    for workflow in walk(connection, FIRST_WORKFLOW, NEXT_WORKFLOW):
        if isinstance(workflow, str):
            yield from cells_of_workflow(connection, workflow)
        else:
            yield Cell(None, None, Source(OF_NO_WORKFLOW[workflow], ()))


def cells_of_workflow(connection: sqlite3.Connection, workflow: str) -> Iterator[Cell]:
    """Give each status that some run of a workflow has, by a seek each."""
    of_workflow = stored(workflow)
    for status in walk(connection, FIRST_STATUS, NEXT_STATUS, of_workflow):
        if isinstance(status, str):
            yield Cell(workflow, status, Source(OF_STATUS, (of_workflow, stored(status))))
        else:
            yield Cell(workflow, None, Source(OF_NO_TEXT[status], (of_workflow,)))


def walk(
    connection: sqlite3.Connection, first: tuple[str, str], following: str, *parameters: str | bytes
) -> Iterator[str | int]:
    """Give each text of an index's column; 0 before them if there is something that is none, 1 behind them."""
    found = connection.execute(first[0], parameters).fetchone()
    if found is not None and not isinstance(found[0], str | bytes):
        yield 0
        found = connection.execute(first[1], parameters).fetchone()
    while found is not None and isinstance(found[0], str):
        yield found[0]
        found = connection.execute(following, (*parameters, stored(found[0]))).fetchone()
    if found is not None:
        yield 1


def count(connection: sqlite3.Connection, sources: Sequence[Source], limit: int) -> int:
    """Return how many keys some sources have, counted up to a limit."""
    count = 0
    for source in sources:
        if count < limit:
            sql = COUNT.format(source=source.sql)
            count += connection.execute(sql, (*source.parameters, limit - count)).fetchone()[0]
    return count
