"""Which function answers which question; and what is asked of executors, codes and ids of runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

from durable_trio.rows import CodeRow, DeathRow, ExecutorRow, ReportRow, RunRow, ServedCode, UntoldRow
from durable_trio.rules.fitting import Fitting
from durable_trio.rules.run_life import ACTIVE, WAITING
from durable_trio.stores.code_questions import (
    CountParked,
    CountRefused,
    ListCodes,
    ListRefusedSets,
    ListServed,
    RefusedSet,
    ServedBy,
)
from durable_trio.stores.due_questions import FindNextDue, NextDue
from durable_trio.stores.examination_questions import Examine
from durable_trio.stores.generation_questions import ListGeneration, ListGenerations
from durable_trio.stores.news_questions import FindCursor, ListChanges, ListNews, ListSent
from durable_trio.stores.overdue_questions import ListOverdue
from durable_trio.stores.questions import (
    Backlog,
    CountBacklog,
    CountByWorkflow,
    CountRuns,
    FindEnded,
    FindMissing,
    FindRun,
    ListAwaited,
    ListDeaths,
    ListExecutors,
    ListFailures,
    ListHistory,
    ListOpenSteps,
    ListOwned,
    ListReports,
    ListRuns,
    ListSetBack,
    ListUnread,
    ListUntold,
    ListWaits,
    LoadRun,
    LoadRuns,
    LookAtMailbox,
    OpenSteps,
    ReadValues,
    SetBack,
)
from durable_trio.stores.unfinished_questions import ListUnfinished, LoadUnfinished
from tests.logstore.claims import due_runs
from tests.logstore.feed import find_cursor, list_changes, list_news, list_sent
from tests.logstore.lists import (
    count_by_workflow,
    count_parked,
    count_refused,
    count_runs,
    examine,
    list_awaited,
    list_failures,
    list_generation,
    list_generations,
    list_overdue,
    list_runs,
    list_unfinished,
    load_unfinished,
    read_values,
)
from tests.logstore.loading import (
    find_run,
    list_history,
    list_unread,
    list_waits,
    load_run,
    load_runs,
    look_at_mailbox,
)
from tests.logstore.state import State

__all__ = ["ANSWERS"]


def find_ended(state: State, question: FindEnded) -> tuple[str, ...]:
    """Return those of some ids whose runs have ended."""
    return tuple(text for text in question.run_ids if text in state.by_id and state.by_id[text].is_final)


def find_missing(state: State, question: FindMissing) -> tuple[str, ...]:
    """Return those of some ids that no run has."""
    return tuple(text for text in question.run_ids if text not in state.by_id)


def count_backlog(state: State, question: CountBacklog) -> Backlog:
    """Return what waits to be claimed, and who has how many runs at work."""
    fitting = Fitting(question.codes)
    due = due_runs(state, fitting, question.now)
    waiting = [run.row for run in state.unfinished.values() if run.row.owner is None]
    heads = [run.row.wake_at for run in due if run.row.wake_at is not None]
    heads += [
        row.wake_at
        for row in waiting
        if row.wake_at is not None and row.wake_at > question.now and row.workflow in fitting.workflows
    ]
    rows = (run.row for run in state.unfinished.values())
    owners = Counter(row.owner for row in rows if row.owner is not None and row.status in ACTIVE)
    return Backlog(
        executor_count=len(state.executors),
        next_due_at=min(heads, default=None),
        due_count=min(question.due_max, len(due)),
        owned_counts=dict(owners),
    )


def find_next_due(state: State, question: FindNextDue) -> NextDue:
    """Return when the next run is due, and how many some executors have in hand."""
    found = [count_backlog(state, CountBacklog(question.codes, now=question.now, due_max=1)).next_due_at]
    workflows, in_hand_count = Fitting(question.codes).workflows, 0
    for run in state.unfinished.values():
        row = run.row
        if row.owner is None:
            continue
        waits, is_due = row.status in WAITING, row.wake_at is not None and row.wake_at <= question.now
        if waits and not is_due and row.workflow in workflows:
            found.append(row.wake_at)
        in_hand_count += row.owner in question.executors and (not waits or is_due)
    return NextDue(at=min((each for each in found if each is not None), default=None), in_hand_count=in_hand_count)


def list_set_back(state: State, question: ListSetBack) -> tuple[SetBack, ...]:
    """Return runs whose due time was stored before the clock was set back."""
    found = []
    for number, run in state.unfinished.items():
        row, now = run.row, question.now
        if row.owner is None and row.wake_at is not None and row.wake_at > now and row.workflow in question.workflows:
            stamped_at = max(row.created_at, *(wait.started_at for wait in run.waits.values()), 0)
            if stamped_at > now:
                found.append((row.wake_at, number, SetBack(row.id, row.workflow, row.wake_at, stamped_at)))
    return tuple(each for _, _, each in sorted(found, key=lambda place: place[:2])[: question.limit])


def list_owned(state: State, question: ListOwned) -> tuple[RunRow, ...]:
    """Return the runs that an executor owns."""
    return tuple(state.row(run) for _, run in sorted(state.unfinished.items()) if run.row.owner == question.executor)


def list_executors(state: State, question: ListExecutors) -> tuple[ExecutorRow, ...]:
    """Return the executors that have not ended; others own no runs."""
    return tuple(state.executors.values())


def list_deaths(state: State, question: ListDeaths) -> tuple[DeathRow, ...]:
    """Return the deaths that are to be told of."""
    return tuple(death for _, death in sorted(state.deaths.items()))


def list_reports(state: State, question: ListReports) -> tuple[ReportRow, ...]:
    """Return what processes have said of themselves."""
    return tuple(report for _, report in sorted(state.reports.items()))


def list_codes(state: State, question: ListCodes) -> tuple[CodeRow, ...]:
    """Return the codes of one executor, or all."""
    if question.executor is None:
        return tuple(state.codes.values())
    return tuple(state.codes[code] for code in sorted(state.served.get(question.executor, ())))


def list_served(state: State, question: ListServed) -> tuple[ServedBy, ...]:
    """Return which codes executors have."""
    found = ((executor, state.codes[code]) for executor, codes in state.served.items() for code in sorted(codes))
    return tuple(ServedBy(executor, ServedCode(row.workflow, row.version, row.code)) for executor, row in found)


def list_refused_sets(state: State, question: ListRefusedSets) -> tuple[RefusedSet, ...]:
    """Return by which sets of codes runs were refused."""
    counts = count_refused(state, CountRefused())
    return tuple(RefusedSet(each.workflow, each.version, each.codes) for each in counts)


def list_open_steps(state: State, question: ListOpenSteps) -> Mapping[int, OpenSteps]:
    """Return by executor which steps it has said that it is executing; who of them lives is not said here."""
    return {
        executor: OpenSteps(tuple(step for step in told.steps if question.run in (None, step.run)), told.unlisted_count)
        for executor, told in state.open_steps.items()
    }


def list_nothing_untold(state: State, question: ListUntold) -> tuple[UntoldRow, ...]:
    """Return nothing: there is nowhere to note what is to be told."""
    return ()


ANSWERS: Final[dict[type, Callable[[State, Any], Any]]] = {
    FindRun: find_run,
    LoadRun: load_run,
    LoadRuns: load_runs,
    ListHistory: list_history,
    ListGeneration: list_generation,
    ListGenerations: list_generations,
    ListWaits: list_waits,
    ListAwaited: list_awaited,
    ReadValues: read_values,
    ListRuns: list_runs,
    ListOverdue: list_overdue,
    ListChanges: list_changes,
    ListNews: list_news,
    FindEnded: find_ended,
    FindCursor: find_cursor,
    FindMissing: find_missing,
    CountRuns: count_runs,
    CountByWorkflow: count_by_workflow,
    Examine: examine,
    CountParked: count_parked,
    ListRefusedSets: list_refused_sets,
    ListFailures: list_failures,
    ListSent: list_sent,
    ListUnread: list_unread,
    LookAtMailbox: look_at_mailbox,
    CountBacklog: count_backlog,
    FindNextDue: find_next_due,
    ListSetBack: list_set_back,
    ListOwned: list_owned,
    ListCodes: list_codes,
    ListServed: list_served,
    CountRefused: count_refused,
    ListExecutors: list_executors,
    ListDeaths: list_deaths,
    ListReports: list_reports,
    ListUnfinished: list_unfinished,
    LoadUnfinished: load_unfinished,
    ListOpenSteps: list_open_steps,
    ListUntold: list_nothing_untold,
}
