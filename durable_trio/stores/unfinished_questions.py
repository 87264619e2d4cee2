"""What a rehearsal asks of a store: which runs have not ended, and all that there is of some of them."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from durable_trio.rows import RunRow
from durable_trio.stores.questions import Loaded, Question

__all__ = ["ListUnfinished", "LoadUnfinished", "Unfinished", "UnfinishedPage"]


@attrs.define(kw_only=True)
class ListUnfinished(Question[tuple[int, ...]]):
    """Answers the unfinished runs, of one workflow if it is given, in order of ``(workflow, run)``.

    ``created_before``: only those that were created before that instant. ``sample``: only so many of them, the same
    share of each workflow and name of the last row (``rules.sampling``).
    """

    is_for_people = True
    workflow: str | None = None
    created_before: int | None = None
    sample: int | None = None


@attrs.frozen
class Unfinished:
    """A run with all that there is of it at one instant. ``cancels_children``: a child of it was asked to cancel."""

    row: RunRow
    loaded: Loaded
    cancels_children: bool


@attrs.frozen
class UnfinishedPage:
    """Some runs, of one instant. ``taken``: how many of those that were asked for this is the answer to."""

    runs: tuple[Unfinished, ...]
    taken: int


@attrs.define
class LoadUnfinished(Question[UnfinishedPage]):
    """Answers those of some runs that have not ended, with all that an executor would load of them.

    Where they have many rows the answer ends early; but it always takes one of them.
    """

    is_for_people = True
    runs: Sequence[int]
