"""What of a claimed run cannot be read. Such a run does not begin: its body would be given values that nobody stored.

The store tells what is wrong with a row by itself (``damage``). Here is what only the engine knows of its own rows: a
seed of a certain length, a due time where there is one to keep, a result or an error. Results and errors are read when
they are delivered.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Final

from durable_trio.codec import parse
from durable_trio.errors import CodecError
from durable_trio.failures import describe
from durable_trio.records import StepKind, StepStatus
from durable_trio.rows import HistoryRow, MailboxEntry, RunRow, WaitKind, WaitRow
from durable_trio.starting import SEED_BYTES
from durable_trio.stores.questions import Loaded, MailboxLook

__all__ = ["damage_in_look", "damage_of"]

# A completed call of these kinds has a result, be it null.
_WITH_RESULT: Final = frozenset(
    {
        StepKind.STEP,
        StepKind.TRANSACTION,
        StepKind.SIGNAL,
        StepKind.CHILD,
        StepKind.CHILD_END,
        StepKind.COMPENSATION,
    }
)
_WITH_DUE: Final[frozenset[WaitKind]] = frozenset({"sleep", "retry", "deadline"})


def damage_of(row: RunRow, loaded: Loaded) -> str | None:
    """Return what of a run cannot be read, by table, row and column; ``None`` for a sound one."""
    damage = row.damage or loaded.damage
    if damage is None and (len(row.seed) != SEED_BYTES or row.error is not None):
        damage = _of_run(row)
    return (
        damage
        or next(filter(None, map(_of_history, loaded.history)), None)
        or next(filter(None, map(_of_wait, loaded.waits)), None)
        or next(filter(None, map(_of_entry, loaded.unread)), None)
    )


def damage_in_look(look: MailboxLook) -> str | None:
    """Return what of a look at a mailbox cannot be read."""
    signals = chain.from_iterable(named.entries for named in look.named.values())
    return next(filter(None, map(_of_entry, chain(look.entries, signals))), None)


def _of_run(row: RunRow) -> str | None:
    where = f"in table runs, the row with id {row.id!r}"
    if len(row.seed) != SEED_BYTES:
        return f"{where}: seed has {len(row.seed)} bytes, not {SEED_BYTES}"
    return None if row.error is None else _unreadable(describe, row.error, f"{where}, error")


def _of_history(row: HistoryRow) -> str | None:
    if row.status is StepStatus.COMPLETED:
        if row.result is not None or row.kind not in _WITH_RESULT:
            return None if row.kind is not StepKind.CANCEL else _of_reason(row.result, f"{_place(row)}, result")
        return f"{_place(row)}: it is completed, but result is NULL"
    return f"{_place(row)}: it is {row.status}, but error is NULL" if row.error is None else None


def _place(row: HistoryRow) -> str:
    return f"in table history, the row with key {str(row.key)!r}"


def _of_wait(row: WaitRow) -> str | None:
    if row.kind in _WITH_DUE and row.due_at is None:
        return f"in table waits, the row with key {str(row.key)!r}: it is a {row.kind}, but due_at is NULL"
    return None


def _of_entry(entry: MailboxEntry) -> str | None:
    if entry.damage is not None or entry.kind != "cancel":
        return entry.damage  # what a signal carries is read when it is taken
    return _of_reason(entry.payload, f"in table mailbox, the row with id {entry.id}, payload")


def _of_reason(text: str | None, place: str) -> str | None:
    return None if text is None else _unreadable(partial(parse, where="a reason"), text, place)


def _unreadable(read: Callable[[str], object], text: str, place: str) -> str | None:
    try:
        read(text)
    except CodecError as error:
        return f"{place}: {error}"
    return None
