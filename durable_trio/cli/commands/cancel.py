"""``cancel``: a request to a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from durable_trio.cli.options import database_option, run_argument
from durable_trio.cli.output import say

if TYPE_CHECKING:
    from durable_trio import Engine, RunRecord

_PARKED: Final = "was parked, and is cancelled when code that fits it is served; 'durable-trio show' tells why"


@click.command("cancel")
@database_option
@run_argument
@click.option("--reason", metavar="TEXT", help="Why; it is shown with the run.")
@click.option("--wait", is_flag=True, help="Wait until the run has undone its steps and ended.")
def command(database: str, run_id: str, reason: str | None, wait: bool) -> None:
    """Ask RUN to cancel: its body is cancelled, its completed steps are undone, then it is 'cancelled'.

    Asking again is nothing. A run whose body has ended is left as it is, and that is said.
    """
    from durable_trio.cli.client import ask

    async def cancel(client: Engine) -> tuple[bool, RunRecord, bool]:
        run = client.get(run_id)
        was_parked = (await run.record()).problem is not None  # the request lets it try once more
        requested = await run.cancel(reason)
        record = await run.record()
        if wait and requested and not record.status.is_final:
            if was_parked:
                say(f"{run_id!r} {_PARKED} (Ctrl-C ends the wait only)")
            elif not any(executor.is_alive for executor in (await client.status()).executors):
                say("nobody serves this database now; the run ends when somebody does (Ctrl-C ends the wait only)")
            async with run.watch() as changes:
                async for record in changes:  # noqa: B007  # the last one counts
                    pass
        return requested, record, was_parked

    requested, record, was_parked = ask(database, cancel)
    if not requested:
        say(f"{run_id!r} had already ended: {record.status.value}; nothing was changed")
    elif record.status.is_final:
        say(f"{run_id!r} is {record.status.value}")
    else:
        say(f"asked {run_id!r} to cancel" + (f"; it {_PARKED}" if was_parked else ""))
