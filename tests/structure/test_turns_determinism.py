"""Turns: a body that shares memory between its tasks sees the same at replay, whatever trio's scheduler does.

The programs here are random: trees of branches that take steps, sleep, wait for signals, pass messages, cancel and fail
each other, with deadlines around some of it. Their outcomes are not determined, but what a replay sees is.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
import trio

from durable_trio import Context, Engine, SignalTimeout, workflow
from durable_trio.context.branches import DurableNursery

from .harness import OFTEN, RUN_ID, Notes, Program, Trial, attempt

Operations = list[list[Any]]

#: How often each operation was met by all trials; a generator that never makes one proves nothing of it.
COUNTS: Counter[str] = Counter()

# ---- the generator -------------------------------------------------------------------------------------------------


def make_operations(chance: random.Random, depth: int, *, length: int = 4) -> Operations:
    """Return some operations for one branch."""
    return [_make_operation(chance, depth) for _ in range(chance.randint(1, length))]


def _make_operation(chance: random.Random, depth: int) -> list[Any]:
    kinds = ["step"] * 5 + ["sleep"] * 3 + ["set"] * 3 + ["wait", "send", "receive", "lock"] * 2
    kinds += ["signal", "publish", "map", "yield", "fail step"]
    if depth:
        kinds += ["nursery"] * 5 + ["deadline"] * 3 + ["clean", "plain", "swallow"] * 2
    if chance.random() < 0.3:
        kinds += ["cancel", "fail"]
    kind = chance.choice(kinds)
    if kind == "nursery":
        count = chance.randint(1, 4)
        return [kind, make_operations(chance, depth - 1, length=2), *(make_operations(chance, depth - 1) for _ in range(count))]
    if kind in ("deadline", "clean", "plain", "swallow"):
        return [kind, chance.choice([0, 0.5, 2, 3, 10]), make_operations(chance, depth - 1)]
    if kind in ("step", "sleep", "fail step"):
        return [kind, chance.choice([0, 0, 0.5, 1, 2])]
    return [kind, chance.randint(0, 1)]


# ---- the interpreter -----------------------------------------------------------------------------------------------


class Shared:
    """What the branches of one stay have in common."""

    def __init__(self, ctx: Context) -> None:
        self.notes = Notes(ctx)
        self.events = [trio.Event(), trio.Event()]
        self.channels = [trio.open_memory_channel[str](size) for size in (0, 1)]
        self.locks = [trio.Lock(), trio.Lock()]


async def work(seconds: float) -> float:
    """Take some virtual time, or none."""
    if seconds:
        await trio.sleep(seconds)
    return float(seconds)


async def fail(seconds: float) -> None:
    """Fail after some time."""
    await work(seconds)
    raise ValueError(f"after {seconds}")


class Branch:
    """Performs the operations of one branch, and notes what comes of each."""

    def __init__(self, ctx: Context, shared: Shared, name: str, nursery: DurableNursery | None) -> None:
        self.ctx = ctx
        self.shared = shared
        self.name = name
        self.nursery = nursery

    async def perform(self, operations: Operations, prefix: str = "") -> None:
        for number, (kind, *arguments) in enumerate(operations):
            place = f"{self.name}{prefix}.{number}"
            COUNTS[kind] += 1
            try:
                result = await getattr(self, "do_" + kind.replace(" ", "_"))(place, *arguments)
            except trio.Cancelled:
                self.note(place, kind, "cancelled")
                COUNTS["cancelled"] += 1
                raise
            except ExceptionGroup as group:
                self.note(place, kind, repr(group))
                raise
            except Exception as error:
                self.note(place, kind, repr(error))
                raise
            self.note(place, kind, result)

    def note(self, place: str, kind: str, what: object) -> None:
        self.shared.notes.add(f"{place} {kind}: {what}")

    async def do_step(self, place: str, seconds: float) -> object:
        return await self.ctx.step("s", work, seconds)

    async def do_fail_step(self, place: str, seconds: float) -> object:
        try:
            return await self.ctx.step("f", fail, seconds)
        except ValueError as error:
            return repr(error)

    async def do_sleep(self, place: str, seconds: float) -> None:
        await self.ctx.sleep(seconds)

    async def do_signal(self, place: str, number: int) -> object:
        try:
            return await self.ctx.wait_signal(f"signal {number}", timeout=3)
        except SignalTimeout:
            return "timeout"

    async def do_set(self, place: str, number: int) -> None:
        self.shared.events[number].set()
        self.shared.events[number] = trio.Event()

    async def do_wait(self, place: str, number: int) -> bool:
        with self.ctx.move_on_after(2) as scope:
            await self.shared.events[number].wait()
        return scope.cancelled_caught

    async def do_send(self, place: str, number: int) -> bool:
        with self.ctx.move_on_after(2) as scope:
            await self.shared.channels[number][0].send(place)
        return scope.cancelled_caught

    async def do_receive(self, place: str, number: int) -> object:
        with self.ctx.move_on_after(2):
            return await self.shared.channels[number][1].receive()
        return None

    async def do_lock(self, place: str, number: int) -> None:
        with self.ctx.move_on_after(5):
            async with self.shared.locks[number]:
                self.note(place, "lock", "held")
                await self.ctx.step("locked", work, 0.5)

    async def do_publish(self, place: str, number: int) -> None:
        await self.ctx.publish(f"key {number}", place)

    async def do_map(self, place: str, number: int) -> object:
        return await self.ctx.map("z", work, [0, 1, 0.5, number], limit=2 + number)

    async def do_yield(self, place: str, number: int) -> None:
        for _ in range(number + 1):
            await trio.lowlevel.checkpoint()

    async def do_cancel(self, place: str, number: int) -> None:
        if self.nursery is not None:
            self.nursery.cancel_scope.cancel()

    async def do_fail(self, place: str, number: int) -> None:
        raise KeyError(place)

    async def do_nursery(self, place: str, own: Operations, *branches: Operations) -> None:
        try:
            async with self.ctx.open_nursery() as nursery:
                for number, operations in enumerate(branches):
                    nursery.start_soon(self._branch, f"{place}/{number}", nursery, operations)
                await self.perform(own, f".{place[-1]}own")
        except* KeyError as group:
            self.note(place, "nursery", f"except* {group!r}")

    async def _branch(self, ctx: Context, name: str, nursery: DurableNursery, operations: Operations) -> None:
        await Branch(ctx, self.shared, name, nursery).perform(operations)

    async def do_deadline(self, place: str, seconds: float, operations: Operations) -> object:
        with self.ctx.move_on_after(seconds, shield=bool(seconds == 3)) as scope:
            await self.perform(operations, place[-2:])
        return scope.cancelled_caught

    async def do_clean(self, place: str, seconds: float, operations: Operations) -> None:
        try:
            await self.ctx.step("s", work, 1)
        finally:
            with self.ctx.move_on_after(seconds, shield=True):
                await self.perform(operations, place[-2:])

    async def do_plain(self, place: str, seconds: float, operations: Operations) -> None:
        """Wait in plain trio tasks, which have no context, for those that have."""
        async with trio.open_nursery() as nursery:
            for number in range(2):
                nursery.start_soon(self._listen, place, number)
            await self.perform(operations, place[-2:])
            nursery.cancel_scope.cancel()

    async def _listen(self, place: str, number: int) -> None:
        try:
            await self.shared.events[0].wait()
            self.note(place, "plain", number)
        except trio.Cancelled:
            self.note(place, "plain", f"{number} cancelled")
            raise

    async def do_swallow(self, place: str, seconds: float, operations: Operations) -> str:
        try:
            await self.perform(operations, place[-2:])
        except trio.Cancelled:
            if self.ctx.detaching:
                raise
            return "swallowed"  # the next cancel point raises again
        return "done"


@workflow(max_recoveries=OFTEN)
async def storm(ctx: Context, operations: list[Any]) -> list[str]:
    """Perform operations; the result is what was noted."""
    shared = Shared(ctx)
    try:
        await Branch(ctx, shared, "", None).perform(operations)
    except Exception as error:
        shared.notes.add(f"end: {error!r}")
    return list(shared.notes)


def storm_program(chance: random.Random) -> Program:
    """Return a random program, with some signals at certain times."""
    operations: Operations = [
        ["nursery", make_operations(chance, 2), *(make_operations(chance, 2) for _ in range(chance.randint(2, 4)))]
    ]
    times = sorted(round(chance.uniform(0, 8), 1) for _ in range(3))
    is_cancelled = chance.random() < 0.2

    async def drive(engine: Engine) -> None:
        for number, time in enumerate(times):
            await trio.sleep_until(time)
            await engine.send_signal(RUN_ID, f"signal {number % 2}", number, id=f"s{number}")
        if is_cancelled:
            await engine.cancel(RUN_ID)

    return Program(storm, (operations,), drive)


def storm_trial(seed: int) -> Trial:
    """Run a random program with some crashes and some replays."""
    chance = random.Random(seed)
    program = storm_program(chance)
    crashes = [(chance.randint(1, 40), chance.random() < 0.5) for _ in range(3)]
    trial = attempt(program, seed, crashes=crashes, replays=["oldest first", "newest first", seed + 1])
    trial.assert_repeatable()
    if trial.status == "completed":
        assert trial.value == trial.stays[-1]
    COUNTS["rows"] += len(trial.keys)
    return trial
