"""A process that dies at one instant, for tests of what others tell in its stead: ``dies.py DATABASE WHERE EVENTS``.

Its observer writes a line for each event about an attempt.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import attrs
import trio

from durable_trio import Context, Observer, Retry, Workflow, open_engine, workflow
from durable_trio.calls.step import FunctionCall
from durable_trio.engine.runs import untold
from durable_trio.engine.runs.ending import Ending
from durable_trio.engine.runs.run_log import RunLog
from durable_trio.engine.services.deaths import Deaths
from durable_trio.rows import Key
from durable_trio.turns.turns import Turns
from tests.kit import stores


def die(*_: Any, **__: Any) -> Any:
    """End the process as ``kill -9`` does."""
    os.kill(os.getpid(), signal.SIGKILL)


async def first() -> int:
    return 1


async def second() -> int:
    if WHERE == "inside":
        die()
    return 2


async def bad() -> None:
    raise ValueError("boom")


@workflow(name="steps")
async def steps(ctx: Context) -> int:
    await ctx.step("first", first)
    await ctx.step("second", second)
    return 3


async def third_dies(item: int) -> int:
    if item == 2 and WHERE == "inside":
        die()
    return item


@workflow(name="maps")
async def maps(ctx: Context) -> int:
    await ctx.map("items", third_dies, range(4))
    return 3


@workflow(name="fails")
async def fails(ctx: Context) -> None:
    await ctx.step("bad", bad, retry=Retry.fixed(2, 0.0))


@workflow(name="parks", strict=True)
async def parks(ctx: Context) -> None:
    await ctx.step("first", first)
    await trio.sleep(60)  # which is not durable


@workflow(name="expires")
async def expires(ctx: Context) -> None:
    await ctx.wait_signal("never")


async def undo(_: object) -> None:
    raise OSError("no way back")


@workflow(name="undoes")
async def undoes(ctx: Context) -> None:
    for name in ("undone last", "undone first"):
        await ctx.step(name, first, compensate=undo)
    raise ValueError("in the end")


WORKFLOWS: list[Workflow[Any, Any]] = [steps, maps, fails, parks, expires, undoes]
WHERE = ""


class Writing(Observer):
    """Writes ``hook key attempt reason is_replay`` for each event about an attempt."""

    def __init__(self, path: str) -> None:
        self._path = path

    def _write(self, event: Any) -> None:
        parts = (event.name, event.key, event.attempt, getattr(event, "reason", "-"), event.is_replay)
        with open(self._path, "a") as file:
            file.write(" ".join(map(str, parts)) + "\n")

    step_started = step_ended = step_retried = attempt_interrupted = _write


def arrange(where: str) -> None:
    """Have the process die there."""
    global WHERE
    WHERE = where
    if where == "before the commit":
        succeed = FunctionCall._succeed

        def succeed_or_die(self: FunctionCall, value: Any) -> None:
            succeed(self, value) if self.key.name != "second" else die()

        FunctionCall._succeed = succeed_or_die  # type: ignore[method-assign]
    elif where == "after the commit":
        committed = Turns.committed

        def commit_or_die(self: Turns, result: Any, row: Any, call: Any) -> None:
            committed(self, result, row, call) if row.key.name != "second" else die()

        Turns.committed = commit_or_die  # type: ignore[method-assign]
    elif where == "before it is told":
        RunLog.ended = RunLog.parked = die  # type: ignore[method-assign]
    elif where == "before the last is told":
        failed = RunLog.compensation_failed

        def tell_or_die(self: RunLog, step: Key, attempt: int, error: str) -> None:
            failed(self, step, attempt, error) if step.name != "undone last" else die()

        RunLog.compensation_failed = tell_or_die  # type: ignore[method-assign]
    elif where == "in the last":
        compensate = Ending._compensate

        async def compensate_or_die(self: Ending, number: int, item: Any, errors: list[str]) -> None:
            if item.step.name == "undone last":
                item = attrs.evolve(item, fn=die)
            await compensate(self, number, item, errors)

        Ending._compensate = compensate_or_die  # type: ignore[method-assign]
    elif where == "before it tells of another one":
        Deaths.tell = die  # type: ignore[method-assign]
    elif where == "as it tells of another one":
        untold._tell = die


async def main(database: str, events: str, name: str, ttl: float | None) -> None:
    """Start the run and wait for its end."""
    observers: list[Observer] = [Writing(events)] if events else []
    async with open_engine(database, workflows=WORKFLOWS, observers=observers) as engine:
        await (await engine.start(name, id="r", ttl=ttl)).result()


if __name__ == "__main__":
    _, path, at, written, which = sys.argv
    stores.offer()
    arrange(at)
    trio.run(main, path, written, which, 0.2 if which == "expires" else None)
