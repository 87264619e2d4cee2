"""What runs wait for is asked in one round trip, whatever its number of statements, and leaves nothing to end."""

from __future__ import annotations

from typing import Any

import pytest

from durable_trio.rows import ServedCode
from durable_trio.stores.code_questions import CountParked, ListCodes
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


@pytest.mark.parametrize(
    "question",
    [
        FindRun("run-0"),
        LoadRun(1),
        LoadRuns((1, 2, 3)),
        LookAtMailbox(1, after=0, names={"a": 0, "b": 0}, limit=9),
        ListOwned(1),
        FindEnded(["run-0", "run-1"]),
        FindMissing(["run-0", "run-1"]),
        CountBacklog([ServedCode("work", 0, 1)], now=100, due_max=9),
        CountParked(),
        ListCodes(),
        ListExecutors(),
        ListDeaths(),
        FindCursor(),
    ],
    ids=lambda question: type(question).__name__,
)
def test_what_an_engine_asks_is_one_round_trip_and_a_few_rows(
    url: str, store: PostgresStore, rows: Rows, question: Question[Any]
) -> None:
    rows.add_runs(300)
    rows.execute("INSERT INTO mailbox (run, created_at, kind, name) SELECT run, 1, 'signal', 'a' FROM runs")
    rows.execute("INSERT INTO waits SELECT run, gen_random_uuid(), 0, 7, 1, 1, 'sleep', '', 'x', NULL, NULL FROM runs")
    assert _round_trips(url, question) == 1
    assert rows_looked_at(parse_url(url), question) < 60


@pytest.mark.parametrize("question", [ListNews, ListSent, ListChanges], ids=lambda question: question.__name__)
def test_so_is_what_is_new(url: str, store: PostgresStore, question: Any) -> None:
    cursor = store.ask(FindCursor())
    asked = {
        ListNews: ListNews(after=cursor, limit=9),
        ListSent: ListSent(cursor, limit=9),
        ListChanges: ListChanges(RunFilter(queue="q", tags=(("a", "b"),)), after=cursor, limit=9),
    }
    assert _round_trips(url, asked[question]) == 1


def _round_trips(url: str, question: Question[Any]) -> int:
    wire = parse_url(url).connect(plans=ENGINE)
    try:
        before = wire.exchange_count
        ANSWERS[type(question)](Asking(wire, 0), question)
        assert not wire.is_in_transaction
        return wire.exchange_count - before
    finally:
        wire.close()
