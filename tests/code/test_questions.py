"""Which changes code asks for is found in its compiled body, and in what that names of the project."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import pytest

from durable_trio.code.questions import asks

BY_NAME = "by name"


async def helper(ctx: Any) -> bool:
    return bool(ctx.patched("in a helper", recorded=("step", "pay")))


class Shop:
    async def sell(self, ctx: Any) -> bool:
        return bool(ctx.patched("in a method"))

    @staticmethod
    def weigh(ctx: Any) -> bool:
        return bool(ctx.patched("in a static method"))


async def body(ctx: Any, count: int = 1) -> list[Any]:
    """No question: ctx.patched("in a text")."""

    async def within(branch: Any) -> None:
        branch.patched(BY_NAME)

    ctx.log.info("as a text", json.dumps(count))
    found = [ctx.patched("once"), ctx.patched(change_id="by keyword"), await helper(ctx), Shop.weigh(ctx)]
    return [*found, within, *(ctx.patched("in a loop") for _ in range(count))]


def made(change_id: str) -> Callable[..., Any]:
    async def flow(ctx: Any) -> bool:
        return bool(ctx.patched(change_id))

    return flow


async def computed(ctx: Any, number: int) -> bool:
    return bool(ctx.patched(f"change {number}"))


async def both(ctx: Any, number: int) -> bool:
    return await computed(ctx, number) or bool(ctx.patched("once"))


async def endless(ctx: Any) -> None:
    await endless(ctx)


@pytest.mark.parametrize(
    ("function", "change_id", "expected"),
    [
        *((body, each, True) for each in ("once", "by keyword", "in a helper", "in a static method", BY_NAME)),
        (body, "in a loop", True),
        (body, "as a text", False),
        (body, "in a text", False),
        (Shop().sell, "in a method", True),
        (functools.partial(body, count=2), "once", True),
        (made("in a closure"), "in a closure", True),
        (made("in a closure"), "another", False),
        (computed, "change 1", None),
        (computed, "change ", None),
        (both, "once", True),
        (both, "another", None),
        (endless, "once", False),
        (len, "once", False),
    ],
)
def test_a_question_is_found_wherever_it_stands(
    function: Callable[..., Any], change_id: str, expected: bool | None
) -> None:
    assert asks(function, change_id) is expected
