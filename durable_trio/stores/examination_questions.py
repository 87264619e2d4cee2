"""What is asked of a store that is to be examined: whether it is whole, and which runs do not go on as they should."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from durable_trio.stores.questions import Question

__all__ = ["Examination", "Examine"]


@attrs.frozen(kw_only=True)
class Examination:
    """What was found. Of runs their ids, the last ones first where it says since when; or how many there are.

    ``damage``: what of the database is not whole, in words of its own; None where only its own tools can tell.
    ``dangling_count``: rows whose run is not stored. ``ungrouped``: runs of which it cannot be read which code may take
    them. A store that has no such thing answers that there is none.
    """

    damage: tuple[str, ...] | None = ()
    dangling_count: int = 0
    owned_counts: Mapping[int, int]  # by executor, also by one that has ended
    overdue_counts: Mapping[tuple[str, int], int]  # by workflow and version
    not_undone: tuple[str, ...]  # a compensation has failed, or was not run
    set_aside: tuple[str, ...]
    ungrouped: tuple[str, ...] = ()
    expired: tuple[str, ...]  # they have not ended, though their time to live is over
    why_not_writable: str | None = None  # in words for people, with what to do


@attrs.define(kw_only=True)
class Examine(Question[Examination]):
    """Answers what there is to be said against a store. It may look at all there is, and take minutes.

    What is damaged is no error of this question, as long as the database can be read to its end.

    Args:
        due_before: overdue is what nobody has taken though it was due at this instant, and is not parked; expired,
            what should have ended by then.
        set_aside: such a run has failed with a ``DurableError`` whose message has this text in it.
    """

    is_for_people = True
    due_before: int
    set_aside: str
