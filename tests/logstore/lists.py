"""What people ask: lists and counts of runs. Each looks at all runs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping

from durable_trio.clock import INSTANT_MAX
from durable_trio.errors import DurableError
from durable_trio.failures import causes_of
from durable_trio.records import RunStatus
from durable_trio.rows import GenerationRow, HistoryRow, RunRow
from durable_trio.rules.sampling import sample_of
from durable_trio.stores.code_questions import CountParked, CountRefused, RefusedCount
from durable_trio.stores.examination_questions import Examination, Examine
from durable_trio.stores.generation_questions import ListGeneration, ListGenerations
from durable_trio.stores.overdue_questions import ListOverdue, Overdue
from durable_trio.stores.questions import (
    AwaitedRows,
    CountByWorkflow,
    CountRuns,
    FailedRun,
    ListAwaited,
    ListFailures,
    ListRuns,
    OpenChild,
    Order,
    ReadValues,
    RunFilter,
    StoreStatus,
    WorkflowCounts,
)
from durable_trio.stores.unfinished_questions import ListUnfinished, LoadUnfinished, Unfinished, UnfinishedPage
from tests.logstore.loading import load
from tests.logstore.state import Run, State

__all__ = [
    "count_by_workflow",
    "count_parked",
    "count_refused",
    "count_runs",
    "examine",
    "list_awaited",
    "list_failures",
    "list_generation",
    "list_generations",
    "list_overdue",
    "list_runs",
    "list_unfinished",
    "load_unfinished",
    "matches",
    "read_values",
]

# Ids of parked runs that a status names.
_PARKED_MAX = 1000
# Among so many of the newest children those are looked for that go on.
_CHILDREN_LOOKED_AT = 200
# Rows of a page of unfinished runs.
_PAGE_ROWS_MAX = 20_000


def matches(state: State, run: Run, which: RunFilter) -> bool:
    """Return whether a run is one of those."""
    row = run.row
    tags = json.loads(row.tags) if which.tags else {}
    return (
        which.run_id in (None, row.id)
        and (which.statuses is None or row.status in which.statuses)
        and which.workflow in (None, row.workflow)
        and all(tags.get(key) == value for key, value in which.tags)
        and which.queue in (None, row.queue)
        and which.parent_id in (None, row.parent_id)
        and (which.created_after is None or row.created_at > which.created_after)
        and (which.created_before is None or row.created_at < which.created_before)
        and (not which.is_parked or state.is_parked(run))
        and (not which.is_retrying or _is_retrying(run))
        and (which.overdue_at is None or _is_overdue(state, run, which.overdue_at))
    )


def _is_retrying(run: Run) -> bool:
    return not run.is_final and any(wait.kind == "retry" for wait in run.waits.values())


def _is_overdue(state: State, run: Run, at: int) -> bool:
    row = run.row
    return row.owner is None and row.wake_at is not None and row.wake_at <= at and not state.is_parked(run)


def examine(state: State, question: Examine) -> Examination:
    """Return which runs do not go on as they should. What is read is whole: each entry has a checksum."""
    last_first = sorted(state.runs.values(), key=lambda run: run.row.finished_at or run.row.created_at, reverse=True)
    due = [run.row for run in state.unfinished.values() if _is_overdue(state, run, question.due_before)]
    expired = [run.row for run in state.unfinished.values() if (run.row.ttl_at or INSTANT_MAX) <= question.due_before]
    return Examination(
        owned_counts=Counter(run.row.owner for run in last_first if run.row.owner is not None),
        overdue_counts=Counter((row.workflow, row.version) for row in due),
        not_undone=tuple(run.row.id for run in last_first if run.row.compensation_errors != "[]"),
        set_aside=tuple(run.row.id for run in last_first if _is_set_aside(run.row, question.set_aside)),
        expired=tuple(row.id for row in sorted(expired, key=lambda row: row.ttl_at or 0)),
    )


def _is_set_aside(row: RunRow, text: str) -> bool:
    if row.status is not RunStatus.FAILED or row.error is None:
        return False
    error = json.loads(row.error)
    return error["type"] == f"{DurableError.__module__}.{DurableError.__name__}" and text in error.get("message", "")


def list_runs(state: State, question: ListRuns) -> tuple[RunRow, ...]:
    """Return runs, in an order."""
    found = []
    for run in state.runs.values():
        place = _place(run.row, question.order)
        if place is not None and matches(state, run, question.which):
            found.append((place, run))
    is_last_first = question.order is not Order.OLDEST
    found.sort(key=lambda pair: pair[0], reverse=is_last_first)
    before = question.before
    if before is not None:
        found = [pair for pair in found if (pair[0] < before if is_last_first else pair[0] > before)]
    return tuple(state.row(run) for _, run in found[: max(0, question.limit)])


def _place(row: RunRow, order: Order) -> tuple[float, int] | None:
    """Return where a run stands in an order; ``None`` if it is not in it."""
    match order:
        case Order.NEWEST | Order.OLDEST:
            return row.created_at, row.run
        case Order.CHANGED:
            return row.changed, row.run
        case Order.ENDED:
            return None if row.finished_at is None else (row.finished_at, row.run)


def list_overdue(state: State, question: ListOverdue) -> Overdue:
    """Return runs that nobody has taken, in the order in which they were due."""
    waiting = sorted(
        ((run.row.wake_at, number), run)
        for number, run in state.unfinished.items()
        if run.row.owner is None and run.row.wake_at is not None and question.workflow in (None, run.row.workflow)
    )  # no two have the same number
    found = (run for place, run in waiting if question.after < place and place[0] <= question.until)
    rows = [state.row(run) for run in found if not state.is_parked(run)][: max(0, question.limit)]
    return Overdue(rows=tuple(rows), next_due_at=next((at for (at, _), _ in waiting if at > question.until), None))


def list_awaited(state: State, question: ListAwaited) -> Mapping[int, AwaitedRows]:
    """Return what some runs wait for."""
    return {run: _awaited(state, run, question.limit) for run in question.runs}


def _awaited(state: State, number: int, limit: int) -> AwaitedRows:
    run = state.runs.get(number)
    if run is None:
        return AwaitedRows()
    waits = sorted(run.waits.values(), key=lambda w: (w.due_at is None, w.due_at or 0, w.started_at, w.key))
    newest = state.children_of(number)[-_CHILDREN_LOOKED_AT:]
    children = [OpenChild(child.row.id, child.row.workflow) for child in newest if not child.is_final]
    return AwaitedRows(tuple(waits[:limit]), tuple(children[max(0, len(children) - limit) :]))


def read_values(state: State, question: ReadValues) -> Mapping[int, Mapping[str, str]]:
    """Return the published values of some runs."""
    return {run: values_of(state.runs[run]) if run in state.runs else {} for run in question.runs}


def values_of(run: Run) -> dict[str, str]:
    """Return the published values of a run."""
    return {key: text for key, (text, _) in sorted(run.values.items())}


def list_generations(state: State, question: ListGenerations) -> tuple[GenerationRow, ...]:
    """Return which earlier generations of a run are kept, the last one first."""
    run = state.runs.get(question.run)
    if run is None:
        return ()
    found = [n for n in sorted(run.generations, reverse=True) if question.before is None or n < question.before]
    return tuple(run.generations[n][0] for n in found[: max(0, question.limit)])


def list_generation(state: State, question: ListGeneration) -> tuple[HistoryRow, ...] | None:
    """Return the history of one generation of a run."""
    run = state.runs.get(question.run)
    if run is None:
        return None
    if run.row.generation == question.generation:
        return run.in_order()
    kept = run.generations.get(question.generation)
    return None if kept is None else kept[1]


# ---- counts --------------------------------------------------------------------------------------------------------


def count_runs(state: State, question: CountRuns) -> StoreStatus:
    """Return counts and warnings."""
    by_status = Counter(run.row.status for run in state.runs.values())
    parked = (run.row.id for _, run in sorted(state.unfinished.items()) if state.is_parked(run))
    return StoreStatus(
        runs_by_status={status: by_status[status] for status in RunStatus if by_status[status]},
        parked=tuple(parked)[:_PARKED_MAX],
        unfinished_by_workflow=Counter(run.row.workflow for run in state.unfinished.values()),
        unfinished_by_version=Counter((run.row.workflow, run.row.version) for run in state.unfinished.values()),
        store_version="log 1",
        warnings=(),
        recorded_count=state.recorded_count,
    )


def count_parked(state: State, question: CountParked) -> int:
    """Return how many runs are parked."""
    return sum(state.is_parked(run) for run in state.unfinished.values())


def count_refused(state: State, question: CountRefused) -> tuple[RefusedCount, ...]:
    """Return how many runs were refused, by version and by the codes that have refused them."""
    found = Counter(
        (run.row.workflow, run.row.version, tuple(sorted(run.refused)))
        for run in state.unfinished.values()
        if run.is_refused
    )
    return tuple(
        RefusedCount(workflow, version, frozenset(codes), count)
        for (workflow, version, codes), count in sorted(found.items())
    )


def count_by_workflow(state: State, question: CountByWorkflow) -> tuple[WorkflowCounts, ...]:
    """Return the counts of each workflow, or of one, by name."""
    names = sorted({run.row.workflow for run in state.runs.values()})
    if question.workflow is not None:
        names = [question.workflow]
    elif question.after is not None:
        names = [name for name in names if name > question.after]
    found = (_counts_of(state, name, question) for name in names)
    return tuple(counts for counts in found if counts.by_status or counts.oldest_unfinished)


def _counts_of(state: State, workflow: str, question: CountByWorkflow) -> WorkflowCounts:
    rows = [run.row for run in state.runs.values() if run.row.workflow == workflow]
    recent = [row for row in rows if question.since is None or row.created_at > question.since]
    by_status = Counter(row.status for row in recent)
    oldest = min(((row.created_at, row.id) for row in rows if not row.status.is_final), default=None)
    completed = [row for row in recent if row.status is RunStatus.COMPLETED]
    completed.sort(key=lambda row: (row.created_at, row.run), reverse=True)
    return WorkflowCounts(
        workflow=workflow,
        by_status={status: by_status[status] for status in RunStatus if by_status[status]},
        oldest_unfinished=None if oldest is None else (oldest[1], oldest[0]),
        durations=tuple(_duration(row) for row in completed[: question.durations_max]),
    )


def _duration(row: RunRow) -> int:
    """Return how long a run has taken; a copy has begun when the run did that it is a copy of."""
    return (row.finished_at or 0) - max(row.created_at, row.started_at or 0)


def list_failures(state: State, question: ListFailures) -> tuple[FailedRun, ...]:
    """Return runs that have failed, the last one first."""
    which = RunFilter(workflow=question.workflow, statuses=(RunStatus.FAILED,))
    rows = list_runs(state, ListRuns(which, order=Order.ENDED, limit=question.limit, before=question.before))
    return tuple(
        FailedRun(run_id=row.id, workflow=row.workflow, finished_at=ended, causes=causes_of(row.error))
        for row in rows
        if (ended := row.finished_at) is not None and (question.since is None or ended > question.since)
    )


# ---- for a rehearsal -----------------------------------------------------------------------------------------------


def list_unfinished(state: State, question: ListUnfinished) -> tuple[int, ...]:
    """Return the numbers of unfinished runs, or a sample of them."""
    found = sorted(_unfinished(state, question))
    chosen = {run for _, run in found}
    if question.sample is not None:
        kinds: dict[tuple[str, str | None], list[int]] = {}
        for workflow, number in found:
            history = state.runs[number].in_order()
            kinds.setdefault((workflow, history[-1].key.name if history else None), []).append(number)
        chosen = set(sample_of(kinds, question.sample))
    return tuple(run for _, run in found if run in chosen)


def _unfinished(state: State, question: ListUnfinished) -> Iterator[tuple[str, int]]:
    before = question.created_before
    for number, run in state.unfinished.items():
        if question.workflow in (None, run.row.workflow) and (before is None or run.row.created_at < before):
            yield run.row.workflow, number


def load_unfinished(state: State, question: LoadUnfinished) -> UnfinishedPage:
    """Return those of some runs that have not ended, with what there is of them."""
    found, row_count, taken = [], 0, 0
    for number in question.runs:
        run = state.unfinished.get(number)
        row_count += 0 if run is None else len(run.history)
        if taken and row_count > _PAGE_ROWS_MAX:
            break
        taken += 1
        if run is not None:
            found.append(Unfinished(state.row(run), load(run), _cancels_children(state, number)))
    return UnfinishedPage(tuple(found), taken)


def _cancels_children(state: State, number: int) -> bool:
    """Return whether a child of a run was asked to cancel."""
    return any(letter.entry.kind == "cancel" for child in state.children_of(number) for letter in child.mail.values())
