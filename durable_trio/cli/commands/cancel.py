"""``cancel``: a request to a run, or to many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from durable_trio.cli.many import Unchanged, Verb, chosen, do_to_each, many_options

if TYPE_CHECKING:
    from durable_trio import Engine

_VERB: Final = Verb(command="cancel", name="ask to cancel", done="asked to cancel")


@click.command("cancel")
@many_options("pending", "running", "suspended", "compensating")
@click.option("--reason", metavar="TEXT", help="Why; it is shown with the run.")
@click.option("--wait", is_flag=True, help="Of runs that are named: wait until each has undone its steps and ended.")
def command(database: str, reason: str | None, wait: bool, yes: bool, as_json: bool, **options: Any) -> int:
    """Ask runs to cancel: the body is cancelled, completed steps are undone, then it is 'cancelled'.

    Name them by their ids, or choose them by options. Asking again is nothing. A run whose body has ended is left as it
    is, and that is said. A parked run takes the request when code that fits its history is served. --wait says what it
    waits for when that takes longer.

    \b
    Examples:
      durable-trio cancel order-7 --reason "it rains" --wait
      durable-trio cancel --workflow order --tag customer=anna
    """
    choice = chosen(**options)
    if choice.is_empty:
        raise click.UsageError("name each RUN, or choose them by options, such as --workflow")
    if wait and not choice.run_ids:
        raise click.UsageError("--wait is for runs that are named by their ids")

    async def one(client: Engine, run_id: str) -> str:
        return await _cancel(client, run_id, reason, wait=wait)

    return do_to_each(
        database,
        _VERB,
        choice,
        one=one,
        many=lambda client: client.cancel_runs(reason=reason, **choice.which),
        yes=yes,
        as_json=as_json,
    )


async def _cancel(client: Engine, run_id: str, reason: str | None, *, wait: bool) -> str:
    from durable_trio.cli.cancelling import parked_text, wait_until_cancelled

    run = client.get(run_id)
    before = await run.record()  # the request lets a parked one try once more
    requested = await run.cancel(reason)
    record = await run.record()
    if wait and requested and not record.status.is_final:
        record = await wait_until_cancelled(client, run_id, before)
    if not requested:
        raise Unchanged(f"{run_id!r} had already ended: {record.status.value}; nothing was changed")
    if record.status.is_final:
        return f"{run_id!r} is {record.status.value}"
    was_parked = before.problem is not None
    return f"asked {run_id!r} to cancel" + (f"; it was parked, and is {parked_text(run_id)}" if was_parked else "")
