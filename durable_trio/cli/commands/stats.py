"""``stats``: what the runs of each workflow have come to."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from durable_trio.cli.completion import doubt_of_workflow
from durable_trio.cli.options import database_option, json_option, when, workflow_option
from durable_trio.cli.output import say, write_json, write_lines


@click.command("stats")
@database_option
@workflow_option
@click.option(
    "--since", metavar="WHEN", type=when, help="Only runs created after WHEN: an age with its unit, or a time."
)
@json_option
def command(database: str, workflow: str | None, since: datetime | None, as_json: bool) -> None:
    """Count the runs of each workflow: by status, how many fail, how long they take, and the oldest unfinished one.

    P50 and P95 are what half of the newest thousand completed runs, and 95 % of them, took at most. FAILED is the share
    of failed runs among those that completed or failed. The oldest unfinished run is that of all, also with --since.

    \b
    Examples:
      durable-trio stats --since 1d
      durable-trio stats --workflow order --json | jq '.workflows[0].failure_rate'
    """
    from durable_trio.cli.client import ask
    from durable_trio.views.statistics import stats_document

    found = ask(database, lambda client: client.stats(workflow=workflow, since=since))
    if as_json:
        write_json(stats_document(found))
        return
    from durable_trio.cli.screen import find_screen
    from durable_trio.cli.statistics_view import stats_table

    if not found:
        doubt = ask(database, lambda client: doubt_of_workflow(client, workflow))
        say(f"no run matches{doubt}" if workflow is not None or since is not None else "no runs yet")
        return
    write_lines(stats_table(found, datetime.now(UTC), find_screen()))
