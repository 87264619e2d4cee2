"""What there is to be said against a store and those who serve it, as values; ``check`` says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from durable_trio.clock import MICROSECONDS
from durable_trio.engine.client import Client
from durable_trio.engine.runs.suspects import SET_ASIDE
from durable_trio.engine.servers import look_at_servers
from durable_trio.limits import OVERDUE_SECONDS
from durable_trio.stores.examination_questions import Examination, Examine

__all__ = ["Examined", "examine"]

# A run that is due is taken within milliseconds, or as soon as there is room for it.
_OVERDUE: Final = round(OVERDUE_SECONDS * MICROSECONDS)


@attrs.frozen(kw_only=True)
class Examined:
    """A store that was examined."""

    found: Examination
    silent_seconds: Mapping[
        int, float
    ]  # by executor that is there: since it said that it lives, where that is too long
    why_overdue: Mapping[tuple[str, int], str]  # by workflow and version of which runs are overdue


async def examine(client: Client, now: int) -> Examined:
    """Look at all there is. It may take minutes.

    *Cancellation:* what the store has begun to look at is waited for.

    Args:
        now: by the wall clock of this machine.
    """
    services = client.services_in_use()
    found = await services.writer.ask(Examine(due_before=now - _OVERDUE, set_aside=SET_ASIDE))
    servers = await look_at_servers(services, now)
    return Examined(
        found=found,
        silent_seconds={
            each.id: each.silent / MICROSECONDS
            for each in servers.executors
            if each.silent is not None and each.is_silent
        },
        why_overdue={version: servers.why_not(*version) for version in found.overdue_counts},
    )
