"""What an engine reads of runs: each answer costs a round trip, a few seeks, and the rows that it gives."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, Final

from durable_trio.limits import MAILBOX_ENTRIES_READ
from durable_trio.rows import GenerationRow, HistoryRow, MailboxEntry, RunRow, WaitRow
from durable_trio.rules.run_life import FINAL
from durable_trio.stores.generation_questions import ListGeneration, ListGenerations
from durable_trio.stores.postgres.answers.asking import Asking, text
from durable_trio.stores.postgres.answers.mailbox import CONTROLS_BEHIND, LAST_UNREAD, UNREAD_FIRST
from durable_trio.stores.postgres.rows import (
    GENERATION_COLUMNS,
    HISTORY_COLUMNS,
    OWNED_COLUMNS,
    RUN_COLUMNS,
    WAIT_COLUMNS,
    entry_from,
    generation_from,
    histories_from,
    run_from,
    wait_from,
)
from durable_trio.stores.postgres.texts import numbers
from durable_trio.stores.postgres.wire import Answer
from durable_trio.stores.questions import (
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
from durable_trio.stores.statuses import is_none_of, is_one_of

__all__ = [
    "PUBLISHED_OF",
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
    "loaded_from",
    "read_values",
    "to_load",
]

_DAMAGE: Final = attrgetter("damage")
_NUMBER_MAX: Final = 2**63 - 1

FIND_RUN: Final = f"SELECT {RUN_COLUMNS} FROM runs WHERE id = $1::text"
OWNED: Final = f"SELECT {OWNED_COLUMNS} FROM runs WHERE owner = $1::bigint ORDER BY run"
HISTORY: Final = f"SELECT {HISTORY_COLUMNS} FROM history WHERE run = $1::bigint ORDER BY seq"
EARLIER_HISTORY: Final = f"""
    SELECT {HISTORY_COLUMNS} FROM earlier_history WHERE run = $1::bigint AND generation = $2::bigint ORDER BY seq
"""
GENERATIONS: Final = f"""
    SELECT {GENERATION_COLUMNS} FROM earlier_generations WHERE run = $1::bigint AND generation < $2::bigint
    ORDER BY generation DESC LIMIT $3::bigint
"""
IS_PRESENT: Final = "SELECT 1 FROM runs WHERE run = $1::bigint AND generation = $2::bigint"
IS_KEPT: Final = "SELECT 1 FROM earlier_generations WHERE run = $1::bigint AND generation = $2::bigint"
WAITS: Final = f"SELECT {WAIT_COLUMNS} FROM waits WHERE run = $1::bigint ORDER BY branch, name, n"
# Of some runs: before the columns stands the number of the run.
_OF_SOME: Final = "run = ANY ($1::bigint[])"
HISTORY_OF: Final = f"SELECT run, {HISTORY_COLUMNS} FROM history WHERE {_OF_SOME} ORDER BY run, seq"
WAITS_OF: Final = f"SELECT run, {WAIT_COLUMNS} FROM waits WHERE {_OF_SOME} ORDER BY run, branch, name, n"
PUBLISHED_OF: Final = f"SELECT run, key, value, seq, n FROM published WHERE {_OF_SOME} ORDER BY run, key"
WAITS_FIRST: Final = f"""
    SELECT first.* FROM unnest($1::bigint[]) AS wanted (run), LATERAL (
        SELECT run, {WAIT_COLUMNS} FROM waits WHERE waits.run = wanted.run
        ORDER BY due_at IS NULL, due_at, started_at, branch, name, n LIMIT $2::bigint
    ) AS first
"""
# Those that have ended may be many: it is looked among the newest.
CHILDREN_OPEN: Final = f"""
    SELECT wanted.run, going_on.id, going_on.workflow FROM unnest($1::bigint[]) AS wanted (run), LATERAL (
        SELECT * FROM (
            SELECT run, id, workflow, status, hidden_at FROM runs WHERE parent = wanted.run ORDER BY run DESC LIMIT 200
        ) AS newest
        WHERE {is_none_of(FINAL)} AND hidden_at IS NULL ORDER BY newest.run DESC LIMIT $2::bigint
    ) AS going_on
    ORDER BY wanted.run, going_on.run
"""
# Each is looked for by itself: of a join the server may begin with all runs.
ENDED: Final = f"""
    SELECT wanted.id FROM json_array_elements_text($1::json) AS wanted (id), LATERAL (
        SELECT 1 FROM runs WHERE runs.id = wanted.id AND {is_one_of(FINAL)} LIMIT 1
    ) AS found
"""
MISSING: Final = """
    SELECT wanted.id FROM json_array_elements_text($1::json) AS wanted (id)
    WHERE (SELECT 1 FROM runs WHERE runs.id = wanted.id LIMIT 1) IS NULL
"""


def find_run(asking: Asking, question: FindRun) -> RunRow | None:
    """Return the run with an id."""
    found = asking.only((FIND_RUN, (text(question.run_id),)))[0].rows
    return run_from(found[0]) if found else None


def list_owned(asking: Asking, question: ListOwned) -> tuple[RunRow, ...]:
    """Return the runs that an executor owns."""
    return tuple(map(run_from, asking.only((OWNED, (question.executor,)))[0].rows))


# ---- all that there is of a run ------------------------------------------------------------------------------------


def load_run(asking: Asking, question: LoadRun) -> Loaded:
    """Return what an executor needs to go on with a run."""
    return load_runs(asking, LoadRuns((question.run,)))[0]


def load_runs(asking: Asking, question: LoadRuns) -> tuple[Loaded, ...]:
    """Return what an executor needs to go on with some runs."""
    if not question.runs:
        return ()
    return loaded_from(question.runs, asking.only(*to_load(question.runs)))


def to_load(runs: Sequence[int]) -> list[tuple[str, tuple[Any, ...]]]:
    """Return the statements by which some runs are loaded."""
    which = numbers(runs)
    return [
        (HISTORY_OF, (which,)),
        (WAITS_OF, (which,)),
        (PUBLISHED_OF, (which,)),
        (UNREAD_FIRST, (which, MAILBOX_ENTRIES_READ + 1)),
        (CONTROLS_BEHIND, (which, MAILBOX_ENTRIES_READ - 1)),
        (LAST_UNREAD, (which,)),
    ]


def loaded_from(runs: Sequence[int], answers: Iterable[Answer]) -> tuple[Loaded, ...]:
    """Return what the answers to ``to_load`` tell of some runs, in the order of these."""
    history, waits, published, unread, controls, last = (_by_run(each.rows, runs) for each in answers)
    return tuple(
        _loaded(history[run], waits[run], published[run], unread[run], controls[run], last[run]) for run in runs
    )


def _by_run(rows: Iterable[tuple[Any, ...]], runs: Sequence[int]) -> dict[int, list[tuple[Any, ...]]]:
    """Return rows by the run that stands first in each, without it."""
    found: dict[int, list[tuple[Any, ...]]] = {run: [] for run in runs}
    for row in rows:
        found[row[0]].append(row[1:])
    return found


_Rows = list[tuple[Any, ...]]


def _loaded(history: _Rows, waits: _Rows, published: _Rows, unread: _Rows, controls: _Rows, last: _Rows) -> Loaded:
    rows = histories_from(history)
    calls = tuple(map(wait_from, waits))
    entries: tuple[MailboxEntry, ...] = tuple(map(entry_from, unread[:MAILBOX_ENTRIES_READ]))
    left_out = None
    if len(unread) > MAILBOX_ENTRIES_READ:
        left_out = (entries[-1].id, last[0][0])
        entries += tuple(map(entry_from, controls))
    return Loaded(
        history=rows,
        waits=calls,
        unread=entries,
        values={key: value for key, value, _, _ in published},
        positions={key: (seq, n) for key, _, seq, n in published},
        left_out=left_out,
        damage=next(filter(None, map(_DAMAGE, chain[Any](rows, calls, entries))), None),
    )


# ---- parts of it ---------------------------------------------------------------------------------------------------


def list_history(asking: Asking, question: ListHistory) -> tuple[HistoryRow, ...]:
    """Return the history of a run in order of seq."""
    return histories_from(asking.only((HISTORY, (question.run,)))[0].rows)


def list_generations(asking: Asking, question: ListGenerations) -> tuple[GenerationRow, ...]:
    """Return which earlier generations of a run are kept."""
    before = _NUMBER_MAX if question.before is None else question.before
    found = asking.only((GENERATIONS, (question.run, before, max(0, question.limit))))[0]
    return tuple(map(generation_from, found.rows))


def list_generation(asking: Asking, question: ListGeneration) -> tuple[HistoryRow, ...] | None:
    """Return the history of one generation of a run."""
    which = (question.run, question.generation)
    is_present, is_kept = asking.exchange((IS_PRESENT, which), (IS_KEPT, which))
    if is_present.rows:
        return histories_from(asking.execute(HISTORY, question.run).rows)
    return histories_from(asking.execute(EARLIER_HISTORY, *which).rows) if is_kept.rows else None


def list_waits(asking: Asking, question: ListWaits) -> tuple[WaitRow, ...]:
    """Return the open waits of a run."""
    return tuple(map(wait_from, asking.only((WAITS, (question.run,)))[0].rows))


def list_awaited(asking: Asking, question: ListAwaited) -> Mapping[int, AwaitedRows]:
    """Return what some runs wait for."""
    which = (numbers(question.runs), max(0, question.limit))
    waits, children = (
        _by_run(each.rows, question.runs) for each in asking.only((WAITS_FIRST, which), (CHILDREN_OPEN, which))
    )
    return {
        run: AwaitedRows(tuple(map(wait_from, waits[run])), tuple(OpenChild(*each) for each in children[run]))
        for run in question.runs
    }


def find_ended(asking: Asking, question: FindEnded) -> tuple[str, ...]:
    """Return those of some ids whose runs have ended."""
    return _ids(asking, ENDED, question.run_ids)


def find_missing(asking: Asking, question: FindMissing) -> tuple[str, ...]:
    """Return those of some ids that no run has."""
    return _ids(asking, MISSING, question.run_ids)


def _ids(asking: Asking, statement: str, run_ids: Sequence[str]) -> tuple[str, ...]:
    asked = {text(run_id): run_id for run_id in run_ids}
    if not asked:
        return ()
    return tuple(asked[found] for (found,) in asking.only((statement, (json.dumps(list(asked)),)))[0].rows)


def read_values(asking: Asking, question: ReadValues) -> Mapping[int, Mapping[str, str]]:
    """Return the published values of some runs."""
    return _values_from(question.runs, asking.only((PUBLISHED_OF, (numbers(question.runs),)))[0])


def _values_from(runs: Sequence[int], answer: Answer) -> dict[int, Mapping[str, str]]:
    """Return what an answer to ``PUBLISHED_OF`` tells of some runs, by run and key."""
    return {
        run: {key: value for key, value, _, _ in published} for run, published in _by_run(answer.rows, runs).items()
    }
