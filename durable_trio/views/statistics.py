"""What ``stats`` and ``errors`` print with ``--json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import attrs

from durable_trio.engine.statistics import ErrorGroups
from durable_trio.records import WorkflowStats

__all__ = ["ErrorsDocument", "StatsDocument", "errors_document", "stats_document"]


@attrs.frozen(kw_only=True)
class WorkflowDocument:
    """What the runs of a workflow have come to; seconds are those of the ``measured_count`` newest that completed."""

    workflow: str
    runs_by_status: Mapping[str, int]
    failure_rate: float | None
    seconds_p50: float | None
    seconds_p95: float | None
    measured_count: int
    oldest_unfinished: str | None
    oldest_unfinished_at: datetime | None


@attrs.frozen(kw_only=True)
class StatsDocument:
    """What ``stats`` prints."""

    workflows: tuple[WorkflowDocument, ...]


@attrs.frozen(kw_only=True)
class ErrorDocument:
    """A failure that runs have in common, and the last of these runs as an example."""

    type: str
    message: str
    count: int
    workflows: tuple[str, ...]
    example: str
    example_message: str
    first_at: datetime
    last_at: datetime


@attrs.frozen(kw_only=True)
class ErrorsDocument:
    """What ``errors`` prints. Unless ``is_complete``, there are more failed runs than the ``runs_read``."""

    errors: tuple[ErrorDocument, ...]
    runs_read: int
    is_complete: bool


def stats_document(found: Sequence[WorkflowStats]) -> StatsDocument:
    """Return what the runs of workflows have come to, as it is printed."""
    return StatsDocument(
        workflows=tuple(
            WorkflowDocument(
                **attrs.asdict(stats, recurse=False, filter=attrs.filters.exclude("runs_by_status")),
                runs_by_status={status.value: count for status, count in stats.runs_by_status.items()},
            )
            for stats in found
        )
    )


def errors_document(found: ErrorGroups) -> ErrorsDocument:
    """Return what runs have failed with, as it is printed."""
    return ErrorsDocument(
        errors=tuple(ErrorDocument(**attrs.asdict(group, recurse=False)) for group in found.groups),
        runs_read=found.runs_read,
        is_complete=found.is_complete,
    )
