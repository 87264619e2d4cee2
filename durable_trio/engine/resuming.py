"""Letting a parked, failed or cancelled run go on. A long history goes piece by piece, so that others can write."""

from __future__ import annotations

import json
from typing import Final

import trio

from durable_trio.engine.client import Client
from durable_trio.errors import RunConflict
from durable_trio.limits import UPKEEP_ROWS_MAX, check_name
from durable_trio.records import RunStatus, StepKind
from durable_trio.rows import HistoryRow, Key, RunRow
from durable_trio.rules.damage import damaged
from durable_trio.rules.resuming import COMPENSATED, Outcome, is_compensated, rows_to_cut
from durable_trio.stores.contract import CutHistory, ResumeRun, TooLong
from durable_trio.stores.questions import FindRun, ListHistory
from durable_trio.workflows import check_version

__all__ = ["resume"]

_RESUMED: Final = (RunStatus.FAILED, RunStatus.CANCELLED)


# Ctrl-C must not come between the commit and the look for the run, which nobody else would find.
@trio.lowlevel.enable_ki_protection
async def resume(client: Client, run_id: str, version: int | None = None) -> RunRow:
    """Let a run go on; see ``engine.resume``."""
    services = client.services_in_use()
    run_id = check_name("run id", run_id)
    version = None if version is None else check_version(version)
    await _check_parents(client, run_id)
    operation = ResumeRun(run_id=run_id, version=version, now=client.settings.clock.stamp())
    outcome: RunRow | TooLong = await services.writer.write(operation)
    row = await _resume_long(client, outcome.row, version) if isinstance(outcome, TooLong) else outcome
    services.look_for_due()
    return row


async def _check_parents(client: Client, run_id: str) -> None:
    """Refuse a child whose parent was undone, or one above that: what it did now, nobody would take, or undo.

    Before the transaction, for a parent that was compensated stays so.
    """
    writer = client.services_in_use().writer
    row = await writer.ask(FindRun(run_id))
    while row is not None and row.parent_id is not None and row.status in _RESUMED:
        parent, started = await writer.ask(FindRun(row.parent_id)), row.id
        if parent is None or parent.run != row.parent or parent.status not in _RESUMED:
            return

        def look(stored: tuple[HistoryRow, ...], child_id: str = started) -> tuple[bool, bool]:
            """Return whether the parent awaits this child, which is not ``detached``; and whether it was undone."""
            awaits = any(item.kind is StepKind.CHILD and item.attempt and _names(item, child_id) for item in stored)
            return awaits, any(item.kind is StepKind.COMPENSATION for item in stored)

        awaits, is_undone = await writer.ask_through(look, ListHistory(parent.run))
        if not awaits:
            return
        if is_undone:
            raise RunConflict(
                f"run {run_id!r} is a child of run {parent.id!r}, which is {parent.status} and has been compensated, "
                "at least in part: nobody would take its result, or undo what it does from now on; start the parent "
                "anew, or fork one of them",
                run_id=run_id,
            )
        row = parent


def _names(item: HistoryRow, run_id: str) -> bool:
    """Return whether the start of a child is that of this one."""
    try:
        return bool(json.loads(item.result or "null") == run_id)
    except ValueError:  # damaged
        return False


async def _resume_long(client: Client, row: RunRow, version: int | None) -> RunRow:
    """Resume a run with a long history: look at it off the event loop, and cut it piece by piece."""
    writer = client.services_in_use().writer

    def find_rows(stored: tuple[HistoryRow, ...]) -> list[tuple[Key, int]]:
        history = []
        for item in stored:
            if item.damage is not None:
                raise RunConflict(damaged(row.id, item.damage).text, run_id=row.id)
            history.append(Outcome(item.seq, item.key, item.kind, item.status, item.started_at, item.finished_at))
        if is_compensated(history):
            raise RunConflict(f"run {row.id!r} {COMPENSATED}", run_id=row.id)
        return [(found.key, found.seq) for found in rows_to_cut(history)]

    rows = await writer.ask_through(find_rows, ListHistory(row.run))
    for start in range(0, len(rows), UPKEEP_ROWS_MAX):
        part = tuple(rows[start : start + UPKEEP_ROWS_MAX])
        await writer.write(CutHistory(run_id=row.id, changed=row.changed, rows=part))
    now = client.settings.clock.stamp()
    resumed: RunRow = await writer.write(ResumeRun(run_id=row.id, version=version, cut_at=row.changed, now=now))
    return resumed
