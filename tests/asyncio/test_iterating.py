"""What is iterated over in asyncio loses nothing to a cancel that comes when it has given already."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
import trio

from durable_trio import Context, workflow
from durable_trio.asyncio import Events, open_engine
from durable_trio.engine import bulk, watching
from tests.asyncio.kit import Kind

pytestmark = pytest.mark.usefixtures("no_leaks")

Runs = Callable[[Callable[[], Any]], Any]


@workflow
async def waits(ctx: Context) -> None:
    await ctx.wait_signal("never")


class Numbers:
    """In the place of events, which come when they like."""

    _last = 0

    async def __anext__(self) -> int:
        await trio.lowlevel.checkpoint()
        self._last += 1
        return self._last


@pytest.fixture
def next_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """Return where to put what cancels: it is called once, as soon as an iterator of trio's has given something."""
    cancels: list[Callable[[], object]] = []

    def cancelling(cls: type[Any]) -> None:
        given = cls.__anext__

        async def step(self: Any) -> Any:
            value = await given(self)
            if cancels:
                cancels.pop()()
            return value

        monkeypatch.setattr(cls, "__anext__", step)

    for cls in (watching.Changes, bulk.Bulk, Numbers):
        cancelling(cls)
    return cancels


async def taken_after_cancel(iterator: Any, cancels: list[Callable[[], object]]) -> Any:
    """Return what comes after a cancel that has come too late for the iterator, and too soon for who asks it."""

    async def ask() -> Any:
        return await anext(iterator)

    task = asyncio.create_task(ask())
    loop = asyncio.get_running_loop()
    cancels.append(lambda: loop.call_soon_threadsafe(task.cancel))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not cancels
    return await anext(iterator)


def test_a_watch_gives_again_what_a_cancel_has_kept_back(
    run: Runs, host: Kind, next_is_cancelled: list[Callable[[], object]]
) -> None:
    async def main() -> None:
        async with open_engine(":memory:", workflows=[waits], host=host) as engine:
            begun = await engine.start(waits)
            await begun.cancel(wait=True)
            async with engine.watch() as changes:
                task = asyncio.create_task(taken_after_cancel(changes, next_is_cancelled))
                while next_is_cancelled or not task.done():
                    assert changes.cursor is None or task.done(), "the cursor is after what nobody was given"
                    await asyncio.sleep(0)
                record = await task
                assert (record.id, record.status) == (begun.id, "cancelled")
                assert changes.is_present
                assert changes.cursor is not None

    run(main)


def test_a_call_for_many_runs_tells_of_each(
    run: Runs, host: Kind, next_is_cancelled: list[Callable[[], object]]
) -> None:
    async def main() -> None:
        async with open_engine(":memory:", workflows=[waits], host=host) as engine:
            begun = await engine.start(waits)
            progress = await taken_after_cancel(aiter(engine.cancel_runs(workflow=waits)), next_is_cancelled)
            assert progress.run_id == begun.id

    run(main)


def test_no_event_of_the_tree_is_lost(run: Runs, host: Kind, next_is_cancelled: list[Callable[[], object]]) -> None:
    async def main() -> None:
        async with open_engine(":memory:", host=host) as engine:
            events = Events(engine._life.bridge, cast(Any, Numbers()))
            assert await taken_after_cancel(events, next_is_cancelled) == 1
            assert await anext(cast(Any, events)) == 2

    run(main)
