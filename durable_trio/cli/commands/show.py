"""``show``: one run and its timeline."""

from __future__ import annotations

from datetime import UTC, datetime
from difflib import get_close_matches
from shlex import quote
from typing import TYPE_CHECKING

import click

from durable_trio.cli.completion import complete_key
from durable_trio.cli.options import database_option, json_option, run_argument
from durable_trio.cli.output import say, write_json, write_lines
from durable_trio.cli.text import visible

if TYPE_CHECKING:
    from durable_trio import Engine, RunRecord
    from durable_trio.views.run import RunView

_CHILDREN_MAX = 1000
_ALL = "--all shows all, --failed and --key some"


@click.command("show")
@database_option
@run_argument
@click.option("--results", is_flag=True, help="Also show the result of each step.")
@click.option("--traceback", is_flag=True, help="Also show the traceback of the run's error.")
@click.option("--all", "is_whole", is_flag=True, help="Show each step by itself, however many there are.")
@click.option("--failed", is_flag=True, help="Only steps that failed, or are tried again.")
@click.option(
    "--key", metavar="KEY", shell_complete=complete_key, help="Only the step or branch KEY, or steps so named."
)
@click.option(
    "--generation",
    type=click.IntRange(0),
    metavar="N",
    help="An earlier history, of those that the run has ended to begin anew.",
)
@json_option
def command(
    database: str,
    run_id: str,
    results: bool,
    traceback: bool,
    is_whole: bool,
    failed: bool,
    key: str | None,
    generation: int | None,
    as_json: bool,
) -> None:
    """Show a run: what it is, what it waits for, and its timeline.

    Bars are drawn to the scale of the run's time: work is solid, a wait is light, and what undoes a step is marked. A
    history that is longer than the screen is folded: steps of one name in a branch that came out alike are one line.

    \b
    Examples:
      durable-trio show order-7 --results
      durable-trio show import-3 --failed --all
      durable-trio show import-3 --key 'load#0' --json
      durable-trio show ticker-1 --generation 41
    """
    from durable_trio.cli.client import ask
    from durable_trio.views.run import with_steps

    whole = ask(database, lambda client: _look(client, run_id, generation))
    view = with_steps(whole, failed=failed, key=key)
    if doubt := _doubt(whole, view, failed=failed, key=key):
        say(doubt)
    if as_json:
        from durable_trio.views.documents import show_document

        children = tuple(child.id for child in view.children)
        write_json(
            show_document(
                view.record,
                view.steps,
                view.waits,
                view.unread,
                children,
                view.in_hand,
                view.generations,
                None if view.generation is None else view.generation.generation,
            )
        )
        return
    from durable_trio.cli.run_view import run_view
    from durable_trio.cli.screen import find_screen
    from durable_trio.views.run import with_refused_signals

    screen, now = find_screen(), datetime.now(UTC)
    write_lines(
        run_view(
            with_refused_signals(view),
            now,
            screen,
            has_results=results,
            has_traceback=traceback,
            is_whole=is_whole,
            how_to_see_all=_ALL,
        )
    )


def _doubt(whole: RunView, shown: RunView, *, failed: bool, key: str | None) -> str:
    """Return why nothing is shown of what was asked for, if so.

    Raises:
        Failed: the run has nothing of that key.
    """
    from durable_trio.cli.faults import Failed
    from durable_trio.views.run import is_of

    keys = [step.key for step in whole.steps]
    keys += [wait.key for wait in whole.waits] + [step.key for step in whole.in_hand]
    if key is not None and not any(is_of(each, key) for each in keys):
        near = get_close_matches(key, keys, n=1, cutoff=0.4)
        shows = f"its keys are shown by: durable-trio show {quote(whole.record.id)}"
        hint = f"did you mean {quote(near[0])}?" if near else shows
        raise Failed(f"run {whole.record.id!r} has no step {key!r}; {hint}")
    if not (failed or key) or shown.steps or shown.waits:
        return ""
    what = "no step of it" if key is None else f"nothing of {visible(key)!r}"
    return f"{what} has failed, or is tried again" if failed else f"{what} has come out yet"


async def _look(client: Engine, run_id: str, generation: int | None) -> RunView:
    from durable_trio.cli.cancelling import in_hand_of
    from durable_trio.views.run import RunView

    run = client.get(run_id)
    record = await run.record()
    if generation is not None and generation != record.generation:
        return await _look_back(client, record, generation)
    executors = (await client.status()).executors if record.owner is not None else ()
    return RunView(
        record=record,
        steps=await run.steps(),
        waits=await run.waits(),
        unread=await run.unread(),
        children=(await client.list_runs(parent=run_id, limit=_CHILDREN_MAX)).runs[::-1],
        owner=next((executor for executor in executors if executor.id == record.owner), None),
        in_hand=await in_hand_of(client, run_id) if record.owner is not None else (),
        generations=await run.generations() if record.generation else (),
    )


async def _look_back(client: Engine, record: RunRecord, generation: int) -> RunView:
    """Return a run with the history of an earlier generation."""
    from durable_trio.cli.faults import Failed
    from durable_trio.views.run import RunView

    run = client.get(record.id)
    try:
        steps = await run.steps(generation=generation)
    except ValueError as error:
        raise Failed(str(error)) from error
    shown = await run.generations(before=generation + 1, limit=1)
    return RunView(
        record=record,
        steps=steps,
        waits=(),
        unread=(),
        children=(await client.list_runs(parent=record.id, limit=_CHILDREN_MAX)).runs[::-1],
        owner=None,
        generations=await run.generations(),
        generation=shown[0],
    )
