"""What an engine reads of mailboxes: each answer costs a few seeks and the entries that it gives."""

from __future__ import annotations

from typing import Final

from durable_trio.limits import MAILBOX_ENTRIES_READ
from durable_trio.rows import MailboxEntry
from durable_trio.stores.news_questions import ListSent, SentPage
from durable_trio.stores.operations import Sent
from durable_trio.stores.questions import ListUnread, LookAtMailbox, MailboxLook, NamedSignals
from durable_trio.stores.row_columns import columns_of
from durable_trio.stores.sqlite.answers.cursors import known_point
from durable_trio.stores.sqlite.columns import ENTRY_COLUMNS, entry_from
from durable_trio.stores.sqlite.library import sqlite3

__all__ = ["list_sent", "list_unread", "look_at_mailbox", "unread_of"]

UNREAD: Final = f"SELECT {ENTRY_COLUMNS} FROM mailbox WHERE run = ? AND seq IS NULL ORDER BY id"
UNREAD_AFTER: Final = f"""
    SELECT {ENTRY_COLUMNS} FROM mailbox INDEXED BY mailbox_of_run
    WHERE run = ? AND seq IS NULL AND id > ? ORDER BY id LIMIT ? + 0
"""
SIGNALS_NAMED: Final = f"""
    SELECT {ENTRY_COLUMNS} FROM mailbox INDEXED BY mailbox_unread
    WHERE run = ? AND kind = 'signal' AND name = ? AND seq IS NULL AND id > ? ORDER BY id LIMIT ? + 0
"""
CONTROLS_AFTER: Final = f"""
    SELECT {ENTRY_COLUMNS} FROM mailbox INDEXED BY mailbox_unread
    WHERE run = ? AND kind IN ('cancel', 'child') AND seq IS NULL AND id > ? ORDER BY id
"""
LAST_UNREAD: Final = "SELECT max(id) FROM mailbox INDEXED BY mailbox_of_run WHERE run = ? AND seq IS NULL"
#: With what its run's owner needs to take each as it is (see ``Sent.follows``).
SENT_AFTER: Final = f"""
    SELECT {", ".join(f"mailbox.{column}" for column in columns_of(MailboxEntry))}, seq IS NULL, owner, token,
        (
            SELECT max(id) FROM mailbox AS before INDEXED BY mailbox_of_run
            WHERE before.run = mailbox.run AND before.seq IS NULL AND before.id < mailbox.id
        )
    FROM mailbox LEFT JOIN runs ON runs.run = mailbox.run
    WHERE mailbox.id > ? ORDER BY mailbox.id LIMIT ? + 0
"""


def list_sent(connection: sqlite3.Connection, question: ListSent) -> SentPage:
    """Return what was sent later, in order."""
    point = known_point(connection, question.after)
    found = connection.execute(SENT_AFTER, (point.entry, question.limit)).fetchall()
    sent = tuple(_sent(entry_from(row[:-4]), *row[-4:]) for row in found)
    if sent:
        point = point._replace(entry=sent[-1].entry.id)
    return SentPage(sent, point.cursor, is_last=len(sent) < question.limit)


def _sent(entry: MailboxEntry, is_unread: int, owner: object, token: object, before: object) -> Sent:
    if type(owner) is not int or type(token) is not int:
        return Sent(entry=entry, created=bool(is_unread), owner=None)
    follows = (token, before if type(before) is int else 0) if is_unread else None
    return Sent(entry=entry, created=bool(is_unread), owner=owner, follows=follows)


def list_unread(connection: sqlite3.Connection, question: ListUnread) -> tuple[MailboxEntry, ...]:
    """Return the unread mailbox entries of a run, in order of arrival."""
    return _entries(connection, UNREAD, question.run)


def look_at_mailbox(connection: sqlite3.Connection, question: LookAtMailbox) -> MailboxLook:
    """Return what has come into a run's mailbox, and signals by name."""
    run, after, limit = question.run, question.after, question.limit
    named = {}
    for name, above in question.names.items():
        found = _entries(connection, SIGNALS_NAMED, run, name, above, limit + 1)
        named[name] = NamedSignals(above, found[:limit], len(found) <= limit)
    found = _entries(connection, UNREAD_AFTER, run, after, limit + 1)
    return MailboxLook(after, found[:limit], len(found) <= limit, named)


def unread_of(connection: sqlite3.Connection, run: int) -> tuple[tuple[MailboxEntry, ...], tuple[int, int] | None]:
    """Return unread entries, and between which ids signals were left out, if they are many."""
    found = _entries(connection, UNREAD_AFTER, run, 0, MAILBOX_ENTRIES_READ + 1)
    if len(found) <= MAILBOX_ENTRIES_READ:
        return found, None
    found = found[:-1]
    controls = _entries(connection, CONTROLS_AFTER, run, found[-1].id)
    last = connection.execute(LAST_UNREAD, (run,)).fetchone()[0]
    return found + controls, (found[-1].id, last)


def _entries(connection: sqlite3.Connection, sql: str, *parameters: object) -> tuple[MailboxEntry, ...]:
    return tuple(map(entry_from, connection.execute(sql, parameters).fetchall()))
