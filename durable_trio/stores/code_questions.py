"""What can be asked of a store about the codes that executors have, and what these leave undone."""

from __future__ import annotations

import attrs

from durable_trio.rows import CodeRow
from durable_trio.stores.questions import Question

__all__ = ["CountParked", "ListCodes"]


@attrs.define
class ListCodes(Question[tuple[CodeRow, ...]]):
    """Answers the codes of one executor, or all that executors have or once had, in the order of their numbers."""

    executor: int | None = None


@attrs.define
class CountParked(Question[int]):
    """Answers how many runs are parked, counted up to 10,000 of those that the same codes have refused."""
