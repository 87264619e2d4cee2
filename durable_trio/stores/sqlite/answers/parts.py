"""The parts of a filter that indexes can serve, and which of them is the rarest: all that match are among its runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple

from durable_trio.stores.questions import RunFilter
from durable_trio.stores.sqlite.answers.cells import (
    FIRST_WORKFLOW,
    NEXT_WORKFLOW,
    Cell,
    Source,
    cells,
    cells_of_workflow,
    count,
    walk,
)
from durable_trio.stores.sqlite.answers.merging import SOURCES_MAX, Keys
from durable_trio.stores.sqlite.answers.ordered import OF_ALL, OF_TAG
from durable_trio.stores.sqlite.answers.parked import of_parked
from durable_trio.stores.sqlite.columns import status_from
from durable_trio.stores.sqlite.layout import stored
from durable_trio.stores.sqlite.library import sqlite3

__all__ = [
    "COMPARED_RUNS",
    "OF_OVERDUE",
    "OF_PARENT",
    "OF_QUEUE",
    "OF_RETRYING",
    "RARE_RUNS",
    "Part",
    "few_runs",
    "rarest_part",
    "runs_of",
]

#: A part of a filter with fewer runs is rare: all of them can be looked at in one slice.
RARE_RUNS: Final = 2000
#: If none is rare, they are counted further to find the rarest; beyond that it does not pay, neither to compare nor to
#: look for its runs in another order.
COMPARED_RUNS: Final = 20_000
# Streams that are worth merging: each costs a seek.
_STREAMS_MAX: Final = 2000

OF_QUEUE: Final = "runs INDEXED BY runs_of_queue WHERE queue = ?"
OF_PARENT: Final = "runs INDEXED BY runs_of_parent_id WHERE parent_id = ?"
OF_ID: Final = "runs WHERE id = ?"
# Unfinished ones in a state that no status tells.
OF_RETRYING: Final = "waits INDEXED BY waits_retrying WHERE kind = 'retry'"
OF_OVERDUE: Final = (
    "runs INDEXED BY runs_line WHERE workflow = CAST(? AS TEXT) AND owner IS NULL AND wake_at IS NOT NULL"
    " AND is_due = 1 AND wake_at <= ?",
    *(
        f"runs INDEXED BY runs_later WHERE workflow = CAST(? AS TEXT) AND (token > 0) = {begun} AND owner IS NULL"
        " AND wake_at IS NOT NULL AND is_due IS NOT 1 AND wake_at <= ?"
        for begun in (1, 0)
    ),
)


class Part(NamedTuple):
    """A part of a filter that indexes can serve: its sources, and how many keys they have; counted up to a limit."""

    sources: Sequence[Source]
    key_count: int
    is_by_creation: bool  # its sources can be read in that order
    others: Sequence[Keys] = ()  # parts that can be, too


def few_runs(connection: sqlite3.Connection, which: RunFilter) -> list[int] | None:
    """Return runs among which are all that match, if there are few of them; in no order."""
    if which.run_id is not None:
        return runs_of(connection, [Source(OF_ID, (which.run_id,))])
    rarest = rarest_part(connection, which, is_compared=False)
    return runs_of(connection, rarest.sources) if rarest.key_count < RARE_RUNS else None


def runs_of(connection: sqlite3.Connection, sources: Sequence[Source]) -> list[int]:
    """Return the runs that some sources have, in no order."""
    found: set[int] = set()
    for sql, parameters in sources:
        found.update(run for (run,) in connection.execute(f"SELECT run FROM {sql}", parameters))
    return list(found)


def rarest_part(
    connection: sqlite3.Connection, which: RunFilter, *, is_compared: bool = True, is_gathered: bool = False
) -> Part:
    """Return the rarest part of a filter that indexes can serve; all runs, if there is none.

    Args:
        is_compared: whether a part that can only be gathered may be as large as those that are compared, else rare.
        is_gathered: whether any part is to be gathered, so that it must be known how large it is.
    """
    of_cells = _of_cells(connection, which)
    by_creation = [of_cells] if of_cells is not None else []
    by_creation += _others_by_creation(which)
    by_creation = by_creation or [_created([Source(OF_ALL, ())], which)]
    parts = [(sources, True) for sources in by_creation]
    parts += [(sources, False) for sources in _other_parts(connection, which)]
    rarest = Part(by_creation[0], COMPARED_RUNS, is_by_creation=True)
    if is_gathered and which == RunFilter():
        return rarest
    for limit in (RARE_RUNS, COMPARED_RUNS):
        counted = [Part(sources, count(connection, sources, limit), is_sorted) for sources, is_sorted in parts]
        rarest = min(
            (part for part in counted if part.is_by_creation or part.key_count < limit),
            key=lambda part: (part.key_count, not part.is_by_creation),
        )
        if rarest.key_count < limit or not is_compared or (len(counted) == 1 and not is_gathered):
            break
    if rarest.key_count < RARE_RUNS or not rarest.is_by_creation:
        return rarest
    others = [sources for sources in by_creation if sources is not rarest.sources]
    return rarest._replace(
        others=[Keys(each, _beside_cells(connection, which) if each is of_cells else None) for each in others]
    )


def _of_cells(connection: sqlite3.Connection, which: RunFilter) -> list[Source] | None:
    """Return the sources of the workflows and statuses of a filter, if it has any, and they are not too many."""
    if which.statuses is None and which.workflow is None:
        return None
    found = cells(connection) if which.workflow is None else cells_of_workflow(connection, which.workflow)
    sources = list(islice((cell.source for cell in found if _may_match(which, cell)), _STREAMS_MAX + 1))
    return _created(sources, which) if len(sources) <= _STREAMS_MAX else None


def _beside_cells(connection: sqlite3.Connection, which: RunFilter) -> list[Source] | None:
    """Return the sources of all runs that are in no cell of a filter, if they are not too many to be merged."""
    found = cells(connection)
    sources = list(islice((cell.source for cell in found if not _may_match(which, cell)), SOURCES_MAX + 1))
    return _created(sources, which) if len(sources) <= SOURCES_MAX else None


def _may_match(which: RunFilter, cell: Cell) -> bool:
    if which.workflow not in (None, cell.workflow):
        return False
    # The statuses of runs without a workflow are looked at one by one.
    return which.statuses is None or cell.workflow is None or status_from(cell.status) in which.statuses


def _others_by_creation(which: RunFilter) -> list[list[Source]]:
    found = [[Source(OF_TAG, tag)] for tag in which.tags]
    if which.queue is not None:
        found.append([Source(OF_QUEUE, (which.queue,))])
    if which.parent_id is not None:
        found.append([Source(OF_PARENT, (which.parent_id,))])
    return [_created(sources, which) for sources in found]


def _other_parts(connection: sqlite3.Connection, which: RunFilter) -> list[list[Source]]:
    """Return parts whose indexes have an order of their own."""
    found: list[list[Source]] = []
    if which.is_parked:
        found.append(of_parked(connection, which.workflow))
    if which.is_retrying:
        found.append([Source(OF_RETRYING, ())])
    if which.overdue_at is not None:
        workflows = _workflows(connection) if which.workflow is None else [which.workflow]
        found.append([Source(sql, (name, which.overdue_at)) for name in workflows for sql in OF_OVERDUE])
    return found


def _workflows(connection: sqlite3.Connection) -> Iterator[str | bytes]:
    for name in walk(connection, FIRST_WORKFLOW, NEXT_WORKFLOW):
        if isinstance(name, str):
            yield stored(name)


def _created(sources: Sequence[Source], which: RunFilter) -> list[Source]:
    found = list(sources)
    if which.created_after is not None:
        found = [Source(f"{sql} AND created_at > ?", (*given, which.created_after)) for sql, given in found]
    if which.created_before is not None:
        found = [Source(f"{sql} AND created_at < ?", (*given, which.created_before)) for sql, given in found]
    return found
