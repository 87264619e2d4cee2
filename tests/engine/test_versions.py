"""Several versions of a workflow: which one a run has, who executes it, and what becomes of one that nobody has."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from durable_trio import Context, Engine, RunConflict, RunNotFound, RunStatus, UnknownWorkflow, Workflow, workflow
from tests.engine.harness import PATIENCE_SECONDS, serving
from tests.kit.traces import virtual

pytestmark = pytest.mark.usefixtures("no_leaks")


def order(version: int, says: str | None = None) -> Workflow[..., str]:
    """Return a version of the workflow ``order``, which waits for a signal first if it is asked to."""

    @workflow(name="order", version=version)
    async def body(ctx: Context, wish: str = "") -> str:
        if wish == "wait":
            await ctx.wait_signal("go")
        return says or f"v{version}"

    return body


@pytest.mark.parametrize("version", [-1, True, 1.0, "1", None, 2**63])
def test_a_version_is_a_whole_number(version: Any) -> None:
    with pytest.raises(ValueError, match="version must be a whole number of at least 0"):
        order(version)


def test_a_version_is_given_once() -> None:
    with pytest.raises(ValueError, match="two workflows are named 'order', both of version 1; give one another name"):
        Engine(":memory:", workflows=[order(1), order(1)])
    same = order(1)
    Engine(":memory:", workflows=[same, same, order(0), order(2)])


async def test_a_run_has_the_version_that_it_was_started_with(autojump_clock: MockClock) -> None:
    """A function says which; a name stands for the newest one that the starter has."""
    first, third = order(1), order(3)
    async with virtual(third, order(0), first) as engine:
        for given, version in ((first, 1), (third, 3), ("order", 3), (order(0), 0)):
            run: Any = await engine.start(given)
            assert await run.result() == f"v{version}"
            assert (await run.record()).version == version
        started = await engine.signal_with_start("order", signal="go", id="signalled")
        assert await started.result() == "v3"


async def test_a_version_that_an_executing_engine_was_not_given_is_refused_at_once(autojump_clock: MockClock) -> None:
    async with virtual(order(2)) as engine:
        with pytest.raises(UnknownWorkflow, match="was not given version 1 of the workflow 'order'"):
            await engine.start(order(1))
        assert (await engine.list_runs()).runs == ()


async def test_the_same_start_is_the_same_run_whatever_version_is_the_newest_then(file_path: str) -> None:
    async with serving(file_path, order(1)) as engine:
        await engine.start("order", "wait", id="run")
    async with serving(file_path, order(1), order(2)) as engine:
        run = await engine.start("order", "wait", id="run")
        assert not getattr(run, "is_new", False)
        await run.signal("go")
        assert await run.result() == "v1"


async def test_children_have_the_newest_version_by_name_and_their_own_by_function(autojump_clock: MockClock) -> None:
    first = order(1)

    @workflow
    async def parent(ctx: Context) -> list[str]:
        return [await ctx.run_child("order"), await ctx.run_child(first), await ctx.run_child("order")]

    async with virtual(parent, first, order(2)) as engine:
        assert await engine.run(parent) == ["v2", "v1", "v2"]
        runs = (await engine.list_runs(workflow="order")).runs
        assert sorted(record.version or 0 for record in runs) == [1, 2, 2]


async def test_who_knows_no_version_leaves_it_to_the_first_who_takes_the_run(file_path: str) -> None:
    async with Engine(file_path) as client:
        await client.start("order", id="run")
        assert (await client.get("run").record()).version is None
    async with serving(file_path, order(1), order(4)) as engine:
        assert await engine.get("run").result() == "v4"
        assert (await engine.get("run").record()).version == 4


async def test_a_client_with_the_function_says_which_version_it_means(file_path: str) -> None:
    async with Engine(file_path) as client:
        await client.start(order(1), id="run")
    async with serving(file_path, order(1), order(2)) as engine:
        assert await engine.get("run").result() == "v1"


async def test_each_run_is_executed_by_the_one_that_has_its_version(file_path: str) -> None:
    """Two deploys beside each other, each of which starts runs that only the other one has."""
    async with serving(file_path, order(1, "old")) as old, serving(file_path, order(2, "new")) as new:
        async with Engine(file_path) as client:
            for number in range(12):
                await client.start(order(1 + number % 2), id=f"run-{number}")
            with trio.fail_after(PATIENCE_SECONDS):
                for number in range(12):
                    assert await client.get(f"run-{number}").result() == ("new" if number % 2 else "old")
        for engine in (old, new):
            assert (await engine.status()).unserved_versions == {}


async def waits_for(engine: Engine, run_id: str, says: Callable[[str], bool]) -> str:
    with trio.fail_after(PATIENCE_SECONDS):
        while True:  # polled: that nobody takes it is no event
            with suppress(RunNotFound):  # it is started in a moment
                awaited = (await engine.get(run_id).record()).waits_for
                reason = awaited[0].reason if awaited else None
                if reason is not None and says(reason):
                    return reason
            await trio.sleep(0.01)


async def test_a_version_that_nobody_has_waits_and_that_is_said_everywhere(file_path: str) -> None:
    async with Engine(file_path) as client:
        await client.start(order(3), id="run")
    async with serving(file_path, order(1), order(2)) as engine:
        other = await engine.start("order")
        assert await other.result() == "v2"
        reason = await waits_for(engine, "run", lambda reason: "version" in reason)
        assert reason == (
            "no executor has version 3 of 'order', only 1, 2: serve code that has it, or resume the run with another "
            "one (--version 2)"
        )
        assert (await engine.status()).unserved_versions == {("order", 3): 1}
        (listed,) = (await engine.list_runs(status="pending")).runs
        assert listed.waits_for[0].reason == reason
        await engine.resume("run", version=2)
        assert await engine.get("run").result() == "v2"
        assert (await engine.status()).unserved_versions == {}


async def test_one_that_waits_goes_on_by_itself_once_its_version_is_served(file_path: str) -> None:
    async with Engine(file_path) as client:
        await client.start(order(3), id="run")
    async with serving(file_path, order(1)), serving(file_path, order(3)) as engine:
        assert await engine.get("run").result() == "v3"


async def test_another_version_is_taken_by_resume_whatever_the_run_waits_for(file_path: str) -> None:
    failing = order(1, "")

    @workflow(name="order", version=1)
    async def fails(ctx: Context, wish: str = "") -> str:
        raise ValueError(wish)

    async with serving(file_path, fails, order(2)) as engine:
        failed = await engine.start(fails, "x", id="failed")
        with pytest.raises(Exception, match="failed"):
            await failed.result()
        await engine.resume("failed", version=2)
        assert await failed.result() == "v2"
        with pytest.raises(RunConflict, match="is completed without a problem"):
            await engine.resume("failed", version=1)
    async with serving(file_path, failing) as engine:
        waiting = await engine.start(failing, "wait", id="waiting")
        with trio.fail_after(PATIENCE_SECONDS):
            while (await waiting.record()).status is not RunStatus.SUSPENDED or (await waiting.record()).owner:  # noqa: ASYNC110
                await trio.sleep(0.01)
        with pytest.raises(RunConflict, match="without a problem"):
            await engine.resume("waiting", version=1)  # it has that
        with pytest.raises(ValueError, match="version must be a whole number"):
            await engine.resume("waiting", version=-1)
        await engine.resume("waiting", version=2)
    async with serving(file_path, order(2)) as engine:
        await engine.get("waiting").signal("go")
        assert await engine.get("waiting").result() == "v2"


async def test_a_fork_keeps_the_version(autojump_clock: MockClock) -> None:
    @workflow(name="steps", version=1)
    async def old(ctx: Context) -> str:
        await ctx.sleep(1)
        return "old"

    @workflow(name="steps", version=2)
    async def new(ctx: Context) -> str:
        return "new"

    async with virtual(old, new) as engine:
        run = await engine.start(old, id="run")
        await run.result()
        fork = await engine.fork("run", before="sleep#0")
        assert await fork.result() == "old"
        assert (await fork.record()).version == 1


@pytest.mark.parametrize(("given", "expected"), [({}, "v1"), ({"version": 2}, "v2"), ({"version": "newest"}, "v3")])
async def test_a_next_generation_has_the_same_version_unless_another_is_named(
    autojump_clock: MockClock, given: dict[str, Any], expected: str
) -> None:
    def turning(version: int) -> Workflow[[int], str]:
        @workflow(name="turning", version=version)
        async def body(ctx: Context, number: int) -> str:
            if number == 0:
                await ctx.continue_as_new(1, **given)
            return f"v{version}"

        return body

    first = turning(1)
    async with virtual(first, turning(2), turning(3)) as engine:
        run = await engine.start(first, 0)
        assert await run.result() == expected
        assert (await run.record()).version == int(expected[1:])
        assert [each.version for each in await run.generations()] == [1]


async def test_what_does_not_fit_the_version_that_goes_on_is_refused_at_once(autojump_clock: MockClock) -> None:
    @workflow(name="typed", version=2)
    async def new(ctx: Context, name: str) -> str:
        return name

    @workflow(name="typed", version=1)
    async def old(ctx: Context, number: int) -> Any:
        for match, args, options in (
            ("parameter 'name'", (1,), {"version": 2}),
            ("parameter 'number'", ("a",), {}),
            (
                "goes on with version 1 of 'typed', and workflow= is its version 2: say version=2",
                ("a",),
                {"workflow": new},
            ),
            ("version must be a whole number", (1,), {"version": -1}),
            ("version must be a whole number", (1,), {"version": "latest"}),
        ):
            with pytest.raises(Exception, match=match):
                await ctx.continue_as_new(*args, **options)
        return await ctx.continue_as_new("a", workflow=new, version=2)

    async with virtual(old, new) as engine:
        assert await engine.run(old, 1) == "a"


async def test_a_next_generation_of_a_version_that_nobody_has_waits_for_it(file_path: str) -> None:
    @workflow(name="order", version=1)
    async def onward(ctx: Context, wish: str = "") -> str:
        return await ctx.continue_as_new("later", version=7)

    async with serving(file_path, onward) as engine:
        await engine.start(onward, id="run")
        assert "version 7" in await waits_for(engine, "run", lambda reason: "version" in reason)
    async with serving(file_path, order(7)) as engine:
        assert await engine.get("run").result() == "v7"


async def test_versions_tells_who_serves_which_and_what_can_go(file_path: str) -> None:
    async with Engine(file_path) as client:
        await client.start(order(5), "wait", id="future")
        await client.start("order", "wait", id="by name", delay=3600)
    async with serving(file_path, order(1), order(2), order(3), build="b1") as engine:
        await (await engine.start(order(1))).result()
        await engine.start(order(2), "wait", id="old")
        found = {each.version: each for each in await engine.versions()}
        assert list(found) == [None, 1, 2, 3, 5]
        assert {version: each.unfinished for version, each in found.items()} == {None: 1, 1: 0, 2: 1, 3: 0, 5: 1}
        assert [version for version, each in found.items() if each.is_needless] == [1]
        assert [version for version, each in found.items() if each.is_served] == [1, 2, 3]
        (code,) = found[2].codes
        status = await engine.status()
        assert (code.fingerprint, code.executors, code.refused) == ("b1", (status.executors[0].id,), 0)
    async with serving(file_path, order(2), build="b2") as engine:
        found = {each.version: each for each in await engine.versions()}
        assert [len(found[version].codes) for version in (1, 2, 3)] == [1, 2, 1]
        assert [version for version, each in found.items() if each.is_served] == [2]
        assert not any(each.is_needless for each in found.values())
    async with Engine(file_path) as client:  # where nobody serves, versions are not what is lacking
        assert (await client.status()).unserved_versions == {}
        assert not any(each.is_served or each.is_needless for each in await client.versions())


async def test_runs_of_a_workflow_without_versions_are_of_version_0_and_keep_it(file_path: str) -> None:
    @workflow(name="order")
    async def before(ctx: Context, wish: str = "") -> str:
        await ctx.wait_signal("go")
        return "before"

    async with serving(file_path, before) as engine:
        run = await engine.start(before, "wait", id="run")
        assert (await run.record()).version == 0
    async with serving(file_path, before, order(1)) as engine:
        await engine.get("run").signal("go")
        assert await engine.get("run").result() == "before"
        assert await (await engine.start("order")).result() == "v1"


async def test_many_runs_get_another_version_by_one_call(file_path: str) -> None:
    async with Engine(file_path) as client:
        for number in range(3):
            await client.start(order(3), id=f"run-{number}")
    async with serving(file_path, order(1), order(2)) as engine:
        left = [done.refusal async for done in engine.resume_runs(version=1, status="pending", workflow="order")]
        assert left == [None] * 3
        for number in range(3):
            assert await engine.get(f"run-{number}").result() == "v1"
        with pytest.raises(ValueError, match="version must be a whole number"):
            engine.resume_runs(version=-1, status="failed")


async def test_a_start_with_a_signal_has_the_version_of_its_function(autojump_clock: MockClock) -> None:
    first = order(1)
    async with virtual(first, order(2)) as engine:
        run = await engine.signal_with_start(first, "wait", signal="go", id="run")
        assert await run.result() == "v1"


async def test_a_child_of_a_version_that_its_parents_process_has_not_waits_for_it(file_path: str) -> None:
    later = order(9)

    @workflow
    async def parent(ctx: Context) -> str:
        return await ctx.run_child(later, id="child")

    async with serving(file_path, parent, order(1)) as engine:
        await engine.start(parent, id="parent")
        assert "version 9" in await waits_for(engine, "child", lambda reason: "version" in reason)
        async with serving(file_path, later):
            assert await engine.get("parent").result() == "v9"
