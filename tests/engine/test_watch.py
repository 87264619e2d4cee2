"""Watching runs: the present first, then changes in order, never back, always the final one; and listing them."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from durable_trio import Context, Engine, RunConflict, RunNotFound, RunRecord, RunStatus, workflow
from durable_trio.stores.questions import NOTHING_LOADED, FindRun, LoadRun
from durable_trio.testing import VirtualClock
from tests.engine.harness import PATIENCE_SECONDS, SettableClock, ask, row_of, serving, wait_passivated, wait_status

pytestmark = pytest.mark.usefixtures("no_leaks")

S = RunStatus


@workflow
async def waiter(ctx: Context, count: int) -> list[Any]:
    return [await ctx.wait_signal("go") for _ in range(count)]


@workflow
async def publisher(ctx: Context) -> None:
    for number in range(3):
        await ctx.publish("progress", number)
        await ctx.wait_signal("go")
    await ctx.publish("progress", "done")


@workflow
async def quick(ctx: Context, value: int) -> int:
    return value


@workflow
async def failing(ctx: Context) -> None:
    raise ValueError("no")


async def gather(changes: Any, count: int) -> list[RunRecord]:
    """Return the next records of a watch."""
    with trio.fail_after(PATIENCE_SECONDS):
        return [await anext(changes) for _ in range(count)]


async def nothing_more(changes: Any) -> bool:
    """Return whether a watch has nothing to give just now. Own commits are looked at within 20 ms."""
    with trio.move_on_after(0.1):
        await anext(changes)
        return False
    return True


# ---- one run ---------------------------------------------------------------------------------------------------------


async def test_the_present_state_comes_first(store_path: str) -> None:
    async with serving(store_path, waiter) as engine:
        run = await engine.start(waiter, 1)
        await wait_passivated(engine)
        async with run.watch() as changes:
            (record,) = await gather(changes, 1)
            assert (record.id, record.status) == (run.id, S.SUSPENDED)
            assert await nothing_more(changes)


async def test_the_final_state_is_always_given_and_ends_the_iteration(store_path: str) -> None:
    async with serving(store_path, waiter) as engine:
        run = await engine.start(waiter, 1)
        async with run.watch() as changes:
            await gather(changes, 1)
            await run.signal("go", 1)
            with trio.fail_after(PATIENCE_SECONDS):
                records = [record async for record in changes]
            assert records[-1].status is S.COMPLETED
            assert records[-1].result == [1]
            with pytest.raises(StopAsyncIteration):
                await anext(changes)


async def test_a_run_that_has_ended_already_gives_its_final_state_and_ends(store_path: str) -> None:
    async with serving(store_path, failing) as engine:
        run = await engine.start(failing)
        await wait_status(run, S.FAILED)
        async with run.watch() as changes:
            records = [record async for record in changes]
        assert [record.status for record in records] == [S.FAILED]
        assert isinstance(records[0].error, ValueError)


async def test_watching_an_unknown_run_is_an_error_on_entry(store_path: str) -> None:
    async with serving(store_path, waiter) as engine:
        with pytest.raises(RunNotFound) as caught:
            async with engine.watch(run_id="nobody"):
                raise AssertionError("not reached")
        assert caught.value.run_id == "nobody"


async def test_states_never_go_back_and_none_comes_twice(store_path: str) -> None:
    """However often a run waits and goes on, a watcher sees rising versions of it."""
    count = 15

    @workflow
    async def counter(ctx: Context) -> None:
        for number in range(count):
            await ctx.wait_signal("go")
            await ctx.publish("n", number)

    async with serving(store_path, counter) as engine:
        run = await engine.start(counter)
        seen: list[RunRecord] = []

        async def look(run_id: str) -> None:
            async with engine.watch(run_id=run_id) as changes:
                async for record in changes:
                    seen.append(record)

        with trio.fail_after(PATIENCE_SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(look, run.id)
                for number in range(count):
                    await run.signal("go", number)
                    await trio.sleep(0.002)
        assert [record.status for record in seen].count(S.COMPLETED) == 1
        assert seen[-1].status is S.COMPLETED
        for before, after in itertools.pairwise(seen):
            assert before.values.get("n", -1) <= after.values.get("n", -1)
            assert not before.status.is_final
        assert seen[-1].values == {"n": count - 1}


async def test_published_values_show_while_the_run_waits(store_path: str) -> None:
    async with serving(store_path, publisher) as engine:
        run = await engine.start(publisher)
        seen: list[Any] = []
        with trio.fail_after(PATIENCE_SECONDS):
            async with run.watch() as changes:
                async for record in changes:
                    value = record.values.get("progress")
                    if value is not None and (not seen or seen[-1] != value):
                        seen.append(value)
                        if value != "done":
                            await run.signal("go")
        assert seen == [0, 1, 2, "done"]


async def test_a_slow_watcher_gets_merged_states_and_the_final_one(store_path: str) -> None:
    async with serving(store_path, waiter) as engine:
        run = await engine.start(waiter, 30)
        async with run.watch() as changes:
            await gather(changes, 1)
            for number in range(30):
                await run.signal("go", number)
            await run.result()
            await trio.sleep(0.05)
            with trio.fail_after(PATIENCE_SECONDS):
                records = [record async for record in changes]
        assert len(records) <= 3
        assert records[-1].status is S.COMPLETED


async def test_a_cancelled_look_loses_nothing(store_path: str) -> None:
    async with serving(store_path, waiter) as engine:
        run = await engine.start(waiter, 1)
        await wait_passivated(engine)
        async with run.watch() as changes:
            await gather(changes, 1)
            for _ in range(3):
                with trio.move_on_after(0.005):
                    await anext(changes)
            await run.signal("go", 1)
            with trio.fail_after(PATIENCE_SECONDS):
                last = [record async for record in changes][-1]
        assert last.status is S.COMPLETED


async def test_two_watchers_of_one_run_both_see_its_end(store_path: str) -> None:
    async with serving(store_path, waiter) as engine:
        run = await engine.start(waiter, 1)
        async with run.watch() as first, run.watch() as second:
            await run.signal("go", 1)
            with trio.fail_after(PATIENCE_SECONDS):
                ends = [[record async for record in changes][-1].status for changes in (first, second)]
        assert ends == [S.COMPLETED, S.COMPLETED]


async def test_a_watch_of_one_run_with_a_status_waits_for_that_status_and_ends_with_the_run(store_path: str) -> None:
    """A run that is there but not in that status is no unknown run."""
    async with serving(store_path, waiter) as engine:
        run = await engine.start(waiter, 1)
        await wait_passivated(engine)
        with trio.fail_after(PATIENCE_SECONDS):
            async with engine.watch(run_id=run.id, status=S.COMPLETED) as changes:
                await run.signal("go", 1)
                assert [record.status async for record in changes] == [S.COMPLETED]
            async with engine.watch(run_id=run.id, status=S.RUNNING) as changes:
                assert [record.status async for record in changes] == []


# ---- many runs -------------------------------------------------------------------------------------------------------


async def test_a_watch_of_all_gives_the_present_runs_and_then_new_ones(store_path: str) -> None:
    async with serving(store_path, waiter, quick) as engine:
        old = [await engine.start(waiter, 1, id=f"old{number}") for number in range(3)]
        await wait_passivated(engine)
        async with engine.watch() as changes:
            present = await gather(changes, 3)
            assert {record.id for record in present} == {run.id for run in old}
            new = await engine.start(quick, 0, id="new")
            with trio.fail_after(PATIENCE_SECONDS):
                async for record in changes:
                    if record.status is S.COMPLETED:
                        break
            assert record.id == new.id
            assert await nothing_more(changes)


async def test_a_watch_of_runs_that_have_just_ended_gives_each_once(store_path: str) -> None:
    """The commits that the watch has not been told of yet are those whose outcome the present state shows."""
    async with serving(store_path, quick) as engine:
        for _ in range(5):
            for number in range(4):
                await engine.run(quick, number)
            async with engine.watch(workflow=quick) as changes:
                total = len((await engine.list_runs(limit=1000)).runs)
                seen = await gather(changes, total)
                assert len({record.id for record in seen}) == total
                assert await nothing_more(changes)


async def test_a_watch_can_be_narrowed_by_workflow_status_and_tags(store_path: str) -> None:
    async with serving(store_path, waiter, quick, failing) as engine:
        async with (
            engine.watch(workflow=quick) as by_workflow,
            engine.watch(workflow="failing") as by_name,
            engine.watch(status=[S.FAILED, "cancelled"]) as by_status,
            engine.watch(tags={"color": "red", "size": "L"}) as by_tags,
        ):
            await engine.start(quick, 0, id="q")
            await engine.start(failing, id="f")
            red = await engine.start(waiter, 1, id="red", tags={"color": "red", "size": "L", "more": "x"})
            await engine.start(waiter, 1, id="small red", tags={"color": "red"})
            await wait_passivated(engine)
            await red.cancel(wait=True)
            seen = {
                name: await until_final(changes, last)
                for name, changes, last in [
                    ("workflow", by_workflow, "q"),
                    ("name", by_name, "f"),
                    ("tags", by_tags, "red"),
                ]
            }
            assert seen == {"workflow": {"q"}, "name": {"f"}, "tags": {"red"}}
            assert {record.id for record in await gather(by_status, 2)} == {"f", "red"}
            for changes in (by_workflow, by_name, by_status, by_tags):
                assert await nothing_more(changes)


async def until_final(changes: Any, run_id: str) -> set[str]:
    """Return the ids that a watch gives until that run has ended."""
    seen = set()
    with trio.fail_after(PATIENCE_SECONDS):
        async for record in changes:
            seen.add(record.id)
            if record.id == run_id and record.status.is_final:
                break
    return seen


async def test_a_resumed_run_shows_again(store_path: str) -> None:
    async with serving(store_path, waiter) as engine:
        run = await engine.start(waiter, 1)
        async with engine.watch() as changes:
            await wait_passivated(engine)
            await run.cancel(wait=True)
            assert await until_final(changes, run.id) == {run.id}
            await engine.resume(run.id)
            await run.signal("go", 1)
            with trio.fail_after(PATIENCE_SECONDS):
                async for record in changes:
                    if record.status is S.COMPLETED:
                        break


# ---- across engines --------------------------------------------------------------------------------------------------


async def test_a_client_watches_a_run_of_another_engine_to_its_end(file_path: str) -> None:
    async with serving(file_path, publisher) as engine, Engine(file_path) as client:
        run = await client.start("publisher")
        seen: list[RunRecord] = []
        with trio.fail_after(PATIENCE_SECONDS):
            async with client.watch(run_id=run.id) as changes:
                async for record in changes:
                    is_new = record.values not in [before.values for before in seen if before.status is S.SUSPENDED]
                    seen.append(record)
                    if record.status is S.SUSPENDED and is_new:  # it may be seen due, too, before it goes on
                        await client.send_signal(run.id, "go")
        assert seen[-1].status is S.COMPLETED
        assert seen[-1].values == {"progress": "done"}
        assert (await engine.get(run.id).record()).status is S.COMPLETED


async def test_a_client_sees_runs_that_others_start(file_path: str) -> None:
    async with serving(file_path, quick) as engine, Engine(file_path) as client:
        async with client.watch(workflow="quick") as changes:
            run = await engine.start(quick, 7)
            assert await until_final(changes, run.id) == {run.id}


async def test_the_result_of_a_run_of_another_engine_can_be_waited_for(file_path: str) -> None:
    async with serving(file_path, waiter) as engine, Engine(file_path, workflows=[waiter]) as client:
        run = await engine.start(waiter, 1)
        with trio.fail_after(PATIENCE_SECONDS):
            async with trio.open_nursery() as nursery:

                async def wait() -> None:
                    assert await client.get(run.id, waiter).result() == ["x"]

                nursery.start_soon(wait)
                await client.send_signal(run.id, "go", "x")


async def test_watching_in_virtual_time_costs_none(autojump_clock: MockClock) -> None:
    async with serving(":memory:", waiter, clock=VirtualClock()) as engine:
        run = await engine.start(waiter, 1, delay=3600.0)
        await run.signal("go", 1)
        async with run.watch() as changes:
            with trio.fail_after(3601):
                statuses = [record.status async for record in changes]
        assert statuses[0] is S.PENDING
        assert statuses[-1] is S.COMPLETED
        assert trio.current_time() >= 3600


# ---- lists -----------------------------------------------------------------------------------------------------------


async def test_a_list_can_be_narrowed_by_each_filter(store_path: str) -> None:
    clock = SettableClock()
    async with serving(store_path, quick, waiter, failing, clock=clock) as engine:
        created: dict[str, datetime] = {}
        starts: list[tuple[str, str, list[int], dict[str, Any]]] = [
            ("a", "quick", [0], {"tags": {"color": "red"}}),
            ("b", "waiter", [1], {"tags": {"color": "red", "size": "L"}, "queue": "mail"}),
            ("c", "failing", [], {"queue": "mail"}),
            ("d", "quick", [0], {"delay": 3600.0}),
        ]
        for name, started, args, options in starts:
            clock.advance(1)
            run = await engine.start(started, *args, id=name, **options)
            created[name] = (await run.record()).created_at
        await wait_passivated(engine)

        async def ids(**filters: Any) -> list[str]:
            return [record.id for record in (await engine.list_runs(**filters)).runs]

        assert await ids() == ["d", "c", "b", "a"]
        assert await ids(status="completed") == ["a"]
        assert await ids(status=[S.COMPLETED, S.FAILED]) == ["c", "a"]
        assert await ids(status=[]) == []
        assert await ids(workflow=quick) == ["d", "a"]
        assert await ids(workflow="waiter") == ["b"]
        assert await ids(tags={"color": "red"}) == ["b", "a"]
        assert await ids(tags={"color": "red", "size": "L"}) == ["b"]
        assert await ids(tags={"color": "blue"}) == []
        assert await ids(queue="mail") == ["c", "b"]
        assert await ids(parent="a") == []
        assert await ids(created_after=created["b"]) == ["d", "c"]
        assert await ids(created_before=created["b"]) == ["a"]
        assert await ids(created_after=created["a"], created_before=created["d"], queue="mail") == ["c", "b"]
        assert await ids(workflow=quick, status=S.PENDING) == ["d"]
        assert await ids(limit=2) == ["d", "c"]


@pytest.mark.parametrize("limit", [1, 3, 7, 10, 11])
async def test_pages_give_each_run_once_in_order_also_where_times_are_equal(store_path: str, limit: int) -> None:
    clock = SettableClock()  # it stands still: all runs are created at the same instant
    async with serving(store_path, quick, clock=clock) as engine:
        ids = [(await engine.start(quick, number, id=f"r{number}")).id for number in range(10)]
        found: list[str] = []
        cursor = None
        for _ in range(20):
            page = await engine.list_runs(limit=limit, cursor=cursor)
            assert len(page.runs) <= limit
            found += [record.id for record in page.runs]
            cursor = page.next_cursor
            if cursor is None:
                break
            await engine.start(quick, 0, id=f"later {len(found)}")  # newer ones do not shift the pages
    assert found == ids[::-1]


async def test_a_full_last_page_has_no_cursor(store_path: str) -> None:
    async with serving(store_path, quick) as engine:
        for number in range(4):
            await engine.start(quick, number)
        first = await engine.list_runs(limit=2)
        second = await engine.list_runs(limit=2, cursor=first.next_cursor)
        assert first.next_cursor is not None
        assert second.next_cursor is None
        assert (await engine.list_runs(status=S.CANCELLED)).next_cursor is None


@pytest.mark.parametrize("cursor", ["", "x", "!!", "é", "MQ=="])
async def test_a_cursor_that_no_page_gave_is_refused(cursor: str) -> None:
    async with serving(":memory:", quick) as engine:
        with pytest.raises(ValueError, match="cursor"):
            await engine.list_runs(cursor=cursor)


@pytest.mark.parametrize("limit", [0, -1, 1001, True, 2.0, "3"])
async def test_a_limit_out_of_range_is_refused(limit: Any) -> None:
    async with serving(":memory:", quick) as engine:
        with pytest.raises(ValueError, match="limit"):
            await engine.list_runs(limit=limit)


async def test_an_unknown_status_and_a_naive_time_are_refused() -> None:
    async with serving(":memory:", quick) as engine:
        with pytest.raises(ValueError, match=r"sleeping.*suspended"):
            await engine.list_runs(status="sleeping")
        with pytest.raises(ValueError, match="time zone"):
            await engine.list_runs(created_after=datetime(2024, 1, 1))
        with pytest.raises(ValueError, match="sleeping"):
            engine.watch(status="sleeping")
        page = await engine.list_runs(created_after=datetime(2024, 1, 1, tzinfo=UTC))
        assert page.runs == ()


# ---- delete, prune ---------------------------------------------------------------------------------------------------


async def test_a_deleted_run_is_gone_with_all_its_rows(file_path: str) -> None:
    async with serving(file_path, publisher) as engine:
        run = await engine.start(publisher)
        for _ in range(4):
            await run.signal("go", id=None)
        await run.result()
        number = row_of(engine, run.id).run
        await engine.delete(run.id)
        with pytest.raises(RunNotFound):
            await run.record()
        with pytest.raises(RunNotFound):
            await engine.delete(run.id)
        assert ask(engine, FindRun(run.id)) is None
        assert ask(engine, LoadRun(number)) == NOTHING_LOADED


async def test_the_id_of_a_deleted_run_is_free_again(store_path: str) -> None:
    async with serving(store_path, quick) as engine:
        assert await engine.run(quick, 1, id="r") == 1
        await engine.delete("r")
        assert await engine.run(quick, 2, id="r") == 2


async def test_a_run_that_has_not_ended_is_not_deleted(store_path: str) -> None:
    async with serving(store_path, waiter) as engine:
        run = await engine.start(waiter, 1)
        pending = await engine.start(waiter, 1, delay=3600)
        await wait_passivated(engine)
        for run_id in (run.id, pending.id):
            with pytest.raises(RunConflict, match="cancel"):
                await engine.delete(run_id)
        await run.signal("go", 1)
        assert await run.result() == [1]


async def test_prune_removes_only_runs_that_ended_before_and_spares_the_living(store_path: str) -> None:
    clock = SettableClock()
    async with serving(store_path, quick, failing, waiter, clock=clock) as engine:
        for number in range(3):
            await engine.run(quick, 0, id=f"old{number}")
        await wait_status(await engine.start(failing, id="old failure"), S.FAILED)
        await engine.start(waiter, 1, id="alive")
        clock.advance(60)
        middle = (await engine.get("old0").record()).created_at + timedelta(seconds=30)
        await engine.run(quick, 0, id="new")
        assert await engine.prune(middle, status=S.COMPLETED) == 3
        assert await engine.prune(middle, status="completed") == 0
        assert {record.id for record in (await engine.list_runs()).runs} == {"old failure", "alive", "new"}
        assert await engine.prune(middle) == 1
        clock.advance(60)
        assert await engine.prune(middle + timedelta(hours=1)) == 1
        assert [record.id for record in (await engine.list_runs()).runs] == ["alive"]


async def test_prune_removes_more_than_one_batch() -> None:
    async with serving(":memory:", quick) as engine:
        for number in range(450):
            await engine.start(quick, number, delay=3600)
        for record in (await engine.list_runs(limit=1000)).runs:
            await engine.cancel(record.id)
        told: list[int] = []
        assert await engine.prune(datetime(2100, 1, 1, tzinfo=UTC), progress=told.append) == 450
        assert told == sorted(told)
        assert len(told) > 1
        assert told[-1] == 450
        assert (await engine.list_runs()).runs == ()


async def test_prune_refuses_a_status_that_is_not_final_and_a_naive_time(store_path: str) -> None:
    async with serving(store_path, quick) as engine:
        await engine.run(quick, 0)
        with pytest.raises(ValueError, match="running"):
            await engine.prune(datetime(2100, 1, 1, tzinfo=UTC), status=[S.COMPLETED, S.RUNNING])
        with pytest.raises(ValueError, match="time zone"):
            await engine.prune(datetime(2100, 1, 1))
        assert len((await engine.list_runs()).runs) == 1
