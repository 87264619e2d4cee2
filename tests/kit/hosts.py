"""``trio.run`` as a guest of another loop's, so that tests of the engine show that it does not matter to it.

``pytest --host=NAME`` puts one of ``HOSTS`` in the place of ``trio.run``. Processes that tests start have the real one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import pytest
import trio
from outcome import Outcome

from durable_trio.platforms.hosts.asyncio_host import AsyncioHost
from durable_trio.platforms.hosts.driver import Driver

__all__ = ["HOSTS"]


def _run(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
    is_stock: bool,
    async_fn: Callable[..., Awaitable[Any]],
    *args: Any,
    **options: Any,
) -> Any:
    """Do as ``trio.run``, with trio as a guest."""
    if trio.lowlevel.in_trio_run():
        raise RuntimeError("Attempted to call run() from inside a run()")
    loop = new_loop()
    ended: list[Outcome[Any]] = []

    def end(outcome: Outcome[Any]) -> None:
        ended.append(outcome)
        loop.stop()

    def begin() -> None:
        driver = Driver(AsyncioHost(loop), is_stock=is_stock)
        # There is no Ctrl-C of the host's: it is trio's, as in ``trio.run``.
        vars(driver._ctrl_c)["install"] = lambda: None
        driver.start(partial(async_fn, *args), end, **options)

    loop.call_soon(begin)
    try:
        loop.run_forever()
        return ended[0].unwrap()
    finally:
        loop.close()


def _new_uvloop() -> asyncio.AbstractEventLoop:
    loop: asyncio.AbstractEventLoop = pytest.importorskip("uvloop").new_event_loop()
    return loop


#: What can stand in the place of ``trio.run``, by name: with this package's driver, or trio's own ticks.
HOSTS: Final[dict[str, Callable[..., Any]]] = {
    "guest-asyncio": partial(_run, asyncio.new_event_loop, False),
    "guest-uvloop": partial(_run, _new_uvloop, False),
    "stock": partial(_run, asyncio.new_event_loop, True),
}
