"""What can be asked of a store about the codes that executors have, and what these leave undone."""

from __future__ import annotations

import attrs

from durable_trio.rows import CodeRow, ServedCode
from durable_trio.stores.questions import Question

__all__ = [
    "CountParked",
    "CountRefused",
    "ListCodes",
    "ListRefusedSets",
    "ListServed",
    "RefusedCount",
    "RefusedSet",
    "ServedBy",
]


@attrs.define
class ListCodes(Question[tuple[CodeRow, ...]]):
    """Answers the codes of one executor, or all that executors have or once had, in the order of their numbers."""

    executor: int | None = None


@attrs.define
class CountParked(Question[int]):
    """Answers how many runs are parked, counted up to 10,000 of those that the same codes have refused."""


@attrs.frozen
class ServedBy:
    """A code that an executor has."""

    executor: int
    code: ServedCode


@attrs.define
class ListServed(Question[tuple[ServedBy, ...]]):
    """Answers which codes executors have that have not been reaped, alive or not."""

    is_for_people = True


@attrs.frozen
class RefusedCount:
    """How many unowned, unfinished runs of a version these very codes have refused."""

    workflow: str
    version: int
    codes: frozenset[int]
    count: int


@attrs.define
class CountRefused(Question[tuple[RefusedCount, ...]]):
    """Answers how many runs were refused, by version and by the codes that have refused them."""

    is_for_people = True


@attrs.frozen
class RefusedSet:
    """That some unowned, unfinished runs of a version were refused by these very codes."""

    workflow: str
    version: int
    codes: frozenset[int]


@attrs.define
class ListRefusedSets(Question[tuple[RefusedSet, ...]]):
    """Answers by which sets of codes runs were refused, however many runs that are."""
