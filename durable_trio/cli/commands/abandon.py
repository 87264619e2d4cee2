"""``abandon``: ends runs that no code ends.

Nothing undoes what it leaves, so people are asked before it takes many, with their number. A program says ``--yes``.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import click

from durable_trio.cli.completion import complete_run
from durable_trio.cli.faults import Interrupted
from durable_trio.cli.options import database_option
from durable_trio.cli.output import say
from durable_trio.cli.text import plural, visible

if TYPE_CHECKING:
    from collections.abc import Iterable

    from durable_trio import Engine, StepInHand

_PAGE: Final = 1000


@click.command("abandon")
@database_option
@click.argument("run_id", metavar="[RUN]", required=False, shell_complete=complete_run)
@click.option("--workflow", metavar="NAME", help="All parked runs of this workflow, with --parked.")
@click.option("--parked", is_flag=True, help="All parked runs; with --workflow those of one.")
@click.option("--reason", metavar="TEXT", help="Why; it is shown with the run.")
@click.option("--yes", is_flag=True, help="Do not ask before many are ended.")
@click.pass_context
def command(
    ctx: click.Context,
    database: str,
    run_id: str | None,
    workflow: str | None,
    parked: bool,
    reason: str | None,
    yes: bool,
) -> None:
    """End RUN at once, whoever executes it: it is 'cancelled', and nothing of its code runs for that.

    It is for runs that no code fits any more. Steps that could be undone are not: 'show' names them. Children are asked
    to cancel. To have a run undo its steps, 'cancel' it.
    """
    if (run_id is None) is not parked or (workflow is not None and not parked):
        raise click.UsageError("name one RUN, or --parked for all that are parked (with --workflow those of one)")
    from durable_trio.cli.client import ask

    if run_id is not None:
        one = run_id
        _tell(one, ask(database, lambda client: client.abandon(one, reason=reason)))
        return
    run_ids = ask(database, lambda client: _find(client, workflow))
    what = "parked" if workflow is None else f"parked, of workflow {visible(workflow)!r}"
    if not run_ids:
        say(f"no run is {what}")
        return
    if not yes and not _is_confirmed(run_ids, what):
        say("nothing was changed")
        ctx.exit(1)
    _abandon_each(database, run_ids, reason)


def _tell(run_id: str, in_hand: Iterable[StepInHand]) -> None:
    say(f"{run_id!r} is cancelled")
    for step in in_hand:
        say(f"its step {step.key!r} is executing still; it may go on, but its outcome is dropped")


def _is_confirmed(run_ids: list[str], what: str) -> bool:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise click.UsageError(f"{plural(len(run_ids), 'run')} {what}: confirm by --yes")
    verb = "is" if len(run_ids) == 1 else "are"
    return click.confirm(f"end {plural(len(run_ids), 'run')} that {verb} {what}, and undo nothing?", err=True)


def _abandon_each(database: str, run_ids: list[str], reason: str | None) -> None:
    from durable_trio import RunFinished, RunNotFound
    from durable_trio.cli.client import ask

    done: list[str] = []

    async def abandon(client: Engine) -> None:
        for run_id in run_ids:
            try:
                record = await client.get(run_id).record()
                if record.problem is None:
                    continue  # it has gone on meanwhile
                await client.abandon(run_id, reason=reason)
            except (RunFinished, RunNotFound):
                continue
            done.append(run_id)

    def so_far() -> str:
        return f"ended {plural(len(done), 'run')} of {len(run_ids):,}"

    try:
        ask(database, abandon, so_far=so_far)
    except KeyboardInterrupt:
        raise Interrupted(so_far()) from None
    say(so_far())


async def _find(client: Engine, workflow: str | None) -> list[str]:
    found: list[str] = []
    cursor: str | None = None
    while True:
        page = await client.list_runs(parked=True, workflow=workflow, limit=_PAGE, cursor=cursor)
        found += [record.id for record in page.runs]
        cursor = page.next_cursor
        if cursor is None:
            return found
