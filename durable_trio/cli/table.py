"""Plain tables: aligned columns, cut to the screen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import attrs
import click

from durable_trio.cli.screen import Screen
from durable_trio.cli.text import pad, width_of

__all__ = ["Column", "table"]

_GAP = 2
_WIDE = 12
_WIDTH_LEAST = 4


@attrs.frozen(kw_only=True)
class Column:
    """One column.

    Args:
        width_min: it is not made narrower than this; the columns that stand last give way first.
        drop_cost: where not even that fits, columns are left out, those that cost least together; 0: never.
        style: gives a cell its colour; it is not asked for the title.
    """

    title: str
    width_min: int = 4
    is_right: bool = False
    drop_cost: int = 0
    style: Callable[[str], str] = lambda text: text


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], screen: Screen) -> list[str]:
    """Return the lines of a table: titles, then rows. A column that is empty in every row is left out."""
    shown = [index for index in range(len(columns)) if any(row[index] for row in rows)]
    if not shown:
        return []
    natural = {index: max(width_of(columns[index].title), *(width_of(row[index]) for row in rows)) for index in shown}
    widths = _fit(columns, natural, screen.room)
    lines = [_line(widths, [column.title for column in columns], columns, is_title=True)]
    return lines + [_line(widths, row, columns, is_title=False) for row in rows]


def _fit(columns: Sequence[Column], natural: dict[int, int], room: int) -> dict[int, int]:
    """Return the widths of the columns that are shown."""
    least = {index: min(width, columns[index].width_min) for index, width in natural.items()}
    droppable = [index for index in natural if columns[index].drop_cost]
    ways = [left_out for count in range(len(droppable) + 1) for left_out in combinations(droppable, count)]
    for left_out in sorted(ways, key=lambda indexes: sum(columns[index].drop_cost for index in indexes)):
        kept = [index for index in natural if index not in left_out]
        if sum(least[index] for index in kept) + _GAP * (len(kept) - 1) <= room or left_out == ways[-1]:
            break
    widths = {index: natural[index] for index in kept}
    excess = sum(widths.values()) + _GAP * (len(widths) - 1) - room
    for index, floor in [
        *((index, least[index]) for index in sorted(widths, reverse=True)),
        # On a screen too narrow for all that has to be there, cut even that: what is wide first.
        *((index, _WIDE) for index in sorted(widths)),
        *((index, _WIDTH_LEAST) for index in sorted(widths, reverse=True)),
    ]:
        spare = max(0, min(excess, widths[index] - floor))
        widths[index] -= spare
        excess -= spare
    return widths


def _line(widths: dict[int, int], cells: Sequence[str], columns: Sequence[Column], *, is_title: bool) -> str:
    parts = []
    for index in sorted(widths):
        text = pad(cells[index], widths[index], right=columns[index].is_right)
        parts.append(click.style(text, dim=True) if is_title else columns[index].style(text))
    last = max(widths)
    if not columns[last].is_right:
        parts[-1] = _without_end(parts[-1]) if cells[last] else ""
    return (" " * _GAP).join(parts).rstrip(" ")


def _without_end(styled: str) -> str:
    """Take the blanks off the end of a line, also from within its colour."""
    reset = "\x1b[0m"
    if styled.endswith(reset):
        return styled[: -len(reset)].rstrip() + reset
    return styled.rstrip()
