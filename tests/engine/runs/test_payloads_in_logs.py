"""What runs are given, give back and are sent is in no log line: only what the user's own exceptions and lines say."""

from __future__ import annotations

import datetime
import decimal
import enum
import logging
import uuid
from typing import Any, Literal

import pytest

from durable_trio import Context, Engine, Retry, workflow
from tests.engine.harness import serving, wait_until

SECRET = "s3cr3t-4711"


class Color(enum.Enum):
    RED = "red"


TYPES: list[Any] = [
    int,
    bool,
    uuid.UUID,
    datetime.datetime,
    datetime.timedelta,
    decimal.Decimal,
    Color,
    Literal["red"],
    list[int],
    dict[str, int],
    bytes,
    int | None,
]


async def same(value: Any) -> Any:
    return value


async def fail(value: str) -> None:
    raise ValueError("no")


async def nothing_storable(value: str) -> Any:
    return [value, {value, 1}]


async def not_the_same(value: str) -> Literal["red"]:
    return value  # type: ignore[return-value]


async def undo(value: Any) -> None:
    raise OSError("not undone")


@workflow
async def takes(ctx: Context, value: str) -> str:
    await ctx.step("same", same, value, compensate=undo)
    await ctx.step("fail", fail, value, retry=Retry.fixed(2, 0.001))
    return value


@workflow
async def gives(ctx: Context, value: str) -> Any:
    await ctx.step("give", nothing_storable, value)


@workflow
async def gives_another(ctx: Context, value: str) -> Any:
    await ctx.step("give", not_the_same, value)


@workflow
async def ends_with(ctx: Context, value: str) -> Any:
    return [value, int]


def taking(number: int, of: Any) -> list[Any]:
    """Return a workflow that is given such a value, and one that waits for it."""

    async def given(ctx: Context, value: Any) -> None: ...

    async def sent(ctx: Context) -> None:
        await ctx.wait_signal("value", type=of)

    given.__annotations__["value"] = of
    functions: list[Any] = [given, sent]
    return [workflow(name=f"{function.__name__}-{number}")(function) for function in functions]


async def test_no_payload_is_in_a_log_line(file_path: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "durable_trio")
    ids = [f"{kind}-{number}" for number in range(len(TYPES)) for kind in ("given", "sent")]
    others = ["takes", "gives", "gives_another", "ends_with"]
    async with Engine(file_path) as client:  # it does not know the types
        for id in ids:
            run = await client.start(id, *([SECRET] if id.startswith("given") else []), id=id)
            if id.startswith("sent"):
                await run.signal("value", SECRET)
        for name in others:
            await client.start(name, SECRET, id=name)
    workflows = [each for number, of in enumerate(TYPES) for each in taking(number, of)]
    async with serving(file_path, *workflows, takes, gives, gives_another, ends_with):
        await wait_until(
            lambda: len({vars(record).get("run_id") for record in caplog.records}) == len(ids) + len(others)
        )
    for record in caplog.records:
        assert SECRET not in f"{record.getMessage()} {vars(record)}"
