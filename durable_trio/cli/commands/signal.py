"""``signal``: a message to a run."""

from __future__ import annotations

from typing import Any

import click

from durable_trio.cli.options import database_option, json_value, run_argument
from durable_trio.cli.output import say


@click.command("signal", context_settings={"ignore_unknown_options": True})  # so that -5 is a payload
@database_option
@run_argument
@click.argument("name")
@click.argument("payload", metavar="[JSON]", type=json_value, required=False)
@click.option("--id", "signal_id", metavar="ID", help="The same id twice to one run is one signal.")
def command(database: str, run_id: str, name: str, payload: Any, signal_id: str | None) -> None:
    """Send the signal NAME to RUN, with a JSON value (default null).

    Once this returns, the signal is stored; the run gets it once, when it waits for it.
    """
    from durable_trio.cli.client import ask

    ask(database, lambda client: client.send_signal(run_id, name, payload, id=signal_id))
    say(f"sent {name!r} to {run_id!r}")
