"""Changes of a workflow's code, beside runs that were begun before.

The answer to a question must be the same at every replay. By the turns, what a body has done when it asks depends on
the delivered rows alone; so the answer may depend on these, and on what is stored beyond them: rows ahead, and open
waits. Rows are only appended, so the first row ahead stays the first. Whatever else an answer depends on will be gone
by the next replay: then it is recorded, in the transaction that records what comes next. If that is not committed, all
is stored as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from durable_trio.calls.body import Branch
from durable_trio.limits import check_name
from durable_trio.looks import is_a, short
from durable_trio.records import StepKind
from durable_trio.rows import Key
from durable_trio.turns.history import answer_text, marker_name

__all__ = ["patched"]

_NURSERY: Final = "nursery"
# The calls that a new way may begin with, and by which waits an open one of them is known.
_OPEN: Final[dict[str, frozenset[str]]] = {
    StepKind.STEP.value: frozenset({"retry", "intent"}),
    StepKind.TRANSACTION.value: frozenset({"retry", "intent"}),
    StepKind.SLEEP.value: frozenset({"sleep"}),
    StepKind.SIGNAL.value: frozenset({"signal"}),
    StepKind.CHILD.value: frozenset(),
    StepKind.MAP.value: frozenset({"map"}),
    _NURSERY: frozenset(),
    StepKind.DEADLINE.value: frozenset(),
}
# Those whose rows are below them, and those that are not named by the user.
# What ``show`` calls them.
_SHOWN: Final = {"timer": StepKind.SLEEP.value, "commit": StepKind.TRANSACTION.value}
_WITH_PARTS: Final = frozenset({StepKind.MAP.value, _NURSERY})
_UNNAMED: Final = frozenset({_NURSERY, StepKind.DEADLINE.value})


def patched(branch: Branch, change_id: str, recorded: object = None) -> bool:
    """Return whether the run takes the new way of a change; see ``Context.patched``."""
    branch.check_task()
    body = branch.body
    state, lobby = body.state, body.lobby
    change_id = check_name("change id", change_id)
    key = branch.reserve_key(marker_name(change_id) if body.numbers_changes_apart else change_id)
    calls = list(_calls(recorded))
    answer = state.history.answer(key)
    if answer is not None:
        return answer
    own_row = state.history.next_call_in(branch.path, lobby.has_met) if state.is_replaying else None
    # Of the whole run, for going the new way may change what other branches see of the memory that they share.
    is_new_way = any(_is_next(branch, kind, name) for kind, name in calls) or not (
        state.is_replaying or lobby.has_unmatched_waits()
    )
    if is_new_way or own_row is None:
        state.answer(key, answer_text(is_new_way))
    return is_new_way


def _is_next(branch: Branch, kind: str, name: str) -> bool:
    """Return whether a call is what this branch has recorded next, or waits in.

    Calls of one branch follow each other: its next row is of the call that the recording code has made here, and what
    is open comes behind all its rows.
    """
    history, lobby = branch.body.state.history, branch.body.lobby
    waits = branch.body.state.agenda.waits
    key = branch.coming_key(name)
    path = str(key)
    own_row = history.next_call_in(branch.path, lobby.has_met)
    if kind in _WITH_PARTS and (part := history.next_below(path)) is not None:
        return own_row is None or part.seq < own_row.seq
    if own_row is not None:
        return own_row.key == key and own_row.kind.value == kind
    if kind in _WITH_PARTS and any(_is_below(each, path) for each in waits if each not in lobby.calls):
        return True
    wait = waits.get(key)
    return wait is not None and key not in lobby.calls and wait.kind in _OPEN[kind]


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
        if kind not in _OPEN:
            raise ValueError(f"there are no calls of kind {kind!r}; known: {', '.join(_OPEN)}")
        if kind in _UNNAMED and name != kind:
            raise ValueError(f"calls of kind {kind!r} have no name of their own; write ({kind!r}, {kind!r})")
        yield kind, name
