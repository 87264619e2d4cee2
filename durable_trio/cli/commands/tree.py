"""``tree``: the supervision trees of all servers of a database."""

from __future__ import annotations

import click

from durable_trio.cli.options import database_option, json_option
from durable_trio.cli.output import say, write_json, write_lines


@click.command("tree")
@database_option
@json_option
def command(database: str, as_json: bool) -> None:
    """Show the supervision tree of each process that serves the database, those of workers in their places.

    Each is as it was when it last changed; 'durable-trio top' follows them.
    """
    from durable_trio.cli.client import ask

    roots = ask(database, lambda client: client.trees())
    if as_json:
        from durable_trio.views.tree import trees_document

        write_json(trees_document(roots))
        return
    from durable_trio.cli.screen import find_screen
    from durable_trio.cli.tree_view import trees_lines

    if not roots:
        say("nobody serves this database now")
    write_lines(trees_lines(roots, find_screen()))
