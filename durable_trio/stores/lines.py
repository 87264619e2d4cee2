"""In which order runs that are due stand in line, and how a claim shares its places among them. Pure.

Runs of one version that the same codes have refused are a *group*; groups are few, however many runs are in them. Each
has three lines: what has begun goes before all first claims, and of the suspects, whose processes have died again and
again, few are let in at once. Within a line a higher priority goes first, then the earlier due time, then the order of
start.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["BEGUN", "NEW", "SUSPECT", "Due", "Group", "places_for_refused"]

SUSPECT, BEGUN, NEW = 2, 1, 0


class Group(NamedTuple):
    """Runs of a workflow and of one version of it that the same codes have refused."""

    workflow: str
    version: int
    refused: str


class Due(NamedTuple):
    """A run that is due, as it stands in line: the first is the least."""

    descending: int  # priority, negated
    wake_at: int
    run: int
    group: Group


def places_for_refused(fresh: Sequence[Due], refused: Sequence[Due], limit: int) -> int:
    """Return how many places of a claim runs get that were refused by other code.

    They would go before every first claim. So where others are due, too, they get half; where there is one place, the
    one that is due first gets it.
    """
    if limit == 1 and fresh and refused:
        return int(refused[0].wake_at < fresh[0].wake_at)
    return max(limit // 2, limit - len(fresh))
