"""``show``: one run and its timeline."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from durable_trio.cli.options import database_option, json_option, run_argument
from durable_trio.cli.output import write_json, write_lines

if TYPE_CHECKING:
    from durable_trio import Engine
    from durable_trio.views.run import RunView

_CHILDREN_MAX = 1000


@click.command("show")
@database_option
@run_argument
@click.option("--results", is_flag=True, help="Also show the result of each step.")
@click.option("--traceback", is_flag=True, help="Also show the traceback of the run's error.")
@json_option
def command(database: str, run_id: str, results: bool, traceback: bool, as_json: bool) -> None:
    """Show a run: what it is, what it waits for, and its timeline.

    Bars are drawn to the scale of the run's time: work is solid, a wait is light, and what undoes a step is marked.
    """
    from durable_trio.cli.client import ask

    view = ask(database, lambda client: _look(client, run_id))
    if as_json:
        from durable_trio.views.documents import show_document

        children = tuple(child.id for child in view.children)
        write_json(show_document(view.record, view.steps, view.waits, view.unread, children, view.in_hand))
        return
    from durable_trio.cli.run_view import run_view
    from durable_trio.cli.screen import find_screen

    write_lines(run_view(view, datetime.now(UTC), find_screen(), has_results=results, has_traceback=traceback))


async def _look(client: Engine, run_id: str) -> RunView:
    from durable_trio.cli.cancelling import in_hand_of
    from durable_trio.views.run import RunView

    run = client.get(run_id)
    record = await run.record()
    executors = (await client.status()).executors if record.owner is not None else ()
    return RunView(
        record=record,
        steps=await run.steps(),
        waits=await run.waits(),
        unread=await run.unread(),
        children=(await client.list_runs(parent=run_id, limit=_CHILDREN_MAX)).runs[::-1],
        owner=next((executor for executor in executors if executor.id == record.owner), None),
        in_hand=await in_hand_of(client, run_id) if record.owner is not None else (),
    )
