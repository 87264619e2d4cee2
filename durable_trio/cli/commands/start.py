"""``start``: stores a run; whoever serves the database executes it."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from difflib import get_close_matches
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from durable_trio.cli.completion import complete_workflow
from durable_trio.cli.options import database_or_app_options, duration, json_value, tags_of, tags_option
from durable_trio.cli.output import say, write_id
from durable_trio.stores.address import is_url

if TYPE_CHECKING:
    from durable_trio import Engine, Workflow


@click.command("start", context_settings={"ignore_unknown_options": True})  # so that -5 is an argument
@database_or_app_options("arguments are checked, and the workflow's own tags and time to live are given.")
@click.argument("workflow", shell_complete=complete_workflow)
@click.argument("args", metavar="[JSON-ARGS]...", type=json_value, nargs=-1)
@click.option("--id", "run_id", metavar="ID", help="The run's id; the same id again is the same run. Default: a UUID.")
@click.option("--queue", metavar="NAME", help="A name to list runs by.")
@click.option("--priority", type=int, default=0, show_default=True, help="Higher ones are taken first.")
@click.option("--delay", type=duration, help="Begin after so long: 90, 15m, 2d.")
@tags_option("A tag of the run; may be repeated.")
def command(
    database: str,
    app: str | None,
    workflow: str,
    args: tuple[Any, ...],
    run_id: str | None,
    queue: str | None,
    priority: int,
    delay: float | None,
    tags: tuple[tuple[str, str], ...],
) -> None:
    """Start a run of WORKFLOW and print its id.

    Each argument of the workflow is one JSON value: 7, true, '"text"', '{"item": "chair"}'. The run is executed by
    whoever serves the database, now or later. Where there is no database, one is made.

    \b
    Examples:
      durable-trio start order 30 '{"gift": true}' --id order-7 --tag customer=anna
      durable-trio start --app shop:engine order 30
    """
    given = tags_of(tags)
    from durable_trio.cli.client import ask
    from durable_trio.errors import StoreAway

    engine: Engine | None = None
    what: str | Workflow[..., Any] = workflow
    if app is not None:
        from durable_trio.cli.app import App

        known = App(app)
        engine, database = known.engine, known.database
        what = known.workflow(workflow)
        args = known.arguments(what, args)
    is_new = bool(database) and not is_url(database) and not os.path.exists(database)

    async def start(client: Engine) -> tuple[str, str | None]:
        if is_new:
            say(f"created the database {database!r}")
        asked_at = datetime.now(UTC)
        run = await client.start(
            what, *args, id=run_id, queue=queue, priority=priority, delay=delay, tags=given or None
        )
        try:
            record = await run.record()
            if record.status.is_final and record.created_at < asked_at:  # of a run which was there already
                return run.id, f"{run.id!r} is there already, and has ended: {record.status.value}"
            return run.id, await _doubt(client, workflow)
        except StoreAway as error:
            return run.id, f"the run is stored; whether anybody serves this database cannot be told: {error}"

    started, doubt = ask(database, start, engine=engine, creates=True)
    write_id(started)
    if doubt is not None:
        say(doubt)


async def _doubt(client: Engine, workflow: str) -> str | None:
    """Return what may keep the run from being executed."""
    if not any(executor.is_alive for executor in (await client.status()).executors):
        return "nobody serves this database now; the run begins when somebody does"
    served = {name for process in await client.processes() for name in process.workflows}
    if workflow in served or not served:  # one that has only just begun to serve has said nothing yet
        return None
    near = get_close_matches(workflow, served, n=1)
    hint = f"did you mean {quote(near[0])}?" if near else "is the name right?"
    return f"nobody who serves this database knows {workflow!r}; {hint} The run waits until somebody does"
