"""Versions and codes of workflows, as a table, and what is to be done about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

import click

from durable_trio.cli.screen import Screen
from durable_trio.cli.table import Column, table
from durable_trio.cli.text import plural, visible
from durable_trio.cli.times import instant_text
from durable_trio.records import CodeRecord, VersionRecord

__all__ = ["versions_notes", "versions_table"]

# Of a fingerprint: enough to tell a few from each other.
_SHOWN_MAX: Final = 12


def versions_table(found: Sequence[VersionRecord], now: datetime, screen: Screen, *, is_whole: bool) -> list[str]:
    """Return a line for each code; unless it is to be whole, not for what nobody has, and no run needs."""
    columns = [
        Column(title="WORKFLOW", width_min=8, style=lambda text: click.style(text, bold=True)),
        Column(title="VERSION", width_min=3, is_right=True),
        Column(title="UNFINISHED", width_min=4, is_right=True),
        Column(title="PARKED", width_min=4, is_right=True, style=lambda text: click.style(text, fg="red")),
        Column(title="CODE", width_min=8, drop_cost=2),
        Column(title="FIRST SEEN", width_min=8, drop_cost=3, style=lambda text: click.style(text, dim=True)),
        Column(title="EXECUTORS", width_min=4, is_right=True),
        Column(title="REFUSED", width_min=4, is_right=True, drop_cost=1),
    ]
    rows = [
        row
        for version in found
        if is_whole or version.unfinished or version.is_served
        for row in _rows(version, now, is_whole=is_whole)
    ]
    return table(columns, rows, screen)


def _rows(version: VersionRecord, now: datetime, *, is_whole: bool) -> Iterator[tuple[str, ...]]:
    name = visible(version.workflow)
    number = "?" if version.version is None else str(version.version)
    first = (name, number, _count(version.unfinished), _count(version.parked))
    codes = [code for code in version.codes if is_whole or code.executors or code.refused]
    for code in codes:
        yield (*first, *_cells(code, now))
        first = ("", "", "", "")
    if not codes:
        yield (*first, "", "", "none", "")


def _cells(code: CodeRecord, now: datetime) -> tuple[str, ...]:
    fingerprint = visible(code.fingerprint)
    shown = fingerprint if len(fingerprint) <= _SHOWN_MAX + 1 else f"{fingerprint[:_SHOWN_MAX]}…"
    executors = str(len(code.executors)) if code.executors else "none"
    return shown, instant_text(code.first_seen_at, now), executors, _count(code.refused)


def _count(count: int) -> str:
    return f"{count:,}" if count else ""


def versions_notes(found: Sequence[VersionRecord]) -> list[str]:
    """Return what is to be done: versions that can go, and those that runs wait for."""
    served = {version.workflow for version in found if version.is_served}
    lines = []
    for version in found:
        what = f"version {version.version} of {visible(version.workflow)}"
        is_awaited = version.unfinished and not version.is_served and version.workflow in served
        if version.is_needless:
            lines.append(f"{what} can be removed: no unfinished run needs it")
        elif is_awaited and version.version is not None:
            wait = "waits" if version.unfinished == 1 else "wait"
            runs = f"{plural(version.unfinished, 'run')} {wait} for it"
            lines.append(f"{what} is not served: {runs}; serve it, or resume with --version")
    if any(code.refused and code.executors for version in found for code in version.codes):
        lines.append("what is refused and parked are runs that were due and tried; 'rehearse' tells of the others")
    return lines
