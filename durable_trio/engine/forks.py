"""Starting a run with a part of another's history. A long one goes piece by piece, so that others can write.

What is copied says the store (``ForkRun``); here is who asks for which piece.
"""

from __future__ import annotations

import uuid

import attrs
import trio

from durable_trio.engine.client import Client
from durable_trio.errors import RunConflict
from durable_trio.limits import UPKEEP_ROWS_MAX, check_name
from durable_trio.looks import class_name, exact_bool, exact_text, is_a
from durable_trio.rows import HistoryRow, Key, RunRow
from durable_trio.rules.damage import damaged
from durable_trio.stores.contract import CopyHistory, Draft, ForkRun
from durable_trio.stores.questions import ListHistory

__all__ = ["fork"]


# Ctrl-C must not come between the commit and the look for the run, which nobody else would find.
@trio.lowlevel.enable_ki_protection
async def fork(client: Client, run_id: str, before: str, new_id: str | None, *, signals: bool) -> RunRow:
    """Start a new run with a part of another's history; see ``engine.fork``."""
    services = client.services_in_use()
    run_id = check_name("run id", run_id)
    if not is_a(before, str):
        raise TypeError(f"before must be the key of a history row, a str, not {class_name(type(before))}")
    new_id = str(uuid.uuid4()) if new_id is None else check_name("run id", new_id)
    signals = exact_bool(signals, what="signals")
    now = client.settings.clock.stamp()
    key = await _key(client, run_id, exact_text(before))
    operation = ForkRun(run_id=run_id, before=key, id=new_id, signals=signals, now=now)
    outcome: RunRow | Draft = await services.writer.write(operation)
    row = await _fork_long(client, operation, outcome) if isinstance(outcome, Draft) else outcome
    services.look_for_due()
    return row


async def _key(client: Client, run_id: str, text: str) -> Key:
    """Return the key that a text is. An unknown run is told first: what is wrong with its keys is no news then."""
    try:
        return Key.parse(text)
    except ValueError:
        await client.row(run_id)
        raise


async def _fork_long(client: Client, operation: ForkRun, draft: Draft) -> RunRow:
    """Fork a run with a long history: look at it off the event loop, and copy it piece by piece."""
    writer = client.services_in_use().writer

    def find_keys(history: tuple[HistoryRow, ...]) -> list[Key]:
        for item in history:
            if item.damage is not None:  # a copy without it would be another history
                raise RunConflict(damaged(operation.run_id, item.damage).text, run_id=operation.run_id)
        return [item.key for item in history if item.seq < draft.before]

    keys = await writer.ask_through(find_keys, ListHistory(draft.source[0]))
    for start in range(0, len(keys), UPKEEP_ROWS_MAX):
        part = tuple(keys[start : start + UPKEEP_ROWS_MAX])
        now = client.settings.clock.stamp()
        await writer.write(CopyHistory(run_id=operation.run_id, draft=draft, keys=part, now=now))
    now = client.settings.clock.stamp()
    row: RunRow = await writer.write(attrs.evolve(operation, draft=draft, now=now))
    return row
