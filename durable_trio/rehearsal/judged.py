"""Verdicts as values: one run's (``judging`` comes to it), its cause in words that many share, groups. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set
from typing import Final

import attrs

from durable_trio.engine.records_of import version_or_none
from durable_trio.records import StepKind
from durable_trio.rehearsal.records import Rehearsal, RehearsalGroup, Verdict
from durable_trio.rows import HistoryRow
from durable_trio.rules.unasked import Unasked
from durable_trio.stores.unfinished_questions import Unfinished
from durable_trio.turns.history import change_of

__all__ = ["Groups", "Judged", "cause_of_difference", "cause_of_ways", "without_run"]

_NUMBERS: Final = re.compile(r"#\d+")
_IDS_MAX: Final = 3
# Calls of one run that are named in a cause; a run may have thousands that differ in their numbers alone.
_CALLS_MAX: Final = 5
_CAUSE_CHARACTERS_MAX: Final = 300


@attrs.frozen(kw_only=True)
class Judged:
    """One run, and what it would do. ``text`` is for people; ``cause`` is the same for all with the same reason."""

    run: int
    run_id: str
    workflow: str
    version: int | None
    verdict: Verdict
    cause: str
    text: str
    is_executing: bool

    @classmethod
    def of(cls, found: Unfinished, verdict: Verdict, cause: str, text: str) -> Judged:
        """Return the verdict about a run."""
        row = found.row
        return cls(
            run=row.run,
            run_id=row.id,
            workflow=row.workflow,
            version=version_or_none(row.version),
            verdict=verdict,
            cause=cause,
            text=text,
            is_executing=row.owner is not None,
        )


def _call(kind: str, key: str) -> str:
    return f"{kind} {_NUMBERS.sub('', key)}"


def _row(row: HistoryRow) -> str:
    if row.kind is StepKind.PATCH:  # its key begins with a blank, which no call's does
        return f"the new way of {change_of(row.key)!r}"
    return _call(str(row.kind), str(row.key))


def calls_of(waiting: Iterable[tuple[str, str]]) -> str:
    """Return the calls in which a body waits, without their numbers."""
    found = sorted({_call(kind, key) for kind, key in waiting})
    more = f" + {len(found) - _CALLS_MAX} more" if len(found) > _CALLS_MAX else ""
    return " + ".join(found[:_CALLS_MAX]) + more


def cause_of_difference(
    expected: HistoryRow | None,
    before: HistoryRow | None,
    waiting: Iterable[tuple[str, str]],
    *,
    ended: bool,
    raised: str | None,
    unasked: Unasked | None = None,
) -> str:
    """Return where code and history part.

    Args:
        raised: what the body has raised, and where.
        unasked: why the code is likely not to ask for what is recorded, which is an answer.
    """
    if raised is not None:
        return f"the body raises {raised}"
    wanted = "nothing more" if expected is None else _row(expected)
    found = "has ended" if ended else (calls_of(waiting) or "no durable call")
    after = "" if before is None else f", after {_row(before)}"
    why = "" if unasked is None else f"; {unasked.value}"
    return f"recorded is {wanted}, the code {found if ended else f'waits in {found}'}{after}{why}"


def cause_of_ways(comes: str, ways: Mapping[str, Set[bool]]) -> str:
    """Return what comes next, and which way was taken at each change."""
    told = [f"{change!r}: {_way(answers)}" for change, answers in sorted(ways.items())]
    return "; ".join([comes, *told])


def _way(answers: Set[bool]) -> str:
    if len(answers) > 1:
        return "both ways"
    return "new way" if True in answers else "old way"


def without_run(text: str, run_id: str) -> str:
    """Return the first line of a problem's text, without what differs from run to run."""
    line = text.partition("\n")[0].replace(repr(run_id), "…")
    return _NUMBERS.sub("", line)[:_CAUSE_CHARACTERS_MAX]


@attrs.define
class _Group:
    first: Judged
    count: int = 0
    executing: int = 0
    run_ids: list[str] = attrs.Factory(list)


class Groups:
    """Verdicts as they come, kept by cause: of many runs no more than a few ids."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, int | None, Verdict, str], _Group] = {}

    def add(self, judged: Judged) -> None:
        """Count one run."""
        group = self._groups.setdefault((judged.workflow, judged.version, judged.verdict, judged.cause), _Group(judged))
        group.count += 1
        group.executing += judged.is_executing
        if len(group.run_ids) < _IDS_MAX:
            group.run_ids.append(judged.run_id)

    def rehearsal(self) -> Rehearsal:
        """Return what they come to."""
        return rehearsal_of(
            RehearsalGroup(
                workflow=workflow,
                version=version,
                verdict=verdict,
                cause=cause,
                count=group.count,
                executing=group.executing,
                run_ids=tuple(group.run_ids),
                example=group.first.text,
            )
            for (workflow, version, verdict, cause), group in self._groups.items()
        )


def rehearsal_of(groups: Iterable[RehearsalGroup]) -> Rehearsal:
    """Return what these groups come to."""
    by_verdict: dict[str, list[RehearsalGroup]] = {verdict.value: [] for verdict in Verdict}
    for group in groups:
        by_verdict[group.verdict.value].append(group)
    return Rehearsal(**{name: tuple(sorted(found, key=_place)) for name, found in by_verdict.items()})


def _place(group: RehearsalGroup) -> tuple[int, str, int, str]:
    return -group.count, group.workflow, -1 if group.version is None else group.version, group.cause
