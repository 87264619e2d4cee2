"""Unfinished runs, for a rehearsal: their numbers from an index, and what there is of a page of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from durable_trio.records import RunStatus
from durable_trio.rules.run_life import UNFINISHED
from durable_trio.rules.sampling import sample_of, spread
from durable_trio.stores.postgres.answers.asking import Asking
from durable_trio.stores.postgres.answers.filters import CREATED, WORKFLOWS, Values
from durable_trio.stores.postgres.answers.runs import loaded_from, to_load
from durable_trio.stores.postgres.rows import RUN_COLUMNS, run_from
from durable_trio.stores.postgres.texts import numbers
from durable_trio.stores.statuses import word
from durable_trio.stores.unfinished_questions import ListUnfinished, LoadUnfinished, Unfinished, UnfinishedPage

__all__ = ["list_unfinished", "load_unfinished"]

# Of so many runs the last row is looked at, for each that is to be chosen.
_CANDIDATES: Final = 10
# A page has about so many rows: their text is what memory goes to.
_ROWS_MAX: Final = 20_000

# For each status, for the server knows how many have it. The offset keeps it a look into the index for each workflow.
_NUMBERS: Final = " UNION ALL ".join(
    f"""
        SELECT named.workflow, found.run FROM ({{workflows}}) AS named (workflow), LATERAL (
            SELECT run FROM runs
            WHERE runs.workflow = named.workflow AND runs.status = {word(status)} AND hidden_at IS NULL{{before}}
            OFFSET 0
        ) AS found
    """
    for status in RunStatus
    if status in UNFINISHED
)
LAST_NAMES: Final = """
    SELECT wanted.run, last.name FROM unnest($1::bigint[]) AS wanted (run), LATERAL (
        SELECT name FROM history WHERE history.run = wanted.run ORDER BY seq DESC LIMIT 1
    ) AS last
"""
ROW_COUNTS: Final = "SELECT run, count(*) FROM history WHERE run = ANY ($1::bigint[]) GROUP BY run"
ROWS: Final = f"""
    SELECT {RUN_COLUMNS} FROM runs WHERE run = ANY ($1::bigint[]) AND finished_at IS NULL AND hidden_at IS NULL
"""
CANCELLING: Final = """
    SELECT DISTINCT child.parent FROM runs AS child WHERE child.parent = ANY ($1::bigint[])
        AND EXISTS (SELECT 1 FROM mailbox WHERE mailbox.run = child.run AND kind = 'cancel')
"""


def list_unfinished(asking: Asking, question: ListUnfinished) -> tuple[int, ...]:
    """Return the numbers of unfinished runs, or a sample of them."""
    values = Values()
    text = _NUMBERS.format(
        workflows=WORKFLOWS if question.workflow is None else f"SELECT {values.text(question.workflow)}",
        before="" if question.created_before is None else f" AND {CREATED} < {values.number(question.created_before)}",
    )
    found = asking.execute(f"{text} ORDER BY workflow, run", *values.given).rows
    runs = tuple(run for _, run in found)
    if question.sample is None or question.sample >= len(runs):
        return runs
    of_workflows: dict[str, list[int]] = {}
    for workflow, run in found:
        of_workflows.setdefault(workflow, []).append(run)
    chosen = set(sample_of(_kinds(asking, of_workflows, question.sample / len(runs)), question.sample))
    return tuple(run for run in runs if run in chosen)


def _kinds(
    asking: Asking, of_workflows: Mapping[str, Sequence[int]], share: float
) -> dict[tuple[str, str | None], list[int]]:
    """Return candidates by workflow and the name of their last row."""
    candidates = {
        workflow: spread(runs, max(_CANDIDATES, int(len(runs) * share * _CANDIDATES)))
        for workflow, runs in of_workflows.items()
    }
    every = (run for runs in candidates.values() for run in runs)
    names = dict(asking.execute(LAST_NAMES, numbers(every)).rows)
    kinds: dict[tuple[str, str | None], list[int]] = {}
    for workflow, runs in candidates.items():
        for run in runs:
            kinds.setdefault((workflow, names.get(run)), []).append(run)
    return kinds


def load_unfinished(asking: Asking, question: LoadUnfinished) -> UnfinishedPage:
    """Return those of some runs that have not ended, with what there is of them."""
    asked = _of_one_page(asking, question.runs)
    which = numbers(asked)
    rows, cancelling, *answers = asking.exchange((ROWS, (which,)), (CANCELLING, (which,)), *to_load(asked))
    found = {row[0]: run_from(row) for row in rows.rows}
    parents = {parent for (parent,) in cancelling.rows}
    return UnfinishedPage(
        tuple(
            Unfinished(found[run], loaded, run in parents)
            for run, loaded in zip(asked, loaded_from(asked, answers), strict=True)
            if run in found
        ),
        len(asked),
    )


def _of_one_page(asking: Asking, runs: Sequence[int]) -> Sequence[int]:
    """Return the first of some runs that have not too many rows together; one at least."""
    counts = dict(asking.execute(ROW_COUNTS, numbers(runs)).rows)
    row_count = 0
    for index, run in enumerate(runs):
        row_count += counts.get(run, 0)
        if index and row_count > _ROWS_MAX:
            return runs[:index]
    return runs
