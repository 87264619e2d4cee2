"""``list``: a page of runs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from durable_trio.cli.options import (
    database_option,
    json_option,
    status_option,
    tags_of,
    tags_option,
    workflow_option,
)
from durable_trio.cli.output import write_json, write_lines

if TYPE_CHECKING:
    from durable_trio import Engine, Page


@click.command("list")
@database_option
@status_option
@workflow_option
@tags_option("Only runs with this tag; may be repeated, then all must match.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="At most so many runs.")
@click.option("--cursor", metavar="CURSOR", help="Go on after a page, with the cursor that it gave.")
@json_option
def command(
    database: str,
    statuses: tuple[str, ...],
    workflow: str | None,
    tags: tuple[tuple[str, str], ...],
    limit: int,
    cursor: str | None,
    as_json: bool,
) -> None:
    """List runs, newest first."""
    from durable_trio.cli.client import ask

    given = tags_of(tags)

    async def look(client: Engine) -> Page:
        return await client.list_runs(
            status=statuses or None, workflow=workflow, tags=given or None, limit=limit, cursor=cursor
        )

    page = ask(database, look)
    if as_json:
        from durable_trio.cli.documents import ListDocument, run_document

        write_json(ListDocument(runs=tuple(map(run_document, page.runs)), next_cursor=page.next_cursor))
        return
    from durable_trio.cli.runs_table import runs_table
    from durable_trio.cli.screen import find_screen

    if not page.runs:
        is_filtered = bool(statuses or workflow or given or cursor)
        click.echo("no run matches" if is_filtered else "no runs yet", err=True)
        return
    lines = runs_table(page.runs, datetime.now(UTC), find_screen())
    if page.next_cursor is not None:
        lines.append(click.style(f"there are more; go on with --cursor {page.next_cursor}", dim=True))
    write_lines(lines)
