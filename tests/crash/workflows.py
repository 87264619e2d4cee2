"""Workflows that use everything there is, and witness it: each call and each outcome goes to the acknowledgements, each
effect to the ledger. Their results depend on nothing but their arguments, save for keys that begin with ``~``.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Awaitable, Callable
from functools import singledispatch
from typing import Any, ParamSpec, TypeVar

import anyio
import psycopg
import trio

from durable_trio import (
    Context,
    Retry,
    RunExpired,
    RunFailed,
    SignalTimeout,
    StepInterrupted,
    Workflow,
    current_step,
    workflow,
)
from durable_trio.asyncio import from_asyncio
from durable_trio.rows import escape
from durable_trio.testing.probes import kill_self
from tests.crash.logs import Logs

LOGS: list[Logs] = []  # the one of this process
_SHORT = 0.01  # seconds that a service takes


HOLDS: list[bool] = [False]  # whether the steps of a sequence do not end in this process
IN_ASYNCIO: list[bool] = [False]  # whether this process has a loop of asyncio's around the engine

P = ParamSpec("P")
R = TypeVar("R")


def use(logs: Logs, *, in_asyncio: bool = False) -> None:
    """Write to these logs from now on."""
    LOGS[:] = [logs]
    IN_ASYNCIO[:] = [in_asyncio]


def in_either(fn: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
    """Make a function a step of asyncio's in a process that has such a loop, and of trio's elsewhere."""
    in_asyncio = from_asyncio(fn)

    @functools.wraps(fn)
    async def step(*args: P.args, **kwargs: P.kwargs) -> R:
        return await (in_asyncio if IN_ASYNCIO[0] else fn)(*args, **kwargs)

    return step


def note(**fields: Any) -> None:
    """Note that the function of the current step has begun."""
    LOGS[0].effect(**fields)


class Witness:
    """A context whose calls are noted before they begin and after they have returned."""

    def __init__(self, ctx: Context) -> None:
        self.ctx = ctx
        self._counts: dict[str, int] = {}

    def _ask(self, step: str, what: str, **fields: Any) -> str:
        n = self._counts.get(step, 0)
        self._counts[step] = n + 1
        key = f"{escape(step)}#{n}"
        LOGS[0].ack("ask", self.ctx.run_id, key=key, what=what, **fields)
        return key

    async def _outcome(self, key: str, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        try:
            value = await call(*args, **options)
        except RunExpired:
            raise  # the call has not begun
        except Exception as error:
            LOGS[0].ack("outcome", self.ctx.run_id, key=key, error=str(error))
            raise
        LOGS[0].ack("outcome", self.ctx.run_id, key=key, value=value)
        return value

    async def step(self, name: str, fn: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """See ``Context.step``."""
        key = self._ask(name, "step", compensate="compensate" in options, at_most_once="at_most_once" in options)
        return await self._outcome(key, self.ctx.step, name, fn, *args, **options)

    async def transaction(self, name: str, fn: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """See ``Context.transaction``."""
        key = self._ask(name, "transaction", compensate="compensate" in options)
        return await self._outcome(key, self.ctx.transaction, name, fn, *args, **options)

    async def sleep(self, seconds: float) -> None:
        """See ``Context.sleep``."""
        key = self._ask("sleep", "sleep", seconds=seconds)
        await self._outcome(key, self.ctx.sleep, seconds)

    async def wait_signal(self, name: str, *, timeout: float | None = None) -> Any:
        """See ``Context.wait_signal``."""
        key = self._ask(name, "signal", seconds=timeout, name=name)
        return await self._outcome(key, self.ctx.wait_signal, name, timeout=timeout)

    async def publish(self, key: str, value: Any) -> None:
        """See ``Context.publish``."""
        await self.ctx.publish(key, value)
        LOGS[0].ack("publish", self.ctx.run_id, key=key, value=value)


# ---- step functions --------------------------------------------------------------------------------------------------


@in_either
async def add(a: int, b: int) -> int:
    """Ask a service for a sum."""
    note()
    await anyio.sleep(_SHORT)
    return a + b


def add_in_thread(a: int, b: int) -> int:
    """The same, without trio."""
    note()
    time.sleep(_SHORT)
    return a + b


@in_either
async def fail_twice(value: int) -> int:
    """Ask a service that answers at the third attempt."""
    note()
    if current_step().attempt < 3:
        raise ConnectionError("the service is away")
    return value


async def refuse() -> None:
    """Ask a service that never answers."""
    note()
    raise ConnectionRefusedError("the service is gone")


@in_either
async def once(value: int) -> int:
    """Do what must not be done twice."""
    note(at_most_once=True)
    await anyio.sleep(_SHORT * 3)
    return value


def insert(connection: Any, value: int) -> int:
    """Insert a row of the user's for the current step."""
    step = current_step()
    _note_effect(connection, step.run_id, step.key, value)
    return value


@singledispatch
def _note_effect(connection: Any, run_id: str, key: str, value: int) -> None:
    connection.execute("CREATE TABLE IF NOT EXISTS effects (run TEXT, key TEXT, value INTEGER)")
    connection.execute("INSERT INTO effects VALUES (?, ?, ?)", (run_id, key, value))


@_note_effect.register
def _(connection: psycopg.Connection, run_id: str, key: str, value: int) -> None:
    # Several may come at once, and two that make it would disturb each other.
    connection.execute("SELECT pg_advisory_xact_lock(1)")
    connection.execute("CREATE TABLE IF NOT EXISTS effects (run text, key text, value integer)")
    connection.execute("INSERT INTO effects VALUES (%s, %s, %s)", (run_id, key, value))


def insert_and_fail(connection: Any, value: int) -> int:
    """Insert a row and think better of it."""
    insert(connection, value)
    raise ValueError("not this one")


@in_either
async def undo(result: Any) -> None:
    """Undo a step."""
    note(argument=result)
    await anyio.sleep(_SHORT)


def undo_in_thread(result: Any) -> None:
    """The same, without trio."""
    note(argument=result)


async def undo_at_second(result: Any) -> None:
    """Undo a step at the second attempt."""
    note(argument=result)
    if current_step().attempt < 2:
        raise ConnectionError("the service is away")


@in_either
async def undo_never(result: Any) -> None:
    """Fail to undo a step."""
    note(argument=result)
    raise ConnectionRefusedError("the service is gone")


# ---- workflows -------------------------------------------------------------------------------------------------------


@workflow
async def order(ctx: Context, n: int) -> dict[str, Any]:
    """Steps of all kinds, one after the other, with equal names in a loop."""
    do = Witness(ctx)
    total = 0
    for i in range(3):
        total += await do.step("add", add if i % 2 else add_in_thread, n, i)
    await do.publish("progress", 1)
    total += await do.step("retried", fail_twice, n, retry=Retry.fixed(4, 0.03))
    try:
        await do.step("refused", refuse)
    except ConnectionRefusedError:
        total += 100
    total += await do.transaction("insert", insert, n)
    try:
        await do.transaction("insert", insert_and_fail, n)
    except ValueError:
        total += 1000
    await do.sleep(0.05)
    await do.publish("progress", 2)
    return {"total": total}


@workflow
async def mail(ctx: Context, count: int) -> dict[str, Any]:
    """Take signals that may come at any time; the run leaves memory while it waits."""
    do = Witness(ctx)
    found = []
    for _ in range(count):
        found.append(await do.wait_signal("mail"))
        await do.step("read", add, 1, 1)
    return {"found": sorted(found), "~order": found}


@workflow
async def race(ctx: Context, timeout: float) -> dict[str, Any]:
    """Signals against timeouts: either may win, none may be lost."""
    do = Witness(ctx)
    answers: list[Any] = []
    while len(answers) < 2:
        try:
            answers.append(await do.wait_signal("answer", timeout=timeout))
        except SignalTimeout:
            await do.step("remind", add, 0, 0)
    try:
        await do.wait_signal("never", timeout=timeout)
    except SignalTimeout:
        return {"answers": sorted(answers)}
    return {}


@workflow
async def saga(ctx: Context, how: str) -> str:
    """Steps with compensation, and each way in which a run can end after them."""
    do = Witness(ctx)
    for i in range(2):
        await do.step("book", add, i, 1, compensate=undo if i else undo_in_thread)
    await do.transaction("enter", insert, 7, compensate=undo_never)
    await do.step("pay", add, 3, 4, compensate=undo_at_second, compensate_retry=Retry.fixed(3, 0.02))
    await do.step("print", add_in_thread, 1, 2)
    if how == "fail":
        await do.step("refused", refuse, compensate=undo)
    elif how == "raise":
        raise ValueError("the customer has gone")
    elif how == "cancel":
        await do.wait_signal("never")
    elif how == "expire":
        await do.sleep(60)
    return how


@workflow
async def tree(ctx: Context, n: int) -> dict[str, Any]:
    """Branches, a map, deadlines and children; what is ready first comes first, live and at replay."""
    arrived: list[int] = []
    unfinished: list[bool] = []

    async def branch(ctx: Context, i: int) -> None:
        await ctx.step("add", add, i, 1)
        arrived.append(await ctx.step("add", add_in_thread if i % 2 else add, i, 10))

    async def hurried(ctx: Context) -> None:
        with ctx.move_on_after(0.06) as scope:
            await ctx.step("add", add, 0, 0)
            await ctx.sleep(30)
        unfinished.append(scope.cancelled_caught)

    async with ctx.open_nursery() as nursery:
        for i in range(3):
            nursery.start_soon(branch, i)
        nursery.start_soon(hurried)
    doubled = await ctx.map("double", double, range(4), limit=2)
    child = await ctx.run_child(sequence, 2, 0.01)
    other = await ctx.start_child(saga, "raise")
    try:
        await other.result()
    except RunFailed:
        child += 1000
    with ctx.move_on_after(0.05):
        await ctx.run_child(mail, 1)
        unfinished.append(False)
    await ctx.step("last", add, n, 0)
    return {"arrived": sorted(arrived), "~order": arrived, "doubled": doubled, "child": child, "left": unfinished}


async def double(i: int) -> int:
    """Ask a service for a product."""
    note()
    await trio.sleep(_SHORT)
    return 2 * i


@workflow
async def careful(ctx: Context, n: int) -> dict[str, Any]:
    """Steps that must not run twice; interrupted ones are known to be."""
    do = Witness(ctx)
    done = 0
    for i in range(3):
        try:
            done += await do.step("once", once, n + i, at_most_once=True)
        except StepInterrupted:
            done += 0
    return {"n": n, "~done": done}


@workflow
async def drifting(ctx: Context, n: int) -> int:
    """Code that has changed when the run goes on, until somebody mends it."""
    mended = LOGS[0].directory / f"mended-{ctx.run_id}"
    do = Witness(ctx)
    name = "first" if not ctx.replaying or mended.exists() else "other"
    await do.step(name, add, n, 1)
    await do.wait_signal("go")
    return n


@workflow
async def broken(ctx: Context, n: int) -> int:
    """A run that fails until somebody mends it, and is resumed."""
    return int(await Witness(ctx).step("repair", repair, n))


async def repair(n: int) -> int:
    """Fail until it is mended."""
    note()
    if not (LOGS[0].directory / f"mended-{current_step().run_id}").exists():
        raise RuntimeError("this needs a hand")
    return n


@workflow
async def scrap(ctx: Context, n: int) -> int:
    """A run that is removed after its end."""
    return int(await Witness(ctx).step("add", add, n, 1))


@workflow
async def napper(ctx: Context, seconds: float) -> str:
    """A sleep that is long enough to leave memory for."""
    do = Witness(ctx)
    await do.step("add", add, 1, 1)
    await do.sleep(seconds)
    await do.step("add", add, 1, 2)
    return "rested"


@workflow
async def sequence(ctx: Context, count: int, seconds: float) -> int:
    """Some steps of some length."""
    do = Witness(ctx)
    total = 0
    for i in range(count):
        total += await do.step("work", work, i, seconds)
    return total


async def work(i: int, seconds: float) -> int:
    """Work for some seconds, or until the process is ended."""
    note()
    await trio.sleep(float("inf") if HOLDS[0] else seconds)
    return i


@workflow
async def contested(ctx: Context, count: int, seconds: float) -> list[int]:
    """Steps that tell which process has done them."""
    do = Witness(ctx)
    return [await do.step("who", who, seconds) for _ in range(count)]


async def who(seconds: float) -> int:
    """Return the process after some seconds of a thread that no stop of the event loop holds up."""
    note()
    await trio.sleep(seconds)
    return os.getpid()


@workflow(max_recoveries=3)
async def poison(ctx: Context, n: int) -> None:
    """A run that kills its process."""
    await Witness(ctx).step("poison", kill_here)


async def kill_here() -> None:
    """Kill this process."""
    note()
    kill_self()


ALL: tuple[Workflow[..., Any], ...] = (
    order,
    mail,
    race,
    saga,
    tree,
    careful,
    drifting,
    broken,
    scrap,
    napper,
    sequence,
    contested,
    poison,
)
