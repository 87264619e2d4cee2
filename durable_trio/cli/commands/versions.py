"""``versions``: which versions and codes of workflows are served, and which unfinished runs need."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from durable_trio.cli.options import database_option, json_option, workflow_option
from durable_trio.cli.output import say, write_json, write_lines


@click.command("versions")
@database_option
@workflow_option
@click.option("--all", "is_whole", is_flag=True, help="Also code that nobody has any more, and that no run needs.")
@json_option
def command(database: str, workflow: str | None, is_whole: bool, as_json: bool) -> None:
    """Show the versions of each workflow, and their code: since when it is known, how many executors have it, how many
    unfinished runs need the version, how many of them it refuses, and how many are parked.

    It says which versions can be removed from the source, and which ones runs wait for that nobody serves. A run is of
    the version that it was started with; which of its codes executes it is not said. "?": not known yet; such runs get
    the newest version of whoever takes them.

    \b
    Examples:
      durable-trio versions --workflow order
      durable-trio versions --json | jq '.versions[] | select(.is_needless)'
    """
    from durable_trio.cli.client import ask
    from durable_trio.views.versions import versions_document

    found = ask(database, lambda client: client.versions())
    found = tuple(each for each in found if workflow is None or each.workflow == workflow)
    if as_json:
        write_json(versions_document(found))
        return
    from durable_trio.cli.screen import find_screen
    from durable_trio.cli.versions_view import versions_notes, versions_table

    lines = versions_table(found, datetime.now(UTC), find_screen(), is_whole=is_whole)
    if not lines:
        say("no workflow is served, and no run is unfinished")
        return
    notes = versions_notes(found)
    write_lines([*lines, "", *notes] if notes else lines)
