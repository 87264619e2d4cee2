"""What many runs have come to, made of what the store has counted and listed. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Final, NamedTuple

import attrs

from durable_trio.clock import MICROSECONDS
from durable_trio.engine.records_of import instant_of
from durable_trio.records import ErrorGroup, RunStatus, WorkflowStats
from durable_trio.stores.questions import FailedRun, WorkflowCounts

__all__ = ["DURATIONS_MAX", "ErrorGroups", "error_groups", "without_numbers", "workflow_stats"]

# Runs of a workflow whose durations are read: enough for the longest of twenty, and some milliseconds.
DURATIONS_MAX: Final = 1000

_NAMES_MAX: Final = 20
# The longer ones first: a UUID is made of hexadecimal numbers, those of digits. A number may be the end of a word.
_VARIABLE: Final = (
    (re.compile(r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"), "<id>"),
    (re.compile(r"\b0x[0-9a-fA-F]+\b"), "<id>"),
    (re.compile(r"\b(?=[0-9a-fA-F]*[0-9])(?=[0-9a-fA-F]*[a-fA-F])[0-9a-fA-F]{8,}\b"), "<id>"),
    # The abbreviated id of a commit, say. A shorter word, or one whose digits stand together, may be a word of the
    # language or a code: ``e1100``, ``abc123``; of these the digits alone are replaced.
    (re.compile(r"\b(?=[0-9a-f]*(?:[0-9][a-f]+[0-9]|[a-f][0-9]+[a-f]))[0-9a-f]{6,7}\b"), "<id>"),
    (re.compile(r"\d+(?:[.,:]\d+)*"), "<n>"),
)


def workflow_stats(counts: WorkflowCounts) -> WorkflowStats:
    """Return what the runs of a workflow have come to."""
    durations = sorted(counts.durations)
    completed, failed = (counts.by_status.get(status, 0) for status in (RunStatus.COMPLETED, RunStatus.FAILED))
    oldest = counts.oldest_unfinished
    return WorkflowStats(
        workflow=counts.workflow,
        runs_by_status=counts.by_status,
        failure_rate=failed / (completed + failed) if completed + failed else None,
        seconds_p50=_percentile(durations, 0.5),
        seconds_p95=_percentile(durations, 0.95),
        measured_count=len(durations),
        oldest_unfinished=None if oldest is None else oldest[0],
        oldest_unfinished_at=None if oldest is None else instant_of(oldest[1]),
    )


def _percentile(durations: Sequence[int], share: float) -> float | None:
    """Return the seconds that a share of them took at most: one that was measured (nearest rank)."""
    if not durations:
        return None
    return max(0, durations[max(0, math.ceil(share * len(durations)) - 1)]) / MICROSECONDS


class ErrorGroups(NamedTuple):
    """What failed runs have failed with, and how many runs were read for that; whether these are all."""

    groups: tuple[ErrorGroup, ...]
    runs_read: int
    is_complete: bool


@attrs.define
class _Group:
    """Runs with the same failure, the last one first, with the text that it has there."""

    last: FailedRun
    message: str
    first_at: int
    count: int = 0
    workflows: set[str] = attrs.Factory(set)


def error_groups(failures: Sequence[FailedRun], runs_max: int) -> ErrorGroups:
    """Return failed runs, the last one first, by what they have failed with; the most frequent failure first.

    If there is one more than ``runs_max``, it only tells that there are more.

    What has failed together, in the branches of a nursery say, is counted for each of these failures: a group of them
    is the form, and how many of them there were is often chance.
    """
    groups: dict[tuple[str, str], _Group] = {}
    read = failures[:runs_max]
    for run in read:
        found = {(error_type, without_numbers(message)): message for error_type, message in reversed(run.causes)}
        for key, message in found.items():
            group = groups.setdefault(key, _Group(run, message, run.finished_at))
            group.count += 1
            group.first_at = run.finished_at
            if len(group.workflows) < _NAMES_MAX:
                group.workflows.add(run.workflow)
    made = [
        ErrorGroup(
            type=error_type,
            message=message,
            count=group.count,
            workflows=tuple(sorted(group.workflows)),
            example=group.last.run_id,
            example_message=group.message,
            first_at=instant_of(group.first_at),
            last_at=instant_of(group.last.finished_at),
        )
        for (error_type, message), group in groups.items()
    ]
    made.sort(key=lambda group: (-group.count, -group.last_at.timestamp()))
    return ErrorGroups(tuple(made), len(read), is_complete=len(read) == len(failures))


def without_numbers(message: str) -> str:
    """Return the first line of a message with the numbers and ids in it replaced: what many failures have in common."""
    text = next((line.strip() for line in message.splitlines() if line.strip()), "")
    for pattern, word in _VARIABLE:
        text = pattern.sub(word, text)
    return text
