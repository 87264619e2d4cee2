"""The virtual clock of users' tests."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from durable_trio import Context, open_engine, workflow
from durable_trio.testing import VirtualClock


@workflow
async def sleeps_a_week(ctx: Context) -> int:
    await ctx.sleep(7 * 86_400)
    return 1


async def run_it(clock: VirtualClock | None = None) -> int:
    async with open_engine(":memory:", workflows=[sleeps_a_week], clock=clock or VirtualClock()) as engine:
        return await engine.run(sleeps_a_week)


def test_under_the_real_clock_it_is_refused_with_the_line_to_write() -> None:
    """Whether it is made in the trio run or before."""
    for clock in (None, VirtualClock()):
        with pytest.raises(RuntimeError, match=r"clock=trio\.testing\.MockClock\(autojump_threshold=0\)"):
            trio.run(run_it, clock)


def test_made_before_the_run_it_leaps_with_the_mock_clock() -> None:
    assert trio.run(run_it, VirtualClock(), clock=MockClock(autojump_threshold=0)) == 1
