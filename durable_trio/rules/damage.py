"""What people are told of a run that cannot be read, because the store was damaged or changed by another program."""

from __future__ import annotations

from typing import Final

from durable_trio.records import Problem
from durable_trio.rules.problems import ProblemKind

__all__ = ["DAMAGED", "damaged"]

#: The kind of the problem, and the fingerprint: no other code of the workflow mends it.
DAMAGED: Final = ProblemKind.DAMAGED.value


def damaged(run_id: str, what: str) -> Problem:
    """Return why a run is parked.

    Args:
        what: table, row and column, and what was found there.
    """
    text = (
        f"run {run_id!r} cannot go on, because the store is damaged or was changed by another program: {what}. "
        "Restore a copy of it, or mend the row and resume the run; to give the run up, delete it"
    )
    return Problem(kind=DAMAGED, text=text, fingerprint=DAMAGED)
