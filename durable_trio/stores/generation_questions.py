"""What can be asked of the generations of a run: of histories that it has ended to begin anew.

As with all questions, ``Store.ask`` says what holds for them. Only people ask these: a run goes on by its present
history alone.
"""

from __future__ import annotations

import attrs

from durable_trio.rows import GenerationRow, HistoryRow
from durable_trio.stores.questions import Question

__all__ = ["ListGeneration", "ListGenerations"]


@attrs.define
class ListGenerations(Question[tuple[GenerationRow, ...]]):
    """Answers which earlier generations of a run are kept, the last one first; ``before``: those before that number."""

    is_for_people = True
    run: int
    before: int | None = attrs.field(kw_only=True, default=None)
    limit: int = attrs.field(kw_only=True)


@attrs.define
class ListGeneration(Question[tuple[HistoryRow, ...] | None]):
    """Answers the history of one generation of a run, the present one or one that is kept; ``None`` of another."""

    is_for_people = True
    run: int
    generation: int
