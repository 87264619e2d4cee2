"""Which function answers which question."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from durable_trio.stores.code_questions import CountParked, CountRefused, ListCodes, ListRefusedSets, ListServed
from durable_trio.stores.due_questions import FindNextDue
from durable_trio.stores.examination_questions import Examine
from durable_trio.stores.generation_questions import ListGeneration, ListGenerations
from durable_trio.stores.news_questions import FindCursor, ListChanges, ListNews, ListSent
from durable_trio.stores.overdue_questions import ListOverdue
from durable_trio.stores.postgres.answers.asking import Asking
from durable_trio.stores.postgres.answers.backlog import count_backlog, find_next_due, list_set_back
from durable_trio.stores.postgres.answers.codes import count_refused, list_codes, list_served
from durable_trio.stores.postgres.answers.counts import count_by_workflow, count_runs
from durable_trio.stores.postgres.answers.cursors import find_cursor
from durable_trio.stores.postgres.answers.examination import examine
from durable_trio.stores.postgres.answers.executors import (
    list_deaths,
    list_executors,
    list_open_steps,
    list_reports,
    list_untold,
)
from durable_trio.stores.postgres.answers.failures import list_failures
from durable_trio.stores.postgres.answers.lists import list_runs
from durable_trio.stores.postgres.answers.mailbox import list_unread, look_at_mailbox
from durable_trio.stores.postgres.answers.news import list_changes, list_news, list_sent
from durable_trio.stores.postgres.answers.overdue import list_overdue
from durable_trio.stores.postgres.answers.parked import count_parked, list_refused_sets
from durable_trio.stores.postgres.answers.runs import (
    find_ended,
    find_missing,
    find_run,
    list_awaited,
    list_generation,
    list_generations,
    list_history,
    list_owned,
    list_waits,
    load_run,
    load_runs,
    read_values,
)
from durable_trio.stores.postgres.answers.unfinished import list_unfinished, load_unfinished
from durable_trio.stores.questions import (
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
    Question,
    ReadValues,
)
from durable_trio.stores.unfinished_questions import ListUnfinished, LoadUnfinished

__all__ = ["ANSWERS", "Asking"]

ANSWERS: Final[dict[type[Question[Any]], Callable[[Asking, Any], Any]]] = {
    FindRun: find_run,
    LoadRun: load_run,
    LoadRuns: load_runs,
    ListHistory: list_history,
    ListGeneration: list_generation,
    ListGenerations: list_generations,
    ListWaits: list_waits,
    ListAwaited: list_awaited,
    ReadValues: read_values,
    FindEnded: find_ended,
    FindMissing: find_missing,
    ListUnread: list_unread,
    LookAtMailbox: look_at_mailbox,
    CountBacklog: count_backlog,
    FindNextDue: find_next_due,
    ListSetBack: list_set_back,
    ListOwned: list_owned,
    ListRuns: list_runs,
    FindCursor: find_cursor,
    ListChanges: list_changes,
    ListNews: list_news,
    ListSent: list_sent,
    ListCodes: list_codes,
    ListServed: list_served,
    CountRefused: count_refused,
    CountParked: count_parked,
    ListRefusedSets: list_refused_sets,
    ListExecutors: list_executors,
    ListDeaths: list_deaths,
    ListReports: list_reports,
    CountRuns: count_runs,
    CountByWorkflow: count_by_workflow,
    ListFailures: list_failures,
    ListOverdue: list_overdue,
    ListUnfinished: list_unfinished,
    LoadUnfinished: load_unfinished,
    Examine: examine,
    ListOpenSteps: list_open_steps,
    ListUntold: list_untold,
}
