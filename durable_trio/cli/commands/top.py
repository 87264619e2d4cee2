"""``top``: a screen of runs that keeps itself up to date."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import click

from durable_trio.cli.options import database_option, duration


@click.command("top")
@database_option
@click.option(
    "--interval", type=duration, default="1", show_default=True, help="Look at the database so often: 1, 500ms."
)
def command(database: str, interval: float) -> int:
    """Show runs by status, how fast they end, who serves, and the timeline of a selected run, until q.

    Arrow keys select, Enter opens the run's timeline, t shows the supervision trees, / filters by a part of id, status
    or workflow. c cancels the selected run after a question, r resumes it. Needs the extra 'tui'.
    """
    from durable_trio.cli.faults import Failed

    if interval < _INTERVAL_SECONDS_MIN:
        raise click.UsageError(f"--interval is at least {_INTERVAL_SECONDS_MIN:g} s")
    if find_spec("rich") is None:
        raise Failed("top needs the library rich: pip install 'durable-trio[tui]'")
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise Failed("top needs a terminal; into pipes and files print 'durable-trio list', 'show' and 'watch'")
    from durable_trio.cli.client import ask
    from durable_trio.cli.top_program import Top

    return ask(database, lambda client: Top(client, database, interval).run())


_INTERVAL_SECONDS_MIN = 0.1
