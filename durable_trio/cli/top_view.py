"""Draws ``top``: exactly as many lines as the screen has, none wider. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import attrs
import click

from durable_trio.cli.run_view import run_view
from durable_trio.cli.runs_table import runs_table, status_text
from durable_trio.cli.screen import Screen
from durable_trio.cli.text import cut, pad, plural, visible, width_of
from durable_trio.cli.top_state import Look, Pane, TopState
from durable_trio.cli.tree_view import trees_lines, worker_nodes
from durable_trio.records import RunStatus
from durable_trio.views.rates import unfinished_count
from supervisors import ChildStatus

__all__ = ["draw"]

_LIST_LINES_MIN: Final = 3
_MARK: Final = "> "

_KEYS: Final = "↑↓ select  enter open  t tree  c cancel  r resume  / filter  q quit"
_KEYS_ALONE: Final = "↑↓ scroll  esc back  t tree/run  c cancel  r resume  q quit"


def draw(state: TopState, database: str, now: datetime, screen: Screen, height: int) -> list[str]:
    """Return the lines of the screen."""
    if state.look is None:
        lines = [_title(database, now, screen), "", cut(f"  {state.fault or 'reading …'}", screen.width)]
    else:
        lines = _header(state.look, database, now, screen)
        room = max(0, height - len(lines) - 1)
        lines += _body(state, now, screen, room)
    lines = [*lines[: height - 1], *[""] * (height - 1 - len(lines))]
    return [*lines, _footer(state, screen)]


# ---- above ---------------------------------------------------------------------------------------------------------


def _header(look: Look, database: str, now: datetime, screen: Screen) -> list[str]:
    counts = look.status.runs_by_status
    open_runs = [status for status in RunStatus if not status.is_final]
    ended = [status for status in RunStatus if status.is_final]
    parked = len(look.status.parked)
    first = [_count(counts.get(status, 0), status.value) for status in open_runs]
    if parked:
        first.append(_count(parked, "parked"))
    rates = f"{look.runs_per_second:,.1f} runs/s  {look.steps_per_second:,.1f} steps/s"
    second = [_count(counts.get(status, 0), status.value) for status in ended]
    return [
        _title(database, now, screen),
        _row("open ", first, f"{unfinished_count(look.status):,}", screen),
        _row("ended", second, rates, screen),
        _row("serve", _servers(look), "", screen),
    ]


def _title(database: str, now: datetime, screen: Screen) -> str:
    clock = f"{now.astimezone():%H:%M:%S}"
    name = cut(f"durable-trio top  {visible(database)}", screen.width - len(clock) - 2)
    return click.style(name + " " * (screen.width - width_of(name) - len(clock)) + clock, bold=True)


def _count(count: int, word: str) -> str:
    return status_text(word).replace(word, f"{count:,} {word}") if count else click.style(f"0 {word}", dim=True)


def _row(label: str, parts: list[str], right: str, screen: Screen) -> str:
    """Return a label and parts, as many as fit, and a text at the right end."""
    line, width = click.style(label, dim=True), len(label)
    for part in parts:
        cells = width_of(click.unstyle(part)) + 2
        if width + cells > screen.width:
            break
        line, width = f"{line}  {part}", width + cells
    blanks = screen.width - width - width_of(right)
    return f"{line}{' ' * blanks}{right}" if right and blanks >= 2 else line


def _servers(look: Look) -> list[str]:
    executors = look.status.executors
    if not look.roots and not executors:
        return [click.style("nobody serves this database", fg="yellow")]
    parts = [plural(len(look.roots), "server"), plural(sum(item.is_alive for item in executors), "executor")]
    workers = [node for root in look.roots for node in worker_nodes(root)]
    if workers:
        alive = sum(node.status is ChildStatus.RUNNING for node in workers)
        restarts = sum(node.restart_count for node in workers)
        parts.append(f"{alive} of {plural(len(workers), 'worker')}")
        if restarts:
            parts.append(click.style(f"restarted {restarts}×", fg="yellow"))
    dead = sum(not item.is_alive for item in executors)
    if dead:
        parts.append(click.style(f"{dead} dead", fg="red"))
    return parts


# ---- list and pane -------------------------------------------------------------------------------------------------


def _body(state: TopState, now: datetime, screen: Screen, room: int) -> list[str]:
    if state.is_pane_alone:
        return _pane(state, now, screen, room)
    runs = state.runs()
    list_room = max(_LIST_LINES_MIN, room // 2)
    listed = _list(state, now, screen, list_room)
    if not runs:
        listed = [_note("no run matches" if state.filter else "no runs yet", screen)]
    return [*listed, *_pane(state, now, screen, room - len(listed))]


def _list(state: TopState, now: datetime, screen: Screen, room: int) -> list[str]:
    runs = state.runs()
    ids = [record.id for record in runs]
    selected = ids.index(state.selected_id) if state.selected_id in ids else 0
    shown = max(1, room - 1)
    first = max(0, min(selected - shown // 2, len(runs) - shown))
    inner = attrs.evolve(screen, width=screen.width - len(_MARK))
    title, *rows = runs_table(runs[first : first + shown], now, inner) or [""]
    lines = [" " * len(_MARK) + title]
    for number, row in enumerate(rows, start=first):
        if number == selected:
            lines.append(click.style(_MARK + pad(click.unstyle(row), inner.width), reverse=True))
        else:
            lines.append(" " * len(_MARK) + row)
    return lines


def _pane(state: TopState, now: datetime, screen: Screen, room: int) -> list[str]:
    if room < 2 or state.look is None:
        return []
    if state.pane is Pane.TREE:
        title, lines = "processes", trees_lines(state.look.roots, screen)
        lines = lines or [_note("nobody serves this database now", screen)]
    else:
        title, lines = _run_lines(state, now, attrs.evolve(screen, height=room))
    first = max(0, min(state.pane_scroll, len(lines) - (room - 1)))
    state.pane_scroll = first if state.is_pane_alone else state.pane_scroll
    shown = lines[first : first + room - 1]
    hidden = len(lines) - first - len(shown)
    rule = "─" if screen.is_unicode else "-"
    more = f" {hidden} more below {rule * 2}" if hidden > 0 else ""
    head = cut(f"{rule * 2} {title} ", screen.width - len(more))
    fill = rule * max(0, screen.width - width_of(head) - len(more))
    return [click.style(cut(f"{head}{fill}{more}", screen.width), dim=True), *shown]


def _run_lines(state: TopState, now: datetime, screen: Screen) -> tuple[str, list[str]]:
    view = state.look.view if state.look is not None else None
    if state.selected_id is None:
        return "no run is selected", []
    if view is None or view.record.id != state.selected_id:
        return visible(state.selected_id), [_note("reading …", screen)]
    whole = state.is_pane_alone  # there it can be gone through
    return "run", run_view(view, now, screen, is_whole=whole, how_to_see_all="enter shows all")


def _note(text: str, screen: Screen) -> str:
    return click.style(cut(text, screen.width), dim=True)


# ---- below ---------------------------------------------------------------------------------------------------------


def _footer(state: TopState, screen: Screen) -> str:
    if state.asks_to_cancel is not None:
        question = f"cancel {visible(state.asks_to_cancel)!r}? y: yes, any other key: no"
        return click.style(cut(question, screen.width), bold=True)
    if state.is_typing:
        return click.style(cut(f"/{state.filter}_  (part of id, status or workflow)", screen.width), bold=True)
    if state.fault:
        return click.style(cut(state.fault, screen.width), fg="red")
    if state.message:
        return click.style(cut(state.message, screen.width), bold=True)
    keys = _KEYS_ALONE if state.is_pane_alone else _KEYS
    if not screen.is_unicode:
        keys = keys.replace("↑↓", "arrows")
    if state.filter:
        keys = f"filter {state.filter!r}, esc clears  {keys}"
    return click.style(cut(keys, screen.width), dim=True)
