"""What the tables of a state machine say: each event has one, from a state to what follows."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from typing import TypeVar

S = TypeVar("S", bound=enum.Enum)

Tables = Mapping[str, Mapping[S, S]]


def follows(events: Tables[S], states: Iterable[S]) -> dict[S, tuple[S | None, ...]]:
    """Return what each event makes of each state; ``None`` where it is refused."""
    return {state: tuple(table.get(state) for table in events.values()) for state in states}


def reached_from(first: S, events: Tables[S]) -> set[S]:
    """Return all states that some events lead to."""
    reached, new = set[S](), {first}
    while new:
        reached |= new
        new = {table[state] for table in events.values() for state in new if state in table} - reached
    return reached
