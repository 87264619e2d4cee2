"""``prune``: removes runs that have ended.

What is removed is gone, so people are asked, with the number of runs. A program is not: it names a cut, and goes on.
But a cut within the last hour takes what has only just ended, the whole of it with ``0s``; who means that says so.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import click

from durable_trio.cli.faults import Interrupted
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
    if dry_run and found is not None:
        _tell(found, before, as_json=as_json, is_dry_run=True)
        return
    removal = _Removal(found)
    try:
        removal.run(database, before, statuses)
        _tell(removal.count, before, as_json=as_json)
    except KeyboardInterrupt:  # when no client is there any more, or not yet
        raise Interrupted(removal.so_far()) from None


def _tell(count: int, before: datetime, *, as_json: bool, is_dry_run: bool = False) -> None:
    if as_json:
        from durable_trio.views.documents import PruneDocument

        write_json(PruneDocument(count=count, before=before, is_dry_run=is_dry_run))
        return
    write_lines([f"{'would remove' if is_dry_run else 'removed'} {plural(count, 'run')}"])


class _Removal:
    """Removes runs, and knows at each moment how many: what is removed cannot be asked for afterwards."""

    def __init__(self, found: int | None) -> None:
        self.count = 0
        self._is_over = False
        self._whole = "" if found is None else f" of {found:,}"
        self._line = ProgressLine()

    def run(self, database: str, before: datetime, statuses: tuple[str, ...]) -> None:
        """Remove them, and show how far it is if that takes its time. Ctrl-C leaves what is not removed yet."""
        from durable_trio.cli.client import ask

        async def prune(client: Engine) -> None:
            self.count = await client.prune(before, status=statuses or None, progress=self._show)
            self._is_over = True

        try:
            ask(database, prune, so_far=self.so_far)
        finally:
            self._line.clear()

    def so_far(self) -> str:
        """Return what Ctrl-C leaves."""
        self._line.clear()
        rest = "" if self._is_over else "; the others are still there"
        return f"removed {plural(self.count, 'run')}{rest}"

    def _show(self, count: int) -> None:
        self.count = count
        self._line.show(f"removed {count:,}{self._whole} runs so far")


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
