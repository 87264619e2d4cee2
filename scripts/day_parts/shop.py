"""What is served: runs that wait for minutes and hours, and note when they have gone on.

Its clock is the simulated day's: what the environment says, and from there as fast as the real one. With libfaketime
the whole process has that time, and nothing is said here.
"""

from __future__ import annotations

import json
import os
import time
from datetime import timedelta

from durable_trio import Clock, Context, Engine, Retry, SignalTimeout, Workflow, current_step, workflow

_NOW = os.environ.get("DAY_NOW")
_BEGAN = time.monotonic_ns()


def _wall() -> int:
    return time.time_ns() if _NOW is None else int(float(_NOW) * 1e9) + time.monotonic_ns() - _BEGAN


CLOCK = Clock(wall=_wall)


class TryAgain(Exception):
    """What a step raises that is to be tried again later."""


def note(due: float, is_firm: bool = False) -> None:
    """Note that a step executes which was due at an instant: in one write, which a kill cannot tear.

    ``is_firm``: that instant stands in the run's start. What is counted from a call begins anew where the process was
    killed before the call was recorded.
    """
    step = current_step()
    line = {"run": step.run_id, "key": step.key, "attempt": step.attempt, "due": due, "is_firm": is_firm}
    line |= {"pid": os.getpid(), "at": CLOCK.stamp() / 1e6, "began": float(os.environ["DAY_BEGAN"])}
    descriptor = os.open(os.environ["DAY_NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, (json.dumps(line) + "\n").encode())
    finally:
        os.close(descriptor)


def note_and_fail(due: float) -> None:
    """The same, and fail twice."""
    note(due)
    if current_step().attempt < 3:
        raise TryAgain


@workflow
async def naps(ctx: Context, seconds: list[float]) -> None:
    """Sleep again and again; or for a moment, which is not worth to leave memory for."""
    for nap in seconds:
        due = ctx.now() + timedelta(seconds=nap)
        await ctx.sleep(nap)
        await ctx.step("note", note, due.timestamp())


@workflow
async def begins(ctx: Context, due: float) -> None:
    """Begin late."""
    await ctx.step("note", note, due, True)


@workflow
async def waits(ctx: Context, seconds: float) -> None:
    """Wait for a signal that does not come."""
    due = ctx.now() + timedelta(seconds=seconds)
    try:
        await ctx.wait_signal("never", timeout=seconds)
    except SignalTimeout:
        await ctx.step("note", note, due.timestamp())


@workflow
async def tries(ctx: Context, seconds: float) -> None:
    """Fail twice, and be tried again each time after so long."""
    await ctx.step("try", note_and_fail, ctx.now().timestamp(), retry=Retry.fixed(3, seconds))


def make_at(store: str) -> Engine:
    """Return an engine on a store."""
    workflows: list[Workflow[..., None]] = [naps, begins, waits, tries]
    return Engine(store, workflows=workflows, errors=[TryAgain], clock=CLOCK, grace_seconds=2)


def make() -> Engine:
    """Return the engine of one process of that day."""
    return make_at(os.environ["DAY_STORE"])
