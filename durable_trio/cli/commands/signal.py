"""``signal``: a message to a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from durable_trio.cli.options import database_or_app_options, json_value, run_argument
from durable_trio.cli.output import say

if TYPE_CHECKING:
    from durable_trio import Engine


@click.command("signal", context_settings={"ignore_unknown_options": True})  # so that -5 is a payload
@database_or_app_options("name and payload are checked, where the run's workflow says which signals it takes.")
@run_argument
@click.argument("name")
@click.argument("payload", metavar="[JSON]", type=json_value, required=False)
@click.option("--id", "signal_id", metavar="ID", help="The same id twice to one run is one signal.")
def command(database: str, app: str | None, run_id: str, name: str, payload: Any, signal_id: str | None) -> None:
    """Send the signal NAME to RUN, with a JSON value (default null).

    Once this returns, the signal is stored; the run gets it once, when it waits for it.
    """
    from durable_trio.cli.client import ask
    from durable_trio.errors import StoreAway

    known = None
    if app is not None:
        from durable_trio.cli.app import App

        known = App(app)
        database = known.database

    async def send(client: Engine) -> str | None:
        await client.send_signal(run_id, name, payload, id=signal_id)
        try:
            return None if known is None else await known.doubt_of_signal(run_id)
        except StoreAway as error:
            return f"whether its run takes such a signal cannot be told: {error}"

    doubt = ask(database, send, engine=None if known is None else known.engine)
    say(f"sent {name!r} to {run_id!r}")
    if doubt is not None:
        say(doubt)
