"""A step publishes while it is executing; and what is over publishes nothing over what is newer."""

from __future__ import annotations

import functools
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ParamSpec, cast

import attrs
import pytest
import trio

from durable_trio import (
    Clock,
    CodecError,
    Context,
    OwnershipLost,
    Retry,
    RunFailed,
    StepTimeout,
    current_step,
    open_engine,
    workflow,
)
from durable_trio.calls.step_values import StepValues
from durable_trio.limits import NAME_CHARACTERS_MAX
from durable_trio.stores.contract import Advance, Operation, Store
from durable_trio.testing.wrapping import WrappedStore
from tests.engine.harness import PATIENCE_SECONDS, killed_when_ready, serving, wait_until
from tests.kit.stores import store_at

pytestmark = pytest.mark.usefixtures("no_leaks")

P = ParamSpec("P")


@workflow
async def works(ctx: Context, fn_index: int) -> Any:
    await ctx.publish("shown", "by the body")
    return await ctx.step("work", FUNCTIONS[fn_index], returns=None, retry=Retry.fixed(2, 0))


FUNCTIONS: list[Callable[[], Any]] = []


def number_of(fn: Callable[[], Any]) -> int:
    FUNCTIONS.append(fn)
    return len(FUNCTIONS) - 1


def bounded(test: Callable[P, Awaitable[None]]) -> Callable[P, Awaitable[None]]:
    """Have a test fail where something never comes, instead of waiting for it."""

    @functools.wraps(test)
    async def within_patience(*args: P.args, **kwargs: P.kwargs) -> None:
        with trio.fail_after(PATIENCE_SECONDS):
            await test(*args, **kwargs)

    return within_patience


@pytest.mark.parametrize("in_thread", [False, True])
@bounded
async def test_a_value_is_readable_before_the_step_has_ended(store_path: str, in_thread: bool) -> None:
    goes_on = threading.Event()

    def in_a_thread() -> None:
        current_step().publish("shown", [1])
        assert goes_on.wait(20)

    async def in_a_task() -> None:
        await current_step().publish("shown", [1])
        await wait_until(goes_on.is_set)

    async with serving(store_path, works) as engine:
        run = await engine.start(works, number_of(in_a_thread if in_thread else in_a_task))
        with trio.fail_after(60):
            async with run.watch() as changes:
                async for record in changes:
                    if record.values.get("shown") == [1]:
                        break
        assert [step.key for step in await run.steps()] == []
        goes_on.set()
        await run.result()
        assert await run.value("shown") == [1]


@bounded
async def test_the_last_value_is_there_once_the_step_has_ended(store_path: str) -> None:
    """Without waiting for any; those that are faster than the commits are not heaped up."""

    async def hurries() -> None:
        step = current_step()
        for number in range(1000):
            step.publish("shown", number)
            step.publish("other", -number)

    async with serving(store_path, works) as engine:
        run = await engine.start(works, number_of(hurries))
        await run.result()
        assert await run.values() == {"shown": 999, "other": -999}


class NotingStore(WrappedStore):
    """Notes in which order values and outcomes of steps are written."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.written: list[str] = []

    def apply(self, batch: Sequence[Operation], *, block: bool = True) -> list[Any] | None:
        outcomes = super().apply(batch, block=block)
        for operation in batch if outcomes is not None else ():
            if isinstance(operation, Advance):
                self.written += [text for key, text in operation.published if key == "shown"]
                self.written += [row.key.name for row in operation.rows]
        return outcomes


@bounded
async def test_the_last_value_is_committed_no_later_than_the_outcome(file_path: str) -> None:
    async def hurries() -> None:
        for number in range(3):
            current_step().publish("shown", number)

    store = NotingStore(store_at(file_path))
    async with open_engine(store, workflows=[works]) as engine:
        await engine.run(works, number_of(hurries))
    assert store.written.index("2") < store.written.index("work")


@bounded
async def test_a_failed_attempt_has_published_and_the_next_one_replaces_it() -> None:
    async def fails() -> None:
        step = current_step()
        step.publish("shown", step.attempt)
        raise OSError

    async with serving(":memory:", works) as engine:
        run = await engine.start(works, number_of(fails))
        with pytest.raises(RunFailed):
            await run.result()
        assert await run.value("shown") == 2


@bounded
async def test_what_is_left_of_an_attempt_that_is_over_is_refused() -> None:
    steps: list[Any] = []
    goes_on, refused = threading.Event(), threading.Event()

    def lingers() -> None:
        step = current_step()
        step.publish("shown", step.attempt)
        steps.append(step)
        if step.attempt == 1:
            assert goes_on.wait(20)
            try:
                trio.from_thread.run_sync(lambda: step.publish("shown", "too late"))
            except RuntimeError as error:
                if "attempt 1 of step 'work#0'" in str(error):
                    refused.set()

    def lets_it_go_on() -> bool:
        goes_on.set()
        return refused.wait(20)

    @workflow
    async def lets_go(ctx: Context) -> None:
        await ctx.step("work", lingers, timeout=0.05, abandon=True, retry=Retry.fixed(1000, 0, on=StepTimeout))
        await ctx.step("wait", lets_it_go_on)

    async with serving(":memory:", lets_go) as engine:
        run = await engine.start(lets_go)
        await run.result()
        assert refused.is_set()
        assert await run.value("shown") == steps[-1].attempt
        with pytest.raises(RuntimeError, match="is over, and publishes nothing any more"):
            steps[-1].publish("shown", "too late")


@bounded
async def test_a_value_that_cannot_be_stored_is_refused_at_once() -> None:
    async def publishes() -> None:
        step = current_step()
        for key, value, error in (
            ("shown", object(), CodecError),
            ("shown", "x" * 5_000_000, CodecError),
            (" shown", 1, ValueError),
            ("x" * (NAME_CHARACTERS_MAX + 1), 1, ValueError),
        ):
            with pytest.raises(error):
                step.publish(key, value)

    async with serving(":memory:", works) as engine:
        run = await engine.start(works, number_of(publishes))
        await run.result()
        assert await run.values() == {"shown": "by the body"}


@attrs.define
class SlowPort:
    """Notes what is submitted; each commit comes when the test says so."""

    submitted: list[dict[str, Any]] = attrs.Factory(list)
    callbacks: list[Callable[[Any], None]] = attrs.Factory(list)

    def advance(self, callback: Callable[[Any], None], **fields: Any) -> None:
        self.submitted.append(dict(fields["published"]) | {"at": fields["position"]})
        self.callbacks.append(callback)


@attrs.define
class State:
    """What is asked of a run's state."""

    port: SlowPort = attrs.Factory(SlowPort)
    position: tuple[int, int] = (3, 1)
    refused: list[Any] = attrs.Factory(list)

    def check(self, outcome: Any) -> None:
        if outcome is not True:
            self.refused.append(outcome)


@bounded
async def test_while_a_commit_is_under_way_the_newest_of_each_key_waits() -> None:
    state, positions = State(), {"a": (0, 1)}
    values = StepValues(cast(Any, state), Clock(), positions)
    first = values.publish("a", "1")
    rest = [values.publish("a", str(number)) for number in range(2, 9)] + [values.publish("b", "0")]
    assert (state.port.submitted, positions) == ([{"a": "1", "at": (3, 1)}], {"a": (3, 1)})
    state.position = (4, 0)
    state.port.callbacks.pop()(True)
    assert first.is_set()
    assert not any(event.is_set() for event in rest)
    assert state.port.submitted[1:] == [{"a": "8", "b": "0", "at": (4, 0)}]
    state.port.callbacks.pop()(True)
    assert all(event.is_set() for event in rest)
    assert len(state.port.submitted) == 2


@bounded
async def test_what_the_body_publishes_is_not_written_over_by_what_waits() -> None:
    state = State()
    values = StepValues(cast(Any, state), Clock(), {})
    values.publish("a", "1")
    waits = values.publish("a", "2")
    values.superseded("a")
    state.port.callbacks.pop()(True)
    assert waits.is_set()  # a newer one stands in its stead
    assert [submitted["a"] for submitted in state.port.submitted] == ["1"]
    assert values.publish("a", "3") is not waits
    assert state.port.submitted[-1]["a"] == "3"


@bounded
async def test_a_refused_commit_is_the_runs_affair_and_nobody_is_told_that_it_was_done() -> None:
    state = State()
    values = StepValues(cast(Any, state), Clock(), {})
    committed = values.publish("a", "1")
    values.publish("a", "2")
    error = OwnershipLost("gone")
    state.port.callbacks.pop()(error)
    assert state.refused == [error]
    assert not committed.is_set()
    assert len(state.port.submitted) == 1


@bounded
async def test_a_transaction_publishes_nothing_and_reaches_no_engine(store_path: str) -> None:
    def within(connection: Any) -> None:
        for use in (lambda: current_step().publish("shown", 1), lambda: current_step().engine):
            with pytest.raises(RuntimeError, match="not for the function of a transaction, as that of 'within#0'"):
                use()

    @workflow
    async def transacts(ctx: Context) -> None:
        await ctx.transaction("within", within)

    async with serving(store_path, transacts) as engine:
        await engine.run(transacts)


@workflow
async def counts(ctx: Context) -> list[int]:
    await ctx.publish("done", 0)
    return await ctx.step("count", count, retry=Retry.fixed(3, 0))


async def count() -> list[int]:
    step = current_step()
    done = await step.engine.get(step.run_id).value("done")
    if done:
        return [done, step.attempt]
    await step.publish("done", 41)
    print("published", flush=True)
    await trio.sleep_forever()
    raise AssertionError


def serve_until_killed(path: str) -> None:
    async def main() -> None:
        async with open_engine(path, workflows=[counts]) as engine:
            await engine.run(counts, id="r")

    trio.run(main)


@bounded
async def test_a_value_that_was_awaited_survives_kill_9_and_replay(file_path: str) -> None:
    assert await killed_when_ready(__name__, "serve_until_killed", file_path) == "published"
    async with serving(file_path, counts) as engine:
        assert await engine.get("r", counts).result() == [41, 1]
        assert await engine.get("r").value("done") == 41


@workflow
async def child(ctx: Context, number: int) -> int:
    return number + 1


async def starts_async() -> list[Any]:
    step = current_step()
    run = await step.engine.start(child, 1, id=f"child-{step.idempotency_key}")
    found = [await run.result(), await step.engine.run(child, 2)]
    await step.engine.send_signal(step.run_id, "told", found)
    return [*found, len((await step.engine.list_runs()).runs)]


def starts_in_thread() -> list[Any]:
    engine = current_step().engine
    run = trio.from_thread.run(functools.partial(engine.start, id="of a thread"), child, 1)
    found = [trio.from_thread.run(run.result), trio.from_thread.run(engine.run, child, 2)]
    with pytest.raises(RuntimeError, match=r"write trio.from_thread.run\(current_step\(\).engine.start, …\)"):
        engine.start(child, 5)  # type: ignore[unused-coroutine]
    assert engine.get("of a thread").id == "of a thread"
    trio.from_thread.run(engine.send_signal, current_step().run_id, "told", found)
    return [*found, len(trio.from_thread.run(engine.list_runs).runs)]


@workflow
async def parent(ctx: Context, in_thread: bool) -> Any:
    fn: Any = starts_in_thread if in_thread else starts_async
    found = await ctx.step("start", fn)
    assert await ctx.wait_signal("told") == found[:2]
    return found


@pytest.mark.parametrize("in_thread", [False, True])
@bounded
async def test_a_step_reaches_its_engine_and_lends_its_place(store_path: str, in_thread: bool) -> None:
    """With room for one run that has something to do."""
    async with serving(store_path, parent, child, concurrency=1) as engine:
        with trio.fail_after(60):
            assert await engine.run(parent, in_thread) == [2, 3, 3]


@bounded
async def test_an_inline_block_and_a_compensation_reach_it_as_well() -> None:
    async def undo(_: None) -> None:
        await current_step().engine.run(child, 1, id="of the compensation")
        await current_step().publish("undone", True)

    @workflow
    async def fails(ctx: Context) -> None:
        await ctx.step("do", lambda: None, compensate=undo)
        raise ValueError

    async with serving(":memory:", child, fails) as engine:
        async with engine.inline("block") as ctx:
            assert await ctx.step("ask", starts_async) == [2, 3, 3]
        run = await engine.start(fails)
        with pytest.raises(RunFailed):
            await run.result()
        assert await engine.get("of the compensation", child).result() == 2
        assert await run.value("undone") is True
