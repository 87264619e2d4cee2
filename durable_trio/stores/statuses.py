"""The words for a run's status in SQL, spelled from the table of its life (``rules.run_life``), and nowhere else.

They stand in the text of a statement, not among its parameters: a database uses a partial index only where the text
says that its condition holds. What a schema contains is data, and keeps its own words.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from durable_trio.records import RunStatus
from durable_trio.rules.run_life import LIFE, RunEvent, changed_by

__all__ = ["STATUS_OF", "is_none_of", "is_one_of", "status_after", "word", "word_after"]

#: Members by value: reading them through the enum costs several times as much.
STATUS_OF: Final = {status.value: status for status in RunStatus}


def word(status: RunStatus) -> str:
    """Return a status as a literal."""
    return f"'{status.value}'"


def is_one_of(statuses: Iterable[RunStatus | None]) -> str:
    """Return the condition that the status is one of these."""
    words = _words(statuses)
    return f"status = {words[0]}" if len(words) == 1 else f"status IN ({', '.join(words)})"


def is_none_of(statuses: Iterable[RunStatus | None]) -> str:
    """Return the condition that the status is none of these."""
    words = _words(statuses)
    return f"status <> {words[0]}" if len(words) == 1 else f"status NOT IN ({', '.join(words)})"


def word_after(event: RunEvent) -> str:
    """Return the one status that follows an event, wherever it comes, as a literal."""
    (after,) = set(LIFE[event].values())
    assert after is not None
    return word(after)


def status_after(event: RunEvent) -> str:
    """Return the status that follows an event, as an expression; it is that of now where the event changes nothing."""
    life = LIFE[event]
    changes = " ".join(f"WHEN {word(each)} THEN {_after(life[each])}" for each in _in_order(changed_by(event)))
    return f"CASE status {changes} ELSE status END"


def _after(status: RunStatus | None) -> str:
    assert status is not None  # then there is no row whose status could be set
    return word(status)


def _words(statuses: Iterable[RunStatus | None]) -> list[str]:
    return [word(each) for each in _in_order(statuses)]


def _in_order(statuses: Iterable[RunStatus | None]) -> list[RunStatus]:
    known = set(statuses)
    return [each for each in RunStatus if each in known]
