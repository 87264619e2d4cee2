"""What mends and tidies: resume, fork, delete, prune. Long histories go piece by piece, so that others can write."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Final

import attrs

from durable_trio.doors import guarded
from durable_trio.engine.client import Client
from durable_trio.engine.services.janitor import sweep, warn_of_stuck
from durable_trio.errors import RunConflict
from durable_trio.limits import UPKEEP_ROWS_MAX, check_name
from durable_trio.looks import class_name, exact_text, is_a
from durable_trio.records import RunStatus
from durable_trio.rows import HistoryRow, Key, RunRow
from durable_trio.rules.damage import damaged
from durable_trio.rules.resuming import Outcome, is_compensated, rows_to_cut
from durable_trio.rules.run_life import FINAL
from durable_trio.stores.contract import (
    CopyHistory,
    CutHistory,
    DeleteRun,
    Draft,
    ForkRun,
    Prune,
    Pruned,
    ResumeRun,
    Stuck,
    TooLong,
)
from durable_trio.stores.questions import ListHistory

# Runs that one transaction of ``prune`` removes.
_PRUNE_BATCH: Final = 200


async def resume(client: Client, run_id: str) -> RunRow:
    """Let a run go on; see ``engine.resume``."""
    services = client.services_in_use()
    run_id = check_name("run id", run_id)
    outcome: RunRow | TooLong = await services.writer.write(ResumeRun(run_id=run_id, now=client.settings.clock.stamp()))
    row = await _resume_long(client, outcome.row) if isinstance(outcome, TooLong) else outcome
    services.look_for_due()
    return row


async def _resume_long(client: Client, row: RunRow) -> RunRow:
    """Resume a run with a long history: look at it off the event loop, and cut it piece by piece."""
    writer = client.services_in_use().writer

    def find_rows(stored: tuple[HistoryRow, ...]) -> list[tuple[Key, int]]:
        history = []
        for item in stored:
            if item.damage is not None:
                raise RunConflict(damaged(row.id, item.damage).text, run_id=row.id)
            history.append(Outcome(item.seq, item.key, item.kind, item.status, item.started_at, item.finished_at))
        if is_compensated(history):
            text = f"run {row.id!r} has been compensated, at least in part, and cannot go on; start a new one"
            raise RunConflict(text, run_id=row.id)
        return [(found.key, found.seq) for found in rows_to_cut(history)]

    rows = await writer.ask_through(find_rows, ListHistory(row.run))
    for start in range(0, len(rows), UPKEEP_ROWS_MAX):
        part = tuple(rows[start : start + UPKEEP_ROWS_MAX])
        await writer.write(CutHistory(run_id=row.id, changed=row.changed, rows=part))
    now = client.settings.clock.stamp()
    resumed: RunRow = await writer.write(ResumeRun(run_id=row.id, cut_at=row.changed, now=now))
    return resumed


async def fork(client: Client, run_id: str, before: str, new_id: str | None) -> RunRow:
    """Start a new run with a part of another's history; see ``engine.fork``."""
    services = client.services_in_use()
    run_id = check_name("run id", run_id)
    if not is_a(before, str):
        raise TypeError(f"before must be the key of a history row, a str, not {class_name(type(before))}")
    new_id = str(uuid.uuid4()) if new_id is None else check_name("run id", new_id)
    now = client.settings.clock.stamp()
    key = await _key(client, run_id, exact_text(before))
    operation = ForkRun(run_id=run_id, before=key, id=new_id, now=now)
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


async def delete(client: Client, run_id: str) -> None:
    """Remove a run; see ``engine.delete``."""
    services = client.services_in_use()
    run_id = check_name("run id", run_id)
    row = await client.row(run_id)
    await services.writer.write(DeleteRun(run_id=run_id))
    guarded(services.feed.recheck_removed)
    if row.parent is not None:
        services.message_for(row.parent)
    await sweep(services.writer)


async def prune(
    client: Client, before: int, statuses: Sequence[RunStatus] | None, progress: Callable[[int], object] | None
) -> int:
    """Remove runs that ended before an instant; see ``engine.prune``."""
    services = client.services_in_use()
    if statuses is None:  # not for none of them, as an empty list says
        statuses = tuple(FINAL)
    for item in statuses:
        if not item.is_final:
            raise ValueError(f"prune removes only runs that have ended; {item.value!r} is no final status")
    count = 0
    position = None
    stuck: list[Stuck] = []
    while True:
        operation = Prune(before=before, statuses=tuple(statuses), limit=_PRUNE_BATCH, after=position)
        pruned: Pruned = await services.writer.write(operation)
        count += pruned.count
        if progress is not None:
            progress(count)
        position = pruned.position
        stuck += pruned.stuck
        if pruned.count:
            guarded(services.feed.recheck_removed)
        if pruned.hidden_count:
            await sweep(services.writer)
        if position is None:
            warn_of_stuck(stuck)
            return count
