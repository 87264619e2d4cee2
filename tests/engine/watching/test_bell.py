"""While nobody else has the database nobody looks for their commits; and a bell rings when somebody comes."""

from __future__ import annotations

import fcntl
import sys

import pytest
import trio

from durable_trio import Engine, RunStatus, open_engine
from durable_trio.limits import FEED_INTERVAL_SECONDS
from durable_trio.stores.sqlite import SqliteStore, neighbours
from tests.engine.harness import PATIENCE_SECONDS, serving
from tests.engine.watching.kit import gather_until, nothing_more, quick, waiter

pytestmark = [
    pytest.mark.on_sqlite("how it notices who else has the file"),
    pytest.mark.usefixtures("no_leaks"),
    pytest.mark.skipif(
        not (sys.platform == "linux" and hasattr(fcntl, "F_OFD_SETLK")), reason="here the system does not tell"
    ),
]


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When it was looked for commits of others; who comes is known at once."""
    monkeypatch.setattr(neighbours, "_SETTLED_SECONDS", 0.0)
    monkeypatch.setattr("durable_trio.engine.services.feed._RINGING_SECONDS", 0.1)
    looks: list[float] = []
    look = SqliteStore.foreign_changes

    def noted(store: SqliteStore) -> bool | None:
        looks.append(trio.current_time())
        return look(store)

    monkeypatch.setattr(SqliteStore, "foreign_changes", noted)
    return looks


async def wait_alone(looks: list[float]) -> None:
    """Return once nobody has looked for as long as a dozen looks would have taken."""
    with trio.fail_after(PATIENCE_SECONDS):
        while not looks or trio.current_time() - looks[-1] < 12 * FEED_INTERVAL_SECONDS:  # noqa: ASYNC110
            await trio.sleep(FEED_INTERVAL_SECONDS)


async def test_an_engine_that_has_the_database_to_itself_looks_for_nobody_and_still_runs_and_shows_all(
    file_path: str, looks: list[float]
) -> None:
    async with serving(file_path, quick, waiter) as engine:
        await wait_alone(looks)
        before = len(looks)
        assert await engine.run(quick, 1) == 1
        run = await engine.start(waiter, 1)
        await run.signal("go", 2)
        assert await run.result() == [2]
        assert len(looks) == before  # nobody watches
        async with engine.watch(status=RunStatus.COMPLETED) as changes:
            later = await engine.start(waiter, 1)
            await later.signal("go", 3)
            records = await gather_until(changes, lambda record: record.id == later.id)
            assert len(records) == 3
            assert await nothing_more(changes)
        await wait_alone(looks)


async def test_whoever_comes_is_noticed_at_once_and_also_what_he_does_later(file_path: str, looks: list[float]) -> None:
    async with serving(file_path, quick, waiter) as engine:
        await wait_alone(looks)
        with trio.fail_after(PATIENCE_SECONDS):
            async with Engine(file_path) as client:
                assert await (await client.start(quick, 1)).result() == 1
                run = await client.start(waiter, 1)
                await trio.sleep(0.3)  # longer than a bell counts: that he is there is known
                await run.signal("go", 2)
                assert await run.result() == [2]
            await wait_alone(looks)
        assert await engine.run(quick, 3) == 3


async def test_a_watcher_that_is_alone_is_told_of_a_server_that_comes_and_of_what_it_does(
    file_path: str, looks: list[float]
) -> None:
    async with Engine(file_path) as client:
        run = await client.start(quick, 1)
        async with run.watch() as changes:
            await wait_alone(looks)
            async with open_engine(file_path, workflows=[quick]):
                records = await gather_until(changes, lambda record: record.status.is_final)
    assert records[-1].status is RunStatus.COMPLETED
