"""How signals come to a run: handed over in memory, after a restart, from another engine."""

from __future__ import annotations

import statistics
import time
from typing import Any

import pytest
import trio

from durable_trio import Context, Engine, MailboxFull, RunNotFound, RunStatus, workflow
from durable_trio.engine.runs.inbox import Inbox
from durable_trio.engine.runs.resident import ResidentRun
from durable_trio.limits import INBOX_CAPACITY
from durable_trio.rows import MailboxEntry, RunRow
from durable_trio.rules import residency
from durable_trio.stores.contract import Sent
from durable_trio.stores.questions import Loaded, MailboxLook
from tests.calls.kit import collect, collect_slowly, impatient
from tests.engine.harness import PATIENCE_SECONDS, SettableClock, executor_of, serving, wait_passivated, wait_status

pytestmark = pytest.mark.usefixtures("no_leaks")


S = RunStatus


# ---- handed over -----------------------------------------------------------------------------------------------------


async def test_a_resident_run_is_handed_what_this_process_sends_and_does_not_read_it(
    file_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_mailbox, looks = ResidentRun.read_mailbox, []

    async def noted(self: ResidentRun) -> MailboxLook:
        looks.append(await read_mailbox(self))
        return looks[-1]

    monkeypatch.setattr(ResidentRun, "read_mailbox", noted)
    async with serving(file_path) as engine, engine.inline("r") as ctx:
        for number in range(3):
            await engine.send_signal("r", "go", number)
            assert await ctx.wait_signal("go") == number
        for number in range(3):
            await engine.send_signal("r", f"name-{number}", number)
        assert [await ctx.wait_signal(f"name-{number}") for number in (2, 0, 1)] == [2, 0, 1]
        assert not looks
        # As long as the feed has not noticed what another process has sent; it would hand that over.
        monkeypatch.setattr(engine._client.services_in_use().feed, "_message_came", lambda _: None)
        async with Engine(file_path) as client:
            await client.send_signal("r", "go", "other process")
            await engine.send_signal("r", "go", "own")
            assert [await ctx.wait_signal("go") for _ in range(2)] == ["other process", "own"]
        assert looks


async def test_a_run_that_stays_in_memory_takes_a_signal_before_its_sender_goes_on(
    store_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that is sent by a step of its own. Nothing is read, and no task of the run has to take it."""
    monkeypatch.setattr(residency, "IDLE_SECONDS", PATIENCE_SECONDS)
    posted: list[Any] = []
    monkeypatch.setattr(Inbox, "post", lambda _, message: posted.append(message))

    async def send(number: int) -> None:
        await engine.send_signal("r", "own", number)

    @workflow
    async def takes(ctx: Context) -> list[Any]:
        found = [await ctx.wait_signal("go") for _ in range(2)]
        for number in range(2):
            await ctx.step("send", send, number)
        return [*found, *[await ctx.wait_signal("own") for _ in range(2)]]

    async with serving(store_path, takes) as engine:
        run = await engine.start(takes, id="r")
        await wait_status(run, S.SUSPENDED)
        for number in range(2):
            await run.signal("go", number)
        with trio.fail_after(PATIENCE_SECONDS):
            assert await run.result() == [0, 1, 0, 1]
        assert not posted


async def test_signals_that_are_sent_at_once_come_in_the_order_in_which_they_are_stored(file_path: str) -> None:
    """More than the inbox takes, and by tasks that go on in any order; some by another process."""
    count = 3 * INBOX_CAPACITY
    async with serving(file_path) as engine, Engine(file_path) as client, engine.inline("r") as ctx:
        async with trio.open_nursery() as nursery:
            for number in range(count):
                sender = client if number % 10 == 9 else engine
                nursery.start_soon(sender.send_signal, "r", "go", number)
        stored = [record.payload for record in await engine.get("r").unread()]
        with trio.fail_after(PATIENCE_SECONDS):
            assert [await ctx.wait_signal("go") for _ in range(count)] == stored
    assert sorted(stored) == list(range(count))


async def test_late_word_of_a_message_to_a_former_stay_of_a_run_is_no_news(store_path: str) -> None:
    """It was consumed there; who has come back into memory has no way to know it by its id."""
    clock = SettableClock()
    came_back = trio.Event()

    @workflow
    async def sleeps_between(ctx: Context) -> list[Any]:
        first = await ctx.wait_signal("go")
        await ctx.sleep(60)
        return [first, await ctx.wait_signal("go")]

    async with serving(store_path, sleeps_between, clock=clock) as engine:
        run = await engine.start(sleeps_between)
        await run.signal("go", 1)
        with trio.fail_after(PATIENCE_SECONDS):
            while not await run.steps():  # noqa: ASYNC110
                await trio.sleep(0.002)
        await wait_passivated(engine)
        runs = executor_of(engine).runs
        start = runs.start

        def start_and_tell(row: RunRow, loaded: Loaded | None = None) -> None:
            start(row, loaded)
            entry = MailboxEntry(id=1, run=row.run, kind="signal", name="go", payload="1", created_at=0)
            runs.post(row.run, Sent(entry=entry, created=True, owner=row.owner, follows=(row.token - 1, 0)))
            came_back.set()

        runs.start = start_and_tell  # type: ignore[method-assign]
        clock.advance(61)
        with trio.fail_after(PATIENCE_SECONDS):
            await came_back.wait()
            await wait_status(run, S.SUSPENDED)
            await run.signal("go", 2)
            assert await run.result() == [1, 2]


# ---- restarts --------------------------------------------------------------------------------------------------------


async def test_a_consumed_signal_is_not_waited_for_again_after_a_restart(file_path: str) -> None:
    async with serving(file_path, collect) as engine:
        run = await engine.start(collect, "go", 3, id="r")
        await run.signal("go", 1)
        await wait_passivated(engine)
        assert len(await run.steps()) == 1
    async with serving(file_path, collect) as engine:
        await engine.send_signal("r", "go", 2)
        await wait_passivated(engine)
    async with serving(file_path, collect) as engine:
        await engine.send_signal("r", "go", 3)
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.get("r").result() == [1, 2, 3]
        rows = await engine.get("r").steps()
        assert [row.result for row in rows] == [1, 2, 3]


async def test_signals_sent_while_nobody_serves_are_taken_in_order_later(file_path: str) -> None:
    async with serving(file_path, collect) as engine:
        await engine.start(collect, "go", 4, id="r")
        await wait_passivated(engine)
    async with Engine(file_path) as client:
        for number in range(4):
            await client.send_signal("r", "go", number)
    async with serving(file_path, collect) as engine:
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.get("r").result() == [0, 1, 2, 3]


async def test_a_signal_between_detach_and_restart_is_taken(file_path: str) -> None:
    """The run was resident in a step when its executor left, and the signal came before the wait."""
    gate = trio.Event()

    async def hang() -> None:
        gate.set()
        await trio.sleep_forever()

    async def done() -> None:
        pass

    steps = [hang, done]

    @workflow
    async def stepwise(ctx: Context) -> Any:
        await ctx.step("prepare", steps.pop(0))
        return await ctx.wait_signal("go")

    async with serving(file_path, stepwise, grace_seconds=0) as engine:
        await engine.start(stepwise, id="r")
        await gate.wait()
        await engine.send_signal("r", "go", "first")
    async with serving(file_path, stepwise) as engine:
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.get("r").result() == "first"


async def test_a_run_that_left_memory_comes_back_by_a_signal_of_its_name_only(store_path: str) -> None:
    async with serving(store_path, collect) as engine:
        run = await engine.start(collect, "go", 1)
        await wait_passivated(engine)
        await run.signal("other", 1)
        record = await run.record()
        assert (record.status, record.wake_at) == (S.SUSPENDED, None)
        assert (await engine.status()).resident_runs == 0
        await run.signal("go", 2)
        with trio.fail_after(PATIENCE_SECONDS):
            assert await run.result() == [2]


async def test_a_signal_at_any_instant_of_a_start_is_taken(file_path: str) -> None:
    """Sent as soon as the run is stored, while it is on its way into memory and out of it again."""
    async with serving(file_path, collect) as engine:

        async def send(run_id: str) -> None:
            while True:
                try:
                    await engine.send_signal(run_id, "go", run_id)
                except RunNotFound:
                    continue
                return

        ids = [f"r{number}" for number in range(60)]
        with trio.fail_after(PATIENCE_SECONDS):
            for run_id in ids:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(send, run_id)
                    run = await engine.start(collect, "go", 1, id=run_id)
                assert await run.result() == [run_id]


# ---- from another engine ---------------------------------------------------------------------------------------------


async def test_a_signal_from_another_engine_arrives_within_a_moment(
    file_path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """50 ms are promised on a machine with nothing else to do; this one may be busy, so the quickest of some counts."""
    arrived: list[float] = []

    @workflow
    async def noting(ctx: Context, count: int) -> int:
        for _ in range(count):
            sent_at = await ctx.wait_signal("go", float)
            arrived.append(time.perf_counter() - sent_at)
        return count

    count = 12
    async with serving(file_path, noting) as engine, Engine(file_path) as client:
        run = await engine.start(noting, count)
        await wait_passivated(engine)
        with trio.fail_after(PATIENCE_SECONDS):
            for number in range(count):
                await client.send_signal(run.id, "go", time.perf_counter())
                while len(arrived) <= number:  # noqa: ASYNC110
                    await trio.sleep(0.001)
            assert await client.get(run.id).result() == count
    median = statistics.median(arrived)
    with capsys.disabled():
        print(f"\nsignal from another engine: median {median * 1000:.1f} ms, worst {max(arrived) * 1000:.1f} ms")
    assert min(arrived) < 1


async def test_a_signal_from_another_engine_reaches_a_resident_run(file_path: str) -> None:
    """The run waits with a timeout under a second, so it has not left memory."""
    async with serving(file_path, impatient) as engine, Engine(file_path) as client:
        run = await engine.start(impatient, 0.95)
        await wait_status(run, S.SUSPENDED)
        await client.send_signal(run.id, "go", "from afar")
        await client.send_signal(run.id, "go", "again")
        with trio.fail_after(PATIENCE_SECONDS):
            assert await run.result() == ["from afar", "again"]


async def test_a_run_that_takes_no_signals_refuses_more_than_its_limit_and_can_be_cancelled(file_path: str) -> None:
    async with serving(file_path, collect, unread_signals_max=3) as engine:
        run = await engine.start(collect, "never", 1)
        for number in range(3):
            await run.signal("noise", number, id=str(number))
        with pytest.raises(MailboxFull, match="3 unread signals") as caught:
            await run.signal("noise", 3)
        assert caught.value.run_id == run.id
        await run.signal("noise", 2, id="2")  # which is there already
        with pytest.raises(MailboxFull):
            await engine.signal_with_start(collect, "never", 1, signal="more", id=run.id)
        assert [entry.payload for entry in await run.unread()] == [0, 1, 2]
        assert await run.cancel(wait=True)


@pytest.mark.parametrize("place", ["before", "behind", "among"])
async def test_signals_come_in_order_whatever_else_is_unread(place: str) -> None:
    """More than are loaded with a run: those that it waits for are found among them."""
    async with serving(":memory:", collect_slowly) as engine:
        run = await engine.start(collect_slowly, "go", 20)
        await wait_passivated(engine)
        noise = ["noise"] * 600
        wanted = ["go"] * 20
        names = {"before": wanted + noise, "behind": noise + wanted, "among": [*noise[:30], "go"] * 20}[place]
        for number, name in enumerate(names):
            await run.signal(name, number)
        await run.signal("open")
        with trio.fail_after(PATIENCE_SECONDS):
            assert await run.result() == [number for number, name in enumerate(names) if name == "go"]
        assert len(await run.unread()) == 600
