"""A transaction: its rows and its outcome, or neither."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from durable_trio import CodecError, Context, Retry, RunFailed, StepTimeout, current_step, workflow
from tests.calls.kit import shape_of
from tests.engine.harness import serving, wait_passivated
from tests.kit.notes import make_notes, note, notes, take_for_ever

pytestmark = pytest.mark.usefixtures("no_leaks")


class OutOfStock(Exception):
    """A business error of this module: the workflow's module counts."""

    def __init__(self, item: str, *, left: int) -> None:
        super().__init__(item)
        self.left = left


async def test_a_transaction_commits_its_rows_with_its_outcome(file_path: str) -> None:
    seen: list[list[str]] = []

    def read() -> list[str]:
        with contextlib.closing(engine.connect()) as connection:
            return notes(connection)

    @workflow
    async def keeping(ctx: Context) -> list[str]:
        await ctx.transaction("create", make_notes)
        first = await ctx.transaction("insert", note, "one")
        await ctx.step("read", lambda: seen.append(read()))
        await ctx.wait_signal("go")
        return [first, await ctx.transaction("insert", note, "two")]

    async with serving(file_path, keeping) as engine:
        await engine.start(keeping, id="r")
        await wait_passivated(engine)
    async with serving(file_path, keeping) as engine:
        await engine.send_signal("r", "go")
        assert await engine.get("r").result() == ["ONE", "TWO"]
        assert read() == ["one", "two"]
    assert seen == [["one"]]


def _keep_and_fail(connection: Any) -> None:
    note(connection, "lost")
    raise OutOfStock("shoes", left=0)


def _keep_and_return_opaque(connection: Any) -> Any:
    note(connection, "lost")
    return object()


async def _keep_async(connection: Any) -> None:
    note(connection, "lost")


def _keep_and_take_for_ever(connection: Any) -> int:
    note(connection, "lost")
    take_for_ever(connection)
    return 1


ROLLED_BACK: dict[str, tuple[Callable[..., Any], type[Exception], float | None, str]] = {
    "raises": (_keep_and_fail, OutOfStock, None, "failed"),
    "unstorable": (_keep_and_return_opaque, CodecError, None, "failed"),
    "async": (_keep_async, TypeError, None, "failed"),
    "too long": (_keep_and_take_for_ever, StepTimeout, 0.05, "timed_out"),
}


@pytest.mark.parametrize(("fn", "expected", "timeout", "status"), ROLLED_BACK.values(), ids=ROLLED_BACK.keys())
async def test_a_transaction_that_fails_leaves_its_failure_and_no_row(
    store_path: str, fn: Callable[..., Any], expected: type[Exception], timeout: float | None, status: str
) -> None:
    """Nothing took place, so there is nothing to compensate either."""
    undone: list[Any] = []
    seen: list[Exception] = []

    @workflow
    async def rolls_back(ctx: Context) -> None:
        await ctx.transaction("create", make_notes)
        try:
            await ctx.transaction("fails", fn, timeout=timeout, compensate=undone.append)
        except Exception as error:
            seen.append(error)
        await ctx.transaction("works", note, "kept")
        await ctx.wait_signal("go")
        raise LookupError(await ctx.transaction("read", notes))

    async with serving(store_path, rolls_back) as engine:
        run = await engine.start(rolls_back)
        await wait_passivated(engine)
        await run.signal("go")
        with pytest.raises(RunFailed) as caught:
            await run.result()
        statuses = {step.key: (step.kind, step.status) for step in await run.steps()}
    live, replayed = seen
    assert type(live) is expected
    assert shape_of(live) == shape_of(replayed)
    if isinstance(live, StepTimeout):
        assert (live.step, live.run_id) == ("fails#0", run.id)
    assert statuses["fails#0"] == ("transaction", status)
    assert isinstance(caught.value.error, LookupError)
    assert caught.value.error.args == (["kept"],)
    assert undone == []


async def test_a_transaction_is_tried_again_with_no_row_of_the_failed_attempts(store_path: str) -> None:
    def flaky(connection: Any) -> int:
        attempt = current_step().attempt
        note(connection, f"attempt {attempt}")
        if attempt < 3:
            raise OSError("again")
        return attempt

    @workflow
    async def retries(ctx: Context) -> list[str]:
        await ctx.transaction("create", make_notes)
        await ctx.transaction("flaky", flaky, retry=Retry.fixed(5, 0))
        return await ctx.transaction("read", notes)

    async with serving(store_path, retries) as engine:
        run = await engine.start(retries)
        assert await run.result() == ["attempt 3"]
        assert [step.attempt for step in await run.steps()] == [1, 3, 1]


FORBIDDEN: dict[str, Callable[[Any], Any]] = {
    "commit": lambda it: it.commit(),
    "rollback": lambda it: it.rollback(),
    "block": lambda it: it.__enter__(),
    "executescript": lambda it: it.executescript("SELECT 1"),
    "close": lambda it: it.close(),
    "COMMIT": lambda it: it.execute("COMMIT"),
    "ROLLBACK": lambda it: it.execute("ROLLBACK"),
    "BEGIN": lambda it: it.execute("BEGIN"),
    "ATTACH": lambda it: it.execute("ATTACH ':memory:' AS other"),
    "DETACH": lambda it: it.execute("DETACH main"),
    "PRAGMA": lambda it: it.execute("PRAGMA synchronous=OFF"),
    "VACUUM": lambda it: it.execute("VACUUM"),
    "insert into ours": lambda it: it.execute("INSERT INTO published VALUES (1, 'a', '1')"),
    "update ours": lambda it: it.execute("UPDATE runs SET status = 'completed'"),
    "delete ours": lambda it: it.execute("DELETE FROM history"),
    "drop ours": lambda it: it.execute("DROP TABLE history"),
    "alter ours": lambda it: it.execute("ALTER TABLE history ADD COLUMN x"),
    "trigger on ours": lambda it: it.execute("CREATE TRIGGER t AFTER INSERT ON history BEGIN SELECT 1; END"),
}


@pytest.mark.on_sqlite("what a connection refuses is said in its SQL")
@pytest.mark.parametrize("what", FORBIDDEN)
async def test_the_connection_of_a_transaction_refuses_what_would_break_it(store_path: str, what: str) -> None:
    """Even a function that catches the refusal gets its rows committed with its outcome, and nothing else."""
    refused: list[str] = []

    def tries(connection: Any) -> None:
        note(connection, "before")
        try:
            FORBIDDEN[what](connection)
        except Exception as error:
            refused.append(type(error).__name__)
        note(connection, "after")

    def fails(connection: Any) -> None:
        note(connection, "lost")
        FORBIDDEN[what](connection)

    @workflow
    async def guarded(ctx: Context) -> list[str]:
        await ctx.transaction("create", make_notes)
        await ctx.transaction("tries", tries)
        with pytest.raises(Exception) as caught:  # noqa: PT011  # SQLite's class, which depends on the library in use
            await ctx.transaction("fails", fails)
        refused.append(type(caught.value).__name__)
        return await ctx.transaction("read", notes)

    async with serving(store_path, guarded) as engine:
        run = await engine.start(guarded)
        assert await run.result() == ["before", "after"]
        assert len(await run.steps()) == 4
    assert len(refused) == 2


@pytest.mark.on_sqlite("what a connection refuses is said in its SQL")
async def test_the_connection_of_a_transaction_is_of_no_use_after_it(store_path: str) -> None:
    kept: list[Any] = []
    refused: list[str] = []

    def keep(connection: Any) -> None:
        kept.extend([connection, connection.execute("SELECT 1 UNION SELECT 2")])

    @workflow
    async def keeps(ctx: Context) -> None:
        await ctx.transaction("keep", keep)
        with pytest.raises(Exception, match=r".") as caught:  # SQLite's class
            kept[0].execute("CREATE TABLE stolen (a)")
        refused.append(str(caught.value))

    async with serving(store_path, keeps) as engine:
        await engine.run(keeps)
    kept.clear()
    assert refused
