"""What an engine does with a workflow that it was not given."""

from __future__ import annotations

import pytest

from durable_trio import Context, Engine, RunStatus, UnknownWorkflow, open_engine, workflow


@workflow
async def known(ctx: Context) -> int:
    return 1


@workflow
async def unknown(ctx: Context, number: int) -> int:
    return number


async def test_an_engine_that_executes_refuses_one_and_stores_nothing() -> None:
    async with open_engine(":memory:", workflows=[known]) as engine:
        with pytest.raises(UnknownWorkflow, match=r"'unknown'.*workflows="):
            await engine.start(unknown, 1)
        assert (await engine.list_runs()).runs == ()


async def test_an_engine_that_executes_starts_one_by_its_name_for_another_process() -> None:
    async with open_engine(":memory:", workflows=[known]) as engine:
        run = await engine.start("unknown", 1)
        assert (await run.record()).status is RunStatus.PENDING
        assert (await engine.status()).unknown_workflows == {"unknown": 1}


async def test_a_client_starts_any(file_path: str) -> None:
    async with Engine(file_path) as client:
        run = await client.start(unknown, 7)
    async with open_engine(file_path, workflows=[unknown]) as engine:
        assert await engine.get(run.id, unknown).result() == 7
