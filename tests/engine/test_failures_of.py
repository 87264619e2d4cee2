"""Exceptions come back as those of the workflow that they are asked for."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

from durable_trio import Context, Engine, FailureRecord, RunFailed, open_engine, workflow


def module(name: str) -> Any:
    """Return a module that has an exception, and a workflow that raises it, of the same names as any other."""
    made = types.ModuleType(name)

    class OrderError(Exception):
        pass

    async def order(ctx: Context) -> None:
        raise OrderError("no stock")

    OrderError.__module__ = order.__module__ = name
    OrderError.__qualname__ = "OrderError"
    vars(made).update(OrderError=OrderError, order=workflow(order))
    return made


async def test_a_client_may_know_two_workflows_of_one_name(file_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, other = module("durable_trio_mine"), module("durable_trio_other")
    for each in (mine, other):
        monkeypatch.setitem(sys.modules, each.__name__, each)
    async with open_engine(file_path, workflows=[mine.order]) as engine:
        await engine.start(mine.order, id="run")
        with pytest.raises(RunFailed):
            await engine.get("run").result()
    async with Engine(file_path) as client:
        for known, cls in ((other.order, FailureRecord), (mine.order, mine.OrderError)):
            with pytest.raises(RunFailed) as caught:
                await client.get("run", known).result()
            assert type(caught.value.error) is cls
