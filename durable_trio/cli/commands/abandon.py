"""``abandon``: ends runs that no code ends.

Nothing undoes what it leaves, so it takes no run that some code still fits, unless that is named by its id: those that
are parked, or of a workflow that nobody who serves knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import attrs
import click

from durable_trio.cli.faults import Failed
from durable_trio.cli.many import Verb, chosen, do_to_each, many_options
from durable_trio.cli.text import plural, visible

if TYPE_CHECKING:
    from durable_trio import Engine

_VERB: Final = Verb(command="abandon", name="end", done="ended", warning=", and undo nothing")


@click.command("abandon")
@many_options("pending", "running", "suspended", "compensating")
@click.option("--unknown", is_flag=True, help="All of --workflow, which nobody who serves may know any more.")
@click.option("--reason", metavar="TEXT", help="Why; it is shown with the run.")
def command(database: str, unknown: bool, reason: str | None, yes: bool, as_json: bool, **options: Any) -> int:
    """End runs at once, whoever executes them: they are 'cancelled', and nothing of their code runs for that.

    It is for runs that no code fits any more: name them by their ids, or choose them by --parked, or by --unknown with
    --workflow, with other options as you like. Steps that could be undone are not: 'show' names them. Children are
    asked to cancel. To have a run undo its steps, 'cancel' it.

    \b
    Examples:
      durable-trio abandon order-7 --reason "no code fits it"
      durable-trio abandon --parked --workflow order
      durable-trio abandon --unknown --workflow order_of_2019
    """
    choice = chosen(**options)
    if unknown and "workflow" not in choice.which:
        raise click.UsageError("--unknown goes with --workflow NAME; 'durable-trio stats' has the names there are")
    if choice.is_empty or (choice.which and not unknown and "parked" not in choice.which):
        raise click.UsageError(
            "name each RUN, or choose them by --parked, or by --unknown with --workflow, with other options as you like"
        )
    if unknown:
        _check_unknown(database, choice.which["workflow"])
        choice = attrs.evolve(choice, words=f"{choice.words}, which nobody who serves knows")

    async def one(client: Engine, run_id: str) -> str:
        in_hand = await client.abandon(run_id, reason=reason)
        still = (
            f"; its step {step.key!r} is executing still; it may go on, but its outcome is dropped" for step in in_hand
        )
        return f"{run_id!r} is cancelled{''.join(still)}{await _left(client, run_id)}"

    return do_to_each(
        database,
        _VERB,
        choice,
        one=one,
        many=lambda client: client.abandon_runs(reason=reason, **choice.which),
        yes=yes,
        as_json=as_json,
    )


async def _left(client: Engine, run_id: str) -> str:
    """Return that an abandoned run leaves steps that nobody undoes."""
    count = len((await client.get(run_id).record()).compensation_errors)
    are, them = ("is", "it") if count == 1 else ("are", "them")
    return f"; {plural(count, 'step')} of it {are} not undone: 'show' names {them}" if count else ""


def _check_unknown(database: str, workflow: str) -> None:
    """Refuse a workflow that somebody serves: its runs have not come to the end of the road."""
    from durable_trio.cli.client import ask

    async def look(client: Engine) -> list[int]:
        return [process.pid for process in await client.processes() if workflow in process.workflows]

    pids = ask(database, look)
    if pids:
        raise Failed(
            f"process {pids[0]}, which serves this database, knows {visible(workflow)!r}: 'cancel' its runs, so that"
            " they undo what they have done; --parked ends those that no code fits"
        )
