"""Letting a parked, failed or cancelled run go on. A long history goes piece by piece, so that others can write."""

from __future__ import annotations

import trio

from durable_trio.engine.client import Client
from durable_trio.errors import RunConflict
from durable_trio.limits import UPKEEP_ROWS_MAX, check_name
from durable_trio.rows import HistoryRow, Key, RunRow
from durable_trio.rules.damage import damaged
from durable_trio.rules.resuming import COMPENSATED, Outcome, is_compensated, rows_to_cut
from durable_trio.stores.contract import CutHistory, ResumeRun, TooLong
from durable_trio.stores.questions import ListHistory

__all__ = ["resume"]


# Ctrl-C must not come between the commit and the look for the run, which nobody else would find.
@trio.lowlevel.enable_ki_protection
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
            raise RunConflict(f"run {row.id!r} {COMPENSATED}", run_id=row.id)
        return [(found.key, found.seq) for found in rows_to_cut(history)]

    rows = await writer.ask_through(find_rows, ListHistory(row.run))
    for start in range(0, len(rows), UPKEEP_ROWS_MAX):
        part = tuple(rows[start : start + UPKEEP_ROWS_MAX])
        await writer.write(CutHistory(run_id=row.id, changed=row.changed, rows=part))
    now = client.settings.clock.stamp()
    resumed: RunRow = await writer.write(ResumeRun(run_id=row.id, cut_at=row.changed, now=now))
    return resumed
