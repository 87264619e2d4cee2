"""Runs that were asked to cancel and have not ended: which they are, and what they wait for.

A request is a message to the run. It is taken by an executor with code that fits the run's history; then the steps in
hand are cancelled and waited for, then completed ones are undone. Each of these may take its time.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from shlex import quote
from typing import Final

import trio

from durable_trio.cli.output import say
from durable_trio.cli.runs_table import failure_text, in_hand_text, status_word
from durable_trio.engine.engine import Engine
from durable_trio.errors import DurableError, RunNotFound
from durable_trio.records import Problem, RunRecord, RunStatus, StepInHand

__all__ = ["asked_to_cancel", "in_hand_of", "parked_text", "wait_until_cancelled"]

# What is so at two looks is worth a word; executors tell once a second what runs wait for.
_LOOK_SECONDS: Final = 1.0
_NAMED_MAX: Final = 3
_HINT: Final = "Ctrl-C ends the wait only"
_NOBODY: Final = "nobody serves this database now; the run ends when somebody does"


async def asked_to_cancel(client: Engine, records: Iterable[RunRecord]) -> frozenset[str]:
    """Return which of these runs were asked to cancel, and have not ended."""
    unfinished = [record for record in records if not record.status.is_final]
    if not unfinished:
        return frozenset()
    lingering = {step.run_id for process in await client.processes() for step in process.lingering}
    found = set()
    for record in unfinished:
        if record.status is RunStatus.COMPENSATING:
            continue  # it has got so far, or has failed
        try:
            if record.id in lingering or any(entry.kind == "cancel" for entry in await client.get(record.id).unread()):
                found.add(record.id)
        except DurableError:  # removed meanwhile, or it cannot be read
            continue
    return frozenset(found)


async def in_hand_of(client: Engine, run_id: str) -> tuple[StepInHand, ...]:
    """Return the steps of a run that are executing.

    Where the store has nowhere to note them, they are those that the run waits for before it can end, as its executor
    has told last, at most a second ago.
    """
    try:
        noted = await client.get(run_id).steps(open=True)
    except RunNotFound:
        noted = ()
    if noted:
        return noted
    steps = (step for process in await client.processes() for step in process.lingering if step.run_id == run_id)
    return tuple(sorted(steps, key=lambda step: step.started_at))


def parked_text(run_id: str) -> str:
    """Return what becomes of a request to a run that is parked."""
    return f"cancelled when code that fits it is served; 'durable-trio show {quote(run_id)}' tells why"


async def wait_until_cancelled(client: Engine, run_id: str, before: RunRecord) -> RunRecord:
    """Wait for the end of a run that was asked to cancel, and say meanwhile what it waits for; return its last state.

    ``before`` is how it was when it was asked. *Cancellation:* the request stays.
    """
    record = before
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_say_what_is_waited_for, client, run_id, before.problem)
        async with client.watch(run_id=run_id) as changes:
            async for record in changes:  # noqa: B007  # the last one counts
                pass
        nursery.cancel_scope.cancel()
    return record


async def _say_what_is_waited_for(client: Engine, run_id: str, problem: Problem | None) -> None:
    """Say what keeps a run from its end, and again when it is something else: at once only what will not soon pass."""
    said = ""
    if problem is not None:
        said = _parked(run_id, problem)
    elif not await _is_served(client):
        said = _NOBODY
    if said:
        say(f"{said} ({_HINT})")
    seen = ""
    while True:
        await trio.sleep(_LOOK_SECONDS)
        before, seen = seen, await _obstacle(client, run_id)
        if seen == before and seen not in ("", said):
            say(seen if said else f"{seen} ({_HINT})")
            said = seen


def _parked(run_id: str, problem: Problem) -> str:
    return f"{run_id!r} is parked ({problem.kind}), and is {parked_text(run_id)}"


async def _is_served(client: Engine) -> bool:
    return any(executor.is_alive for executor in (await client.status()).executors)


async def _obstacle(client: Engine, run_id: str) -> str:
    run = client.get(run_id)
    record, now = await run.record(), datetime.now(UTC)
    if record.status.is_final:
        return ""
    if record.problem is not None:
        return _parked(run_id, record.problem)
    if not await _is_served(client):
        return _NOBODY
    if any(entry.kind == "cancel" for entry in await run.unread()):
        if record.owner is None:
            return f"{run_id!r} waits for an executor to take it up{_reason(record)}"
        return f"executor {record.owner} has {run_id!r}, and has not taken the request yet"
    steps = await in_hand_of(client, run_id)
    if steps:
        names = "; ".join(in_hand_text(step, now) for step in steps[:_NAMED_MAX])
        more = f"; and {len(steps) - _NAMED_MAX} more" if len(steps) > _NAMED_MAX else ""
        return f"{run_id!r} is {record.status.value}, and waits for what is in hand to end: {names}{more}"
    for wait in await run.waits():
        if wait.error is not None:
            return f"{run_id!r} is {record.status.value}, and tries {wait.key} again: {failure_text(wait.error)}"
    child = next((one.name for one in record.waits_for if one.kind == "child"), None)
    if child is not None:
        return f"{run_id!r} waits for its child {child!r} to end, which is {await _status_of(client, child)}"
    if record.owner is None:
        return f"{run_id!r} is to go on, and waits for an executor to take it up{_reason(record)}"
    return f"{run_id!r} is {record.status.value}; no step of it is in hand, its own code has not come to an end"


async def _status_of(client: Engine, run_id: str) -> str:
    try:
        return status_word(await client.get(run_id).record())
    except RunNotFound:
        return "removed"


def _reason(record: RunRecord) -> str:
    """Return why nobody takes a run that is due."""
    reasons = (f": {one.reason}" for one in record.waits_for if one.reason is not None)
    return next(reasons, "")
