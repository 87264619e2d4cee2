"""Event loops of asyncio's interface, for tests that run in each of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from importlib.util import find_spec
from typing import Any, TypeVar

import pytest
import trio

from tests.engine.harness import PATIENCE_SECONDS

__all__ = ["LOOPS", "begin_loops", "make_loop", "run_in"]

T = TypeVar("T")

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


def begin_loops() -> None:
    """Open what libuv opens with its first loop, and keeps: a pipe for signals, which no test has left behind."""
    if find_spec("uvloop"):  # else what needs it is skipped, and nothing more
        make_loop("uvloop")().close()
