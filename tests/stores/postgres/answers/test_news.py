"""What is told of those who write at the same time: each commit once, whatever number its transaction has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from durable_trio.rows import MailboxEntry
from durable_trio.stores.cursors import Cursor
from durable_trio.stores.news_questions import Change, FindCursor, ListChanges, ListNews, ListSent
from durable_trio.stores.postgres.store import PostgresStore
from durable_trio.stores.postgres.url import parse_url
from durable_trio.stores.questions import RunFilter
from tests.stores.postgres.answers.looking import rows_looked_at
from tests.stores.postgres.kit import Rows, connect

Connection = psycopg.Connection[Any]

_CHANGE = "UPDATE runs SET changed = changed + 1, stamp = pg_current_xact_id() WHERE id = %s"
_SEND = """
    INSERT INTO mailbox (run, created_at, kind, name, payload)
    SELECT run, 1, 'signal', 'go', '1' FROM runs WHERE id = %s
"""


@pytest.fixture
def late(url: str, store: PostgresStore) -> Iterator[Connection]:
    """Somebody whose transaction has its number already, and commits when the test says so."""
    with connect(url, autocommit=False) as connection:
        connection.execute("SELECT pg_current_xact_id()")
        yield connection
        connection.rollback()


def news(store: PostgresStore, cursor: Cursor, limit: int = 99) -> tuple[list[str], Cursor]:
    """Return the runs that have changed, page by page, and the cursor behind them."""
    found: list[str] = []
    while True:
        page = store.ask(ListNews(after=cursor, limit=limit))
        found += [change.row.id for change in page.changes]
        cursor = page.cursor
        if page.is_last:
            return found, cursor


def sent(store: PostgresStore, cursor: Cursor, limit: int = 99) -> tuple[list[MailboxEntry], Cursor]:
    """Return what was sent, page by page, and the cursor behind it."""
    found: list[MailboxEntry] = []
    while True:
        page = store.ask(ListSent(cursor, limit=limit))
        found += [each.entry for each in page.sent]
        cursor = page.cursor
        if page.is_last:
            return found, cursor


@pytest.mark.parametrize("limit", [1, 99])
def test_what_is_committed_late_is_told_though_later_numbers_were_told_before(
    store: PostgresStore, rows: Rows, late: Connection, limit: int
) -> None:
    rows.add_runs(3)
    cursor = mail_cursor = store.ask(FindCursor())
    late.execute(_CHANGE, ["run-0"])
    late.execute(_SEND, ["run-0"])
    rows.execute(_CHANGE, "run-1")
    rows.execute(_SEND, "run-1")
    rows.execute(_CHANGE, "run-2")
    first, cursor = news(store, cursor, limit)
    first_entries, mail_cursor = sent(store, mail_cursor, limit)
    late.commit()
    second, cursor = news(store, cursor, limit)
    second_entries, mail_cursor = sent(store, mail_cursor, limit)
    assert (first, second) == (["run-1", "run-2"], ["run-0"])
    # Who had gone on behind the last number would have missed both.
    assert rows.one("SELECT stamp FROM runs WHERE id = 'run-0'") < rows.one("SELECT min(stamp) FROM runs WHERE run > 1")
    assert second_entries[0].id < first_entries[0].id
    assert len(first_entries) == len(second_entries) == 1
    assert (news(store, cursor)[0], sent(store, mail_cursor)[0]) == ([], [])


def test_what_changes_while_pages_are_read_is_told_behind_them_and_nothing_twice(
    store: PostgresStore, rows: Rows, late: Connection
) -> None:
    rows.add_runs(6)
    late.execute(_CHANGE, ["run-5"])
    place, found = None, list[Change]()
    for number in range(100):
        page = store.ask(ListChanges(RunFilter(), after=place, limit=2))
        found += page.changes
        place = page.cursor
        if number == 0:
            rows.execute(_CHANGE, "run-0")  # told, and told again
            rows.execute(_CHANGE, "run-4")  # not told yet
        if number == 1:
            late.commit()
        if page.is_last:
            break
    told = [(change.row.id, change.row.changed) for change in found]
    # A run that was told with the change before is told again, and no change is told twice.
    assert sorted(told) == [
        ("run-0", 1),
        ("run-0", 2),
        ("run-1", 1),
        ("run-2", 1),
        ("run-3", 1),
        ("run-4", 2),
        ("run-5", 2),
    ]


@pytest.mark.parametrize("limit", [1, 2, 99])
def test_messages_of_a_run_come_in_the_order_of_its_mailbox_whatever_transactions_have_sent_them(
    store: PostgresStore, rows: Rows, late: Connection, limit: int
) -> None:
    rows.add_runs(2)
    cursor = store.ask(FindCursor())
    for _ in range(3):
        rows.execute(_SEND, "run-0")
        rows.execute(_SEND, "run-1")
    late.execute(_SEND, ["run-0"])
    late.commit()
    found, cursor = sent(store, cursor, limit)
    assert [entry.id for entry in found if entry.run == 1] == sorted(entry.id for entry in found if entry.run == 1)
    assert len(found) == len({entry.id for entry in found}) == 7
    assert rows.one(
        "SELECT stamp = min(stamp) OVER () FROM mailbox ORDER BY id DESC LIMIT 1"
    )  # by those it is the first
    assert sent(store, cursor)[0] == []


@pytest.mark.parametrize("limit", [1, 2, 99])
def test_changes_of_one_run_are_told_in_their_order_though_the_numbers_fall(
    store: PostgresStore, rows: Rows, late: Connection, limit: int
) -> None:
    rows.add_runs(3)
    cursor = store.ask(FindCursor())
    rows.execute(_CHANGE, "run-0")
    page = store.ask(ListNews(after=cursor, limit=limit))
    late.execute(_CHANGE, ["run-0"])
    late.commit()
    again = store.ask(ListNews(after=page.cursor, limit=limit))
    assert [change.row.changed for change in (*page.changes, *again.changes)] == [2, 3]
    assert again.is_last


def test_a_look_reads_what_is_new_however_much_was_committed_since_the_oldest_transaction_began(
    url: str, store: PostgresStore, rows: Rows, late: Connection
) -> None:
    rows.add_runs(500)
    rows.execute("INSERT INTO mailbox (run, created_at, kind, name) SELECT run, 1, 'signal', 'go' FROM runs")
    cursor = store.ask(FindCursor())
    rows.execute(_CHANGE, "run-7")
    rows.execute(_SEND, "run-7")
    assert (len(news(store, cursor)[0]), len(sent(store, cursor)[0])) == (1, 1)
    assert rows_looked_at(parse_url(url), ListNews(after=cursor, limit=99)) < 20
    assert rows_looked_at(parse_url(url), ListSent(cursor, limit=99)) < 20


def test_what_was_restored_from_a_dump_is_told_only_to_who_begins_with_everything(
    store: PostgresStore, rows: Rows
) -> None:
    """It was written by transactions of another server, which has come further than this one."""
    rows.add_runs(5)
    rows.execute(_SEND, "run-0")
    rows.execute("UPDATE runs SET stamp = (1000000000 + run)::text::xid8")
    rows.execute("UPDATE mailbox SET stamp = '1000000000'")
    cursor = store.ask(FindCursor())
    assert (news(store, cursor)[0], sent(store, cursor)[0]) == ([], [])
    rows.execute(_CHANGE, "run-3")
    rows.execute(_SEND, "run-3")
    assert (news(store, cursor)[0], len(sent(store, cursor)[0])) == (["run-3"], 1)
    place, found = None, list[str]()
    while True:
        page = store.ask(ListChanges(RunFilter(), after=place, limit=2))
        found += [change.row.id for change in page.changes]
        place = page.cursor
        if page.is_last:
            break
    assert sorted(found) == [f"run-{number}" for number in range(5)]
    assert news(store, page.cursor)[0] == []
