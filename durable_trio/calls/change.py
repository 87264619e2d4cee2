"""Changes of a workflow's code, beside runs that were begun before.

The answer to a question must be the same at every replay. By the turns, what a body has done when it asks depends on
the delivered rows alone; so the answer may depend on these, and on what is stored beyond them: rows ahead, and open
waits. Rows are only appended, so the first row ahead stays the first. Whatever else an answer depends on will be gone
by the next replay: then it is recorded, in the transaction that records what comes next, so that without it all is
stored as it was. Where rows of other branches are on their way, which would come before it, it is recorded by itself,
before anything begins (``RunState.answer``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from durable_trio.calls.body import Branch
from durable_trio.limits import check_name
from durable_trio.looks import is_a, short
from durable_trio.records import StepKind
from durable_trio.rows import HistoryRow, Key, WaitKind
from durable_trio.turns.history import answer_text, marker_name

__all__ = ["patched"]


class _Kind(NamedTuple):
    """What tells a call that a new way may begin with."""

    waits: frozenset[WaitKind] = frozenset()  # of what kinds it is while it is open
    has_parts: bool = False  # what it records stands below it
    has_name: bool = True


_ATTEMPTED: Final = _Kind(frozenset({"retry", "intent"}))
_KINDS: Final[dict[str, _Kind]] = {
    StepKind.STEP.value: _ATTEMPTED,
    StepKind.TRANSACTION.value: _ATTEMPTED,
    StepKind.SLEEP.value: _Kind(frozenset({"sleep"})),
    StepKind.SIGNAL.value: _Kind(frozenset({"signal"})),
    StepKind.CHILD.value: _Kind(),
    StepKind.MAP.value: _Kind(frozenset({"map"}), has_parts=True),
    "nursery": _Kind(has_parts=True, has_name=False),
    StepKind.DEADLINE.value: _Kind(has_name=False),
}
# What ``show`` calls them.
_SHOWN: Final = {"timer": StepKind.SLEEP.value, "commit": StepKind.TRANSACTION.value}


def patched(branch: Branch, change_id: str, recorded: object = None) -> bool:
    """Return whether the run takes the new way of a change; see ``Context.patched``."""
    branch.check_task()
    change_id = check_name("change id", change_id)
    is_new_way = _is_new_way(branch, change_id, recorded)
    branch.body.ways.setdefault(change_id, set()).add(is_new_way)
    return is_new_way


def _is_new_way(branch: Branch, change_id: str, recorded: object) -> bool:
    body = branch.body
    state, lobby = body.state, body.lobby
    key = branch.reserve_key(marker_name(change_id) if body.numbers_changes_apart else change_id)
    calls = list(_calls(recorded))
    answer = state.history.answer(key)
    if answer is not None:
        return answer
    own_row = state.history.next_call_in(branch.path, lobby.has_met) if state.is_replaying else None
    # Of the whole run, for going the new way may change what other branches see of the memory that they share.
    is_new_way = any(_is_next(branch, own_row, kind, name) for kind, name in calls) or not (
        state.is_replaying or lobby.has_unmatched_waits()
    )
    if is_new_way or own_row is None:  # a row ahead in its branch says no again at each replay
        state.answer(key, answer_text(is_new_way))
    return is_new_way


def _is_next(branch: Branch, own_row: HistoryRow | None, kind: str, name: str) -> bool:
    """Return whether a call is what this branch has recorded next, or waits in.

    Calls of one branch follow each other: its next row is of the call that the recording code has made here, and what
    is open comes behind all its rows.

    Args:
        own_row: the next row that the branch itself has recorded.
    """
    history, lobby = branch.body.state.history, branch.body.lobby
    waits = branch.body.state.agenda.waits
    key = branch.coming_key(name)
    path = str(key)
    what = _KINDS[kind]
    if what.has_parts and (part := history.next_below(path)) is not None:
        return own_row is None or part.seq < own_row.seq
    if own_row is not None:
        return own_row.key == key and own_row.kind.value == kind
    if what.has_parts and any(_is_below(each, path) for each in waits if each not in lobby.calls):
        return True
    wait = waits.get(key)
    return wait is not None and key not in lobby.calls and wait.kind in what.waits


def _is_below(key: Key, path: str) -> bool:
    return key.branch == path or key.branch.startswith(f"{path}/")


def _calls(recorded: Any) -> Iterator[tuple[str, str]]:
    """Yield kinds and names.

    Raises:
        TypeError, ValueError: it is something else.
    """
    if recorded is None:
        return
    if is_a(recorded, tuple) and len(recorded) == 2 and all(is_a(part, str) for part in recorded):
        recorded = [recorded]
    if not is_a(recorded, (list, tuple)):
        what = "a kind and a name, as ('step', 'pay'), or a list of such"
        raise TypeError(f"recorded must be {what}, not {short(recorded)}")
    for call in recorded:
        if not (is_a(call, tuple) and len(call) == 2):
            raise TypeError(f"recorded must have a kind and a name, as ('step', 'pay'), not {short(call)}")
        kind, name = check_name("kind of call", call[0]), check_name("name of a call", call[1])
        kind = _SHOWN.get(kind, kind)
        if kind not in _KINDS:
            raise ValueError(f"there are no calls of kind {kind!r}; known: {', '.join(_KINDS)}")
        if not _KINDS[kind].has_name and name != kind:
            raise ValueError(f"calls of kind {kind!r} have no name of their own; write ({kind!r}, {kind!r})")
        yield kind, name
