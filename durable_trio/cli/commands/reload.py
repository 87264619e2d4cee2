"""``reload``: has a server with workers serve the code as it is now."""

from __future__ import annotations

import click

from durable_trio.cli.faults import Failed
from durable_trio.cli.options import database_option, json_option
from durable_trio.cli.output import say, write_json, write_lines
from durable_trio.cli.text import plural


@click.command("reload")
@database_option
@click.option("--process", "pid", metavar="PID", type=click.IntRange(min=1), help="Which server, if there are several.")
@click.option("--rehearse", "rehearses", is_flag=True, help="Only if all unfinished runs go on with the new code.")
@click.option(
    "--baseline",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, resolve_path=True),
    help="With --rehearse: only what is worse than in FILE, as 'rehearse --json' has printed it, counts.",
)
@json_option
@click.pass_context
def command(
    ctx: click.Context, database: str, pid: int | None, rehearses: bool, baseline: str | None, as_json: bool
) -> None:
    """Have the server of the database replace its workers by new ones, which serve the code as it is in the files now.

    One process imports it first; if it cannot, nothing happens. Then one worker at a time: a new one is started, and
    when it is ready the old one drains. No run is lost or held up. If a new one does not become ready, the reload ends
    there, and old and new go on side by side. With --rehearse nothing happens either where the new code would refuse
    unfinished runs ('durable-trio rehearse' tells which), or more of them than --baseline has.

    It is for 'durable-trio serve APP --workers N'; other programs are restarted. It waits for the end: exit code 0 if
    all workers serve the new code. Ctrl-C ends the waiting alone.
    """
    if baseline is not None and not rehearses:
        raise click.UsageError("--baseline says what a rehearsal is compared with: use it with --rehearse")
    from durable_trio.cli.client import ask
    from durable_trio.cli.reloading import ReloadCommand

    reload = ReloadCommand(
        pid, rehearses=rehearses, baseline=baseline, tell=lambda text: None if as_json else say(text)
    )
    document = ask(database, reload.run, so_far=reload.so_far)
    if as_json:
        write_json(document)
    elif document.is_done:
        serve = "serves" if document.replaced == 1 else "serve"
        code = "the same code as before" if document.is_same_code else "the new code"
        write_lines([f"{plural(document.replaced, 'worker')} of process {document.process} {serve} {code}"])
    if not document.is_done:
        if as_json:
            ctx.exit(1)
        raise Failed(document.reason or "the reload has failed")
