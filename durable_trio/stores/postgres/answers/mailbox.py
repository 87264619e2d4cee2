"""What an engine reads of mailboxes: each answer costs a round trip, a few seeks, and the entries that it gives."""

from __future__ import annotations

from typing import Final

from durable_trio.rows import MailboxEntry
from durable_trio.stores.postgres.answers.asking import Asking, text
from durable_trio.stores.postgres.rows import ENTRY_COLUMNS, entry_from
from durable_trio.stores.postgres.wire import Answer
from durable_trio.stores.questions import ListUnread, LookAtMailbox, MailboxLook, NamedSignals

__all__ = ["CONTROLS_BEHIND", "LAST_UNREAD", "UNREAD_FIRST", "list_unread", "look_at_mailbox"]

UNREAD: Final = f"SELECT {ENTRY_COLUMNS} FROM mailbox WHERE run = $1::bigint AND seq IS NULL ORDER BY id"
UNREAD_AFTER: Final = f"""
    SELECT {ENTRY_COLUMNS} FROM mailbox WHERE run = $1::bigint AND seq IS NULL AND id > $2::bigint
    ORDER BY id LIMIT $3::bigint
"""
SIGNALS_NAMED: Final = f"""
    SELECT {ENTRY_COLUMNS} FROM mailbox
    WHERE run = $1::bigint AND kind = 'signal' AND name = $2::text AND seq IS NULL AND id > $3::bigint
    ORDER BY id LIMIT $4::bigint
"""
# Of some runs: before the columns stands the number of the run.
#: The first unread entries, of each run at most so many.
UNREAD_FIRST: Final = f"""
    SELECT wanted.run, first.* FROM unnest($1::bigint[]) AS wanted (run), LATERAL (
        SELECT {ENTRY_COLUMNS} FROM mailbox WHERE mailbox.run = wanted.run AND seq IS NULL
        ORDER BY id LIMIT $2::bigint
    ) AS first
    ORDER BY wanted.run, first.id
"""
#: What is unread and no signal, behind the first entries, of which there is one more than so many. The offset keeps it
#: a look into the mailbox of each run: as a join the server would begin with those of all runs.
CONTROLS_BEHIND: Final = f"""
    SELECT wanted.run, control.* FROM unnest($1::bigint[]) AS wanted (run), LATERAL (
        SELECT id FROM mailbox WHERE mailbox.run = wanted.run AND seq IS NULL ORDER BY id LIMIT 1 OFFSET $2::bigint
    ) AS last, (VALUES ('cancel'), ('child')) AS controls (kind), LATERAL (
        SELECT {ENTRY_COLUMNS} FROM mailbox
        WHERE mailbox.run = wanted.run AND seq IS NULL AND mailbox.kind = controls.kind AND mailbox.id > last.id
        OFFSET 0
    ) AS control
    ORDER BY wanted.run, control.id
"""
LAST_UNREAD: Final = """
    SELECT wanted.run, last.id FROM unnest($1::bigint[]) AS wanted (run), LATERAL (
        SELECT id FROM mailbox WHERE mailbox.run = wanted.run AND seq IS NULL ORDER BY id DESC LIMIT 1
    ) AS last
"""


def list_unread(asking: Asking, question: ListUnread) -> tuple[MailboxEntry, ...]:
    """Return the unread mailbox entries of a run, in order of arrival."""
    return _entries(asking.only((UNREAD, (question.run,)))[0])


def look_at_mailbox(asking: Asking, question: LookAtMailbox) -> MailboxLook:
    """Return what has come into a run's mailbox, and signals by name."""
    run, after, limit = question.run, question.after, question.limit
    come, *named = asking.only(
        (UNREAD_AFTER, (run, after, limit + 1)),
        *((SIGNALS_NAMED, (run, text(name), above, limit + 1)) for name, above in question.names.items()),
    )
    found = _entries(come)
    return MailboxLook(
        after,
        found[:limit],
        len(found) <= limit,
        {
            name: _signals(above, _entries(answer), limit)
            for (name, above), answer in zip(question.names.items(), named, strict=True)
        },
    )


def _signals(after: int, found: tuple[MailboxEntry, ...], limit: int) -> NamedSignals:
    return NamedSignals(after, found[:limit], len(found) <= limit)


def _entries(answer: Answer) -> tuple[MailboxEntry, ...]:
    return tuple(map(entry_from, answer.rows))
