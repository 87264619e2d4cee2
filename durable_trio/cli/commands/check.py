"""``check``: examines a database and what is in it."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap
from typing import TYPE_CHECKING, Final

import click

from durable_trio.cli.options import database_option, json_option
from durable_trio.cli.output import write_json, write_lines

if TYPE_CHECKING:
    from durable_trio.views.documents import Finding

_COLORS: Final = {"ok": "green", "note": "yellow", "wrong": "red"}
_LEVEL_WIDTH: Final = 7


@click.command("check")
@database_option
@json_option
@click.pass_context
def command(ctx: click.Context, database: str, as_json: bool) -> None:
    """Examine the database: its schema, its integrity, executors that have died or give no sign of life, and runs that
    are parked, overdue, or not wholly undone.

    Exit code 1 if something needs a person. It reads all of it; nothing is repaired. While it reads, others go on.
    """
    from durable_trio.cli.examination import examine
    from durable_trio.cli.screen import find_screen

    document = examine(database)
    if as_json:
        write_json(document)
    else:
        write_lines(line for finding in document.findings for line in _lines(finding, find_screen().room))
    ctx.exit(0 if document.is_sound else 1)


def _lines(finding: Finding, room: int) -> Iterator[str]:
    indent = " " * _LEVEL_WIDTH
    first, *others = wrap(finding.text, room - _LEVEL_WIDTH, break_on_hyphens=False)
    yield click.style(f"{finding.level:<{_LEVEL_WIDTH}}", fg=_COLORS[finding.level], bold=True) + first
    yield from (indent + line for line in others)
