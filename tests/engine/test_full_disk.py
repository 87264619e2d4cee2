"""A full disk: callers are told, and what runs have done is kept until there is room."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from durable_trio import Context, Engine, StoreFull, workflow
from tests.engine.disks import mount, open_client, quick, unmount
from tests.engine.harness import PATIENCE_SECONDS, serving

pytestmark = [pytest.mark.usefixtures("no_leaks"), pytest.mark.on_sqlite("a disk that is full under its file")]


class SmallDisk:
    """A file system of a megabyte, with a ballast that takes what is left."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "app.db")
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """Take all the room that is left, to the last byte."""
        with open(self._ballast, "ab", buffering=0) as file:
            for size in (65536, 4096, 512, 1):
                with contextlib.suppress(OSError):
                    while file.write(b"x" * size) == size:
                        pass

    def make_room(self) -> None:
        self._ballast.unlink(missing_ok=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder))
    try:
        yield SmallDisk(folder)
    finally:
        unmount(folder)


async def test_on_a_full_disk_outcomes_are_kept_and_nothing_runs_twice_when_room_is_made(
    small_disk: SmallDisk,
) -> None:
    calls: Counter[str] = Counter()

    async def work(name: str) -> str:
        calls[name] += 1
        if name == "b":
            small_disk.fill()
        return name * 3000

    @workflow
    async def steps(ctx: Context) -> list[int]:
        return [len(await ctx.step(name, work, name)) for name in "abcd"]

    async with serving(small_disk.path, steps) as engine:
        run = await engine.start(steps)
        with trio.fail_after(PATIENCE_SECONDS):
            while not calls["b"]:  # noqa: ASYNC110
                await trio.sleep(0.005)
            await trio.sleep(0.7)  # at least one more try
            assert dict(calls) == {"a": 1, "b": 1}
            assert [step.key for step in await run.steps()] == ["a#0"]
            # Whoever calls is told, and not left waiting behind the outcome that has no room.
            with pytest.raises(StoreFull, match="free some room"):
                await engine.start(steps)
            small_disk.make_room()
            assert await run.result() == [3000] * 4
        assert dict(calls) == dict.fromkeys("abcd", 1)
        assert len((await engine.list_runs()).runs) == 1


async def test_an_engine_ends_on_a_full_disk_and_its_runs_go_on_when_room_is_made(
    small_disk: SmallDisk, caplog: pytest.LogCaptureFixture
) -> None:
    calls: Counter[str] = Counter()

    async def work(name: str) -> str:
        calls[name] += 1
        if name == "b" and calls["b"] == 1:
            small_disk.fill()
        return name * 3000

    @workflow
    async def steps(ctx: Context) -> list[int]:
        return [len(await ctx.step(name, work, name)) for name in "abc"]

    with trio.fail_after(PATIENCE_SECONDS):
        async with serving(small_disk.path, steps, grace_seconds=0.1) as engine:
            await engine.start(steps, id="r")
            while not calls["b"]:  # noqa: ASYNC110
                await trio.sleep(0.005)
            await trio.sleep(0.05)
    (lost,) = (record for record in caplog.records if record.__dict__.get("event") == "writes_lost")
    assert "'r' (step 'b#0')" in lost.getMessage()
    small_disk.make_room()
    async with serving(small_disk.path, steps) as engine:
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.get("r").result() == [3000] * 3
    # The outcome of b had no room and was lost with the process: only its step may run again.
    assert calls == {"a": 1, "b": 2, "c": 1}


async def test_what_was_acknowledged_before_the_disk_was_full_is_there(small_disk: SmallDisk) -> None:
    acknowledged: list[str] = []
    async with Engine(small_disk.path) as client:
        with pytest.raises(StoreFull):  # noqa: PT012  # whichever start it is
            for number in range(2000):
                run = await client.start("echo", "x" * 2000, id=f"r{number}")
                acknowledged.append(run.id)
        small_disk.make_room()
        assert len(acknowledged) > 10
    async with Engine(small_disk.path) as client:
        ids: set[str] = set()
        page = await client.list_runs(limit=1000)
        ids.update(record.id for record in page.runs)
        assert ids == set(acknowledged)


async def test_a_full_disk_does_not_end_the_engine(small_disk: SmallDisk) -> None:
    async with serving(small_disk.path, quick) as engine:
        assert await engine.run(quick, 1) == 1
        small_disk.fill()
        failures = 0
        with trio.fail_after(PATIENCE_SECONDS):
            for number in range(5):
                try:
                    await engine.start(quick, number, tags={"pad": "x" * 20_000})
                except StoreFull:
                    failures += 1
        assert failures
        small_disk.make_room()
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.run(quick, 2) == 2


async def test_a_new_store_on_a_full_disk_is_an_error_that_says_so(small_disk: SmallDisk) -> None:
    small_disk.fill()
    with pytest.raises(StoreFull):
        await open_client(small_disk.path)
    small_disk.make_room()
    async with Engine(small_disk.path) as client:
        assert (await client.list_runs()).runs == ()
