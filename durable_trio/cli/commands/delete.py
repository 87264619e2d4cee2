"""``delete``: removes runs that have ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from durable_trio.cli.many import Verb, chosen, do_to_each, many_options

if TYPE_CHECKING:
    from durable_trio import Engine

_VERB: Final = Verb(command="delete", name="delete", done="deleted", warning=", for good")


@click.command("delete")
@many_options("completed", "failed", "cancelled")
def command(database: str, yes: bool, as_json: bool, **options: Any) -> int:
    """Remove runs that have ended, with all their rows.

    Name them by their ids, or choose them by options. A run that has not ended is left; so is one that was chosen and
    whose parent goes on, for that may still ask for its result. What has ended long ago is removed faster by 'prune'.

    \b
    Examples:
      durable-trio delete order-7 order-8
      durable-trio delete --status cancelled --workflow order --yes
    """
    choice = chosen(**options)
    if choice.is_empty:
        raise click.UsageError("name each RUN, or choose them by options, such as --status or --workflow")

    async def one(client: Engine, run_id: str) -> str:
        await client.delete(run_id)
        return f"{run_id!r} is deleted"

    return do_to_each(
        database,
        _VERB,
        choice,
        one=one,
        many=lambda client: client.delete_runs(**choice.which),
        yes=yes,
        as_json=as_json,
    )
