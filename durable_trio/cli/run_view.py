"""One run for people: what it is, how it goes, then its timeline."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from shlex import quote
from textwrap import wrap
from typing import Final

import click

from durable_trio.cli.awaited_text import awaited_lines
from durable_trio.cli.runs_table import (
    failure_text,
    in_hand_text,
    recovered_text,
    status_text,
    status_word,
)
from durable_trio.cli.screen import Screen
from durable_trio.cli.text import compact, cut, visible
from durable_trio.cli.timeline import timeline
from durable_trio.cli.times import duration_text, instant_text, until_text
from durable_trio.errors import RunCancelled
from durable_trio.records import RunRecord, RunStatus, StepKind
from durable_trio.rules.problems import ProblemKind
from durable_trio.views.documents import failure_document
from durable_trio.views.run import RunView, began_at, expired_at, of_generation

_LABEL_WIDTH: Final = 13  # of two blanks, the longest label and one blank more
_PROBLEM_INDENT: Final = "    "
_ALIKE_MAX: Final = 10  # facts of one kind


def run_view(
    view: RunView,
    now: datetime,
    screen: Screen,
    *,
    has_results: bool = False,
    has_traceback: bool = False,
    is_whole: bool = False,
    how_to_see_all: str = "",
) -> list[str]:
    """Return the lines of a run's view: about as many as the screen has, unless it is to be whole."""
    word = status_word(view.record) if view.generation is None else f"generation {view.generation.generation}"
    latest = view.record.generation
    view = of_generation(view)
    record = view.record
    status = status_text(word) if view.generation is None else word
    room = screen.room - len(word) - 2
    lines = [click.style(cut(visible(record.id), max(8, room)), bold=True) + "  " + status]
    for label, group in groupby(_facts(view, now, latest), key=itemgetter(0)):
        alike = list(group)
        shown = alike if is_whole else alike[:_ALIKE_MAX]
        lines += (_fact(label, text, color, screen) for _, text, color in shown)
        if left_out := len(alike) - len(shown):
            lines.append(_fact(label, f"… and {left_out:,} more; {how_to_see_all}", "yellow", screen))
    problem = _problem(record, screen)
    unshown = () if is_whole else problem[screen.height // 2 :]
    if len(unshown) > 1:
        more = f"{_PROBLEM_INDENT}… {len(unshown):,} more lines; {how_to_see_all}"
        problem = [*problem[: screen.height // 2], more]
    lines += problem + _hints(record, screen)
    if has_traceback:
        lines += _traceback(record)
    # One line for the title is not enough, however much is told above it; and one below is the shell's.
    lines_max = None if is_whole else max(screen.height // 3, screen.height - len(lines) - 2)
    drawn = timeline(view, now, screen, has_results=has_results, lines_max=lines_max, how_to_see_all=how_to_see_all)
    return [*lines, "", *drawn] if drawn else lines


def _fact(label: str, text: str, color: str | None, screen: Screen) -> str:
    shown = cut(text, screen.room - _LABEL_WIDTH)
    return click.style(f"  {label:<{_LABEL_WIDTH - 2}}", dim=True) + click.style(shown, fg=color)


def _facts(view: RunView, now: datetime, latest: int) -> Iterator[tuple[str, str, str | None]]:
    record = view.record
    args = ", ".join(map(compact, record.args))
    which = f", version {record.version}" if record.version else ""
    yield "workflow", f"{visible(record.workflow)}({args}){which}", None
    yield "time", _time(record, now), None
    for line in awaited_lines(record, now):
        yield "waits", line, None
    yield from _request(view, now)
    if record.ttl_at is not None and not record.status.is_final:
        yield "expires", f"{until_text(record.ttl_at, now)} ({instant_text(record.ttl_at, now)})", None
    if record.owner is not None:
        yield "owner", _owner(view), None if view.owner is not None and view.owner.is_alive else "red"
    if record.parent_id is not None:
        yield "parent", visible(record.parent_id), None
    if record.queue is not None or record.priority:
        queue = visible(record.queue) if record.queue is not None else "none"
        yield "queue", f"{queue}, priority {record.priority}", None
    if record.tags:
        yield "tags", "  ".join(f"{visible(key)}={visible(value)}" for key, value in sorted(record.tags.items())), None
    if record.recoveries:
        yield "recovered", recovered_text(record), "yellow"
    if record.forked_from is not None:
        yield "fork", f"of {visible(record.forked_from)}, before {visible(record.forked_before or '')}", None
    yield from _generation(view, latest)
    yield from _unread(view, now)
    for key, value in record.values.items():
        yield "value", f"{visible(key)} = {compact(value)}", None
    if record.status is RunStatus.COMPLETED and view.generation is None:
        yield "result", compact(record.result), "green"
    if record.error is not None:
        is_cancel = record.status is RunStatus.CANCELLED or isinstance(record.error, RunCancelled)
        yield (
            ("reason" if is_cancel else "error"),
            failure_text(record.error) or "none given",
            (None if is_cancel else "red"),
        )
    yield from _expiry(view, now)
    for error in record.compensation_errors:
        yield "not undone", failure_text(error), "red"


def _expiry(view: RunView, now: datetime) -> Iterator[tuple[str, str, str | None]]:
    """Yield where it was when its time to live was over."""
    expired = expired_at(view.steps)
    if expired is None:
        return
    at, where = expired
    for place in where.places:
        text = visible(place.text)
        if place.since is None:
            yield "expired", f"before {text}", "yellow"
        else:
            waited = duration_text((at - place.since).total_seconds())
            yield "expired", f"at {text}, since {instant_text(place.since, now)}, for {waited}", "yellow"
    if not where.places:
        yield "expired", visible(where.sentence()), "yellow"
    elif where.more:
        yield "expired", f"and at {where.more:,} more", "yellow"


def _generation(view: RunView, latest: int) -> Iterator[tuple[str, str, str | None]]:
    """Yield which generation it is, and what is kept of others."""
    shown = view.generation
    if shown is not None:
        yield "generation", f"{shown.generation} of {latest}, ended to continue as new", None
        if shown.left_out:
            yield "left out", f"its first {shown.left_out:,} rows are not kept", "yellow"
        if shown.problem is not None:
            yield "problem", visible(shown.problem), "red"
    elif latest:
        numbers = [each.generation for each in view.generations]
        kept = f"; kept are {min(numbers)} to {max(numbers)}: --generation N" if numbers else ""
        yield "generation", f"{latest} (continued as new){kept}", None


def _time(record: RunRecord, now: datetime) -> str:
    begun_at = began_at(record)
    if begun_at is None:
        return f"created {instant_text(record.created_at, now)}, not begun yet"
    begun = f"began {instant_text(begun_at, now)}"
    if record.finished_at is None:
        return f"{begun}, {duration_text((now - begun_at).total_seconds())} ago"
    took = duration_text((record.finished_at - begun_at).total_seconds())
    return f"{begun}, ended {instant_text(record.finished_at, now)}, took {took}"


def _request(view: RunView, now: datetime) -> Iterator[tuple[str, str, str | None]]:
    """Yield what has become of a request to cancel, and what the run waits for before it can end."""
    if view.record.status.is_final:
        return
    for entry in view.unread:
        if entry.kind == "cancel":
            reason = f": {visible(entry.payload)}" if isinstance(entry.payload, str) and entry.payload else ""
            yield "cancel", f"requested {instant_text(entry.sent_at, now)}, not taken yet{reason}", "yellow"
    for step in view.steps:
        if step.kind is StepKind.CANCEL:
            reason = f": {visible(step.result)}" if isinstance(step.result, str) and step.result else ""
            yield "cancel", f"taken {instant_text(step.finished_at, now)}{reason}", "yellow"
    for running in view.in_hand:
        yield "in hand", in_hand_text(running, now), "yellow" if running.is_alive else "red"


def _unread(view: RunView, now: datetime) -> Iterator[tuple[str, str, str | None]]:
    for entry in view.unread:
        if entry.kind != "cancel":
            when = instant_text(entry.sent_at, now)
            yield "unread", f"signal {visible(entry.name)}, {when}: {compact(entry.payload)}", "yellow"


def _owner(view: RunView) -> str:
    number = view.record.owner
    if view.owner is None:
        return f"executor {number}, which has ended"
    text = f"executor {number}, process {view.owner.pid} on {visible(view.owner.host)}"
    if view.owner.is_alive:
        return text
    others = next((f"; {one.reason}" for one in view.record.waits_for if one.reason is not None), "")
    return f"{text}, which has died{others.replace('its process died, and ', '')}"


def _problem(record: RunRecord, screen: Screen) -> list[str]:
    """Return why it is parked, whole: it is what there is to be read."""
    problem = record.problem
    if problem is None:
        return []
    lines = [_fact("parked", visible(problem.kind), "red", screen)]
    room = screen.room - len(_PROBLEM_INDENT)
    for line in problem.text.rstrip().splitlines():
        lines += [_PROBLEM_INDENT + cut(part, room) for part in wrap(visible(line), room, drop_whitespace=False)]
    return lines


def ends_with_difference(divergence: str) -> bool:
    """Whether history and code are all that a divergence tells; else it says itself what is to be done, or mended."""
    return " | > " in divergence.rstrip().rpartition("\n")[2]


def _hints(record: RunRecord, screen: Screen) -> list[str]:
    """Return what to do about why it is parked."""
    problem = record.problem
    if problem is None:
        return []
    hints = [f"serve mended code; if it stays parked: durable-trio resume {visible(quote(record.id))}"]
    if problem.kind == ProblemKind.DIVERGENCE.value and ends_with_difference(problem.text):
        hints.insert(0, "keep the old way for such runs: ctx.patched(ID, recorded=(KIND, NAME))")
    elif problem.kind == ProblemKind.ARGUMENTS.value:  # from the shell it may have been started with anything
        hints.append(f"if it was started with wrong ones: durable-trio abandon {visible(quote(record.id))}")
    return [_PROBLEM_INDENT + cut(hint, screen.room - len(_PROBLEM_INDENT)) for hint in hints]


def _traceback(record: RunRecord) -> list[str]:
    document = failure_document(record.error)
    if document is None or not document.traceback:
        return []
    return ["", *("  " + visible(line) for line in document.traceback.rstrip().splitlines())]
