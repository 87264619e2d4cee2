"""Every way out ends while somebody else holds the file, says what it leaves, and loses nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trio.testing

from durable_trio import Context, Engine, OwnershipLost, RunStatus, StoreFull, StoreInUse, workflow
from durable_trio.engine import tree
from durable_trio.engine.runs import inline
from durable_trio.engine.wiring import Executor, Services
from durable_trio.stores.contract import Operation, RequestCancel
from durable_trio.stores.sqlite import SqliteStore
from durable_trio.stores.sqlite import connection as connection_module
from durable_trio.stores.sqlite import store as store_module
from durable_trio.stores.sqlite.write_turn import PATIENCE_SECONDS as TURN_PATIENCE_SECONDS
from durable_trio.testing.wrapping import WrappedStore
from tests.engine.harness import PATIENCE_SECONDS, serving, wait_status, wait_until
from tests.kit.stores import store_at

pytestmark = pytest.mark.usefixtures("no_leaks")

calls: Counter[str] = Counter()
go: dict[str, trio.Event] = {}


async def work(name: str) -> str:
    calls[name] += 1
    if name in go:
        await go[name].wait()
    return name


def count(_connection: Any) -> int:
    calls["count"] += 1
    return 7


@workflow
async def steps(ctx: Context) -> list[str]:
    return [await ctx.step(name, work, name) for name in "abc"]


@workflow
async def transactions(ctx: Context) -> list[Any]:
    return [await ctx.step("a", work, "a"), await ctx.transaction("count", count)]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for a foreign program as long as a test can afford."""
    monkeypatch.setattr(connection_module, "BUSY_TIMEOUT_MS", 40)
    monkeypatch.setattr(store_module, "BUSY_TIMEOUT_MS", 40)
    calls.clear()
    go.clear()


@pytest.mark.on_sqlite("another program holds its file")
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("held_workflow", [steps, transactions])
async def test_a_block_is_left_while_a_foreign_program_holds_the_file_for_ever(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, held_workflow: Any
) -> None:
    path = str(tmp_path / "app.db")
    go["a"] = trio.Event()
    with trio.fail_after(PATIENCE_SECONDS):
        async with serving(path, steps, transactions, grace_seconds=0.1) as engine:
            await engine.start(held_workflow, id="held")
            await wait_until(lambda: calls["a"])
            holder = engine.connect()
            holder.execute("BEGIN IMMEDIATE")
            go["a"].set()
    assert "this process" in caplog.text  # who holds it
    assert "leave" in caplog.text
    holder.rollback()
    holder.close()
    async with serving(path, steps, transactions) as engine:
        with trio.fail_after(PATIENCE_SECONDS):
            result = await engine.get("held").result()
        assert result == (["a", "b", "c"] if held_workflow is steps else ["a", 7])
        assert calls["a"] == 2


@pytest.mark.on_sqlite("another program holds its file")
@pytest.mark.usefixtures("impatient")
async def test_a_block_is_left_while_a_transaction_waits_for_the_file(tmp_path: Path) -> None:
    path = str(tmp_path / "app.db")
    go["a"] = trio.Event()
    with trio.fail_after(PATIENCE_SECONDS):
        async with serving(path, transactions, grace_seconds=0.1) as engine:
            await engine.start(transactions, id="held")
            await wait_until(lambda: calls["a"])
            holder = engine.connect()
            (writer,) = [engine._client.store]
            assert isinstance(writer, SqliteStore)
            tries: list[str] = []
            transact = writer.transact

            def watched(*arguments: Any, **options: Any) -> Any:
                tries.append("transaction")
                holder.execute("BEGIN IMMEDIATE")
                writer.transact = transact  # type: ignore[method-assign]
                return transact(*arguments, **options)

            writer.transact = watched  # type: ignore[method-assign]
            go["a"].set()
            await wait_until(lambda: tries)
    holder.rollback()
    holder.close()
    async with serving(path, transactions) as engine:
        assert await engine.get("held").result() == ["a", 7]
        assert (calls["a"], calls["count"]) == (1, 1)


_HOLD = """
import fcntl, sys
file = open(sys.argv[1], "r+")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.readline()
"""


def hold(path: str) -> subprocess.Popen[bytes]:
    """Let another process have a lock until it is told to end."""
    holder = subprocess.Popen([sys.executable, "-c", _HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    return holder


@pytest.mark.on_sqlite("another program holds its file")
@pytest.mark.parametrize(("lock", "held_workflow"), [("-turn", transactions), ("-turn-queue", steps)])
async def test_a_block_is_left_in_one_stretch_of_time_while_another_process_has_the_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lock: str, held_workflow: Any
) -> None:
    """What is being written has all the patience of one who stays; it and all that comes after it are hurried."""
    monkeypatch.setattr(store_module, "_LEAVING_PATIENCE_SECONDS", 0.2)
    calls.clear()
    go["a"] = trio.Event()
    path = str(tmp_path / "app.db")
    with trio.fail_after(TURN_PATIENCE_SECONDS):
        async with serving(path, steps, transactions, grace_seconds=0.1) as engine:
            await engine.start(held_workflow, id="held")
            await wait_until(lambda: calls["a"])
            holder = hold(path + lock)
            go["a"].set()
        await trio.lowlevel.checkpoint()  # leaving itself is not cancelled by the time that it takes
    holder.communicate()  # it lets go
    go.clear()
    async with serving(path, steps, transactions) as engine:
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.get("held").result() == (["a", "b", "c"] if held_workflow is steps else ["a", 7])


@pytest.mark.on_sqlite("another program holds its file")
@pytest.mark.usefixtures("impatient")
async def test_a_client_is_closed_while_a_foreign_program_holds_the_file(tmp_path: Path) -> None:
    path = str(tmp_path / "app.db")
    with trio.fail_after(PATIENCE_SECONDS):
        async with Engine(path) as client:
            holder = client.connect()
            holder.execute("BEGIN IMMEDIATE")
            async with trio.open_nursery() as nursery:

                async def start() -> None:
                    with pytest.raises(StoreInUse):
                        await client.start("steps")

                nursery.start_soon(start)
                await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
    holder.close()


def leaves(error: BaseException) -> list[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for inner in error.exceptions for leaf in leaves(inner)]


@pytest.mark.on_sqlite("another program holds its file")
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("way", ["cancelled", "failed", "ctrl-C", "stopped"])
async def test_an_inline_block_is_left_while_a_foreign_program_holds_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    monkeypatch.setattr(inline, "PATIENCE_SECONDS", 0.3)
    path = str(tmp_path / "app.db")
    holder: Any = None

    async def leave() -> None:
        nonlocal holder
        async with serving(path, steps, grace_seconds=0.1) as engine:
            async with engine.inline("script") as ctx:
                await ctx.step("a", work, "a")
                holder = engine.connect()
                holder.execute("BEGIN IMMEDIATE")
                if way == "cancelled":
                    with trio.move_on_after(0.05):
                        await ctx.step("b", work, "b")
                elif way == "failed":
                    raise LookupError("no such customer")
                elif way == "ctrl-C":
                    nursery.start_soon(press_ctrl_c)
                    await ctx.step("b", work, "b")
                else:
                    nursery.cancel_scope.cancel()
                    await ctx.step("b", work, "b")

    async def press_ctrl_c() -> None:
        await wait_until(lambda: calls["b"])
        signal.raise_signal(signal.SIGINT)

    left_by: list[BaseException] = []
    with trio.fail_after(PATIENCE_SECONDS):
        try:
            async with trio.open_nursery() as nursery:
                await leave()
        except BaseExceptionGroup as group:
            left_by.append(group)
    expected = OwnershipLost, LookupError, KeyboardInterrupt, trio.Cancelled
    assert all(isinstance(error, expected) for group in left_by for error in leaves(group))
    assert bool(left_by) is (way != "stopped")
    assert "run 'script'" in caplog.text
    holder.close()
    async with serving(path, steps) as engine, engine.inline("script") as ctx:
        assert [await ctx.step(name, work, name) for name in "abc"] == ["a", "b", "c"]
    assert calls["a"] == 1


def test_the_store_has_the_time_that_its_own_patience_takes() -> None:
    assert TURN_PATIENCE_SECONDS + store_module._LEAVING_PATIENCE_SECONDS < tree.STORE_LEAVES_SECONDS
    services, executor = cast(Services, _FakeServices()), cast(Executor, _FakeServices())
    for spec in (tree.executor_spec(services, executor), tree.client_spec(services)):
        store = spec.children[0]
        assert (store.name, store.shutdown) == ("store", tree.STORE_LEAVES_SECONDS)


class _FakeServices:
    def __getattr__(self, name: str) -> Any:
        return _FakeServices()

    def __call__(self, *_: Any, **__: Any) -> Any:
        return None


@pytest.mark.parametrize("error", [StoreFull("no room"), StoreInUse("process 7 has it")])
async def test_a_cancel_that_a_parent_asks_for_is_asked_again_until_it_is_stored(
    tmp_path: Path, error: Exception
) -> None:
    class Refusing(WrappedStore):
        refusals = 0
        is_refusing = False

        def apply(self, batch: Sequence[Operation], *, block: bool = True) -> list[Any] | None:
            if self.is_refusing and any(isinstance(operation, RequestCancel) for operation in batch):
                self.refusals += 1
                self.is_refusing = self.refusals < 2
                raise error
            return super().apply(batch, block=block)

    @workflow
    async def child(ctx: Context) -> None:
        await ctx.wait_signal("never")

    @workflow
    async def parent(ctx: Context) -> str:
        with ctx.move_on_after(0.2):
            await ctx.run_child(child, id="child")
        return "moved on"

    store = Refusing(store_at(tmp_path / "app.db"))
    async with serving(store, child, parent) as engine:  # type: ignore[arg-type]
        store.is_refusing = True
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.run(parent) == "moved on"
        assert store.refusals == 2
        assert (await engine.get("child").record()).status is RunStatus.CANCELLED


async def test_a_child_that_ends_while_its_parent_is_leaving_wakes_it() -> None:
    """The parent is still here, and reads its mailbox no more; nobody looks after it again once it has left."""
    go_on, leave = trio.Event(), trio.Event()

    @workflow(name="child")
    async def child(ctx: Context) -> int:
        await ctx.step("wait", go_on.wait)
        return 1

    @workflow(name="parent")
    async def parent(ctx: Context) -> int:
        try:
            return await ctx.run_child(child)
        finally:
            with trio.CancelScope(shield=True):
                await leave.wait()

    async with serving(":memory:", parent, child) as engine:
        run = await engine.start(parent)
        await wait_status(run, RunStatus.SUSPENDED)
        await trio.testing.wait_all_tasks_blocked()
        go_on.set()
        await trio.testing.wait_all_tasks_blocked()
        leave.set()
        with trio.fail_after(PATIENCE_SECONDS):
            assert await run.result() == 1
