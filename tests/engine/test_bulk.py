"""``engine.cancel_runs`` and the like: many runs by one call."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
import trio

from durable_trio import BulkProgress, Context, Engine, RunFailed, RunNotFound, RunStatus, StoreFull, workflow
from durable_trio.engine.bulk import Bulk
from durable_trio.stores.upkeep import UpkeepPace
from tests.engine.harness import serving, stored, wait_parked, wait_status

pytestmark = pytest.mark.usefixtures("no_leaks")

broken = {"is"}


async def fragile() -> str:
    if broken:
        raise ValueError("the machine is broken")
    return "done"


@workflow
async def waiting(ctx: Context) -> str:
    return str(await ctx.wait_signal("go"))


@workflow
async def failing(ctx: Context) -> str:
    return await ctx.step("fragile", fragile)


@workflow
async def parent(ctx: Context) -> str:
    return await ctx.run_child(failing, id="child")


@workflow
async def one_child(ctx: Context, id: str) -> str:
    return await ctx.run_child(failing, id=id)


@workflow
async def patient(ctx: Context) -> str:
    """Its child ends, and it goes on."""
    await ctx.run_child(passing, id="ended child")
    return str(await ctx.wait_signal("go"))


@workflow
async def passing(ctx: Context) -> None:
    """Ends at once."""


@workflow(name="changed")
async def before(ctx: Context) -> str:
    await ctx.sleep(0, name="old")
    return str(await ctx.wait_signal("go"))


@workflow(name="changed")
async def after(ctx: Context) -> str:
    await ctx.sleep(0, name="new")
    return str(await ctx.wait_signal("go"))


@pytest.fixture
async def engine(file_path: str) -> AsyncIterator[Engine]:
    broken.add("is")
    async with serving(file_path, waiting, failing, parent, one_child, patient, passing) as opened:
        yield opened


@pytest.fixture
async def client(file_path: str) -> AsyncIterator[Engine]:
    async with Engine(file_path) as opened:
        yield opened


async def start_many(client: Engine, count: int, *, tags: dict[str, str] | None = None) -> None:
    """Start runs that nobody takes, with ids from 'run 0' on; those that are newer come first."""
    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(partial(client.start, "waiting", id=f"run {number}", delay=3600, tags=tags))


def commit_count(client: Engine) -> int:
    return client._client.services_in_use().writer.commit_count


async def all_of(bulk: Bulk) -> list[BulkProgress]:
    return [progress async for progress in bulk]


async def statuses(engine: Engine) -> dict[str, RunStatus]:
    return {record.id: record.status for record in (await engine.list_runs()).runs}


async def test_each_run_of_a_filter_is_cancelled_and_each_tells_how_far_it_is(engine: Engine) -> None:
    for number in range(3):
        await engine.start(waiting, id=f"run {number}", tags={"of": "anna"})
    await engine.start(waiting, id="other")
    found = await all_of(engine.cancel_runs(tags={"of": "anna"}, reason="she has left"))
    assert [(each.run_id, each.done_count, each.total) for each in found] == [
        ("run 2", 1, 3),
        ("run 1", 2, 3),
        ("run 0", 3, 3),
    ]
    for number in range(3):
        record = await wait_status(engine.get(f"run {number}"), RunStatus.CANCELLED)
        assert "she has left" in str(record.error)
    assert not (await engine.get("other").record()).status.is_final


@pytest.mark.parametrize("name", ["cancel_runs", "resume_runs", "delete_runs", "abandon_runs"])
@pytest.mark.parametrize("which", [{}, {"tags": {}}, {"parked": False, "overdue": False}, {"workflow": None}])
async def test_no_filter_is_refused_for_it_would_be_every_run(engine: Engine, name: str, which: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{name} was given no filter"):
        getattr(engine, name)(**which)


async def test_a_wrong_filter_is_refused_at_the_call(engine: Engine) -> None:
    with pytest.raises(ValueError, match="'stuck' is no status"):
        engine.cancel_runs(status="stuck")
    with pytest.raises(TypeError, match=r"engine\.delete_runs has no option 'worflow'; did you mean 'workflow'\?"):
        engine.delete_runs(worflow="waiting")  # type: ignore[call-arg]


async def test_without_a_status_only_runs_are_taken_that_it_is_for(engine: Engine) -> None:
    with pytest.raises(RunFailed):
        await engine.run(failing, id="failed")
    await engine.start(failing, id="later", delay=3600)
    assert [each.run_id for each in await all_of(engine.cancel_runs(workflow=failing))] == ["later"]
    assert [each.run_id for each in await all_of(engine.delete_runs(workflow=failing, status="failed"))] == ["failed"]
    assert [each.run_id for each in await all_of(engine.delete_runs(workflow=failing))] == ["later"]
    assert await statuses(engine) == {}


async def test_what_has_changed_before_its_turn_is_passed_over(engine: Engine) -> None:
    for number in range(3):
        await engine.start(waiting, id=f"run {number}")
        await wait_status(engine.get(f"run {number}"), RunStatus.SUSPENDED)
    bulk = engine.abandon_runs(workflow=waiting)
    assert (await anext(bulk)).run_id == "run 2"
    await engine.send_signal("run 1", "go")
    await engine.get("run 1").result()
    assert [each.run_id for each in await all_of(bulk)] == ["run 0"]
    assert (await statuses(engine))["run 1"] is RunStatus.COMPLETED


async def test_a_child_is_resumed_before_its_parent_so_that_one_call_is_enough(engine: Engine) -> None:
    with pytest.raises(RunFailed):
        await engine.run(parent, id="parent")
    broken.clear()
    found = await all_of(engine.resume_runs(status="failed"))
    assert [each.run_id for each in found] == ["child", "parent"]
    assert await engine.get("parent", parent).result() == "done"


async def test_parked_runs_are_resumed_and_only_they(file_path: str) -> None:
    async with serving(file_path, before) as engine:
        for number in range(3):
            await engine.start(before, id=f"run {number}")
            await wait_status(engine.get(f"run {number}"), RunStatus.SUSPENDED)
    async with serving(file_path, after) as engine:
        for number in range(3):
            await engine.send_signal(f"run {number}", "go")
            await wait_parked(engine.get(f"run {number}"))
    async with Engine(file_path) as client:
        await client.start("changed", id="new", delay=3600)
        found = await all_of(client.resume_runs(workflow="changed", parked=True))
        assert [each.run_id for each in found] == ["run 2", "run 1", "run 0"]
    async with serving(file_path, before) as engine:
        for number in range(3):
            assert await engine.get(f"run {number}").result() == "None"


async def test_what_cannot_be_done_to_a_run_keeps_it_from_no_other_and_says_why(engine: Engine) -> None:
    """A child whose parent goes on is left: the parent may still ask for its result."""
    await engine.start(patient, id="patient")
    await stored(engine, "ended child")
    await wait_status(engine.get("ended child"), RunStatus.COMPLETED)
    await engine.run(passing, id="alone")
    alone, child = await all_of(engine.delete_runs(workflow=passing))
    assert (alone.run_id, alone.refusal, alone.done_count) == ("alone", None, 1)
    assert (child.run_id, child.done_count, child.left_count) == ("ended child", 1, 1)
    assert child.refusal == "its parent 'patient' goes on, and may still ask for its result"
    await engine.delete("ended child")
    with pytest.raises(RunNotFound):
        await engine.get("ended child").record()


async def test_what_was_shown_before_is_all_that_is_taken(engine: Engine) -> None:
    await engine.start(waiting, id="shown")
    run_ids = await engine.cancel_runs(workflow=waiting).find()
    await engine.start(waiting, id="new")
    found = await all_of(engine.cancel_runs(workflow=waiting).only(run_ids))
    assert [(each.run_id, each.total) for each in found] == [("shown", 1)]


async def test_a_call_that_nobody_iterates_over_is_told_of(engine: Engine) -> None:
    def forget() -> None:
        engine.cancel_runs(workflow=waiting)
        gc.collect()

    with pytest.warns(RuntimeWarning, match=r"engine\.cancel_runs\(…\) was not iterated over, so nothing was done"):
        forget()


async def test_cancellation_leaves_what_is_done(engine: Engine) -> None:
    for number in range(3):
        await engine.start(passing, id=f"run {number}", delay=3600)
    with trio.CancelScope() as scope:
        async for _ in engine.cancel_runs(workflow=passing):
            scope.cancel()
    found = await statuses(engine)
    assert (found["run 2"], found["run 1"]) == (RunStatus.CANCELLED, RunStatus.PENDING)


async def test_many_share_a_commit_and_are_told_in_their_order_all_the_same(
    client: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted = client._client.services_in_use().writer._submitted
    monkeypatch.setattr(submitted, "pace", UpkeepPace(lambda: 0.0))  # however slow the machine is
    await start_many(client, 200)
    for bulk in (client.cancel_runs(workflow="waiting"), client.delete_runs(status="cancelled")):
        newest_first = await bulk.find()
        before = commit_count(client)
        found = await all_of(bulk)
        assert [each.run_id for each in found] == list(newest_first)
        assert [each.done_count for each in found] == list(range(1, 201))
        assert commit_count(client) - before <= 100
    assert await statuses(client) == {}


async def test_a_thousand_cancels_are_some_dozens_of_commits(client: Engine) -> None:
    await start_many(client, 1000)
    before = commit_count(client)
    assert len(await all_of(client.cancel_runs(workflow="waiting"))) == 1000
    assert commit_count(client) - before == 7 + 14  # 1 + 2 + 4 … + 64, and the others by 64


async def test_whoever_stops_after_the_first_has_had_one_and_then_at_most_twice_what_was_told(client: Engine) -> None:
    await start_many(client, 100)
    bulk = client.cancel_runs(workflow="waiting")
    for told in range(1, 20):
        await anext(bulk)
        assert told <= bulk.done_count <= 2 * told
        assert len((await client.list_runs(status="cancelled")).runs) == bulk.done_count


@pytest.mark.parametrize("passes", [1, 3, 5, 8, 20])
async def test_cancelled_in_the_middle_it_knows_all_that_is_done_and_goes_on_with_the_rest_if_it_is_asked_again(
    client: Engine, passes: int
) -> None:
    await start_many(client, 40)
    bulk = client.abandon_runs(workflow="waiting")
    told = [(await anext(bulk)).run_id for _ in range(15)]  # those of the next group are 16

    async def cancel(scope: trio.CancelScope) -> None:
        for _ in range(passes):
            await trio.lowlevel.checkpoint()
        scope.cancel()

    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(cancel, scope)
            told.append((await anext(bulk)).run_id)
    assert 15 <= bulk.done_count <= 31
    assert len((await client.list_runs(status="cancelled")).runs) == bulk.done_count
    told += [each.run_id for each in await all_of(bulk)]
    assert sorted(told) == sorted(f"run {number}" for number in range(40))


async def test_an_error_of_the_store_comes_once_all_that_was_done_is_told(
    client: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await start_many(client, 7)
    bulk = client.cancel_runs(workflow="waiting")
    order = await bulk.find()
    cancel = client._client.cancel

    async def cancel_but_one(run_id: str, reason: str | None) -> bool:
        if run_id == order[1]:
            raise StoreFull("the disk is full")
        return await cancel(run_id, reason)

    monkeypatch.setattr(type(client._client), "cancel", lambda self, run_id, reason: cancel_but_one(run_id, reason))
    assert (await anext(bulk)).run_id == order[0]
    assert (await anext(bulk)).run_id == order[2]
    with pytest.raises(StoreFull):
        await anext(bulk)
    assert await statuses(client) | {order[1]: RunStatus.PENDING} == {
        run_id: RunStatus.CANCELLED if run_id in order[:3] else RunStatus.PENDING for run_id in order
    } | {order[1]: RunStatus.PENDING}


async def test_children_go_on_before_their_parents_also_where_many_are_resumed_at_once(engine: Engine) -> None:
    for number in range(12):
        with pytest.raises(RunFailed):
            await engine.run(one_child, f"child {number}", id=f"parent {number}")
    broken.clear()
    found = await all_of(engine.resume_runs(status="failed"))
    assert [each.refusal for each in found] == [None] * 24
    for number in range(12):
        assert await engine.get(f"parent {number}", one_child).result() == "done"
