"""What tests of engines in asyncio share: where such an engine runs, and waits of a program there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal, TypeAlias, TypeVar

T = TypeVar("T")
Kind: TypeAlias = Literal["guest", "thread"]

HOSTS: tuple[Kind, ...] = ("guest", "thread")


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
