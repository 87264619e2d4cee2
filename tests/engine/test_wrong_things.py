"""Wrong files, wrong places, no room, wrong options: an error that names the thing, nothing acknowledged is lost."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3 as plain_sqlite3
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import trio

import durable_trio
from durable_trio import (
    CodecError,
    Context,
    DurableError,
    Engine,
    NotADatabase,
    PayloadTooLarge,
    Retry,
    RunFailed,
    RunStatus,
    SchemaTooNew,
    StoreCorrupt,
    StoreError,
    StoreReadOnly,
    open_engine,
    workflow,
)
from durable_trio.calls.step import FunctionCall
from tests.engine.disks import mount, open_client, quick, unmount
from tests.engine.harness import PATIENCE_SECONDS, serving, wait_parked, wait_passivated, wait_status

pytestmark = [pytest.mark.usefixtures("no_leaks"), pytest.mark.on_sqlite("what is at its path is no file of it")]


S = RunStatus


@workflow
async def echo(ctx: Context, value: str) -> str:
    return value


async def open_block(path: str) -> None:
    async with open_engine(path, workflows=[quick]):
        raise AssertionError("not reached")


async def serve(path: str) -> None:
    await Engine(path, workflows=[quick]).serve()


WAYS = pytest.mark.parametrize("way", [open_block, open_client, serve])


Way = Callable[[str], Awaitable[None]]


def listing(folder: Path) -> dict[str, bytes | None]:
    """Return names and contents of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


async def refused(way: Way, path: Path, error: type[StoreError], *parts: str) -> None:
    """Check that opening raises an error that names the path, and that nothing in its folder has changed."""
    before = listing(path.parent)
    with pytest.raises(error) as caught:
        await way(str(path))
    for part in (str(path), *parts):
        assert part in str(caught.value)
    assert isinstance(caught.value, DurableError)
    assert listing(path.parent) == before


# ---- wrong files -----------------------------------------------------------------------------------------------------


@WAYS
@pytest.mark.parametrize("application_id", [0, 12345])
async def test_another_programs_database_is_refused_and_not_touched(
    way: Way, tmp_path: Path, application_id: int
) -> None:
    path = tmp_path / "firefox.db"
    connection = plain_sqlite3.connect(path)
    with contextlib.closing(connection), connection:
        connection.execute(f"PRAGMA application_id = {application_id}")
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    await refused(way, path, NotADatabase, "another program")


@WAYS
async def test_a_text_file_is_refused_and_not_touched(way: Way, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("milk, eggs, " * 100)
    await refused(way, path, NotADatabase, "not an SQLite database")


@WAYS
async def test_a_directory_is_refused(way: Way, tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    await refused(way, path, NotADatabase, "directory")


@WAYS
async def test_a_folder_that_does_not_exist_is_named(way: Way, tmp_path: Path) -> None:
    await refused_missing(way, tmp_path)


async def refused_missing(way: Way, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist") as caught:
        await way(str(tmp_path / "missing" / "app.db"))
    assert str(tmp_path / "missing") in str(caught.value)
    assert listing(tmp_path) == {}


@WAYS
async def test_a_file_of_a_newer_version_is_refused_and_not_touched(way: Way, tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    async with Engine(path) as client:
        await client.start("quick", 1)
    connection = plain_sqlite3.connect(path)
    with contextlib.closing(connection), connection:
        connection.execute("PRAGMA user_version = 999")
    for name in os.listdir(tmp_path):
        if name != "app.db":
            (tmp_path / name).unlink()
    await refused(way, path, SchemaTooNew, "999", "upgrade")


@WAYS
async def test_a_symbolic_link_is_refused_and_its_target_not_touched(way: Way, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    link = tmp_path / "app.db"
    link.symlink_to(target)
    await refused(way, link, NotADatabase, "symbolic link")
    assert target.read_text() == "precious"


@WAYS
async def test_a_device_is_refused(way: Way) -> None:
    with pytest.raises(StoreError, match="/dev/null"):
        await way("/dev/null")


async def test_a_damaged_file_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    async with serving(str(path), quick) as engine:
        for number in range(50):
            await engine.run(quick, number)
    for name in ("app.db-wal", "app.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    content = bytearray(path.read_bytes())
    content[4096:-4096] = b"\xa5" * (len(content) - 8192)
    path.write_bytes(content)
    for way in (serving(str(path), quick), Engine(path)):
        with pytest.raises((StoreCorrupt, NotADatabase), match=re.escape(str(path))):
            async with way as engine:
                await engine.list_runs()


@pytest.mark.parametrize("store", ["", "a\0b", 5, None, b"bytes\0"])
def test_what_is_no_path_is_refused_at_construction(store: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        Engine(store)


def test_a_server_that_is_not_supported_is_refused_at_construction() -> None:
    with pytest.raises(ValueError, match="mysql"):
        Engine("mysql://host/db")


async def test_an_engine_that_could_not_be_opened_can_be_tried_again(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    engine = Engine(folder / "app.db", workflows=[quick])
    with pytest.raises(StoreError):
        await engine.serve()
    folder.mkdir()
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.serve)
        assert await engine.run(quick, 1) == 1
        nursery.cancel_scope.cancel()


async def test_a_path_may_be_a_path_object_and_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with open_engine(Path("app.db"), workflows=[quick]) as engine:
        monkeypatch.chdir("/")
        assert await engine.run(quick, 4) == 4
    assert (tmp_path / "app.db").is_file()


# ---- read-only -------------------------------------------------------------------------------------------------------


@pytest.fixture
def read_only_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with a store in it, on a file system that is mounted read-only."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder))
    try:

        async def fill() -> None:
            async with Engine(folder / "app.db") as client:
                await client.start("quick", 1)

        trio.run(fill)
        mount("-o", "remount,ro", str(folder))
        yield folder
    finally:
        unmount(folder)


@WAYS
@pytest.mark.parametrize("name", ["app.db", "new.db"])
async def test_a_read_only_file_system_is_named(way: Way, read_only_folder: Path, name: str) -> None:
    with pytest.raises(StoreReadOnly, match=name):
        await way(str(read_only_folder / name))


@WAYS
@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
async def test_a_file_without_write_permission_is_named(way: Way, tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    async with Engine(path):
        pass
    path.chmod(0o400)
    with pytest.raises(StoreReadOnly, match=r"app\.db"):
        await way(str(path))


# ---- payloads --------------------------------------------------------------------------------------------------------


async def test_arguments_over_the_limit_are_refused_and_nothing_is_written(store_path: str) -> None:
    async with serving(store_path, echo, payload_bytes_max=1000) as engine:
        with pytest.raises(PayloadTooLarge, match="1000"):
            await engine.start(echo, "x" * 2000)
        assert (await engine.list_runs()).runs == ()
        assert await engine.run(echo, "x" * 900) == "x" * 900


async def test_signals_published_values_and_step_results_over_the_limit_are_refused(store_path: str) -> None:
    @workflow
    async def large(ctx: Context) -> list[str]:
        found = []
        for call in (
            lambda: ctx.step("large", lambda: "x" * 30_000),
            lambda: ctx.publish("large", "x" * 30_000),
        ):
            try:
                await call()
            except PayloadTooLarge as error:
                found.append(type(error).__name__)
        await ctx.wait_signal("go")
        return found

    async with serving(store_path, large, payload_bytes_max=20_000) as engine:
        run = await engine.start(large)
        await wait_passivated(engine)
        with pytest.raises(PayloadTooLarge):
            await run.signal("go", "x" * 30_000)
        with pytest.raises(CodecError):
            await run.cancel("x" * 30_000)
        await run.signal("go", "small")
        assert await run.result() == ["PayloadTooLarge", "PayloadTooLarge"]


async def test_a_failure_with_a_huge_text_is_stored_all_the_same(store_path: str) -> None:
    """An error must not be lost because its message is long."""

    @workflow
    async def failing(ctx: Context) -> None:
        await ctx.step("shout", shout)

    async def shout() -> None:
        raise OSError("x" * 50_000)

    async with serving(store_path, failing, payload_bytes_max=10_000) as engine:
        run = await engine.start(failing)
        with trio.fail_after(PATIENCE_SECONDS), pytest.raises(RunFailed):
            await run.result()
        assert (await wait_status(run, S.FAILED)).error is not None


# ---- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("lease_second", "lease_seconds"),
        ("concurency", "concurrency"),
        ("payload_max_bytes", "payload_bytes_max"),
    ],
)
def test_an_unknown_option_is_refused_and_the_nearest_offered(wrong: str, right: str) -> None:
    options: dict[str, Any] = {wrong: 1}
    with pytest.raises(TypeError, match=f"{wrong}.*did you mean '{right}'"):
        Engine(":memory:", **options)


def test_an_option_that_is_like_none_is_refused_without_a_hint() -> None:
    with pytest.raises(TypeError, match="xyzzy") as caught:
        Engine(":memory:", xyzzy=1)  # type: ignore[call-arg]
    assert "did you mean" not in str(caught.value)


async def test_open_engine_refuses_options_before_it_touches_the_file(file_path: str) -> None:
    with pytest.raises(TypeError, match="did you mean"):
        async with open_engine(file_path, concurrenc=3):  # type: ignore[call-arg]
            raise AssertionError("not reached")
    assert listing(Path(file_path).parent) == {}


NAN = float("nan")


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("durability", ["off", "OFF", "", None, 1]),
        ("concurrency", [0, -1, 1.5, True, "4", None]),
        ("lease_seconds", [0, -1, NAN, float("inf"), True, "30", None]),
        ("grace_seconds", [-1, NAN, True, "10", None]),
        ("payload_bytes_max", [0, -1, 1.5, True, "1000", None]),
        ("replay_stall_seconds", [0, -1, NAN, True, "10", None]),
        ("errors", [5, [ValueError()], [BaseException], ["ValueError"], [KeyboardInterrupt]]),
        ("observers", [5, [object()], [print]]),
        ("workflows", [5, [print], ["quick"], [quick.fn]]),
        ("clock", ["now", 5, None]),
        ("strict", ["yes", None, 1]),
    ],
)
def test_a_setting_out_of_range_is_refused_and_named(option: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises((ValueError, TypeError)) as caught:
            Engine(":memory:", **{option: value})
        if not isinstance(value, int):  # what cannot even be iterated over is named by Python
            assert option.rstrip("s") in str(caught.value), (option, value)


def test_settings_in_range_are_taken() -> None:
    settings: list[tuple[str, Any]] = [
        ("durability", "normal"),
        ("concurrency", 1),
        ("lease_seconds", 0.5),
        ("grace_seconds", 0),
        ("grace_seconds", float("inf")),
        ("payload_bytes_max", 1),
        ("replay_stall_seconds", 0.1),
        ("errors", [ValueError, OSError]),
        ("strict", True),
        ("clock", durable_trio.Clock()),
    ]
    for option, value in settings:
        Engine(":memory:", **{option: value})


def test_two_workflows_of_one_name_are_refused() -> None:
    @workflow(name="quick")
    async def other(ctx: Context) -> None:
        pass

    with pytest.raises(ValueError, match="quick"):
        Engine(":memory:", workflows=[quick, other])
    Engine(":memory:", workflows=[quick, quick])


@pytest.mark.parametrize("max_recoveries", [0, -1, True, 1.5, "3"])
def test_a_workflow_refuses_max_recoveries_out_of_range(max_recoveries: Any) -> None:
    with pytest.raises(ValueError, match="max_recoveries"):
        workflow(max_recoveries=max_recoveries)(quick.fn)


def test_a_workflow_must_be_async_and_take_a_context() -> None:
    with pytest.raises(TypeError, match="async def"):
        workflow(lambda ctx: None)  # type: ignore[arg-type, return-value]

    async def without_context() -> None:
        pass

    with pytest.raises(TypeError, match="Context"):
        workflow(without_context)  # type: ignore[arg-type]

    async def with_keyword(ctx: Context, *, needed: int) -> None:
        pass

    with pytest.raises(TypeError, match="keyword-only"):
        workflow(with_keyword)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"retry": 3}, "retry must be a Retry"),
        ({"retry": Retry}, "retry must be a Retry"),
        ({"compensate_retry": 3}, "compensate_retry must be a Retry"),
        ({"compensate": 3}, "compensate must be a function"),
    ],
)
async def test_options_of_a_step_of_the_wrong_type_are_refused_before_it_begins(
    options: dict[str, Any], text: str
) -> None:
    begun: list[str] = []

    @workflow
    async def wrong(ctx: Context) -> str:
        with pytest.raises(TypeError, match=text):
            await ctx.step("a", lambda: begun.append("a"), **options)
        return "refused"

    async with serving(":memory:", wrong) as engine:
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.run(wrong) == "refused"
    assert begun == []


async def test_a_run_is_parked_when_an_outcome_cannot_be_recorded_for_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not stuck as running: the problem has the traceback, and cancel ends it once the fault is gone."""

    async def fail() -> None:
        raise ValueError("no")

    @workflow
    async def unlucky(ctx: Context) -> None:
        await ctx.step("a", fail)

    async with serving(":memory:", unlucky) as engine:
        with monkeypatch.context() as patch:
            patch.setattr(FunctionCall, "_fail", lambda self, error: 1 / 0)
            record = await wait_parked(await engine.start(unlucky, id="r"))
        assert record.problem is not None
        assert record.problem.kind == "internal_error"
        assert "ZeroDivisionError" in record.problem.text
        await engine.resume("r")
        with trio.fail_after(PATIENCE_SECONDS), pytest.raises(RunFailed, match="no"):
            await engine.get("r").result()


@pytest.mark.parametrize("tags", [["a"], "a", 3, []])
async def test_tags_that_are_no_dict_are_refused(tags: Any) -> None:
    async with serving(":memory:", quick) as engine:
        with pytest.raises(TypeError, match="tags must be a dict of str to str"):
            await engine.start(quick, 1, tags=tags)


@pytest.mark.parametrize("option", ["lease_seconds", "grace_seconds", "heartbeat_seconds", "replay_stall_seconds"])
def test_seconds_of_an_engine_may_be_a_timedelta(option: str) -> None:
    engine = Engine(":memory:", **{option: timedelta(minutes=1)})  # type: ignore[arg-type]
    assert getattr(engine._client.settings, option) == 60.0
    with pytest.raises(ValueError, match=option):
        Engine(":memory:", **{option: timedelta(minutes=-1)})  # type: ignore[arg-type]
