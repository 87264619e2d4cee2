"""``fork``: a new run with the beginning of another's history."""

from __future__ import annotations

from difflib import get_close_matches
from shlex import quote
from typing import TYPE_CHECKING

import click

from durable_trio.cli.completion import complete_key
from durable_trio.cli.options import database_option, run_argument
from durable_trio.cli.output import write_id

if TYPE_CHECKING:
    from durable_trio import Engine


@click.command("fork")
@database_option
@run_argument
@click.option(
    "--before",
    metavar="KEY",
    required=True,
    shell_complete=complete_key,
    help="The first step that is run again, by its key as 'show' prints it.",
)
@click.option("--signals", is_flag=True, help="Also copy what was sent and is unread, or was taken from KEY on.")
@click.option("--id", "new_id", metavar="ID", help="The new run's id. Default: a UUID.")
def command(database: str, run_id: str, before: str, signals: bool, new_id: str | None) -> None:
    """Start a new run that has RUN's history up to, not including, KEY; print its id.

    Steps that are copied are not undone by the new run.
    """
    from durable_trio.cli.client import ask
    from durable_trio.cli.faults import Failed

    async def fork(client: Engine) -> str:
        try:
            return (await client.fork(run_id, before=before, id=new_id, signals=signals)).id
        except ValueError as error:
            keys = [step.key for step in await client.get(run_id).steps()]
            if before in keys:
                raise
            if before in {wait.key for wait in await client.get(run_id).waits()}:
                text = f"run {run_id!r} waits in {before!r}, of which nothing is recorded yet"
                last = f"; the last row that is: {quote(keys[-1])}" if keys else ""
                raise Failed(f"{text}{last}") from error
            near = get_close_matches(before, keys, n=1, cutoff=0.4)
            shows = f"its keys are shown by: durable-trio show {quote(run_id)}"
            hint = f"did you mean {quote(near[0])}?" if near else shows
            raise Failed(f"run {run_id!r} has no row {before!r} in its history; {hint}") from error

    write_id(ask(database, fork))
