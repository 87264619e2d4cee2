"""What runs wait for is asked in one round trip, whatever its number of statements, and leaves nothing to end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from durable_trio.rows import ServedCode
from durable_trio.stores.code_questions import CountParked, ListCodes
from durable_trio.stores.due_questions import FindNextDue
from durable_trio.stores.news_questions import FindCursor, ListChanges, ListNews, ListSent
from durable_trio.stores.postgres.answers.table import ANSWERS, Asking
from durable_trio.stores.postgres.store import PostgresStore
from durable_trio.stores.postgres.url import ENGINE, parse_url
from durable_trio.stores.questions import (
    CountBacklog,
    FindEnded,
    FindMissing,
    FindRun,
    ListDeaths,
    ListExecutors,
    ListOwned,
    LoadRun,
    LoadRuns,
    LookAtMailbox,
    Question,
    RunFilter,
)
from tests.stores.postgres.answers.looking import rows_looked_at
from tests.stores.postgres.kit import Rows

_QUESTIONS: Sequence[Question[Any]] = (
    FindRun("run-0"),
    LoadRun(1),
    LoadRuns((1, 2, 3)),
    LookAtMailbox(1, after=0, names={"a": 0, "b": 0}, limit=9),
    ListOwned(1),
    FindEnded(["run-0", "run-1"]),
    FindMissing(["run-0", "run-1"]),
    CountBacklog([ServedCode("work", 0, 1)], now=100, due_max=9),
    FindNextDue(codes=[ServedCode("work", 0, 1)], executors=[1], now=100),
    CountParked(),
    ListCodes(),
    ListExecutors(),
    ListDeaths(),
    FindCursor(),
)


def test_what_an_engine_asks_is_one_round_trip_and_a_few_rows(url: str, store: PostgresStore, rows: Rows) -> None:
    rows.add_runs(300)
    rows.execute("INSERT INTO mailbox (run, created_at, kind, name) SELECT run, 1, 'signal', 'a' FROM runs")
    rows.execute("INSERT INTO waits SELECT run, gen_random_uuid(), 0, 7, 1, 1, 'sleep', '', 'x', NULL, NULL FROM runs")
    cursor = store.ask(FindCursor())
    news = (
        ListNews(after=cursor, limit=9),
        ListSent(cursor, limit=9),
        ListChanges(RunFilter(queue="q", tags=(("a", "b"),)), after=cursor, limit=9),
    )
    for is_analysed in (False, True):  # what the server knows of the tables makes no difference
        if is_analysed:
            rows.execute("ANALYZE runs, mailbox, waits, history, published, executors, codes")
        for question in (*_QUESTIONS, *news):
            assert _round_trips(url, question) == 1, question
            assert rows_looked_at(parse_url(url), question) < 60, question


def _round_trips(url: str, question: Question[Any]) -> int:
    wire = parse_url(url).connect(settings=ENGINE)
    try:
        before = wire.exchange_count
        ANSWERS[type(question)](Asking(wire, 0), question)
        assert not wire.is_in_transaction
        return wire.exchange_count - before
    finally:
        wire.close()
