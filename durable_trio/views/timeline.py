"""The timeline of a run as values: a row for each row of its history and each open wait, under its branch.

Branches, and what is in them, come in the order of their beginnings. A long one can be *folded*: branches of one name
in another become one, and so do entries of one name in a branch that came out alike. How it is drawn is not known here.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
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

__all__ = ["Entry", "Fold", "Nature", "Row", "Timeline", "timeline_of"]

_MAP_ITEM: Final = "item"
# When a map began none of whose items is shown.
_NEVER: Final = datetime.max.replace(tzinfo=UTC)
# So many of a kind are not folded.
_FEW: Final = 3

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
class Fold:
    """Entries that were folded into one, the last of which it shows: how many, and the seconds that they took."""

    count: int
    seconds_min: float
    seconds_median: float
    seconds_max: float


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
    fold: Fold | None = None


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


def timeline_of(view: RunView, now: datetime, *, is_folded: bool = False) -> Timeline:
    """Return the timeline of a run; what it has undone comes after the rest."""
    record = view.record
    children = {child.id: child for child in view.children}
    done, undone = _Branch(), _Branch()
    for step in view.steps:
        _place(done, undone, step.key, _step_entry(step, children))
    for wait in view.waits:
        if wait.total is None:
            _place(done, undone, wait.key, _wait_entry(wait))
        else:
            _branch_at(done, f"{wait.key}/").total = wait.total
    if is_folded:
        done, undone = _folded(done, now), _folded(undone, now)
    return Timeline(
        rows=(*_flat(done, 0), *_flat(undone, 0)),
        began_at=began_at(record) or record.created_at,
        ended_at=record.finished_at or now,
        has_unrecorded=record.status in (RunStatus.RUNNING, RunStatus.COMPENSATING)
        and record.owner is not None
        and all(wait.total is not None for wait in view.waits),
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
    """What happened in one branch: entries, and branches of its own, each by a name of which there is one."""

    label: str = ""
    entries: list[Entry] = attrs.Factory(list)
    branches: dict[str, _Branch] = attrs.Factory(dict)
    total: int | None = None  # of a map that goes on: how many items it has

    @property
    def title(self) -> str:
        if self.total is None:
            return self.label
        ended = sum(1 if entry.fold is None else entry.fold.count for entry in self.entries if entry.wait is None)
        return f"{self.label}  {ended:,} of {self.total:,}"

    def began_at(self) -> datetime:
        return min(
            [entry.started_at for entry in self.entries] + [branch.began_at() for branch in self.branches.values()],
            default=_NEVER,
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
    _branch_at(done if step is None else undone, key if step is None else str(step)).entries.append(entry)


def _branch_at(branch: _Branch, key: str) -> _Branch:
    """Return the branch that a key is in, which is made where it is missing."""
    for segment in key.split("/")[:-1]:
        branch = branch.branches.setdefault(segment, _Branch(segment))
    return branch


# ---- folding -----------------------------------------------------------------------------------------------------


def _folded(branch: _Branch, now: datetime) -> _Branch:
    """Return a branch in which what is many times there stands once."""
    return _Branch(
        label=branch.label,
        total=branch.total,
        entries=list(_folded_entries(branch.entries, now)),
        branches={str(number): _folded(each, now) for number, each in enumerate(_merged(branch.branches.values()))},
    )


def _merged(branches: Iterable[_Branch]) -> Iterator[_Branch]:
    """Give branches, those with the same name as one if they are more than a few."""
    by_name: dict[str, list[_Branch]] = {}
    for each in branches:
        by_name.setdefault(_name(each.label), []).append(each)
    for name, alike in by_name.items():
        if len(alike) <= _FEW:
            yield from alike
            continue
        totals = [each.total for each in alike if each.total is not None]
        whole = _Branch(f"{name} ×{len(alike):,}", total=sum(totals) if len(totals) == len(alike) else None)
        for number, each in enumerate(alike):
            whole.entries += each.entries
            whole.branches |= {f"{number}/{label}": inner for label, inner in each.branches.items()}
        yield whole


def _folded_entries(entries: Iterable[Entry], now: datetime) -> Iterator[Entry]:
    alike: dict[tuple[Any, ...], list[Entry]] = {}
    for entry in entries:
        is_open = None if entry.wait is None else entry.wait.kind
        alike.setdefault((_name(entry.label), entry.kind, entry.has_failed, is_open), []).append(entry)
    for (name, *_), group in alike.items():
        yield from group if len(group) <= _FEW else [_as_one(name, group, now)]


def _as_one(name: str, group: Sequence[Entry], now: datetime) -> Entry:
    """Return an entry that stands for many: the last one of them, from the beginning of the first one on."""
    seconds = sorted(((entry.ended_at or now) - entry.started_at).total_seconds() for entry in group)
    last = max(group, key=lambda entry: entry.ended_at or now)
    return attrs.evolve(
        last,
        label=f"{name} ×{len(group):,}",
        started_at=min(entry.started_at for entry in group),
        placed_at=min(entry.placed_at for entry in group),
        fold=Fold(
            count=len(group),
            seconds_min=seconds[0],
            seconds_median=seconds[len(seconds) // 2],
            seconds_max=seconds[-1],
        ),
    )


def _name(label: str) -> str:
    """Return what is the same in the labels of calls with one name."""
    return label.rpartition("#")[0] or label


def _flat(branch: _Branch, depth: int) -> Iterator[Row]:
    """Yield entries and titles of branches with their depth; branches that hold only one branch share its title."""
    for part in branch.parts():
        if isinstance(part, Entry):
            yield Row(depth, part)
            continue
        title, inner = part.title, part
        while not inner.entries and len(inner.branches) == 1:
            (inner,) = inner.branches.values()
            title = f"{title}/{inner.title}"
        yield Row(depth, title)
        yield from _flat(inner, depth + 1)
