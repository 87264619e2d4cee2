"""How many of the runs that are due an executor admits: its fair share, where others could take them too. Pure.

How many it has room for is another matter: that its runs service says, and the dispatcher claims no more.

Runs wait in the store, not in an executor: each takes only so many that all would have equally many if everybody did
the same. An executor that already has its share leaves the rest to the others for a moment, and only then, because
they may be full, stopped, or without the code, takes what is still there.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["fair_share"]


def fair_share(*, own_count: int, others_counts: Iterable[int], due_count: int) -> int:
    """Return how many of the due runs an executor may take at once.

    Args:
        own_count: runs that it has.
        others_counts: runs that each of the other living executors has; as many numbers as there are others.
        due_count: runs that nobody has and that could go on now.
    """
    others = list(others_counts)
    executor_count = len(others) + 1
    total = own_count + sum(others) + due_count
    equal = -(-total // executor_count)  # rounded up, so that the last run is taken by somebody
    return max(0, min(due_count, equal - own_count))
