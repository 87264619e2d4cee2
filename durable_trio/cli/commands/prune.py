"""``prune``: removes runs that have ended."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import click

from durable_trio.cli.options import database_option, json_option, when
from durable_trio.cli.output import write_json, write_lines
from durable_trio.cli.text import plural

if TYPE_CHECKING:
    from durable_trio import Engine

_FINAL = ("completed", "failed", "cancelled")
_PAGE = 1000


@click.command("prune")
@database_option
@click.option(
    "--before",
    metavar="WHEN",
    type=when,
    required=True,
    help="An age with its unit, such as 90s or 7d, or a time in ISO form.",
)
@click.option(
    "--status", "statuses", type=click.Choice(_FINAL), multiple=True, help="Only those in this status; may be repeated."
)
@click.option("--dry-run", is_flag=True, help="Only count what would be removed.")
@json_option
def command(database: str, before: datetime, statuses: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Remove runs that ended before WHEN, with all their rows. Live runs are never touched."""
    from durable_trio.cli.client import ask

    async def prune(client: Engine) -> int:
        if dry_run:
            return await _count(client, before, statuses or _FINAL)
        return await client.prune(before, status=statuses or None)

    count = ask(database, prune)
    if as_json:
        from durable_trio.cli.documents import PruneDocument

        write_json(PruneDocument(count=count, before=before, is_dry_run=dry_run))
        return
    write_lines([f"{'would remove' if dry_run else 'removed'} {plural(count, 'run')}"])


async def _count(client: Engine, before: datetime, statuses: tuple[str, ...]) -> int:
    """Count page by page: a run that ended before an instant was created before it."""
    count = 0
    cursor: str | None = None
    while True:
        page = await client.list_runs(status=statuses, created_before=before, limit=_PAGE, cursor=cursor)
        count += sum(record.finished_at is not None and record.finished_at < before for record in page.runs)
        cursor = page.next_cursor
        if cursor is None:
            return count
