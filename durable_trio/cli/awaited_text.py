"""What a run waits for, in words: a line for each in its view, the first of all in a list."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Final

from durable_trio.cli.text import visible
from durable_trio.cli.times import instant_text, until_text
from durable_trio.records import Awaited, RunRecord
from durable_trio.views.run import began_at

__all__ = ["NEVER_YEAR", "awaited_lines", "awaited_note"]

# What never comes due is stored as the end of this year.
NEVER_YEAR: Final = 9999


def awaited_lines(record: RunRecord, now: datetime) -> Iterator[str]:
    """Yield what a run waits for. Its time to live is told elsewhere, and so is that its process has died."""
    waits_for = [one for one in record.waits_for if one.kind != "ttl" and (one.kind, one.due_at) != ("executor", None)]
    signals = [one for one in waits_for if one.kind == "signal" and not _when(one, now)]
    names = list(dict.fromkeys(visible(one.name or "") for one in signals))
    for one in waits_for:
        if one in signals and names[1:]:
            if one is signals[0]:
                yield f"for the signals {', '.join(names)}"
        else:
            yield _line(one, now, has_begun=began_at(record) is not None)


def awaited_note(record: RunRecord, now: datetime) -> str:
    """Return the first of what a run waits for, and how many there are besides."""
    if not record.waits_for:
        return ""
    first, *others = [one for one in record.waits_for if one.kind != "ttl"] or record.waits_for
    more = f", and {len(others)} more" if others else ""
    return f"{_note(first, now)}{more}"


def _line(one: Awaited, now: datetime, *, has_begun: bool) -> str:
    name = "" if one.name is None else visible(one.name)
    when = _when(one, now)
    since = "" if one.due_at is None else instant_text(one.due_at, now)
    due = f"{when} ({since})" if when else ""
    match one.kind:
        case "executor":
            overdue = f"due since {since}, " if since else ""
            return f"{'to go on' if has_begun else 'to begin'}: {overdue}{visible(one.reason or '')}"
        case "start":
            return f"to begin {due or 'never'}"
        case "sleep":
            return f"for the timer {name}, {due or 'for ever'}"
        case "signal":
            return f"for the signal {name}" + (f"; gives up {due}" if due else "")
        case "retry" if _is_under_way(one, now):
            return f"for {name}, tried again since {since}"
        case "retry":
            return f"to try {name} again {due}"
        case "child":
            return f"for the child {name} ({visible(one.workflow or '')})"
        case "map":
            return f"for the items of {name}"
        case _:
            return f"at most until a deadline, {due or 'for ever'}"


def _note(one: Awaited, now: datetime) -> str:
    name = "" if one.name is None else visible(one.name)
    when = _when(one, now)
    match one.kind:
        case "executor":
            return f"{'due: ' if one.due_at is not None else ''}{visible(one.reason or '')}"
        case "start":
            return f"due {when}" if when else "never due"
        case "child":
            return f"child {name} ({visible(one.workflow or '')})"
        case "retry" if _is_under_way(one, now):
            return f"tries {name} again"
        case _:
            kind = {"sleep": "timer"}.get(one.kind, one.kind)
            return f"{f'due {when}: ' if when else ''}{kind} {name}".rstrip()


def _is_under_way(one: Awaited, now: datetime) -> bool:
    """Whether a next attempt has begun: a run that is due, and nobody's, waits for an executor instead."""
    return one.due_at is not None and one.due_at <= now


def _when(one: Awaited, now: datetime) -> str:
    return "" if one.due_at is None or one.due_at.year >= NEVER_YEAR else until_text(one.due_at, now)
