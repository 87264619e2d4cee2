"""``prune``: removes runs that have ended.

What is removed is gone, so people are asked, with the number of runs. A program is not: it names a cut, and goes on.
But a cut within the last hour takes what has only just ended, the whole of it with ``0s``; who means that says so.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import click

from durable_trio.cli.options import database_option, json_option, when
from durable_trio.cli.output import ProgressLine, say, write_json, write_lines
from durable_trio.cli.text import plural

if TYPE_CHECKING:
    from durable_trio import Engine

_FINAL = ("completed", "failed", "cancelled")
_PAGE = 1000
_RECENT: Final = timedelta(hours=1)


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
@click.option("--yes", is_flag=True, help="Do not ask; without a terminal also for a WHEN within the last hour.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    database: str,
    before: datetime,
    statuses: tuple[str, ...],
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Remove runs that ended before WHEN, with all their rows. Live runs are never touched.

    On a terminal you are asked first, and told how many there are.
    """
    asks = not (dry_run or yes) and sys.stdin.isatty() and sys.stderr.isatty()
    if not (asks or dry_run or yes) and before > datetime.now(UTC) - _RECENT:
        raise click.UsageError(
            "--before is within the last hour: it removes what has only just ended; confirm by --yes"
        )
    from durable_trio.cli.client import ask

    async def count(client: Engine) -> int:
        return await _count(client, before, statuses or _FINAL)

    found = ask(database, count) if asks or dry_run else None
    if asks and found and not _is_confirmed(found, before):
        say("nothing was removed")
        ctx.exit(1)
    removed = found if dry_run and found is not None else _prune(database, before, statuses, found)
    if as_json:
        from durable_trio.views.documents import PruneDocument

        write_json(PruneDocument(count=removed, before=before, is_dry_run=dry_run))
        return
    write_lines([f"{'would remove' if dry_run else 'removed'} {plural(removed, 'run')}"])


def _prune(database: str, before: datetime, statuses: tuple[str, ...], found: int | None) -> int:
    """Remove them, and show how far it is if that takes its time. Ctrl-C leaves what is not removed yet."""
    from durable_trio.cli.client import ask

    line = ProgressLine()
    whole = "" if found is None else f" of {found:,}"

    async def prune(client: Engine) -> int:
        return await client.prune(
            before, status=statuses or None, progress=lambda count: line.show(f"removed {count:,}{whole} runs so far")
        )

    try:
        return ask(database, prune)
    finally:
        line.clear()


def _is_confirmed(count: int, before: datetime) -> bool:
    when = f"{before.astimezone():%Y-%m-%d %H:%M:%S}"
    return click.confirm(f"remove {plural(count, 'run')} that ended before {when}, for good?", err=True)


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
