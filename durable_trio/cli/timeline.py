"""The timeline of a run on a screen: a line for each of its rows, with a bar to the scale of its time.

What was recorded earlier than the run began (the copied part of a fork) gets no bar.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import groupby
from typing import Final

import attrs
import click

from durable_trio.cli.awaited_text import NEVER_YEAR
from durable_trio.cli.runs_table import failure_text, status_word
from durable_trio.cli.screen import Screen
from durable_trio.cli.text import compact, cut, pad, visible, width_of
from durable_trio.cli.times import duration_text, instant_text, until_text
from durable_trio.records import FailureRecord, WaitRecord
from durable_trio.views.run import RunView
from durable_trio.views.timeline import Entry, Fold, Nature, Row, Timeline, timeline_of

__all__ = ["timeline"]

_INDENT: Final = "  "
_DURATION_WIDTH: Final = 9
_BAR_MIN: Final = 12
_LABEL_MIN: Final = 14
# Of one that is cut: its titles, something of both ends, and what says so.
_LINES_MIN: Final = 6
# Errors of earlier attempts that are told below a step.
_EARLIER_MAX: Final = 3
# What a run spans at least, so that there is a scale.
_SECONDS_MIN: Final = 1e-6


@attrs.frozen(kw_only=True)
class Glyphs:
    """What bars are made of."""

    work: str
    wait: str
    undo: str
    failed: str
    open_end: str

    def of(self, nature: Nature) -> str:
        """Return what a bar of that nature is made of."""
        return {Nature.WORK: self.work, Nature.WAIT: self.wait, Nature.UNDO: self.undo}[nature]


_UNICODE: Final = Glyphs(work="█", wait="░", undo="▒", failed="✗", open_end="›")
_ASCII: Final = Glyphs(work="#", wait=".", undo="<", failed="x", open_end=">")
_COLORS: Final = {Nature.WORK: "green", Nature.WAIT: "yellow", Nature.UNDO: "magenta"}


def timeline(
    view: RunView,
    now: datetime,
    screen: Screen,
    *,
    has_results: bool = False,
    lines_max: int | None = None,
    how_to_see_all: str = "",
) -> list[str]:
    """Return the lines of the timeline; none if nothing has happened.

    One that has more than ``lines_max`` is folded, and if it has more even so, what is in its middle is left out.
    """
    lines = _drawn(timeline_of(view, now), now, screen, has_results=has_results)
    if lines_max is None or len(lines) <= lines_max:
        return lines
    lines = _drawn(timeline_of(view, now, is_folded=True), now, screen, has_results=has_results)
    lines_max = max(_LINES_MIN, lines_max) - 1
    if len(lines) > lines_max:
        first = (lines_max + 1) // 2
        left_out = len(lines) - lines_max + 1
        lines = [
            *lines[:first],
            click.style(f"… {left_out:,} lines are left out", dim=True),
            *lines[first + left_out :],
        ]
    return [*lines, click.style(cut(f"what is alike is shown as one; {how_to_see_all}", screen.room), dim=True)]


def _drawn(shown: Timeline, now: datetime, screen: Screen, *, has_results: bool) -> list[str]:
    if not shown.rows:
        return []
    layout = _Layout(shown, screen, now, has_results=has_results)
    lines = [layout.titles()]
    for row in shown.rows:
        lines += layout.lines(row)
    if shown.has_unrecorded:
        lines.append(click.style(cut("what is in hand now is recorded when it ends", screen.room), dim=True))
    return lines


# ---- what stands in a line, and below it ---------------------------------------------------------------------------


def _kind(entry: Entry) -> str:
    return entry.kind if entry.attempt is None else f"{entry.kind} ×{entry.attempt}"


def _color(entry: Entry) -> str:
    if entry.has_failed:
        return "red"
    return "cyan" if entry.wait is not None and entry.nature is Nature.WORK else _COLORS[entry.nature]


def _below(entry: Entry, now: datetime, *, has_results: bool) -> Iterator[tuple[str, str]]:
    """Yield what stands below an entry: text and colour."""
    if entry.fold is not None:
        yield from _below_fold(entry, entry.fold)
        return
    if entry.earlier_errors:
        yield from _earlier(entry, now)
    if entry.error is not None:
        yield failure_text(entry.error), "red"
    if entry.child_id is not None:
        text = f"run {visible(entry.child_id)}"
        yield (text if entry.child is None else f"{text}: {status_word(entry.child)}"), ""
    elif entry.wait is not None:
        if text := _wait_text(entry.wait, now):
            yield text, "yellow"
    elif has_results and entry.error is None and entry.result is not None:
        yield f"= {compact(entry.result)}", ""


def _below_fold(entry: Entry, fold: Fold) -> Iterator[tuple[str, str]]:
    least, most = duration_text(fold.seconds_min), duration_text(fold.seconds_max)
    yield f"{least} to {most} each, half of them within {duration_text(fold.seconds_median)}", ""
    if entry.error is not None:
        yield f"the last: {failure_text(entry.error)}", "red"


def _earlier(entry: Entry, now: datetime) -> Iterator[tuple[str, str]]:
    """Yield how earlier attempts have failed: those in a row with the same error as one, the first and the last."""
    groups = [list(group) for _, group in groupby(entry.earlier_errors, key=lambda each: (each.type, each.message))]
    left_out = len(groups) - _EARLIER_MAX
    shown = groups if left_out <= 0 else groups[:1] + groups[1 - _EARLIER_MAX :]
    for number, group in enumerate(shown):
        if number == 1 and left_out > 0:
            yield "…", "yellow"
        first, last = group[0], group[-1]
        which = f"attempt {first.attempt}" if first is last else f"attempts {first.attempt} to {last.attempt}"
        error = failure_text(FailureRecord(type=last.type, message=last.message))
        line = f" ({visible(_short_line(last.line))})" if last.line else ""
        yield f"{which}, {instant_text(last.failed_at, now)}: {error}{line}", "yellow"


def _short_line(line: str) -> str:
    """Return a line of code by the name of its file alone: on a screen the folder would take all the room."""
    return line.rpartition("/")[2]


def _wait_text(wait: WaitRecord, now: datetime) -> str:
    when = ""
    if wait.due_at is not None and wait.due_at.year < NEVER_YEAR:
        when = f"{until_text(wait.due_at, now)} ({instant_text(wait.due_at, now)})"
    if wait.kind == "signal":
        return f"waits for the signal; gives up {when}" if when else "waits for the signal"
    if wait.kind == "sleep":
        return f"fires {when}" if when else "waits for ever"
    if wait.kind == "retry":
        if wait.due_at is not None and wait.due_at <= now:
            return f"next attempt due since {instant_text(wait.due_at, now)}"
        return f"next attempt {when}"
    return "has begun, and will not begin twice" if wait.kind == "intent" else when


# ---- drawing -------------------------------------------------------------------------------------------------------


class _Layout:
    """Columns: label, kind, bar, duration. On a narrow screen the bar goes, then the kind."""

    def __init__(self, shown: Timeline, screen: Screen, now: datetime, *, has_results: bool) -> None:
        entries = [(row.depth, row.what) for row in shown.rows if isinstance(row.what, Entry)]
        width = screen.width
        self.room = screen.room
        self._shown, self._now, self._has_results = shown, now, has_results
        self._glyphs = _UNICODE if screen.is_unicode else _ASCII
        self.kind = max(width_of(_kind(entry)) for _, entry in entries)
        label = max(4, *(len(_INDENT) * depth + width_of(entry.label) for depth, entry in entries))
        rest = width - self.kind - _DURATION_WIDTH - 3 * 2
        self.label = min(label, max(_LABEL_MIN, rest // 2))
        self.bar = rest - self.label
        if self.bar < _BAR_MIN:
            self.bar = 0
            self.label = min(label, max(8, width - self.kind - _DURATION_WIDTH - 4))
            if self.label + self.kind + _DURATION_WIDTH + 4 > width:
                self.kind = 0
                self.label = max(4, width - _DURATION_WIDTH - 2)

    def titles(self) -> str:
        span = duration_text(max(_SECONDS_MIN, self._shown.seconds))
        axis = "0" + pad(span, self.bar - 1, right=True) if self.bar else ""
        return click.style(self._line("STEP", "KIND", axis, "TOOK"), dim=True)

    def lines(self, row: Row) -> list[str]:
        """Return the line of an entry or of a branch's title, and what stands below it."""
        indent = _INDENT * row.depth
        entry = row.what
        if isinstance(entry, str):
            return [click.style(cut(indent + visible(entry), self.room), fg="blue")]
        took = duration_text(((entry.ended_at or self._shown.ended_at) - entry.started_at).total_seconds())
        bar = click.style(self._bar(entry), fg=_color(entry)) if self.bar else ""
        lines = [self._line(indent + visible(entry.label), _kind(entry), bar, took)]
        for text, color in _below(entry, self._now, has_results=self._has_results):
            shown = cut(f"{indent}{_INDENT}{text}", self.room)
            lines.append(click.style(shown, fg=color or None, dim=not color))
        return lines

    def _bar(self, entry: Entry) -> str:
        """Return the bar of an entry."""
        if self._shown.is_copied(entry):
            return pad("(copied)", self.bar)
        first = self._cell(entry.started_at)
        last = max(first, self._cell(entry.ended_at or self._shown.ended_at, is_end=True))
        bar = self._glyphs.of(entry.nature) * (last - first + 1)
        if entry.ended_at is None:
            bar = bar[:-1] + self._glyphs.open_end
        elif entry.has_failed:
            bar = bar[:-1] + self._glyphs.failed
        return " " * first + bar + " " * (self.bar - last - 1)

    def _cell(self, instant: datetime, *, is_end: bool = False) -> int:
        """Return in which cell of the bars an instant is."""
        seconds = (instant - self._shown.began_at).total_seconds()
        place = seconds / max(_SECONDS_MIN, self._shown.seconds) * self.bar
        return max(0, min(self.bar - 1, round(place) - 1 if is_end else int(place)))

    def _line(self, label: str, kind: str, bar: str, took: str) -> str:
        parts = [pad(label, self.label)]
        if self.kind:
            parts.append(pad(kind, self.kind))
        if self.bar:
            parts.append(bar)
        parts.append(pad(took, _DURATION_WIDTH, right=True))
        return "  ".join(parts)
