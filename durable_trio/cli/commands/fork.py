"""``fork``: a new run with the beginning of another's history.

Where the other has undone a step that is copied, the new run would go on as if it were still done: a payment that was
given back would pass for one that was made. Who means that says so.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from shlex import quote
from typing import TYPE_CHECKING

import click

from durable_trio.cli.completion import complete_key
from durable_trio.cli.options import database_option, run_argument
from durable_trio.cli.output import say, write_id

if TYPE_CHECKING:
    from durable_trio import Engine, StepRecord


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
@click.option("--yes", is_flag=True, help="Also if a step before KEY was undone; do not ask.")
def command(database: str, run_id: str, before: str, signals: bool, new_id: str | None, yes: bool) -> int:
    """Start a new run that has RUN's history up to, not including, KEY; print its id.

    Steps that are copied are not undone by the new run. Nor are those done again that RUN has undone: begin before
    the first of them.
    """
    from durable_trio.cli.client import ask
    from durable_trio.cli.faults import Failed

    async def look(client: Engine) -> str | None:
        return first_undone(await client.get(run_id).steps(), before)

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

    if not yes and (undone := ask(database, look)) is not None and not _is_confirmed(run_id, before, undone):
        say("nothing was changed")
        return 1
    write_id(ask(database, fork))
    return 0


def first_undone(steps: Sequence[StepRecord], before: str) -> str | None:
    """Return the key of the first step before another one that was undone later."""
    undone = {
        step.key.removeprefix("compensate/")
        for step in steps
        if step.kind.value == "compensation" and step.status.value == "completed"
    }
    keys = [step.key for step in steps]
    begun = [_begins(steps[: index + 1]) for index, key in enumerate(keys) if key in undone]
    first = min(begun, default=len(keys))
    return keys[first] if before in keys and first < keys.index(before) else None


def _begins(steps: Sequence[StepRecord]) -> int:
    """Return where the last of some steps begins: a child, whose end is undone, in an earlier row of its branch."""
    end = steps[-1]
    name = end.key.rpartition("#")[0].removesuffix(" result")
    starts = (
        index
        for index in reversed(range(len(steps)))
        if (steps[index].kind.value, steps[index].key.rpartition("#")[0]) == ("child", name)
    )
    return next(starts, len(steps) - 1) if end.kind.value == "child_end" else len(steps) - 1


def _is_confirmed(run_id: str, before: str, undone: str) -> bool:
    what = f"{undone!r} was undone in run {run_id!r}, and passes for done in a fork before {before!r}"
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise click.UsageError(f"{what}; fork before {undone!r}, or confirm by --yes")
    return click.confirm(f"{what}; fork it all the same?", err=True)
