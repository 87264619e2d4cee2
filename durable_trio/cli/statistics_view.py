"""What many runs have come to, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import click

from durable_trio.cli.runs_table import failure_text
from durable_trio.cli.screen import Screen
from durable_trio.cli.table import Column, table
from durable_trio.cli.text import visible
from durable_trio.cli.times import duration_text, instant_text
from durable_trio.records import ErrorGroup, FailureRecord, RunStatus, WorkflowStats

__all__ = ["errors_table", "stats_table"]

_ENDED: Final = (RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED)


def stats_table(found: Sequence[WorkflowStats], now: datetime, screen: Screen) -> list[str]:
    """Return a line for each workflow; a status that no run has gets no column."""
    columns = [
        Column(title="WORKFLOW", width_min=8, style=lambda text: click.style(text, bold=True)),
        *(Column(title=status.value.upper(), width_min=4, is_right=True, drop_cost=3) for status in _ENDED),
        Column(title="OPEN", width_min=4, is_right=True),
        Column(title="FAILED %", width_min=6, is_right=True),
        Column(title="P50", width_min=6, is_right=True),
        Column(title="P95", width_min=6, is_right=True),
        Column(title="OLDEST OPEN", width_min=12, drop_cost=1),
    ]
    rows = [
        (
            visible(stats.workflow),
            *(_number(stats.runs_by_status.get(status, 0)) for status in _ENDED),
            _number(sum(count for status, count in stats.runs_by_status.items() if not status.is_final)),
            "" if stats.failure_rate is None else f"{stats.failure_rate * 100:.1f}",
            _seconds(stats.seconds_p50),
            _seconds(stats.seconds_p95),
            _oldest(stats, now),
        )
        for stats in found
    ]
    return table(columns, rows, screen)


def _number(count: int) -> str:
    return f"{count:,}" if count else ""


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else duration_text(seconds)


def _oldest(stats: WorkflowStats, now: datetime) -> str:
    if stats.oldest_unfinished is None or stats.oldest_unfinished_at is None:
        return ""
    return f"{duration_text((now - stats.oldest_unfinished_at).total_seconds())}: {visible(stats.oldest_unfinished)}"


def errors_table(found: Sequence[ErrorGroup], now: datetime, screen: Screen) -> list[str]:
    """Return a line for each failure, the most frequent first."""
    columns = [
        Column(title="RUNS", width_min=4, is_right=True),
        Column(title="FIRST", width_min=8, drop_cost=3, style=lambda text: click.style(text, dim=True)),
        Column(title="LAST", width_min=8, style=lambda text: click.style(text, dim=True)),
        Column(title="EXAMPLE", width_min=8, style=lambda text: click.style(text, bold=True)),
        Column(title="WORKFLOW", width_min=8, drop_cost=2),
        Column(title="ERROR", width_min=20, style=lambda text: click.style(text, fg="red")),
    ]
    rows = [
        (
            f"{group.count:,}",
            instant_text(group.first_at, now),
            instant_text(group.last_at, now),
            visible(group.example),
            ", ".join(map(visible, group.workflows)),
            failure_text(FailureRecord(type=group.type, message=group.message)),
        )
        for group in found
    ]
    return table(columns, rows, screen)
