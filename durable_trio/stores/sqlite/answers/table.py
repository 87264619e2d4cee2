"""Which function answers which question."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from durable_trio.stores.code_questions import CountParked, CountRefused, ListCodes, ListRefusedSets, ListServed
from durable_trio.stores.due_questions import FindNextDue
from durable_trio.stores.generation_questions import ListGeneration, ListGenerations
from durable_trio.stores.news_questions import FindCursor, ListChanges, ListNews, ListSent
from durable_trio.stores.overdue_questions import ListOverdue
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
    ListOwned,
    ListReports,
    ListRuns,
    ListSetBack,
    ListUnread,
    ListWaits,
    LoadRun,
    LoadRuns,
    LookAtMailbox,
    Question,
    ReadValues,
)
from durable_trio.stores.sqlite.answers.counts import count_by_workflow, count_parked, count_runs
from durable_trio.stores.sqlite.answers.cursors import find_cursor
from durable_trio.stores.sqlite.answers.executors import (
    count_backlog,
    find_next_due,
    list_codes,
    list_deaths,
    list_executors,
    list_reports,
    list_set_back,
)
from durable_trio.stores.sqlite.answers.failures import list_failures
from durable_trio.stores.sqlite.answers.lists import Slice, list_changes, list_news, list_runs
from durable_trio.stores.sqlite.answers.mailbox import list_sent, list_unread, look_at_mailbox
from durable_trio.stores.sqlite.answers.overdue import list_overdue
from durable_trio.stores.sqlite.answers.parked import list_refused_sets
from durable_trio.stores.sqlite.answers.runs import (
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
from durable_trio.stores.sqlite.answers.unfinished import list_unfinished, load_unfinished
from durable_trio.stores.sqlite.answers.versions import count_refused, list_served
from durable_trio.stores.unfinished_questions import ListUnfinished, LoadUnfinished

__all__ = ["ANSWERS", "JUDGED", "Answer", "at_one_instant", "whole"]

#: Is called within a transaction, with its connection and the question. A ``Slice`` that it returns is a part of the
#: answer: the rest is asked for in a transaction of its own.
Answer = Callable[[Any, Any], Any]

ANSWERS: Final[dict[type[Question[Any]], Answer]] = {
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
    ListChanges: list_changes,
    ListNews: list_news,
    FindEnded: find_ended,
    FindCursor: find_cursor,
    FindMissing: find_missing,
    CountRuns: count_runs,
    CountByWorkflow: count_by_workflow,
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
    ListOverdue: list_overdue,
    ListReports: list_reports,
    ListUnfinished: list_unfinished,
    LoadUnfinished: load_unfinished,
}

#: Those of ``ANSWERS`` in which it is judged who is there; ``judge`` says how (``liveness``).
JUDGED: Final[dict[type[Question[Any]], Callable[..., Any]]] = {
    ListExecutors: list_executors,
    ListDeaths: list_deaths,
}


def at_one_instant(connection: Any, function: Answer, question: Question[Any]) -> Any:
    """Answer a question, or a part of it, in one transaction that only reads."""
    connection.execute("BEGIN")
    try:
        return function(connection, question)
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def whole(part: Slice, answer: Callable[[Question[Any], Answer], Any]) -> Any:
    """Return an answer of which one transaction has given a part; ``answer`` gives the next ones, in one each."""
    found = list(part.found)
    while part.rest is not None:
        part = answer(part.rest, ANSWERS[type(part.rest)])
        found += part.found
    return part.whole(tuple(found))
