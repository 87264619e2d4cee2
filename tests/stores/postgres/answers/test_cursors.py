"""What a cursor is, and where it is of no use any more."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from private_postgres import Server

from durable_trio.errors import StoreAway
from durable_trio.stores.contract import RegisterExecutor
from durable_trio.stores.cursors import CursorLost
from durable_trio.stores.news_questions import FindCursor, ListChanges, ListNews, ListSent
from durable_trio.stores.postgres.answers.cursors import Point, Snapshot, read_point
from durable_trio.stores.postgres.store import PostgresStore
from durable_trio.stores.questions import ListExecutors, RunFilter
from tests.kit.postgres import server
from tests.stores.postgres.kit import wait_until

_ERA = "0123456789ab"


def test_a_cursor_comes_back_from_its_text(store: PostgresStore) -> None:
    dice = random.Random(1)
    for _ in range(200):
        numbers = sorted(dice.sample(range(1, 10 ** dice.randrange(2, 18)), dice.randrange(1, 9)))
        base, target = Snapshot(numbers[-1], tuple(numbers[:-1])), Snapshot(numbers[0])
        for point in (Point(_ERA, base), Point(_ERA, base, target, (7, 8)), Point(_ERA, target, base, (7,))):
            assert read_point(point.cursor) == point
            assert store.read_cursor(point.cursor) == point.cursor
            assert Snapshot.of_server(base.for_server) == base


@pytest.mark.parametrize(
    "text",
    [
        f"p{_ERA}",
        f"p{_ERA}.",
        f"p{_ERA}.0",
        f"p{_ERA}.5.0",
        f"p{_ERA}.05",
        f"p{_ERA}.5 ",
        f"p{_ERA}.5-",
        f"p{_ERA}.5-6",
        f"p{_ERA}.5-6-1.2.3",
        f"p{_ERA}.5-6-1\n",
        f"p{_ERA}.٥",
        "p0123456789AB.5",
        f"p{_ERA}." + ".".join(["999999999999999999"] * 10),
        "9-1",
        "L12.3",
    ],
)
def test_another_text_is_no_cursor_and_an_example_is_told(text: str) -> None:
    with pytest.raises(ValueError, match=r"no cursor of this store; one looks like 'p[0-9a-f]{12}\.[0-9.]+'"):
        read_point(text)


def test_a_cursor_is_short_also_while_a_hundred_transactions_are_under_way() -> None:
    dice = random.Random(2)
    first = 4_000_000_000
    under_way = tuple(sorted(dice.sample(range(first, first + 5000), 100)))
    snapshot = Snapshot(first + 5000, under_way)
    assert len(Point(_ERA, snapshot, snapshot, (first, 10**9)).cursor) < 700


def test_a_cursor_of_messages_is_none_of_changes(store: PostgresStore) -> None:
    era = read_point(store.ask(FindCursor())).era
    of_messages = Point(era, Snapshot(1), Snapshot(2), (7,)).cursor
    of_changes = Point(era, Snapshot(1), Snapshot(2), (7, 8)).cursor
    with pytest.raises(ValueError, match="no cursor"):
        store.ask(ListNews(after=of_messages, limit=1))
    with pytest.raises(ValueError, match="no cursor"):
        store.ask(ListSent(of_changes, limit=1))


def test_a_cursor_of_another_database_is_lost(store: PostgresStore, open_store: Callable[[], PostgresStore]) -> None:
    cursor = store.ask(FindCursor())
    open_store().ask(ListSent(cursor, limit=1))  # of another store on this one it is not
    point = read_point(cursor)
    for other in (Point(_ERA, point.base), Point(point.era, Snapshot(point.base.end + 1000))):
        for question in (
            ListNews(after=other.cursor, limit=1),
            ListChanges(RunFilter(), after=other.cursor, limit=1),
            ListSent(other.cursor, limit=1),
        ):
            with pytest.raises(CursorLost):
                store.ask(question)


@pytest.fixture
def crashing(tmp_path: Path) -> Iterator[Server]:
    """A server that is to crash."""
    server()  # where none is installed, the test is skipped by it
    made = Server(is_safe=True)
    yield made
    made.close()


def test_after_a_crash_cursors_are_lost_and_nobody_seems_to_have_ended(
    crashing: Server,
) -> None:
    """One process of the server dies, and it begins anew without being started.

    All connections go, and all locks; and numbers of transactions are given out again that were not written down.
    """
    store, other = PostgresStore(crashing.url), PostgresStore(crashing.url)
    store.open()
    other.open()
    try:
        other.apply([RegisterExecutor(pid=1, host="host", lease=1, now=1)])
        assert [row.is_locked for row in store.ask(ListExecutors())] == [True]
        cursor = store.ask(FindCursor())
        with psycopg.connect(crashing.url) as connection:
            os.kill(connection.info.backend_pid, signal.SIGKILL)
        seen: list[bool | None] = []

        def is_back() -> bool:
            try:
                era = read_point(store.ask(FindCursor())).era
                seen.append(store.ask(ListExecutors())[0].is_locked)
            except StoreAway:
                return False
            return seen[-1] is True and era != read_point(cursor).era

        wait_until(is_back)
        assert False not in seen
        with pytest.raises(CursorLost):
            store.ask(ListSent(cursor, limit=1))
    finally:
        other.close()
        store.close()
