"""An engine whose runs a table of the user's refers to goes on, and says which of them it cannot remove."""

from __future__ import annotations

import logging
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
import trio

from durable_trio import Context, RunConflict, workflow
from durable_trio.engine.services import janitor
from tests.engine.harness import PATIENCE_SECONDS, serving

pytestmark = [pytest.mark.usefixtures("no_leaks"), pytest.mark.on_sqlite("a table of the user refers to its tables")]

COUNT = 600


async def same(number: int) -> int:
    return number


@workflow
async def long(ctx: Context) -> None:
    await ctx.map("same", same, range(COUNT))


@workflow
async def ordering(ctx: Context) -> None:
    def order(connection: object) -> None:
        connection.execute("CREATE TABLE IF NOT EXISTS orders (run TEXT REFERENCES runs (id))")  # type: ignore[attr-defined]
        connection.execute("INSERT INTO orders VALUES (?)", (ctx.run_id,))  # type: ignore[attr-defined]

    await ctx.transaction("order", order)


async def test_prune_passes_over_what_it_cannot_remove_and_delete_says_why(
    file_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(file_path, ordering, long) as engine:
        with trio.fail_after(PATIENCE_SECONDS):
            await engine.run(ordering, id="kept")
            await engine.run(long, id="other")
            with pytest.raises(RunConflict, match="'orders' refers to it") as caught:
                await engine.delete("kept")
            assert caught.value.run_id == "kept"
            assert await engine.prune(datetime.now(UTC) + timedelta(days=1)) == 1
    assert [line for line in caplog.messages if "'kept' cannot be removed" in line] == caplog.messages


async def test_the_janitor_names_once_what_it_cannot_remove_and_the_engine_goes_on(
    file_path: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING)
    async with serving(file_path, long) as engine:
        with trio.fail_after(PATIENCE_SECONDS):
            await engine.run(long, id="removed")
            await engine.run(long, id="other")
        with closing(engine.connect()) as connection, connection:
            for statement in (
                "CREATE TABLE orders (run INTEGER PRIMARY KEY REFERENCES runs (run) ON DELETE CASCADE)",
                "CREATE TABLE items (run REFERENCES orders (run))",
                "INSERT INTO orders SELECT run FROM runs WHERE id = 'removed'",
                "INSERT INTO items SELECT run FROM orders",
            ):
                connection.execute(statement)
        await engine.delete("removed")
        await engine.delete("other")
    looks = 0
    finished = trio.Event()
    sweep = janitor.sweep

    async def noting(*args: object, **options: object) -> object:
        nonlocal looks
        found = await sweep(*args, **options)  # type: ignore[arg-type]
        looks += 1
        if looks == 3:
            finished.set()
        return found

    monkeypatch.setattr(janitor, "sweep", noting)
    monkeypatch.setattr(janitor, "_FIRST_LOOK_SECONDS", 0)
    monkeypatch.setattr(janitor, "_LOOK_SECONDS", 0.01)
    async with serving(file_path, long) as engine:
        with trio.fail_after(PATIENCE_SECONDS):
            await finished.wait()
            await engine.run(long)
        with closing(engine.connect()) as connection:
            count = connection.execute("SELECT count(*) FROM runs WHERE hidden_at IS NOT NULL").fetchone()
    assert count == (1,)
    assert len([line for line in caplog.messages if "'removed' cannot be removed" in line]) == 1
