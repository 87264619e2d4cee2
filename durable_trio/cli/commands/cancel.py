"""``cancel``: a request to a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from durable_trio.cli.options import database_option, run_argument
from durable_trio.cli.output import say

if TYPE_CHECKING:
    from durable_trio import Engine, RunRecord


@click.command("cancel")
@database_option
@run_argument
@click.option("--reason", metavar="TEXT", help="Why; it is shown with the run.")
@click.option("--wait", is_flag=True, help="Wait until the run has undone its steps and ended.")
def command(database: str, run_id: str, reason: str | None, wait: bool) -> None:
    """Ask RUN to cancel: its body is cancelled, its completed steps are undone, then it is 'cancelled'.

    Asking again is nothing. A run whose body has ended is left as it is, and that is said. A parked run takes the
    request when code that fits its history is served. --wait says what it waits for when that takes longer.
    """
    from durable_trio.cli.cancelling import parked_text, wait_until_cancelled
    from durable_trio.cli.client import ask

    async def cancel(client: Engine) -> tuple[bool, RunRecord, bool]:
        run = client.get(run_id)
        before = await run.record()  # the request lets a parked one try once more
        requested = await run.cancel(reason)
        record = await run.record()
        if wait and requested and not record.status.is_final:
            record = await wait_until_cancelled(client, run_id, before)
        return requested, record, before.problem is not None

    requested, record, was_parked = ask(database, cancel)
    if not requested:
        say(f"{run_id!r} had already ended: {record.status.value}; nothing was changed")
    elif record.status.is_final:
        say(f"{run_id!r} is {record.status.value}")
    else:
        say(f"asked {run_id!r} to cancel" + (f"; it was parked, and is {parked_text(run_id)}" if was_parked else ""))
