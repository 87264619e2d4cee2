"""What a step's function can ask about itself."""

from __future__ import annotations

import logging

import pytest

from durable_trio import Context, Retry, current_step, workflow
from tests.engine.harness import serving

pytestmark = pytest.mark.usefixtures("no_leaks")


@workflow
async def tries(ctx: Context, in_thread: bool) -> list[int]:
    def work() -> list[int]:
        step = current_step()
        step.log.warning("attempt %d of %d", step.attempt, step.max_attempts)
        if step.attempt < step.max_attempts:
            raise OSError("not yet")
        return [step.attempt, step.max_attempts]

    async def work_here() -> list[int]:
        return work()

    return await ctx.step("try", work if in_thread else work_here, retry=Retry.fixed(3, 0))


@pytest.mark.parametrize("in_thread", [False, True])
async def test_it_knows_its_attempts_and_logs_with_its_name(caplog: pytest.LogCaptureFixture, in_thread: bool) -> None:
    async with serving(":memory:", tries) as engine:
        assert await engine.run(tries, in_thread, id="r") == [3, 3]
    lines = [record for record in caplog.records if record.name == "durable_trio.run"]
    assert [record.getMessage() for record in lines] == ["attempt 1 of 3", "attempt 2 of 3", "attempt 3 of 3"]
    assert [(record.__dict__["run_id"], record.__dict__["step"]) for record in lines] == [("r", "try#0")] * 3
    assert [record.__dict__["attempt"] for record in lines] == [1, 2, 3]
    assert {record.levelno for record in lines} == {logging.WARNING}


@workflow
async def once(ctx: Context) -> int:
    return await ctx.step("once", lambda: current_step().max_attempts)


async def test_without_a_retry_it_has_one_attempt() -> None:
    async with serving(":memory:", once) as engine:
        assert await engine.run(once) == 1


def test_outside_of_a_step_there_is_none() -> None:
    with pytest.raises(RuntimeError, match="inside the function of a step"):
        current_step()
