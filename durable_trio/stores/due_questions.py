"""What is asked by who may go home: whether there is anything to do, and when there will be."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from durable_trio.rows import ServedCode
from durable_trio.stores.questions import Question

__all__ = ["FindNextDue", "NextDue"]


@attrs.frozen(kw_only=True)
class NextDue:
    """When the next run is due, and what some executors are at.

    ``at`` is the earliest due time as it is stored, of whatever a run waits for: its start, a timer, a retry, the time
    limit of a wait, a deadline, its time to live. It may be past; ``None``: nothing comes by itself. Of runs that other
    executors have, and that only wait, it counts too, once it is to come.
    """

    at: int | None
    in_hand_count: int


@attrs.define(kw_only=True)
class FindNextDue(Question[NextDue]):
    """Answers when the next run is due that these codes may execute, and how many ``executors`` have in hand.

    In hand is what one of them owns, but for runs that only wait for something to come. Waits for signals and for
    children have no due time. As ``CountBacklog`` it takes runs to come as due that one of these codes has refused, or
    whose version none of them has: who looks then finds nothing to do, which does no harm.
    """

    codes: Sequence[ServedCode]
    executors: Sequence[int]
    now: int
