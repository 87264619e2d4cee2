"""The timeline of a run as values: a row for each row of its history and each open wait, under its branch.

Branches, and what is in them, come in the order of their beginnings. How it is drawn is not known here.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final

import attrs

from durable_trio.records import (
    EarlierError,
    FailureRecord,
    RunRecord,
    RunStatus,
    StepKind,
    StepRecord,
    StepStatus,
    WaitRecord,
)
from durable_trio.rows import Key, escape
from durable_trio.rules.compensation import compensated_step
from durable_trio.views.run import RunView, began_at

__all__ = ["Entry", "Nature", "Row", "Timeline", "timeline_of"]

_MAP_ITEM: Final = "item"

# What a history row is called, where its own name says it less well.
_KINDS: Final = {
    StepKind.SLEEP: "timer",
    StepKind.CHILD_END: "child end",
    StepKind.COMPENSATION: "undo",
    StepKind.TRANSACTION: "commit",
}
_WAIT_KINDS: Final = {"sleep": "timer", "retry": "step", "intent": "step"}
_WAITING: Final = frozenset({StepKind.SLEEP, StepKind.SIGNAL, StepKind.CHILD_END, StepKind.DEADLINE})


class Nature(enum.StrEnum):
    """What goes on meanwhile."""

    WORK = "work"
    WAIT = "wait"
    UNDO = "undo"


@attrs.frozen(kw_only=True)
class Entry:
    """A row of the history, or an open wait: then it has no ``ended_at``, and ``wait`` is set.

    ``started_at`` of the start of a child, and its end, are those of the child's life. ``attempt`` is set where it is
    more than the only one.
    """

    label: str
    kind: str
    attempt: int | None
    nature: Nature
    started_at: datetime
    ended_at: datetime | None
    placed_at: datetime  # when the body called it
    has_failed: bool = False
    error: FailureRecord | None = None
    earlier_errors: tuple[EarlierError, ...] = ()
    result: Any = None
    child_id: str | None = None
    child: RunRecord | None = None  # if it is known
    wait: WaitRecord | None = None


@attrs.frozen
class Row:
    """An entry, or the title of a branch, and in how many branches it stands."""

    depth: int
    what: Entry | str


@attrs.frozen(kw_only=True)
class Timeline:
    """All that has happened in a run, and the time that it spans: until now, if it goes on."""

    rows: tuple[Row, ...]
    began_at: datetime
    ended_at: datetime
    has_unrecorded: bool  # what it does just now is recorded when it ends

    @property
    def seconds(self) -> float:
        """How long it is."""
        return (self.ended_at - self.began_at).total_seconds()

    def is_copied(self, entry: Entry) -> bool:
        """Return whether an entry was recorded before the run began: it is of the run that this one is a fork of."""
        return entry.ended_at is not None and entry.ended_at < self.began_at


def timeline_of(view: RunView, now: datetime) -> Timeline:
    """Return the timeline of a run; what it has undone comes after the rest."""
    record = view.record
    children = {child.id: child for child in view.children}
    done, undone = _Branch(), _Branch()
    for step in view.steps:
        _place(done, undone, step.key, _step_entry(step, children))
    for wait in view.waits:
        _place(done, undone, wait.key, _wait_entry(wait))
    return Timeline(
        rows=(*_flat(done, 0), *_flat(undone, 0)),
        began_at=began_at(record) or record.created_at,
        ended_at=record.finished_at or now,
        has_unrecorded=record.status in (RunStatus.RUNNING, RunStatus.COMPENSATING)
        and record.owner is not None
        and not view.waits,
    )


def _step_entry(step: StepRecord, children: Mapping[str, RunRecord]) -> Entry:
    nature = Nature.WAIT if step.kind in _WAITING else Nature.WORK
    entry = Entry(
        label=_label(step.key),
        kind=_KINDS.get(step.kind, step.kind.value),
        attempt=step.attempt if step.attempt > 1 else None,
        nature=Nature.UNDO if step.kind is StepKind.COMPENSATION else nature,
        started_at=step.started_at,
        ended_at=step.finished_at,
        placed_at=step.started_at,
        has_failed=step.status is not StepStatus.COMPLETED,
        error=step.error,
        earlier_errors=step.earlier_errors,
        result=step.result,
    )
    if step.kind is not StepKind.CHILD or not isinstance(step.result, str):
        return entry
    entry = attrs.evolve(entry, child_id=step.result, result=None)
    child = children.get(step.result)
    if child is None:
        return entry
    return attrs.evolve(  # it stands where the child was stored, however late that began
        entry,
        child=child,
        started_at=child.started_at or step.started_at,
        ended_at=child.finished_at,
        has_failed=child.status is RunStatus.FAILED,
    )


def _wait_entry(wait: WaitRecord) -> Entry:
    is_undo = _undone(wait.key) is not None
    return Entry(
        label=_label(wait.key),
        kind="undo" if is_undo else _WAIT_KINDS.get(wait.kind, wait.kind),
        attempt=wait.attempt if wait.attempt > 1 or wait.kind == "retry" else None,
        nature=Nature.WORK if wait.kind == "intent" else Nature.WAIT,
        started_at=wait.started_at,
        ended_at=None,
        placed_at=wait.started_at,
        error=wait.error,
        earlier_errors=wait.earlier_errors,
        wait=wait,
    )


def _label(key: str) -> str:
    last = Key.parse(key)
    return f"{escape(last.name)}#{last.n}"


# ---- branches ----------------------------------------------------------------------------------------------------


@attrs.define
class _Branch:
    """What happened in one branch: entries, and branches of its own."""

    label: str = ""
    entries: list[Entry] = attrs.Factory(list)
    branches: dict[str, _Branch] = attrs.Factory(dict)

    def began_at(self) -> datetime:
        return min(
            [entry.started_at for entry in self.entries] + [branch.began_at() for branch in self.branches.values()]
        )

    def parts(self) -> list[Entry | _Branch]:
        """Return entries and branches in the order of their beginnings."""
        return sorted([*self.entries, *self.branches.values()], key=_place_in_time)


def _place_in_time(part: Entry | _Branch) -> tuple[datetime, int]:
    """Items of a map begin together; others in their order of completion, where they began at the same instant."""
    if isinstance(part, _Branch):
        return part.began_at(), 0
    name, _, number = part.label.rpartition("#")
    return part.placed_at, int(number) if name == _MAP_ITEM else 0


def _undone(key: str) -> Key | None:
    """Return the key of the step that is undone under this one; ``None`` if nothing is undone there."""
    parsed = Key.parse(key)
    step = compensated_step(parsed)
    return None if step == parsed else step


def _place(done: _Branch, undone: _Branch, key: str, entry: Entry) -> None:
    """Put an entry under its branch, which is made where it is missing."""
    step = _undone(key)
    branch = done if step is None else undone
    for segment in (step or Key.parse(key)).branch.split("/"):
        if segment:
            branch = branch.branches.setdefault(segment, _Branch(segment))
    branch.entries.append(entry)


def _flat(branch: _Branch, depth: int) -> Iterator[Row]:
    """Yield entries and titles of branches with their depth; branches that hold only one branch share its title."""
    for part in branch.parts():
        if isinstance(part, Entry):
            yield Row(depth, part)
            continue
        title, inner = part.label, part
        while not inner.entries and len(inner.branches) == 1:
            (inner,) = inner.branches.values()
            title = f"{title}/{inner.label}"
        yield Row(depth, title)
        yield from _flat(inner, depth + 1)
