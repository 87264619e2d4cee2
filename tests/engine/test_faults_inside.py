"""A fault of this library inside one run parks that run, one inside a service restarts it; nobody else is touched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio

from durable_trio import Context, Engine, RunStatus, StoreInUse, workflow
from durable_trio.calls.step import FunctionCall
from durable_trio.codec import Codec
from durable_trio.engine.runs.resident import ResidentRun
from durable_trio.engine.services.dispatcher import Dispatcher
from durable_trio.engine.services.feed import Feed, Subscription
from durable_trio.rules import residency
from durable_trio.stores.contract import RenewLease
from durable_trio.stores.questions import LookAtMailbox, Question
from durable_trio.turns.call import Call
from durable_trio.turns.lane import Lane
from durable_trio.turns.lobby import Lobby
from durable_trio.turns.port import Port
from durable_trio.turns.state import RunState
from durable_trio.turns.turns import Turns
from tests.engine.harness import PATIENCE_SECONDS, serving, wait_parked, wait_passivated, wait_status, wait_until

pytestmark = pytest.mark.usefixtures("no_leaks")


class Fault(Exception):
    """Raised where the library should not fail."""


@workflow
async def steps(ctx: Context, count: int) -> int:
    async with ctx.open_nursery() as nursery:  # so that its lane has more than one task to keep apart
        nursery.start_soon(step)
    for number in range(count):
        await ctx.step("step", abs, number)
    return count


async def step(ctx: Context) -> None:
    await ctx.step("step", abs, 1)


@workflow
async def waits(ctx: Context) -> Any:
    async with ctx.open_nursery() as nursery:
        nursery.start_soon(side)
        with trio.CancelScope(shield=True):
            return await ctx.wait_signal("go")


async def side(ctx: Context) -> None:
    with trio.CancelScope(shield=True):
        await ctx.wait_signal("also")


def fail_once_for(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, *, when: Callable[..., bool] = lambda *_: True
) -> list[Any]:
    """Have a method raise the first time that the condition holds for its object; return where that is noted."""
    original = getattr(owner, name)
    met: list[Any] = []

    def method(self: Any, *args: Any, **options: Any) -> Any:
        if not met and when(self, *args):
            met.append(self)
            raise Fault(f"in {owner.__name__}.{name}")
        return original(self, *args, **options)

    monkeypatch.setattr(owner, name, method)
    return met


def is_bad(part: Any) -> bool:
    """Whether this is a part of the turns of the run with the id ``bad``."""
    state: RunState = part if isinstance(part, RunState) else part.state
    owner: Any = state.port.owner
    return owner is not None and owner.row.id == "bad"


@pytest.mark.parametrize(
    ("owner", "name", "when"),
    [
        (Turns, "_deliver", is_bad),
        (Turns, "pump", is_bad),
        (Turns, "_rest", is_bad),
        (Call, "record", lambda self, *_: is_bad(self)),
        (Turns, "committed", lambda self, *_: is_bad(self)),
        (Turns, "_pass_barrier", is_bad),
        (Lane, "scheduled", lambda *_: True),
        (Lane, "stepped", lambda *_: True),
        (FunctionCall, "deliver", lambda self, *_: is_bad(self)),
        (FunctionCall, "go_live", lambda self, *_: is_bad(self)),
        (Port, "advance", lambda self, *_: self.owner.row.id == "bad"),
    ],
    ids=lambda value: getattr(value, "__name__", value) if not callable(value) or isinstance(value, type) else "",
)
async def test_a_fault_anywhere_inside_a_run_parks_it_with_the_traceback(
    owner: type, name: str, when: Callable[..., bool], store_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(store_path, steps, waits) as engine:
        other = await engine.start(waits, id="other")
        await wait_passivated(engine)
        met = fail_once_for(monkeypatch, owner, name, when=when)
        bad = await engine.start(steps, 5, id="bad")
        record = await wait_parked(bad)
        assert met
        assert record.problem is not None
        assert record.problem.kind == "internal_error"
        assert f"Fault: in {owner.__name__}.{name}" in record.problem.text
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.run(steps, 3) == 3
            await other.signal("also")
            await other.signal("go", 7)
            assert await other.result() == 7
            await engine.resume("bad")
            assert await bad.result() == 5


async def test_a_fault_in_a_shielded_wait_of_a_branch_lets_the_run_out(
    store_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call is taken out of the books before its task is woken: the task must be found all the same."""
    async with serving(store_path, waits, steps) as engine:
        bad = await engine.start(waits, id="bad")
        met = fail_once_for(monkeypatch, Call, "deliver", when=lambda self, *_: is_bad(self))
        await bad.signal("also")
        assert (await wait_parked(bad)).problem is not None
        assert met
        assert await engine.run(steps, 1) == 1


@pytest.mark.parametrize(("owner", "name"), [(ResidentRun, "hand_over"), (Turns, "message"), (Turns, "_take_signal")])
async def test_a_fault_in_taking_a_signal_parks_that_run_and_its_sender_goes_on(
    owner: type, name: str, store_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although the run, which stays in memory, takes it in the sender's task."""
    monkeypatch.setattr(residency, "IDLE_SECONDS", PATIENCE_SECONDS)
    async with serving(store_path, waits) as engine:
        other = await engine.start(waits, id="other")
        bad = await engine.start(waits, id="bad")
        for run in (bad, other):
            await wait_status(run, RunStatus.SUSPENDED)
        met = fail_once_for(monkeypatch, owner, name)
        await bad.signal("go", 1)
        assert met
        assert (await wait_parked(bad)).problem is not None
        for run, payload in ((other, 7), (bad, 2)):
            await run.signal("also")
            await run.signal("go", payload)
        assert await other.result() == 7
        await engine.resume("bad")
        assert await bad.result() == 1


async def test_a_fault_in_the_cancelling_of_a_call_does_not_reach_trio(
    store_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    @workflow(name="times out")
    async def times_out(ctx: Context) -> None:
        async def wait(branch: Context) -> None:
            await branch.wait_signal("never")

        async with ctx.open_nursery() as nursery:
            nursery.start_soon(wait)
            await ctx.step("nothing", abs, 1)
            nursery.cancel_scope.cancel()

    async with serving(store_path, times_out, steps) as engine:
        met = fail_once_for(monkeypatch, Lobby, "_note_cancel")
        record = await wait_parked(await engine.start(times_out))
        assert met
        assert record.problem is not None
        assert await engine.run(steps, 1) == 1


async def test_the_others_of_a_batch_get_their_outcomes_when_one_cannot_take_its_own(store_path: str) -> None:
    def bad(_: Any) -> None:
        raise Fault

    async with serving(store_path, steps) as engine:
        assert engine._client.services is not None
        writer = engine._client.services.writer
        writer.submit(RenewLease(executor=1), bad)
        with trio.fail_after(PATIENCE_SECONDS):
            assert await writer.write(RenewLease(executor=1)) in (True, False)
            assert await engine.run(steps, 2) == 2
        assert engine._serving.root is not None
        assert engine._root.child("store").restart_count == 0


@pytest.mark.parametrize("verb", ["submit", "submit_transaction"])
async def test_what_is_refused_at_once_is_told_later_and_may_fail_there(verb: str, store_path: str) -> None:
    def bad(_: Any) -> None:
        raise Fault

    async with serving(store_path, steps) as engine:
        assert engine._client.services is not None
        writer = engine._client.services.writer
    if verb == "submit":
        writer.submit(RenewLease(executor=1), bad)
    else:
        writer.submit_transaction(None, bad, seconds_max=1, callback=bad)  # type: ignore[arg-type]  # never looked at
    await trio.testing.wait_all_tasks_blocked()  # trio would end with it


async def test_a_run_that_cannot_even_be_parked_takes_no_others_along(
    store_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = Codec.encode

    def encode_no_problem(self: Codec, value: Any, *args: Any, **options: Any) -> Any:
        if options.get("where") == "a problem":
            raise Fault
        return encode(self, value, *args, **options)

    async with serving(store_path, steps) as engine:
        met = fail_once_for(monkeypatch, Turns, "_deliver", when=is_bad)
        monkeypatch.setattr(Codec, "encode", encode_no_problem)
        await engine.start(steps, 2, id="bad")
        await wait_until(lambda: met)
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.run(steps, 2) == 2
    monkeypatch.undo()


async def test_a_run_that_cannot_begin_is_parked_and_those_claimed_with_it_begin(
    file_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Engine(file_path) as client:
        for name in ("a", "bad", "b"):
            await client.start("steps", 1, id=name)
    original = Turns.__init__

    def init(self: Turns, *args: Any, **options: Any) -> None:
        if options["resident"].row.id == "bad":
            raise Fault
        original(self, *args, **options)

    monkeypatch.setattr(Turns, "__init__", init)
    async with serving(file_path, steps) as engine:
        record = await wait_parked(engine.get("bad"))
        assert record.problem is not None
        assert record.problem.kind == "internal_error"
        with trio.fail_after(PATIENCE_SECONDS):
            assert [await engine.get(name).result() for name in "ab"] == [1, 1]


async def test_a_dispatcher_whose_nudge_fails_looks_again(store_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the run that it was nudged for would wait until something else comes."""
    async with serving(store_path, steps, concurrency=1) as engine:
        met = fail_once_for(monkeypatch, Dispatcher, "nudge")
        run = await engine.start(steps, 1, delay=0.05)
        with trio.fail_after(PATIENCE_SECONDS):
            assert await run.result() == 1
        assert met


async def test_only_the_watcher_learns_that_nothing_can_be_offered_to_it(
    store_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(store_path, steps) as engine:
        async with engine.watch() as bad, engine.watch(workflow=steps) as good:
            met: list[Subscription] = fail_once_for(
                monkeypatch, Subscription, "offer", when=lambda self, *_: self is bad._subscription
            )
            run = await engine.start(steps, 1)
            with trio.fail_after(PATIENCE_SECONDS):
                async for record in good:
                    if record.status is RunStatus.COMPLETED:
                        break
                with pytest.raises(Fault):  # noqa: PT012
                    async for record in bad:
                        assert record.id == run.id
        assert met
        assert engine._serving.root is not None
        assert engine._root.child("services").value.child("feed").restart_count == 0


async def test_a_place_that_cannot_be_told_of_does_not_end_the_runs(
    store_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    met = fail_once_for(monkeypatch, Dispatcher, "place_is_free")
    async with serving(store_path, steps) as engine:
        assert await engine.run(steps, 1) == 1
        await wait_until(lambda: met)
        assert await engine.run(steps, 1) == 1
        assert engine._serving.root is not None
        assert engine._root.child("runs").restart_count == 0


async def test_who_waits_for_a_run_learns_of_its_end_though_telling_has_failed(
    store_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    met = fail_once_for(monkeypatch, Feed, "left")
    async with serving(store_path, steps) as engine:
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.run(steps, 1) == 1
        assert met


async def test_one_run_that_cannot_be_detached_at_first_does_not_keep_the_others(
    store_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = trio.Event()

    async def hold() -> None:
        held.set()
        await trio.sleep_forever()

    @workflow(name="holds")
    async def holds(ctx: Context) -> None:
        await ctx.step("hold", hold)

    with trio.fail_after(PATIENCE_SECONDS):
        async with serving(store_path, holds, grace_seconds=0.01) as engine:
            for _ in range(3):
                held = trio.Event()
                await engine.start(holds)
                await held.wait()
            met = fail_once_for(monkeypatch, ResidentRun, "detach")
    assert met


async def test_a_mailbox_that_cannot_be_read_for_a_moment_is_read_again(
    store_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durable_trio.stores.writer.STORE_RETRY_SECONDS", 0.01)
    held, go_on = trio.Event(), trio.Event()

    async def hold() -> None:
        held.set()
        await go_on.wait()

    async def holds(ctx: Context) -> None:
        await ctx.step("hold", hold)

    @workflow(name="listens")
    async def listens(ctx: Context) -> Any:
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(holds)  # so it stays in memory
            value = await ctx.wait_signal("go")
            go_on.set()
        return value

    async with serving(store_path, listens) as engine:
        run = await engine.start(listens, id="r")
        await held.wait()
        assert engine._client.services is not None
        store = engine._client.services.writer.store
        original, failures = store.ask, [StoreInUse("locked"), StoreInUse("locked")]

        def ask(question: Question[Any]) -> Any:
            if isinstance(question, LookAtMailbox) and failures:
                raise failures.pop()
            return original(question)

        monkeypatch.setattr(store, "ask", ask)
        with trio.fail_after(PATIENCE_SECONDS):
            await engine.signal_with_start(listens, id="r", signal="go", payload=3)  # of this it is only nudged
            assert await run.result() == 3
        assert not failures
