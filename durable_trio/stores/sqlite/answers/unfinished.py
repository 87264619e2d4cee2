"""Unfinished runs, for a rehearsal: their numbers from an index, and what there is of a page of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

from durable_trio.rules.run_life import UNFINISHED
from durable_trio.rules.sampling import sample_of, spread
from durable_trio.stores.questions import LoadRuns
from durable_trio.stores.sqlite.answers.cells import FIRST_WORKFLOW, NEXT_WORKFLOW, OF_STATUS, walk
from durable_trio.stores.sqlite.answers.runs import load_runs
from durable_trio.stores.sqlite.answers.streams import IS_SHOWN
from durable_trio.stores.sqlite.columns import RUN_COLUMNS, run_from
from durable_trio.stores.sqlite.layout import COUNT_MAX, stored
from durable_trio.stores.sqlite.library import sqlite3
from durable_trio.stores.unfinished_questions import ListUnfinished, LoadUnfinished, Unfinished, UnfinishedPage

__all__ = ["list_unfinished", "load_unfinished"]

# Of so many runs the last row is looked at, for each that is to be chosen.
_CANDIDATES: Final = 10
# A page has about so many rows: their text is what memory goes to.
_ROWS_MAX: Final = 20_000

NUMBERS: Final = f"SELECT run FROM {OF_STATUS} AND created_at < ? AND {IS_SHOWN}"
# Rows of a run get their ids in the order in which they are recorded; a copy has them in the order of the original.
LAST_NAME: Final = "SELECT name FROM history WHERE id = (SELECT max(id) FROM history WHERE run = ?)"
ROW: Final = f"SELECT {RUN_COLUMNS} FROM runs WHERE run = ? AND {IS_SHOWN}"
ROW_COUNT: Final = "SELECT count(*) FROM history WHERE run = ?"
CANCELLING: Final = """
    SELECT DISTINCT child.parent FROM runs AS child INDEXED BY runs_of_parent
    WHERE child.parent IN (SELECT value FROM json_each(?))
        AND EXISTS (SELECT 1 FROM mailbox WHERE run = child.run AND kind = 'cancel')
"""


def list_unfinished(connection: sqlite3.Connection, question: ListUnfinished) -> tuple[int, ...]:
    """Return the numbers of unfinished runs, or a sample of them."""
    found = dict(_numbers(connection, question))
    total = sum(map(len, found.values()))
    if question.sample is None or question.sample >= total:
        return tuple(run for runs in found.values() for run in runs)
    kinds: dict[tuple[str, str | None], list[int]] = {}
    for workflow, runs in found.items():
        candidates = spread(runs, max(_CANDIDATES, len(runs) * question.sample * _CANDIDATES // total))
        for run in candidates:
            name = connection.execute(LAST_NAME, (run,)).fetchone()
            kinds.setdefault((workflow, None if name is None else name[0]), []).append(run)
    chosen = set(sample_of(kinds, question.sample))
    return tuple(run for runs in found.values() for run in runs if run in chosen)


def _numbers(connection: sqlite3.Connection, question: ListUnfinished) -> Iterator[tuple[str, list[int]]]:
    workflow, before = question.workflow, question.created_before
    names = walk(connection, FIRST_WORKFLOW, NEXT_WORKFLOW) if workflow is None else iter([workflow])
    until = COUNT_MAX if before is None else before  # a damaged row sorts behind all that are sound
    for name in names:
        if isinstance(name, str):  # else the file is damaged there
            runs: list[int] = []
            for status in UNFINISHED:
                runs += [run for (run,) in connection.execute(NUMBERS, (stored(name), stored(status), until))]
            yield name, sorted(runs)


def load_unfinished(connection: sqlite3.Connection, question: LoadUnfinished) -> UnfinishedPage:
    """Return those of some runs that have not ended, with what there is of them."""
    rows, row_count, taken = [], 0, 0
    for run in question.runs:
        (count,) = connection.execute(ROW_COUNT, (run,)).fetchone()
        row_count += count
        if taken and row_count > _ROWS_MAX:
            break
        taken += 1
        found = connection.execute(ROW, (run,)).fetchone()
        if found is not None and not (row := run_from(found)).status.is_final:
            rows.append(row)
    runs = [row.run for row in rows]
    cancelling = {parent for (parent,) in connection.execute(CANCELLING, (json.dumps(runs),))}
    loaded = load_runs(connection, LoadRuns(runs))
    unfinished = (Unfinished(row, each, row.run in cancelling) for row, each in zip(rows, loaded, strict=True))
    return UnfinishedPage(tuple(unfinished), taken)
