"""What has been committed since: changes of runs, and what was put into mailboxes.

A cursor is how many changes, and how many mailbox entries, there were then: all logs of one file have them in the same
order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from durable_trio.stores.cursors import Cursor, CursorLost
from durable_trio.stores.news_questions import (
    Change,
    ChangePage,
    FindCursor,
    ListChanges,
    ListNews,
    ListSent,
    SentPage,
)
from durable_trio.stores.operations import Sent
from durable_trio.stores.questions import RunFilter
from tests.logstore.lists import matches, values_of
from tests.logstore.messages import last_unread
from tests.logstore.state import State

__all__ = ["find_cursor", "list_changes", "list_news", "list_sent", "parse_cursor"]

_CURSOR = re.compile(r"L([0-9]{1,18})\.([0-9]{1,18})", re.ASCII)


def parse_cursor(text: str) -> Cursor:
    """Return a cursor that was written down.

    Raises:
        ValueError: it is none of a log.
    """
    if _CURSOR.fullmatch(text) is None:
        raise ValueError(f"{text!r} is no cursor of a log; one looks like 'L12.3'")
    return Cursor(text)


def find_cursor(state: State, question: FindCursor) -> Cursor:
    """Return the cursor behind all that is committed."""
    return _cursor(len(state.changes), len(state.sent))


def _cursor(change_count: int, sent_count: int) -> Cursor:
    return Cursor(f"L{change_count}.{sent_count}")


def _counts(state: State, cursor: Cursor | None) -> tuple[int, int]:
    """Return how many changes and entries there were at a cursor."""
    if cursor is None:
        return 0, 0
    change_count, sent_count = map(int, parse_cursor(cursor)[1:].split("."))
    if change_count > len(state.changes) or sent_count > len(state.sent):
        raise CursorLost(f"{cursor} is no point in this log")
    return change_count, sent_count


def list_changes(state: State, question: ListChanges) -> ChangePage:
    """Return the runs that were changed after a cursor, each where it has changed for the last time."""
    _, sent_count = _counts(state, question.after)
    found: list[Change] = []
    for change in _changes(state, question.which, question.after):
        if len(found) == question.limit:
            return ChangePage(tuple(found), found[-1].cursor if found else _cursor(0, sent_count), is_last=False)
        found.append(change)
    return ChangePage(tuple(found), _cursor(len(state.changes), sent_count), is_last=True)


def list_news(state: State, question: ListNews) -> ChangePage:
    """Return what ``list_changes`` does of all runs."""
    return list_changes(state, ListChanges(RunFilter(), after=question.after, limit=question.limit))


def _changes(state: State, which: RunFilter, after: Cursor | None) -> Iterator[Change]:
    change_count, sent_count = _counts(state, after)
    for index in range(change_count, len(state.changes)):
        number, run_number = state.changes[index]
        run = state.runs.get(run_number)
        if run is not None and run.row.changed == number and matches(state, run, which):
            yield Change(state.row(run), values_of(run), _cursor(index + 1, sent_count))


def list_sent(state: State, question: ListSent) -> SentPage:
    """Return what was put into mailboxes after a cursor."""
    change_count, index = _counts(state, question.after)
    found: list[Sent] = []
    while index < len(state.sent) and len(found) < question.limit:
        sent = _sent(state, *state.sent[index])
        index += 1
        if sent is not None:
            found.append(sent)
    return SentPage(tuple(found), _cursor(change_count, index), is_last=index == len(state.sent))


def _sent(state: State, number: int, run_number: int) -> Sent | None:
    """Return an entry that was sent as things are now; ``None`` if it is gone."""
    run = state.runs.get(run_number)
    letter = None if run is None else run.mail.get(number)
    if run is None or letter is None:
        return None
    follows = None
    if run.row.owner is not None and letter.is_unread:
        follows = (run.row.token, last_unread(run, letter.entry))
    return Sent(entry=letter.entry, created=letter.is_unread, owner=run.row.owner, follows=follows)
