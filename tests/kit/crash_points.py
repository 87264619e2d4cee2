"""Runs a scenario again and again, each time with a crash at another commit, until it has come through.

The scenario is called with an engine after each crash; it must ask for the same things again, by the same ids.

A commit that is kept leaves the same state behind as the next one that is lost, so by default one of the two stands for
both; and of a long program's states every other one is tried, others for each program.
``DURABLE_TRIO_EVERY_CRASH`` in the environment has all of them, and ``DURABLE_TRIO_SEED=N`` other ones.
"""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from typing import Any, Final, TypeVar

import trio

from durable_trio import Engine, StoreError, Workflow, open_engine
from durable_trio.testing import CrashingStore, SimulatedCrash, VirtualClock
from tests.kit.measured import unmeasured

T = TypeVar("T")

EVERY_CRASH: Final = "DURABLE_TRIO_EVERY_CRASH" in os.environ
#: Which sample is taken: another one for each number, and always the same for one.
SEED: Final = int(os.environ.get("DURABLE_TRIO_SEED", "0"))
#: A program with so few states crashes with each of them.
_POINTS_MIN: Final = 12

#: Virtual seconds after which a scenario is taken for hung.
_PATIENCE_SECONDS = 30 * 86400.0
#: Far more than a scenario needs that is crashed once.
_LIVES_MAX = 6
_LOST = (SimulatedCrash, StoreError, trio.ClosedResourceError)


def crash_points(commit_count: int, seed: str) -> list[tuple[int, bool]]:
    """Return at which commits to crash, and whether each is lost: once with a state that they leave behind.

    Which states, and by which of the two crashes that stand for one, depends on the seed, so that all programs
    together are crashed before and after commits of every kind.
    """
    if EVERY_CRASH:
        return [(at, loses_it) for at in range(1, commit_count + 1) for loses_it in (False, True)]
    chance = random.Random(f"{SEED or ''}{seed}")
    states = [[(state, False), (state + 1, True)] for state in range(1, commit_count)]
    points = [(1, True), *(chance.choice(state) for state in states), (commit_count, False)]
    return sorted(chance.sample(points, min(len(points), max(_POINTS_MIN, len(points) // 2))))


class Crashed(Exception):
    """The engine died before the scenario was through."""


async def live_once(
    store: CrashingStore,
    workflows: Iterable[Workflow[..., Any]],
    scenario: Callable[[Engine], Awaitable[T]],
    **options: Any,
) -> T:
    """Serve the workflows for the length of one scenario, in virtual time.

    Raises:
        Crashed: the store was told to crash meanwhile.
    """
    try:
        async with open_engine(store, workflows=workflows, clock=VirtualClock(), **options) as engine:
            with trio.fail_after(_PATIENCE_SECONDS):
                return await scenario(engine)
    except _LOST as error:
        raise Crashed from error
    except BaseExceptionGroup as group:
        if group.split(_LOST)[1] is not None:
            raise
        raise Crashed from group
    except trio.Cancelled as error:
        raise AssertionError("a cancellation of the engine's came out") from error


async def live_through(
    store: CrashingStore,
    workflows: Iterable[Workflow[..., Any]],
    scenario: Callable[[Engine], Awaitable[T]],
    **options: Any,
) -> T:
    """Serve one engine after the other until the scenario is through; a crash that is set strikes once."""
    workflows = list(workflows)
    for _ in range(_LIVES_MAX):
        try:
            return await live_once(store, workflows, scenario, **options)
        except Crashed:
            store.crash_after(None)
    raise AssertionError(f"the scenario did not come through in {_LIVES_MAX} lives")


async def at_every_commit(
    workflows: Iterable[Workflow[..., Any]], scenario: Callable[[Engine], Awaitable[T]], **options: Any
) -> tuple[T, int]:
    """Check that a scenario gives the same value without a crash and with one at each of its ``crash_points``.

    Returns:
        The value, and how many crashes there were.
    """
    workflows = list(workflows)
    async with crashing_store() as store:
        expected = await live_through(store, workflows, scenario, **options)
        commit_count = store.commit_count
    crash_count = 0
    for commit, loses_it in crash_points(commit_count, scenario.__qualname__):
        with unmeasured() if crash_count else nullcontext():
            async with crashing_store() as store:
                store.crash_after(commit, loses_it=loses_it)
                found = await live_through(store, workflows, scenario, **options)
        assert found == expected, f"crash at commit {commit} of {commit_count}, {loses_it=}"
        crash_count += 1
    return expected, crash_count


@asynccontextmanager
async def crashing_store() -> AsyncIterator[CrashingStore]:
    """A store in memory that outlives its engines inside the block."""
    async with AsyncExitStack() as stack:
        store = CrashingStore()
        stack.callback(store.dispose)
        yield store
