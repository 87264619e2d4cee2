"""``resume``: another chance for a run."""

from __future__ import annotations

import click

from durable_trio.cli.options import database_option, run_argument
from durable_trio.cli.output import say


@click.command("resume")
@database_option
@run_argument
def command(database: str, run_id: str) -> None:
    """Let RUN go on from its history: one that is parked, or that failed or was cancelled and has undone nothing."""
    from durable_trio.cli.client import ask

    ask(database, lambda client: client.resume(run_id))
    say(f"{run_id!r} goes on when an executor takes it")
