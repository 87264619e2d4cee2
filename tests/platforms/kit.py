"""What tests of other event loops share: each host and loop, and a program in it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Literal, TypeAlias, TypeVar

import pytest
import trio

from tests.engine.harness import PATIENCE_SECONDS
from tests.kit.forks import Forked

T = TypeVar("T")
Kind: TypeAlias = Literal["guest", "thread"]

HOSTS: tuple[Kind, ...] = ("guest", "thread")
LOOPS = ("asyncio", "uvloop")


def make_loop(loop: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes an event loop of that name; skip the test if it is not installed."""
    if loop == "asyncio":
        return asyncio.SelectorEventLoop
    found: Callable[[], asyncio.AbstractEventLoop] = pytest.importorskip("uvloop").new_event_loop
    return found


def run_in(loop: str, main: Callable[[], Coroutine[Any, Any, T]], *, debug: bool = False) -> T:
    """Do as ``asyncio.run`` does, with a loop of that kind; fail if a guest is left in it."""

    async def in_time() -> T:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await main()

    with asyncio.Runner(loop_factory=make_loop(loop), debug=debug) as runner:
        result = runner.run(in_time())
    assert not trio.lowlevel.in_trio_run(), "a guest is left in this thread"
    return result


async def until(condition: Callable[[], object]) -> None:
    """Return once the condition holds; for what no event tells of."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.002)


async def raised(work: Awaitable[object]) -> BaseException:
    """Return what awaiting raises."""
    try:
        await work
    except BaseException as error:
        return error
    raise AssertionError("it has raised nothing")


def wait_for(process: Forked[Any], line: str) -> None:
    """Return once it has printed a line."""
    assert process.stdout is not None
    for said in process.stdout:
        if said.strip() == line:
            return
    raise AssertionError(f"it has ended: {process.communicate()[1]}")
