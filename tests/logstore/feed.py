"""What has been committed since: changes of runs, and what was put into mailboxes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

from durable_trio.stores.operations import Sent
from durable_trio.stores.questions import (
    Change,
    FindLastChange,
    FindLastEntry,
    ListChanges,
    ListNews,
    ListSent,
    RunFilter,
)
from tests.logstore.lists import matches, values_of
from tests.logstore.messages import last_unread
from tests.logstore.state import State

__all__ = ["find_last_change", "find_last_entry", "list_changes", "list_news", "list_sent"]


def find_last_change(state: State, question: FindLastChange) -> int:
    """Return the highest change number given out so far."""
    return state.last_change


def find_last_entry(state: State, question: FindLastEntry) -> int:
    """Return the highest mailbox id given out so far."""
    return state.last_entry


def list_changes(state: State, question: ListChanges) -> tuple[Change, ...]:
    """Return runs that have changed since, those of one commit together."""
    found: list[Change] = []
    for change in _changes(state, question.which, question.after):
        if len(found) >= question.limit and (not found or found[-1].row.changed < change.row.changed):
            break
        found.append(change)
    return tuple(found)


def list_news(state: State, question: ListNews) -> tuple[Change, ...]:
    """Return what ``list_changes`` does of all runs."""
    return list_changes(state, ListChanges(RunFilter(), after=question.after, limit=question.limit))


def _changes(state: State, which: RunFilter, after: int) -> Iterator[Change]:
    for number, run_number in state.changes[bisect_right(state.changes, (after, 2**63)) :]:
        run = state.runs.get(run_number)
        if run is not None and run.row.changed == number and matches(state, run, which):
            yield Change(state.row(run), values_of(run))


def list_sent(state: State, question: ListSent) -> tuple[Sent, ...]:
    """Return what was sent later, in order."""
    found: list[Sent] = []
    for number, run_number in state.sent[bisect_right(state.sent, (question.after, 2**63)) :]:
        run = state.runs.get(run_number)
        letter = None if run is None else run.mail.get(number)
        if len(found) >= question.limit:
            break
        if run is None or letter is None:
            continue
        place = None
        if run.row.owner is not None and letter.is_unread:
            place = (run.row.token, last_unread(run, letter.entry))
        found.append(Sent(entry=letter.entry, created=letter.is_unread, owner=run.row.owner, place=place))
    return tuple(found)
