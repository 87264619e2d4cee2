"""The timeline of a run: a line for each row of its history and each open wait, with a bar to the scale of its time.

Rows stand under their branch, branches in the order of their beginnings. What was recorded earlier than the run began
(the copied part of a fork) gets no bar.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Final

import attrs
import click

from durable_trio.cli.runs_table import NEVER_YEAR, began_at, failure_text, status_word
from durable_trio.cli.screen import Screen
from durable_trio.cli.text import compact, cut, pad, visible, width_of
from durable_trio.cli.times import duration_text, instant_text, until_text
from durable_trio.records import RunRecord, RunStatus, StepKind, StepRecord, StepStatus, WaitRecord
from durable_trio.rows import Key, escape
from durable_trio.views.run import RunView

__all__ = ["timeline"]

_INDENT: Final = "  "
_MAP_ITEM: Final = "item"
_DURATION_WIDTH: Final = 9
_BAR_MIN: Final = 12
_LABEL_MIN: Final = 14

# What a history row is called, where its own name says it less well.
_KINDS: Final = {
    StepKind.SLEEP: "timer",
    StepKind.CHILD_END: "child end",
    StepKind.COMPENSATION: "undo",
    StepKind.TRANSACTION: "commit",
}
_WAIT_KINDS: Final = {"sleep": "timer", "retry": "step", "intent": "step"}
_WAITING: Final = frozenset({StepKind.SLEEP, StepKind.SIGNAL, StepKind.CHILD_END, StepKind.DEADLINE})


@attrs.frozen(kw_only=True)
class Glyphs:
    """What bars are made of."""

    work: str
    wait: str
    undo: str
    failed: str
    open_end: str


_UNICODE: Final = Glyphs(work="█", wait="░", undo="▒", failed="✗", open_end="›")
_ASCII: Final = Glyphs(work="#", wait=".", undo="<", failed="x", open_end=">")


@attrs.frozen(kw_only=True)
class Entry:
    """One line of the timeline, and those below it."""

    label: str
    kind: str
    glyph: str
    color: str
    started_at: datetime
    ended_at: datetime | None  # none: it is open
    has_failed: bool = False
    below: tuple[tuple[str, str], ...] = ()  # text and colour
    placed_at: datetime | None = None  # when the body called it, if its bar begins at another time


@attrs.define
class Branch:
    """What happened in one branch, in order of beginning: rows and branches of its own."""

    label: str = ""
    entries: list[Entry] = attrs.Factory(list)
    branches: dict[str, Branch] = attrs.Factory(dict)

    def began_at(self) -> datetime:
        """Return when the first thing in it began."""
        return min(
            [entry.started_at for entry in self.entries] + [branch.began_at() for branch in self.branches.values()]
        )

    def parts(self) -> list[Entry | Branch]:
        """Return rows and branches in the order of their beginnings."""
        return sorted([*self.entries, *self.branches.values()], key=_place_in_time)


def _place_in_time(part: Entry | Branch) -> tuple[datetime, int]:
    """Items of a map begin together; others in their order of completion, where they began at the same instant."""
    if isinstance(part, Branch):
        return part.began_at(), 0
    name, _, number = part.label.rpartition("#")
    return part.placed_at or part.started_at, int(number) if name == _MAP_ITEM else 0


def timeline(view: RunView, now: datetime, screen: Screen, *, has_results: bool = False) -> list[str]:
    """Return the lines of the timeline; none if nothing has happened."""
    record = view.record
    glyphs = _UNICODE if screen.is_unicode else _ASCII
    children = {child.id: child for child in view.children}
    root, undone = Branch(), Branch()
    for step in view.steps:
        is_undo = step.kind is StepKind.COMPENSATION
        entry = _step_entry(step, glyphs, children, has_results=has_results)
        _place(undone if is_undo else root, step.key.removeprefix("compensate/") if is_undo else step.key, entry)
    for wait in view.waits:
        is_undo = wait.key.startswith("compensate/")
        _place(
            undone if is_undo else root,
            wait.key.removeprefix("compensate/") if is_undo else wait.key,
            _wait_entry(wait, glyphs, now, is_undo=is_undo),
        )
    rows = [*_flat(root, 0), *_flat(undone, 0)]
    if not rows:
        return []
    scale = _Scale(record, now)
    layout = _Layout(rows, screen)
    lines = [layout.titles(scale)]
    for depth, row in rows:
        lines += layout.lines(depth, row, scale, glyphs)
    if record.status in (RunStatus.RUNNING, RunStatus.COMPENSATING) and not view.waits:
        lines.append(click.style(cut("what is in hand now is recorded when it ends", screen.room), dim=True))
    return lines


# ---- what is to be drawn -------------------------------------------------------------------------------------------


def _step_entry(step: StepRecord, glyphs: Glyphs, children: Mapping[str, RunRecord], *, has_results: bool) -> Entry:
    kind = _KINDS.get(step.kind, step.kind.value)
    has_failed = step.status is not StepStatus.COMPLETED
    if step.kind is StepKind.COMPENSATION:
        glyph, color = glyphs.undo, "magenta"
    elif step.kind in _WAITING:
        glyph, color = glyphs.wait, "yellow"
    else:
        glyph, color = glyphs.work, "green"
    below: list[tuple[str, str]] = []
    started_at: datetime = step.started_at
    ended_at: datetime | None = step.finished_at
    if step.error is not None:
        below.append((failure_text(step.error), "red"))
    if step.kind is StepKind.CHILD and isinstance(step.result, str):
        child = children.get(step.result)
        if child is not None:  # the bar is that of the child's life, not of its being stored
            started_at, ended_at = child.started_at or started_at, child.finished_at
            has_failed = child.status is RunStatus.FAILED
        below.append((_child_text(step.result, child), ""))
    elif has_results and step.error is None and step.result is not None:
        below.append((f"= {compact(step.result)}", ""))
    return Entry(
        label=_label(step.key),
        kind=f"{kind} ×{step.attempt}" if step.attempt > 1 else kind,
        glyph=glyph,
        color="red" if has_failed else color,
        started_at=started_at,
        ended_at=ended_at,
        has_failed=has_failed,
        below=tuple(below),
        placed_at=step.started_at,  # a child stands where it was stored, however late it began
    )


def _child_text(run_id: str, child: RunRecord | None) -> str:
    text = f"run {visible(run_id)}"
    return text if child is None else f"{text}: {status_word(child)}"


def _wait_entry(wait: WaitRecord, glyphs: Glyphs, now: datetime, *, is_undo: bool) -> Entry:
    kind = "undo" if is_undo else _WAIT_KINDS.get(wait.kind, wait.kind)
    is_work = wait.kind == "intent"
    below = []
    if wait.error is not None:
        below.append((failure_text(wait.error), "red"))
    text = _wait_text(wait, now)
    if text:
        below.append((text, "yellow"))
    return Entry(
        label=_label(wait.key),
        kind=f"{kind} ×{wait.attempt}" if wait.attempt > 1 or wait.kind == "retry" else kind,
        glyph=glyphs.work if is_work else glyphs.wait,
        color="cyan" if is_work else "yellow",
        started_at=wait.started_at,
        ended_at=None,
        below=tuple(below),
    )


def _wait_text(wait: WaitRecord, now: datetime) -> str:
    when = ""
    if wait.due_at is not None and wait.due_at.year < NEVER_YEAR:
        when = f"{until_text(wait.due_at, now)} ({instant_text(wait.due_at, now)})"
    if wait.kind == "signal":
        return f"waits for the signal; gives up {when}" if when else "waits for the signal"
    if wait.kind == "sleep":
        return f"fires {when}" if when else "waits for ever"
    if wait.kind == "retry":
        return f"next attempt {when}"
    return "has begun, and will not begin twice" if wait.kind == "intent" else when


def _label(key: str) -> str:
    last = Key.parse(key)
    return f"{escape(last.name)}#{last.n}"


def _place(root: Branch, key: str, entry: Entry) -> None:
    """Put an entry under its branch, which is made where it is missing."""
    branch = root
    for segment in Key.parse(key).branch.split("/"):
        if segment:
            branch = branch.branches.setdefault(segment, Branch(segment))
    branch.entries.append(entry)


def _flat(branch: Branch, depth: int) -> Iterator[tuple[int, Entry | str]]:
    """Yield rows and titles of branches with their depth; branches that hold only one branch share its title."""
    for part in branch.parts():
        if isinstance(part, Entry):
            yield depth, part
            continue
        title, inner = part.label, part
        while not inner.entries and len(inner.branches) == 1:
            (inner,) = inner.branches.values()
            title = f"{title}/{inner.label}"
        yield depth, title
        yield from _flat(inner, depth + 1)


# ---- drawing -------------------------------------------------------------------------------------------------------


class _Scale:
    """Instants as cells of the bars."""

    def __init__(self, record: RunRecord, now: datetime) -> None:
        self.begin = began_at(record) or record.created_at
        self.end = record.finished_at or now
        self.seconds = max(1e-6, (self.end - self.begin).total_seconds())

    def bar(self, entry: Entry, cells: int, glyphs: Glyphs) -> str:
        """Return the bar of an entry, in so many cells."""
        ended_at = entry.ended_at or self.end
        if ended_at < self.begin:
            return pad("(copied)", cells)
        first = self._cell(entry.started_at, cells)
        last = max(first, self._cell(ended_at, cells, is_end=True))
        bar = entry.glyph * (last - first + 1)
        if entry.ended_at is None:
            bar = bar[:-1] + glyphs.open_end
        elif entry.has_failed:
            bar = bar[:-1] + glyphs.failed
        return " " * first + bar + " " * (cells - last - 1)

    def _cell(self, instant: datetime, cells: int, *, is_end: bool = False) -> int:
        place = (instant - self.begin).total_seconds() / self.seconds * cells
        return max(0, min(cells - 1, round(place) - 1 if is_end else int(place)))


class _Layout:
    """Columns: label, kind, bar, duration. On a narrow screen the bar goes, then the kind."""

    def __init__(self, rows: Iterable[tuple[int, Entry | str]], screen: Screen) -> None:
        entries = [(depth, row) for depth, row in rows if isinstance(row, Entry)]
        width = screen.width
        self.room = screen.room
        self.kind = max(width_of(row.kind) for _, row in entries)
        label = max(4, *(len(_INDENT) * depth + width_of(row.label) for depth, row in entries))
        rest = width - self.kind - _DURATION_WIDTH - 3 * 2
        self.label = min(label, max(_LABEL_MIN, rest // 2))
        self.bar = rest - self.label
        if self.bar < _BAR_MIN:
            self.bar = 0
            self.label = min(label, max(8, width - self.kind - _DURATION_WIDTH - 4))
            if self.label + self.kind + _DURATION_WIDTH + 4 > width:
                self.kind = 0
                self.label = max(4, width - _DURATION_WIDTH - 2)

    def titles(self, scale: _Scale) -> str:
        span = duration_text(scale.seconds)
        axis = "0" + pad(span, self.bar - 1, right=True) if self.bar else ""
        return click.style(self._line("STEP", "KIND", axis, "TOOK"), dim=True)

    def lines(self, depth: int, row: Entry | str, scale: _Scale, glyphs: Glyphs) -> list[str]:
        """Return the line of an entry or of a branch's title, and what stands below it."""
        indent = _INDENT * depth
        if isinstance(row, str):
            return [click.style(cut(indent + visible(row), self.room), fg="blue")]
        took = duration_text(((row.ended_at or scale.end) - row.started_at).total_seconds())
        bar = click.style(scale.bar(row, self.bar, glyphs), fg=row.color) if self.bar else ""
        lines = [self._line(indent + visible(row.label), row.kind, bar, took)]
        for text, color in row.below:
            shown = cut(f"{indent}{_INDENT}{text}", self.room)
            lines.append(click.style(shown, fg=color or None, dim=not color))
        return lines

    def _line(self, label: str, kind: str, bar: str, took: str) -> str:
        parts = [pad(label, self.label)]
        if self.kind:
            parts.append(pad(kind, self.kind))
        if self.bar:
            parts.append(bar)
        parts.append(pad(took, _DURATION_WIDTH, right=True))
        return "  ".join(parts)
