"""Faults of the library itself, one at a time, at any call of its inside; and a workload that passes through all of it.

A fault is an exception that a wrapper raises instead of one call of a method. First the workload runs with a target
that is never met, and the calls of each method are counted; then once for each fault. Virtual time, a store in memory
and a chosen schedule make the count of one run that of the next.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import attrs
import trio
from trio.testing import MockClock

from durable_trio import (
    Context,
    Engine,
    Observer,
    Retry,
    RunCancelled,
    RunExpired,
    RunFailed,
    RunFinished,
    RunNotFound,
    RunRecord,
    SignalTimeout,
    StoreError,
    Workflow,
    current_step,
    open_engine,
    workflow,
)
from durable_trio.testing import VirtualClock
from durable_trio.testing.schedule import scheduling

T = TypeVar("T")

#: Virtual seconds after which something is taken for hung.
PATIENCE_SECONDS: Final = 5000.0


class Fault(Exception):
    """Raised inside the library, where nothing should fail."""


@attrs.frozen
class Target:
    """The call of a method, from 1, that is to fail."""

    door: str
    number: int


class Chaos:
    """Wraps methods: counts their calls, and has one fail."""

    def __init__(self, *owners: type, skipped: frozenset[str] = frozenset()) -> None:
        self.counts: Counter[str] = Counter()
        self.target: Target | None = None
        self.is_met = False
        self._owners = owners
        self._skipped = skipped

    @contextmanager
    def armed(self, target: Target | None = None) -> Iterator[None]:
        """Have the target fail inside the block."""
        self.counts, self.target, self.is_met = Counter(), target, False
        wrapped: list[tuple[type, str, Any]] = []
        try:
            for owner in self._owners:
                for name, method in list(vars(owner).items()):
                    door = f"{owner.__name__}.{name}"
                    if inspect.isfunction(method) and door not in self._skipped and self._is_wanted(name):
                        wrapped.append((owner, name, method))
                        setattr(owner, name, self._wrapper(door, method))
            yield
        finally:
            for owner, name, method in wrapped:
                setattr(owner, name, method)

    def targets(self, per_door: int, seed: int, *, doors_max: int | None = None) -> list[Target]:
        """Return calls that were counted, some of each door: all of one that is called seldom, else a seeded choice.

        ``doors_max``: of so many doors, chosen likewise.
        """
        chosen = random.Random(seed)
        doors = sorted(self.counts)
        if doors_max is not None and len(doors) > doors_max:
            doors = sorted(chosen.sample(doors, doors_max))
        return [
            Target(door, number)
            for door in doors
            for number in sorted(chosen.sample(range(1, self.counts[door] + 1), min(per_door, self.counts[door])))
        ]

    @staticmethod
    def _is_wanted(name: str) -> bool:
        return name in ("__call__", "__anext__") or not name.startswith("__")

    def _hit(self, door: str) -> None:
        self.counts[door] += 1
        target = self.target
        if target is not None and target.door == door and self.counts[door] == target.number:
            self.is_met = True
            raise Fault(f"{door} at call {target.number}")

    def _wrapper(self, door: str, method: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(method):

            @functools.wraps(method)
            async def call(*args: Any, **options: Any) -> Any:
                self._hit(door)
                return await method(*args, **options)

        else:

            @functools.wraps(method)
            def call(*args: Any, **options: Any) -> Any:
                self._hit(door)
                return method(*args, **options)

        return call


# ---- the workload --------------------------------------------------------------------------------------------------


async def add(one: int, two: int) -> int:
    return one + two


async def slow(seconds: float) -> float:
    await trio.sleep(seconds)
    return seconds


async def undo(result: Any) -> None:
    await trio.lowlevel.checkpoint()


async def flaky() -> int:
    if current_step().attempt < 3:
        raise ConnectionError("flaky")
    return 7


@workflow(name="c-steps")
async def steps(ctx: Context, count: int) -> int:
    total = 0
    for number in range(count):
        total = await ctx.step("add", add, total, number)
    return total


@workflow(name="c-retries")
async def retries(ctx: Context) -> int:
    return await ctx.step("flaky", flaky, retry=Retry.fixed(3, 2))


@workflow(name="c-sleeps")
async def sleeps(ctx: Context) -> str:
    await ctx.sleep(0.5)
    await ctx.sleep(50)
    return "slept"


@workflow(name="c-listens")
async def listens(ctx: Context) -> list[Any]:
    heard: list[Any] = [await ctx.wait_signal("word"), await ctx.wait_signal("word", timeout=500)]
    try:
        await ctx.wait_signal("never", timeout=3)
    except SignalTimeout:
        heard.append("timeout")
    return heard


@workflow(name="c-branches")
async def branches(ctx: Context) -> list[str]:
    done: list[str] = []

    async def first(branch: Context) -> None:
        await branch.step("slow", slow, 3)
        done.append("first")
        nursery.cancel_scope.cancel()

    async def second(branch: Context) -> None:
        await branch.sleep(300)

    async def third(branch: Context) -> None:
        with trio.CancelScope(shield=True):
            await branch.step("shielded", slow, 5)

    async with ctx.open_nursery() as nursery:
        for fn in (first, second, third):
            nursery.start_soon(fn)
    with ctx.move_on_after(4) as scope:
        await ctx.wait_signal("never")
    return [*done, str(scope.cancelled_caught)]


@workflow(name="c-parent")
async def parent(ctx: Context) -> list[Any]:
    child = await ctx.start_child(sleeps, id=f"{ctx.run_id}-child")
    awaited = await ctx.run_child(steps, 2, id=f"{ctx.run_id}-awaited")
    return [awaited, await child.result()]


@workflow(name="c-maps")
async def maps(ctx: Context) -> list[float]:
    return await ctx.map("map", slow, [0.1, 2.0, 0.2, 1.0], limit=2)


@workflow(name="c-tells")
async def tells(ctx: Context) -> str:
    await ctx.publish("state", 1)
    await ctx.step("add", add, 1, 1)
    await ctx.publish("state", 2)
    await ctx.wait_signal("go")
    return "told"


@workflow(name="c-generations")
async def generations(ctx: Context, number: int) -> str:
    await ctx.step("add", add, number, 1)
    if number < 2:
        await ctx.continue_as_new(number + 1)
    return f"generation {ctx.generation}"


@workflow(name="c-fails")
async def fails(ctx: Context) -> None:
    await ctx.step("add", add, 1, 1, compensate=undo)
    await ctx.step("add", add, 1, 2, compensate=undo)
    raise ValueError("in the end")


@workflow(name="c-endless")
async def endless(ctx: Context) -> None:
    async with ctx.open_nursery() as nursery:
        nursery.start_soon(lonely)
        await ctx.wait_signal("never")


async def lonely(ctx: Context) -> None:
    await ctx.sleep(1_000_000)


@workflow(name="c-expires", ttl=20)
async def expires(ctx: Context) -> None:
    await ctx.wait_signal("never")


@workflow(name="c-transfers")
async def transfers(ctx: Context) -> str:
    await ctx.transaction("row", lambda connection: None)
    return "transferred"


WORKLOAD: Final[tuple[tuple[Workflow[..., Any], tuple[Any, ...]], ...]] = (
    (steps, (4,)),
    (retries, ()),
    (sleeps, ()),
    (listens, ()),
    (branches, ()),
    (parent, ()),
    (maps, ()),
    (tells, ()),
    (generations, (0,)),
    (fails, ()),
    (endless, ()),
    (expires, ()),
    (transfers, ()),
)


class Listening(Observer):
    """Is told, so that the telling is passed through as well."""


@attrs.define
class Outcome:
    """What has come of one trial."""

    ends: dict[str, str]
    parked: list[RunRecord]
    has_opened: bool = True


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """Call something of the engine's; again if the fault is met in it, or while the store is being opened anew."""
    for _ in range(10):
        try:
            return await call()
        except (Fault, trio.ClosedResourceError):
            pass
        except StoreError as error:
            if "ask again" not in str(error):
                raise
        await trio.sleep(1)
    return await call()


async def end_of(engine: Engine, run_id: str) -> str:
    """Return how a run has ended, as text: without since when it was at its last call, which a restart changes."""
    try:
        return repr(await patiently(engine.get(run_id).result))
    except (RunFailed, RunCancelled, RunExpired) as error:
        return f"{type(error).__name__}: {error}".partition(" since ")[0]


async def watch_all(engine: Engine) -> None:
    with contextlib.suppress(Fault):
        async with engine.watch() as changes:
            async for _ in changes:
                pass


async def send(engine: Engine, run_id: str, name: str, payload: Any) -> None:
    with contextlib.suppress(RunFinished):  # it has failed with a fault that was met in its body
        await patiently(functools.partial(engine.send_signal, run_id, name, payload, id=f"{name}-{payload}"))


async def settled(engine: Engine, ids: list[str]) -> list[RunRecord]:
    """Return the parked runs, once every run has ended, is parked, or waits for one that is."""
    parked: list[RunRecord] = []
    for _ in range(100):
        await trio.sleep(20)
        records = []
        for run_id in ids:
            with contextlib.suppress(RunNotFound):  # a child whose parent has failed
                records.append(await patiently(engine.get(run_id).record))
        parked = [record for record in records if record.problem is not None]
        if all(record.status.is_final or record.problem is not None for record in records):
            break
    return parked


async def drive(engine: Engine) -> Outcome:
    """Do all that there is to do with runs, and wait for their ends."""
    ids = [flow.name for flow, _ in WORKLOAD]
    ends: dict[str, str] = {}

    async def note_end(run_id: str) -> None:
        ends[run_id] = await end_of(engine, run_id)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_all, engine)
        for flow, args in WORKLOAD:
            await patiently(functools.partial(engine.start, flow.name, *args, id=flow.name))
        async with trio.open_nursery() as ending:
            for run_id in ids:
                ending.start_soon(note_end, run_id)
            await trio.sleep(1)
            for number in range(2):
                await send(engine, "c-listens", "word", number)
                await trio.sleep(5)
            await send(engine, "c-tells", "go", None)
            await patiently(functools.partial(engine.cancel, "c-endless", reason="enough"))
            parked = await settled(engine, [*ids, "c-parent-child", "c-parent-awaited"])
            for record in parked:
                await patiently(functools.partial(engine.resume, record.id))
        nursery.cancel_scope.cancel()
    return Outcome(ends, parked)


async def trial() -> Outcome:
    """Run the workload in an engine of its own; the caller raises what hangs."""
    outcome: Outcome | None = None
    workflows = [flow for flow, _ in WORKLOAD]
    has_opened = False
    try:
        async with open_engine(
            ":memory:", workflows=workflows, clock=VirtualClock(), observers=[Listening()]
        ) as engine:
            if engine._client.services is None:
                raise trio.ClosedResourceError("it did not open")
            has_opened = True
            with trio.move_on_after(PATIENCE_SECONDS) as patience:
                outcome = await drive(engine)
            if patience.cancelled_caught:
                left = [record async for record in unfinished(engine)]
                raise AssertionError(f"it hangs: {left}")
    except BaseExceptionGroup as group:
        if has_opened or group.split(Fault)[0] is None:
            raise
    except Fault:
        if has_opened:
            raise
    return outcome or Outcome({}, [], has_opened=False)


async def unfinished(engine: Engine) -> Any:
    for run_id in (flow.name for flow, _ in WORKLOAD):
        record = await engine.get(run_id).record()
        if not record.status.is_final:
            yield record


def run_trial(chaos: Chaos, target: Target | None, seed: int = 0) -> Outcome:
    """Run the workload with a fault under a schedule that is always the same."""
    with chaos.armed(target), scheduling(seed):
        return trio.run(trial, clock=MockClock(autojump_threshold=0))
