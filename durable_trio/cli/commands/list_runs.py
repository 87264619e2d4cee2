"""``list``: a page of runs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

from durable_trio.cli.completion import doubt_of_workflow
from durable_trio.cli.options import (
    database_option,
    json_option,
    queue_option,
    status_option,
    tags_of,
    tags_option,
    when,
    workflow_option,
)
from durable_trio.cli.output import say, write_json, write_lines

if TYPE_CHECKING:
    from durable_trio import Engine, Page

PARKED: Final = "parked"
LIMIT_FOR_PEOPLE: Final = 20  # a screen
LIMIT_FOR_PROGRAMS: Final = 100  # as Engine.list_runs has it
# As Engine.list_runs has them, which is not imported before a command runs; a test compares.
ORDERS: Final = ("newest", "oldest", "changed", "ended")
OVERDUE_SECONDS: Final = 30


@click.command("list")
@database_option
@lambda command: status_option(command, PARKED)
@workflow_option
@tags_option("Only runs with this tag; may be repeated, then all must match.")
@queue_option
@click.option("--parked", is_flag=True, help="Only those that are parked; as --status parked.")
@click.option("--retrying", is_flag=True, help="Only those with a step that has failed and is tried again.")
@click.option(
    "--overdue", is_flag=True, help=f"Only those that were due {OVERDUE_SECONDS} s ago, and nobody has taken."
)
@click.option("--created-after", metavar="WHEN", type=when, help="Only those created after WHEN.")
@click.option("--created-before", metavar="WHEN", type=when, help="Only those created before WHEN.")
@click.option(
    "--sort",
    type=click.Choice(ORDERS),
    default=ORDERS[0],
    show_default=True,
    help="What comes first; 'changed' and 'ended': the last that did.",
)
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
    parked: bool,
    retrying: bool,
    overdue: bool,
    created_after: datetime | None,
    created_before: datetime | None,
    sort: str,
    limit: int | None,
    cursor: str | None,
    as_json: bool,
) -> None:
    """List runs, newest first.

    A parked run is one that no code fits which is served now, or that is damaged; 'show' tells why. WHEN is an age with
    its unit, or a time in ISO form.

    \b
    Examples:
      durable-trio list --status failed --workflow order --created-after 1d
      durable-trio list --overdue --sort oldest
      durable-trio list --retrying --json | jq -r '.runs[].id'
    """
    if PARKED in statuses and len(statuses) > 1:
        raise click.UsageError("--status parked goes with no other status")
    from durable_trio.cli.cancelling import asked_to_cancel
    from durable_trio.cli.client import ask

    chosen: dict[str, Any] = {
        "status": [status for status in statuses if status != PARKED] or None,
        "workflow": workflow,
        "tags": tags_of(tags) or None,
        "queue": queue,
        "created_after": created_after,
        "created_before": created_before,
        "parked": parked or PARKED in statuses,
        "retrying": retrying,
        "overdue": overdue,
        "cursor": cursor,
    }
    runs_max = limit or (LIMIT_FOR_PROGRAMS if as_json else LIMIT_FOR_PEOPLE)

    async def look(client: Engine) -> tuple[Page, frozenset[str], str]:
        page = await client.list_runs(**chosen, sort=sort, limit=runs_max)
        doubt = "" if page.runs else await doubt_of_workflow(client, workflow)
        return page, frozenset() if as_json else await asked_to_cancel(client, page.runs), doubt

    page, to_cancel, doubt = ask(database, look)
    if as_json:
        from durable_trio.views.documents import ListDocument, run_document

        write_json(ListDocument(runs=tuple(map(run_document, page.runs)), next_cursor=page.next_cursor))
        return
    from durable_trio.cli.runs_table import runs_table
    from durable_trio.cli.screen import find_screen

    if not page.runs:
        is_filtered = any(chosen.values()) or sort != ORDERS[0]
        say(f"no run matches{doubt}" if is_filtered else "no runs yet")
        return
    lines = runs_table(page.runs, datetime.now(UTC), find_screen(), to_cancel=to_cancel)
    if page.next_cursor is not None:
        lines.append(click.style(f"there are more; go on with --cursor {page.next_cursor}", dim=True))
    write_lines(lines)
