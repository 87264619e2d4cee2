"""Ending a run that no code ends."""

from __future__ import annotations

from functools import partial
from typing import Final

import trio

from durable_trio.doors import guarded
from durable_trio.engine.client import Client
from durable_trio.engine.runs.telling import Telling
from durable_trio.errors import RunCancelled
from durable_trio.limits import check_name
from durable_trio.records import RunStatus, StepInHand
from durable_trio.stores.contract import Abandoned, AbandonRun
from durable_trio.stores.questions import FindRun

__all__ = ["abandon"]

_NOT_UNDONE: Final = "not run: the run was abandoned"


# Ctrl-C must not come between the commit and the word to those who wait for it.
@trio.lowlevel.enable_ki_protection
async def abandon(client: Client, run_id: str, reason: str | None) -> tuple[StepInHand, ...]:
    """End a run without its code; see ``engine.abandon``."""
    services = client.services_in_use()
    run_id = check_name("run id", run_id)
    failures = client.failures_of(None)

    def error(text: str) -> str:
        said = RunCancelled(text, run_id=run_id, reason=reason, abandoned=True)
        return failures.encode(said, where="the error of an abandoned run")[0]

    because = f": {reason}" if reason else ""
    # Asked first: of a run that has no owner, the store names no step as executing.
    row = await services.writer.ask(FindRun(run_id))
    in_hand = () if row is None else await client.open_steps(row)
    operation = AbandonRun(
        run_id=run_id,
        reason=client.codec.encode(f"its parent was abandoned{because}", str, where="the reason").text,
        error=error(f"run {run_id!r} was abandoned{because}"),
        error_of_child=error(f"its parent, run {run_id!r}, was abandoned{because}"),
        not_undone=error(_NOT_UNDONE),
        now=client.settings.clock.stamp(),
    )
    outcome: Abandoned = await services.writer.write(operation)
    telling = Telling(
        outcome.row,
        observers=client.observers,
        clock=client.settings.clock,
        failures=failures,
        slow=None,
        died=(),
        slots=None,
    )
    guarded(telling.log.abandoned, reason, outcome.not_undone_count)
    guarded(partial(telling.ended, RunStatus.CANCELLED, operation.error, fate=None, failed=None))
    for sent in outcome.sent:
        services.sent(sent)
    if outcome.row.parent is not None:
        services.message_for(outcome.row.parent)
    return in_hand
