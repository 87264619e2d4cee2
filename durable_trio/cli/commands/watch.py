"""``watch``: follows runs as they change."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from durable_trio.cli.commands.list_runs import PARKED
from durable_trio.cli.completion import complete_run
from durable_trio.cli.options import database_option, json_option, status_option, tags_of, tags_option, workflow_option
from durable_trio.cli.output import say, write_json_line, write_lines

if TYPE_CHECKING:
    from durable_trio import Engine


@click.command("watch")
@database_option
@click.argument("run_id", metavar="[RUN]", required=False, shell_complete=complete_run)
@lambda command: status_option(command, PARKED)
@workflow_option
@tags_option("Only runs with this tag; may be repeated, then all must match.")
@click.option(
    "--since",
    metavar="CURSOR",
    help="Only what has changed after the line with this cursor; 'now': only what changes from now on.",
)
@json_option
def command(
    database: str,
    run_id: str | None,
    statuses: tuple[str, ...],
    workflow: str | None,
    tags: tuple[tuple[str, str], ...],
    since: str | None,
    as_json: bool,
) -> None:
    """Follow one run to its end, or all runs until Ctrl-C: the present state of each first, then each change.

    With --json, or --since, each line carries its cursor. Who goes on after the cursor of the last line that was taken
    is given the end of each run once, also if the watcher was killed meanwhile.

    \b
    Examples:
      durable-trio watch order-7
      durable-trio watch --json --status failed --since now
      durable-trio watch --json --since "$(tail -1 seen.jsonl | jq -r .cursor)" >> seen.jsonl
    """
    if run_id is not None and (statuses or workflow or tags or since is not None):
        raise click.UsageError("a run that is named needs no --status, --workflow, --tag or --since")
    given = tags_of(tags)
    from durable_trio.cli.cancelling import asked_to_cancel
    from durable_trio.cli.client import ask
    from durable_trio.cli.runs_table import ChangeLines, status_word
    from durable_trio.cli.screen import find_screen
    from durable_trio.views.documents import run_document

    lines = ChangeLines(find_screen())
    asked = {"suspended" if status == PARKED else status for status in statuses}  # as such they are stored

    async def follow(client: Engine) -> None:
        knows_servers = as_json
        async with client.watch(
            run_id=run_id, status=asked or None, workflow=workflow, tags=given or None, since=since
        ) as changes:
            async for record in changes:
                if statuses and not {status_word(record), record.status.value} & set(statuses):
                    continue  # suspended, but not parked
                if not knows_servers and not (run_id is not None and record.status.is_final):
                    knows_servers = True
                    if not any(executor.is_alive for executor in (await client.status()).executors):
                        say("nobody serves this database now; runs go on when somebody does")
                if as_json:
                    write_json_line(run_document(record, cursor=changes.cursor))
                else:
                    # One that comes back as parked has not lost the request.
                    is_to_cancel = record.problem is not None and bool(await asked_to_cancel(client, [record]))
                    cursor = None if since is None else changes.cursor
                    write_lines([lines.line(record, datetime.now(UTC), is_to_cancel=is_to_cancel, cursor=cursor)])

    ask(database, follow)
