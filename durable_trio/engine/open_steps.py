"""Which steps were under way in a process that has died, as far as that is known."""

from __future__ import annotations

from typing import NamedTuple

from durable_trio.rows import RunRow

__all__ = ["StepUnderWay", "steps_under_way"]


class StepUnderWay(NamedTuple):
    """An attempt of a step."""

    key: str
    attempt: int


def steps_under_way(row: RunRow) -> tuple[StepUnderWay, ...]:
    """Return the attempts of a run that were under way when the process died that had it before, the oldest first."""
    return ()
