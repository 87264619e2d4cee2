"""How long the ways of a step, a start and a signal are: counted in calls, so that none grows without being seen.

What is counted are calls of this library's own functions, and how often the next one is in another file: what somebody
who follows the way has to read, and what the interpreter has to do. A coroutine counts each time that it goes on. Time
is not measured. A bound may be lowered by whoever shortens a way; who raises one says why.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from types import FrameType
from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock

import durable_trio
from durable_trio import Context, open_engine, workflow
from durable_trio.testing import VirtualClock
from durable_trio.testing.schedule import scheduling

_ROOT: Final = os.path.dirname(os.path.abspath(durable_trio.__file__)) + os.sep
_TESTING: Final = os.path.join(_ROOT, "testing") + os.sep  # such as the clock: not what a user's program goes through
#: By flow: calls, and changes of file. One call of a step notes that it is executing, for whoever looks or comes after,
#: and one of a start makes the run's record as all stores have it.
#: A signal is what happens from its sending on; a wait all of it, with its own commit, and with the beginning of what
#: the sender does next, which waits for the result.
_BOUNDS: Final = {"step": (45, 28), "start": (51, 36), "signal": (68, 33), "wait": (110, 60)}
#: Trio's order of tasks decides who else gets to do something on the way.
_SEEDS: Final = range(6)


class Counter:
    """Counts the calls of our functions in a flow, from its begin to its end."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[int, int]] = {}
        self._files: list[str] | None = None

    def begin(self) -> None:
        self._files = []

    def end(self, flow: str) -> None:
        files, self._files = self._files or [], None
        changes = sum(one != other for one, other in pairwise(files))
        self.found[flow] = (len(files), changes)

    @contextmanager
    def counting(self) -> Iterator[None]:
        before = sys.getprofile()
        sys.setprofile(self._profile)
        try:
            yield
        finally:
            sys.setprofile(before)

    def _profile(self, frame: FrameType, event: str, _: Any) -> None:
        name = frame.f_code.co_filename
        if event == "call" and self._files is not None and name.startswith(_ROOT) and not name.startswith(_TESTING):
            self._files.append(name)


async def nothing() -> int:
    return 1


async def _go_ways(counter: Counter) -> None:
    """Let a run make a step and take a signal, each for the second time, and start another run."""

    @workflow(name="steps")
    async def steps(ctx: Context) -> None:
        await ctx.step("warm", nothing)
        counter.begin()
        await ctx.step("pay", nothing)
        counter.end("step")
        for name in ("warm", "go"):
            await ctx.wait_signal(name, timeout=0.9)
        counter.end("signal")
        counter.begin()
        await ctx.wait_signal("once more", timeout=0.9)
        counter.end("wait")

    @workflow(name="starts")
    async def starts(ctx: Context) -> None:
        counter.end("start")

    async with open_engine(":memory:", workflows=[steps, starts], clock=VirtualClock()) as engine:
        for _ in range(2):
            run = await engine.start(steps)
            await trio.sleep(0.1)
            await run.signal("warm")
            await trio.sleep(0.1)
            counter.begin()
            await run.signal("go")
            await trio.sleep(0.1)
            await run.signal("once more")
            await run.result()
            counter.begin()
            await engine.start(starts)
            await trio.sleep(0.1)


@pytest.mark.parametrize("flow", _BOUNDS)
def test_a_way_is_no_longer_than_it_was(flow: str) -> None:
    counts = []
    for seed in _SEEDS:
        counter = Counter()
        with scheduling(seed), counter.counting():
            trio.run(_go_ways, counter, clock=MockClock(autojump_threshold=0))
        counts.append(counter.found[flow])
    calls, changes = max(calls for calls, _ in counts), max(changes for _, changes in counts)
    assert (calls, changes) <= _BOUNDS[flow], counts
    assert changes <= _BOUNDS[flow][1], counts
