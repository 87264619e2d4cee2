"""``resume``: another chance for a run, or for many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from durable_trio.cli.many import Verb, chosen, do_to_each, many_options

if TYPE_CHECKING:
    from durable_trio import Engine

_VERB: Final = Verb(command="resume", name="resume", done="resumed")


@click.command("resume")
@many_options("failed", "cancelled")
@click.option(
    "--version", type=click.IntRange(0), metavar="N", help="Go on with this version of the workflow from now on."
)
def command(database: str, yes: bool, as_json: bool, version: int | None, **options: Any) -> int:
    """Let runs go on from their histories: parked ones, or failed or cancelled ones of which nothing was undone.

    With --version also one that waits for a version of its workflow that nobody serves any more.

    Name them by their ids, or choose them by options, of which --parked or --status must be one. The newest go first,
    so that a child goes on before its parent.

    \b
    Examples:
      durable-trio resume order-7
      durable-trio resume order-7 --version 2
      durable-trio resume --parked --workflow order
      durable-trio resume --status failed --workflow order --created-after 1d --yes
    """
    choice = chosen(**options)
    if choice.is_empty or (choice.which and not {"parked", "status"} & choice.which.keys()):
        raise click.UsageError("name each RUN, or choose them by --parked or --status, with other options as you like")

    async def one(client: Engine, run_id: str) -> str:
        await client.resume(run_id, version=version)
        which = "" if version is None else f" that has version {version} of its workflow"
        none = "" if version is None else await _if_unserved(client, run_id, version)
        return f"{run_id!r} goes on when an executor{which} takes it{none}{await _of_parent(client, run_id)}"

    return do_to_each(
        database,
        _VERB,
        choice,
        one=one,
        many=lambda client: client.resume_runs(version=version, **choice.which),
        yes=yes,
        as_json=as_json,
    )


async def _if_unserved(client: Engine, run_id: str, version: int) -> str:
    """Return that nobody who serves has the version, which may be a slip."""
    status = await client.status()
    is_unserved = ((await client.get(run_id).record()).workflow, version) in status.unserved_versions
    is_served = any(executor.is_alive for executor in status.executors)
    return "; none that serves has it now" if is_served and is_unserved else ""


async def _of_parent(client: Engine, run_id: str) -> str:
    """Return what is to be done about a parent that may have failed with the run."""
    from durable_trio.errors import RunNotFound

    parent_id = (await client.get(run_id).record()).parent_id
    if parent_id is None:
        return ""
    try:
        parent = await client.get(parent_id).record()
    except RunNotFound:
        return ""
    is_lost = parent.status.is_final and parent.status.value != "completed"
    return f"; its parent {parent_id!r} is {parent.status.value}: resume that as well" if is_lost else ""
