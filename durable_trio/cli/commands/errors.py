"""``errors``: what runs have failed with."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from durable_trio.cli.completion import doubt_of_workflow
from durable_trio.cli.options import database_option, json_option, when, workflow_option
from durable_trio.cli.output import say, write_json, write_lines


@click.command("errors")
@database_option
@workflow_option
@click.option(
    "--since", metavar="WHEN", type=when, help="Only runs that ended after WHEN: an age with its unit, or a time."
)
@click.option(
    "--runs", "limit", type=click.IntRange(1), help="Read at most so many failed runs, the last ones. Default: 10,000."
)
@json_option
def command(database: str, workflow: str | None, since: datetime | None, limit: int | None, as_json: bool) -> None:
    """Show what runs have failed with: each failure once, how often, first and last, and the last run as an example.

    Failures are the same if their types are, and the first lines of their texts but for numbers and ids in them, which
    are shown as <n> and <id>. A run that has failed with several, in the branches of a nursery say, counts for each.

    \b
    Examples:
      durable-trio errors --since 1d
      durable-trio errors --json | jq -r '.errors[] | [.count, .type, .example] | @tsv'
    """
    from durable_trio.cli.client import ask
    from durable_trio.limits import FAILURES_READ_MAX
    from durable_trio.views.statistics import errors_document

    runs_max = limit or FAILURES_READ_MAX
    found = ask(database, lambda client: client._client.errors(workflow, since, runs_max))
    document = errors_document(found)
    if as_json:
        write_json(document)
        return
    from durable_trio.cli.screen import find_screen
    from durable_trio.cli.statistics_view import errors_table

    if not found.groups:
        doubt = ask(database, lambda client: doubt_of_workflow(client, workflow))
        say("no run has failed" if workflow is None and since is None else f"no failed run matches{doubt}")
        return
    write_lines(errors_table(found.groups, datetime.now(UTC), find_screen()))
    if not document.is_complete:
        say(f"these are the last {runs_max:,} runs that failed; --runs reads more")
