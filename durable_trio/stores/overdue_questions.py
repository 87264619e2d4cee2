"""What a watch of overdue runs asks."""

from __future__ import annotations

import attrs

from durable_trio.rows import RunRow
from durable_trio.stores.questions import Question

__all__ = ["ListOverdue", "Overdue"]


@attrs.frozen(kw_only=True)
class Overdue:
    """Runs that nobody has taken, those that were due first before others, and when the next one is due after that."""

    rows: tuple[RunRow, ...]
    next_due_at: int | None


@attrs.define(kw_only=True)
class ListOverdue(Question[Overdue]):
    """Answers runs that are nobody's, not parked, and due behind a place (instant and run) and up to an instant.

    ``next_due_at`` is when the first is due of those that are nobody's and due later, also if it is parked.
    """

    is_for_people = True
    workflow: str | None = None
    after: tuple[int, int]
    until: int
    limit: int
