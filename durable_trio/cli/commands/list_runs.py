"""``list``: a page of runs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import click

from durable_trio.cli.options import (
    database_option,
    json_option,
    queue_option,
    status_option,
    tags_of,
    tags_option,
    workflow_option,
)
from durable_trio.cli.output import say, write_json, write_lines

if TYPE_CHECKING:
    from durable_trio import Engine, Page

PARKED: Final = "parked"
LIMIT_FOR_PEOPLE: Final = 20  # a screen
LIMIT_FOR_PROGRAMS: Final = 100  # as Engine.list_runs has it


@click.command("list")
@database_option
@lambda command: status_option(command, PARKED)
@workflow_option
@tags_option("Only runs with this tag; may be repeated, then all must match.")
@queue_option
@click.option(
    "--limit",
    type=click.IntRange(1, 1000),
    help=f"At most so many runs. Default: {LIMIT_FOR_PEOPLE}, with --json {LIMIT_FOR_PROGRAMS}.",
)
@click.option("--cursor", metavar="CURSOR", help="Go on after a page, with the cursor that it gave.")
@json_option
def command(
    database: str,
    statuses: tuple[str, ...],
    workflow: str | None,
    tags: tuple[tuple[str, str], ...],
    queue: str | None,
    limit: int | None,
    cursor: str | None,
    as_json: bool,
) -> None:
    """List runs, newest first.

    A parked run is a suspended one with a problem that waits for somebody; 'show' tells which.
    """
    if PARKED in statuses and (len(statuses) > 1 or cursor is not None):
        raise click.UsageError("--status parked goes with no other status, and with no --cursor")
    from durable_trio.cli.cancelling import asked_to_cancel
    from durable_trio.cli.client import ask

    given = tags_of(tags)
    runs_max = limit or (LIMIT_FOR_PROGRAMS if as_json else LIMIT_FOR_PEOPLE)

    async def look(client: Engine) -> tuple[Page, frozenset[str]]:
        if PARKED in statuses:
            page = await _parked(client, workflow=workflow, tags=given, queue=queue, limit=runs_max)
        else:
            page = await client.list_runs(
                status=statuses or None,
                workflow=workflow,
                tags=given or None,
                queue=queue,
                limit=runs_max,
                cursor=cursor,
            )
        return page, frozenset() if as_json else await asked_to_cancel(client, page.runs)

    page, to_cancel = ask(database, look)
    if as_json:
        from durable_trio.views.documents import ListDocument, run_document

        write_json(ListDocument(runs=tuple(map(run_document, page.runs)), next_cursor=page.next_cursor))
        return
    from durable_trio.cli.runs_table import runs_table
    from durable_trio.cli.screen import find_screen

    if not page.runs:
        is_filtered = bool(statuses or workflow or given or queue or cursor)
        say("no run matches" if is_filtered else "no runs yet")
        return
    lines = runs_table(page.runs, datetime.now(UTC), find_screen(), to_cancel=to_cancel)
    if page.next_cursor is not None:
        lines.append(click.style(f"there are more; go on with --cursor {page.next_cursor}", dim=True))
    write_lines(lines)


async def _parked(client: Engine, *, workflow: str | None, tags: dict[str, str], queue: str | None, limit: int) -> Page:
    """Return those that are parked, of the thousand that the engine names."""
    from durable_trio.errors import RunNotFound
    from durable_trio.records import Page

    found = []
    for run_id in reversed((await client.status()).parked):
        try:
            record = await client.get(run_id).record()
        except RunNotFound:  # removed meanwhile
            continue
        is_wanted = workflow in (None, record.workflow) and queue in (None, record.queue)
        if is_wanted and record.problem is not None and tags.items() <= record.tags.items():
            found.append(record)
        if len(found) == limit:
            break
    return Page(runs=tuple(found), next_cursor=None)
