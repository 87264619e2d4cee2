"""An engine that is cancelled while it is being opened closes again, at whatever place it was."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest
import trio

from durable_trio import Context, Engine, open_engine, workflow
from durable_trio.stores.kinds import make_store
from durable_trio.testing.wrapping import WrappedStore
from tests.engine.harness import PATIENCE_SECONDS

pytestmark = pytest.mark.usefixtures("no_leaks")

# Every millisecond of an opening, and some after it.
INSTANTS = [milliseconds / 1000 for milliseconds in range(0, 40, 2)]


@workflow
async def one(ctx: Context) -> int:
    return 1


async def test_open_engine_can_be_cancelled_at_any_instant(file_path: str) -> None:
    for seconds in INSTANTS:
        with trio.fail_after(PATIENCE_SECONDS), trio.move_on_after(seconds):
            async with open_engine(file_path, workflows=[one]) as engine:
                await engine.run(one)
                await trio.sleep_forever()
    async with open_engine(file_path, workflows=[one]) as engine:
        assert await engine.run(one) == 1


async def test_serve_can_be_cancelled_at_any_instant(file_path: str) -> None:
    for seconds in INSTANTS:
        with trio.fail_after(PATIENCE_SECONDS), trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                await nursery.start(Engine(file_path, workflows=[one]).serve)
                await trio.sleep_forever()
    async with open_engine(file_path, workflows=[one]) as engine:
        assert await engine.run(one) == 1


class Counted(WrappedStore):
    """Knows whether it is open."""

    is_open = False

    def open(self) -> None:
        super().open()
        self.is_open = True

    def close(self) -> None:
        super().close()
        self.is_open = False


@pytest.mark.parametrize("opening", [open_engine, Engine])
async def test_an_engine_in_memory_too(opening: Callable[..., AbstractAsyncContextManager[Engine]]) -> None:
    for passes in range(40):
        store = Counted(make_store(":memory:"))
        with trio.fail_after(PATIENCE_SECONDS), trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def cancel(passes: int, scope: trio.CancelScope) -> None:
                    for _ in range(passes):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()

                nursery.start_soon(cancel, passes, scope)
                async with opening(store, workflows=[one]) as engine:
                    if opening is open_engine:
                        await engine.run(one)
                    await trio.sleep_forever()
        assert not store.is_open, f"after {passes} passes"
