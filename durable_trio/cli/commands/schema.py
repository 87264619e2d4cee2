"""``schema``: the published shapes of ``--json``."""

from __future__ import annotations

import click

from durable_trio.cli.output import write_json

_COMMANDS = (
    *("list", "show", "watch", "stats", "errors", "tree", "versions", "rehearse", "check", "reload", "serve"),
    *("cancel", "resume", "abandon", "delete", "prune", "copy"),
)


@click.command("schema")
@click.argument("name", metavar="COMMAND", type=click.Choice(_COMMANDS))
def command(name: str) -> None:
    """Print the JSON Schema of what COMMAND prints with --json (for watch: of each line)."""
    from durable_trio.views.schemas import schema_of

    write_json(schema_of(name))
