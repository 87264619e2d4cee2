"""Why code may not ask for an answer of ``ctx.patched`` that a run has recorded; told as a likelihood, with its ground.

Only a yes must be asked for. Three kinds of code do not ask for it where the run has: that from before the change, that
which the question has left again, and that in which it has moved. Which one it is decides what is to be done, and no
replay tells it. What the code itself still asks for does, and whether the store knew it before the run recorded that.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Final

__all__ = ["Unasked", "advice", "advice_of_retired", "likely"]


class Unasked(enum.Enum):
    """Which kind of code it is likely to be; the value says so in a few words."""

    MOVED = "likely the question has moved"
    OLDER = "likely this code is older than the question"
    RETIRED = "likely the question has left the code"
    UNTOLD = "this code is older, or the question has left it"


def likely(*, asks: bool | None, first_seen_at: int | None, recorded_at: int) -> Unasked:
    """Return which kind of code it is likely to be.

    Args:
        asks: whether it asks for the change anywhere; ``None`` if that cannot be told.
        first_seen_at: when its store has first seen it; ``None``: never, so it is new.
        recorded_at: when the run has recorded the answer.
    """
    if asks:
        return Unasked.MOVED
    if asks is None:
        return Unasked.UNTOLD
    is_older = first_seen_at is not None and first_seen_at <= recorded_at
    return Unasked.OLDER if is_older else Unasked.RETIRED


_ADVICE: Final = {
    Unasked.MOVED: "It asks for that elsewhere: likely the question has moved, or stands under another condition now. "
    "Ask where the run has asked. If all runs are to take the new way, {retired} has such runs go on",
    Unasked.OLDER: "Likely it is from before that change: it was here before the run has recorded that. Code that asks "
    "goes on with the run. Should the question have left this code, {retired} has such runs go on",
    Unasked.RETIRED: "Likely the question has left it: it is newer than what the run has recorded, and asks for that "
    "nowhere. Then {retired} has such runs go on. It must not stand in code from before the change",
    Unasked.UNTOLD: "It is from before that change, or the question has left it; which one cannot be told, for it "
    "makes ids of changes only as it runs. In the second case {retired} has such runs go on",
}


def advice(change_id: str, kind: Unasked) -> str:
    """Return what to tell whoever serves such code."""
    does_not = "" if kind is Unasked.RETIRED else " there"
    return (
        f"The run has taken the new way of ctx.patched({change_id!r}), for which this code does not ask{does_not}. "
        + _ADVICE[kind].format(retired=f"@workflow(retired=({change_id!r},))")
    )


def advice_of_retired(retired: Sequence[str], old_ways: Sequence[str]) -> str:
    """Return what to tell whoever serves code that has retired changes, and does not do what a run has recorded.

    Args:
        retired: all of them.
        old_ways: those of which it is recorded that the run has taken the old way.
    """
    names = ", ".join(map(repr, old_ways or retired))
    if old_ways:
        return f"The run has taken the old way of {names}, which this code has retired: it goes on with code that asks"
    return (
        f"This code has retired {names}: a run from before such a change, or a fork of one, goes on with code that asks"
    )
