"""What there is of one run, as those read it who go on with it."""

from __future__ import annotations

from durable_trio.limits import MAILBOX_ENTRIES_READ
from durable_trio.rows import HistoryRow, MailboxEntry, RunRow, WaitRow
from durable_trio.stores.questions import (
    NOTHING_LOADED,
    FindRun,
    ListHistory,
    ListUnread,
    ListWaits,
    Loaded,
    LoadRun,
    LoadRuns,
    LookAtMailbox,
    MailboxLook,
    NamedSignals,
)
from tests.logstore.state import Run, State

__all__ = [
    "find_run",
    "list_history",
    "list_unread",
    "list_waits",
    "load",
    "load_run",
    "load_runs",
    "look_at_mailbox",
]


def find_run(state: State, question: FindRun) -> RunRow | None:
    """Return the run with that id."""
    run = state.by_id.get(question.run_id)
    return None if run is None else state.row(run)


def load_run(state: State, question: LoadRun) -> Loaded:
    """Return what an executor needs to go on with a run."""
    run = state.runs.get(question.run)
    return NOTHING_LOADED if run is None else load(run)


def load_runs(state: State, question: LoadRuns) -> tuple[Loaded, ...]:
    """Return what an executor needs to go on with some runs."""
    return tuple(load_run(state, LoadRun(run)) for run in question.runs)


def load(run: Run) -> Loaded:
    """Return all that there is of a run; of very many unread signals the first."""
    unread = tuple(letter.entry for letter in run.unread())
    left_out = None
    if len(unread) > MAILBOX_ENTRIES_READ:
        first, rest = unread[:MAILBOX_ENTRIES_READ], unread[MAILBOX_ENTRIES_READ:]
        left_out = (first[-1].id, rest[-1].id)
        unread = first + tuple(entry for entry in rest if entry.kind != "signal")
    return Loaded(
        history=run.in_order(),
        waits=_waits(run),
        unread=unread,
        values={key: text for key, (text, _) in sorted(run.values.items())},
        positions={key: position for key, (_, position) in sorted(run.values.items())},
        left_out=left_out,
    )


def _waits(run: Run) -> tuple[WaitRow, ...]:
    return tuple(wait for _, wait in sorted(run.waits.items()))


def list_history(state: State, question: ListHistory) -> tuple[HistoryRow, ...]:
    """Return the history of a run in order of seq."""
    run = state.runs.get(question.run)
    return () if run is None else run.in_order()


def list_waits(state: State, question: ListWaits) -> tuple[WaitRow, ...]:
    """Return the open waits of a run."""
    run = state.runs.get(question.run)
    return () if run is None else _waits(run)


def list_unread(state: State, question: ListUnread) -> tuple[MailboxEntry, ...]:
    """Return the unread mailbox entries of a run, in order of arrival."""
    run = state.runs.get(question.run)
    return () if run is None else tuple(letter.entry for letter in run.unread())


def look_at_mailbox(state: State, question: LookAtMailbox) -> MailboxLook:
    """Return what has come into a run's mailbox, and signals by name."""
    unread, limit = list_unread(state, ListUnread(question.run)), question.limit
    named = {}
    for name, after in question.names.items():
        found = tuple(each for each in unread if each.id > after and (each.kind, each.name) == ("signal", name))
        named[name] = NamedSignals(after, found[:limit], len(found) <= limit)
    found = tuple(entry for entry in unread if entry.id > question.after)
    return MailboxLook(question.after, found[:limit], len(found) <= limit, named)
