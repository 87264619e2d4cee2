"""New code comes into a family one worker at a time, or not at all; with workers that are tasks of this process."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from trio.testing import MockClock

from durable_trio import Engine, Reload
from durable_trio.engine.codes import FamilyCode
from durable_trio.engine.workers.family import WHY, Family, encode
from durable_trio.engine.workers.parent import CODE_CHANGED, WORKERS
from durable_trio.engine.workers.reloads import ReloadFailed, Reloads
from durable_trio.engine.workers.requests import ReloadRequest, Requests, put
from durable_trio.processes import ProcessIdentity
from durable_trio.stores.questions import ListReports
from supervisors import (
    Backoff,
    Child,
    ChildSpec,
    DynamicSupervisorSpec,
    Intensity,
    ProcessExit,
    ProcessFailed,
    Supervisor,
    SupervisorSpec,
    open_supervisor,
)

_START_SECONDS = 3.0
_DRAIN_SECONDS = 10.0


class Workers:
    """Workers that are tasks. ``files`` is what one reads that is started; those in ``broken`` are never ready."""

    can_reload = True

    def __init__(self, count: int) -> None:
        self.count = count
        self.files = "old"
        self.store = "/srv/app.db"
        self.broken: set[str] = set()
        self.serving: dict[str, str] = {}  # by name: which code
        self.crashes: dict[str, trio.Event] = {}
        self.log: list[str] = []
        self.fewest_serving = count
        self.pids: set[int] = set()  # of those that are there
        self._last_pid = itertools.count(1)
        self.family = Family("durable-trio reload", self.pids.__contains__)
        self.requests = Requests()

    def process(self, name: str) -> ChildSpec:
        """Return one worker."""
        backoff = Backoff(first=0.1, longest=0.1)
        return Child(name, self._serve, args=(name,), backoff=backoff, shutdown=2 * _DRAIN_SECONDS)

    async def _serve(self, name: str, *, task_status: trio.TaskStatus[None]) -> None:
        pid, code = next(self._last_pid), self.files
        await trio.sleep(_START_SECONDS)
        refusal = self.family.answer(name, pid, encode(self.code(code)))
        if refusal is not None:
            raise ProcessFailed(name, ProcessExit(code=CODE_CHANGED, stderr_tail=f"{refusal[WHY]}\n"), is_ready=False)
        if name in self.broken:
            raise ProcessFailed(name, ProcessExit(code=70, stderr_tail="no disk\n"), is_ready=False)
        self.pids.add(pid)
        self.serving[name] = code
        self.log.append(f"+{name}")
        crash = self.crashes[name] = trio.Event()
        task_status.started()
        try:
            await crash.wait()
            raise RuntimeError("killed")
        finally:
            self.log.append(f"-{name}")
            del self.serving[name]
            self.fewest_serving = min(self.fewest_serving, len(self.serving))
            if not crash.is_set():
                with trio.CancelScope(shield=True):
                    await trio.sleep(_DRAIN_SECONDS)
            self.pids.discard(pid)

    async def probe(self) -> FamilyCode:
        """Return the code of the files."""
        code = self.files
        await trio.sleep(_START_SECONDS)
        if code == "broken":
            raise ReloadFailed("the new code cannot be served: SyntaxError")
        return self.code(code)

    def code(self, digest: str) -> FamilyCode:
        """Return what is told of some files."""
        return FamilyCode(digest=digest, store=self.store)


@attrs.frozen
class Scene:
    workers: Workers
    reloads: Reloads
    root: Supervisor
    client: Engine
    rehearsals: list[str]

    @property
    def all(self) -> tuple[Reload, ...]:
        return self.reloads.report().reloads

    async def reload(self, *, rehearses: bool = False, baseline: str | None = None) -> Reload:
        """Ask for a reload as another process does, and return how it has ended."""
        return await self.ended(await self.ask(rehearses=rehearses, baseline=baseline))

    async def ask(self, *, rehearses: bool = False, baseline: str | None = None) -> str:
        id = f"reload-{len(self.all)}"
        services = self.client._client.services_in_use()
        request = ReloadRequest(id=id, process=str(ProcessIdentity.own()), rehearses=rehearses, baseline=baseline)
        await put(request, services.writer, self.client._client.settings.clock)
        await self.until(lambda: any(reload.id == id for reload in self.all))
        return id

    async def ended(self, id: str) -> Reload:
        found: list[Reload] = []

        def is_over() -> bool:
            found[:] = [reload for reload in self.all if reload.id == id and reload.state in ("done", "failed")]
            return bool(found)

        await self.until(is_over)
        return found[0]

    async def until(self, condition: Callable[[], object]) -> None:
        with trio.fail_after(1000):
            while not condition():  # noqa: ASYNC110  # many things bring it about
                await trio.sleep(0.01)


@asynccontextmanager
async def family(count: int = 3) -> AsyncIterator[Scene]:
    """A family of workers that serves, and the service that reloads it."""
    workers = Workers(count)
    rehearsals: list[str] = []

    async def rehearse(baseline: str | None) -> None:
        rehearsals.append(workers.files)
        await trio.sleep(10)
        if workers.files == "diverging" and baseline is None:
            raise ReloadFailed("3 runs would diverge")

    async def find_root() -> Supervisor:
        await opened.wait()
        return root

    opened = trio.Event()
    async with Engine(":memory:") as client:
        services = client._client.services_in_use()
        reloads = Reloads(
            workers,
            probe=workers.probe,
            rehearse=rehearse,
            root=find_root,
            writer=services.writer,
            clock=client._client.settings.clock,
            changed=lambda: None,
        )
        dynamic = DynamicSupervisorSpec(
            intensity=Intensity(1000, per=10), children=[workers.process(f"worker-{n + 1}") for n in range(count)]
        )
        children = [Child(WORKERS, dynamic), Child("reloads", reloads.run, shutdown=math.inf)]
        async with open_supervisor(SupervisorSpec(children=children), name="engine") as root:
            workers.family.is_open = True
            opened.set()
            yield Scene(workers, reloads, root, client, rehearsals)


async def test_each_worker_is_replaced_by_a_new_one_that_is_ready_before_the_old_one_goes(
    autojump_clock: MockClock,
) -> None:
    async with family() as scene:
        scene.workers.files = "new"
        reload = await scene.reload()
        assert (reload.state, reload.workers, reload.replaced, reload.reason) == ("done", 3, 3, "")
        assert not reload.is_same_code
        assert scene.workers.serving == {"worker-4": "new", "worker-5": "new", "worker-6": "new"}
        assert scene.workers.fewest_serving == 3, "all the time"
        swaps = ["+worker-4", "-worker-1", "+worker-5", "-worker-2", "+worker-6", "-worker-3"]
        assert scene.workers.log[3:] == swaps


async def test_each_old_worker_has_drained_before_the_next_one_is_touched(autojump_clock: MockClock) -> None:
    async with family(2) as scene:
        began = trio.current_time()
        await scene.reload()
        took = trio.current_time() - began
        assert took >= _START_SECONDS + 2 * (_START_SECONDS + _DRAIN_SECONDS)


async def test_it_is_told_if_the_code_is_the_same_as_before(autojump_clock: MockClock) -> None:
    """As where a link to another release was followed when the server was started; or for data, on purpose."""
    async with family(1) as scene:
        reload = await scene.reload()
        assert (reload.state, reload.is_same_code) == ("done", True)
        assert scene.workers.serving == {"worker-2": "old"}
        scene.workers.files = "new"
        assert not (await scene.reload()).is_same_code
        assert (await scene.reload()).is_same_code


async def test_new_code_is_told_as_new_where_all_workers_have_died_meanwhile_and_brought_it(
    autojump_clock: MockClock,
) -> None:
    """Those that come back when nobody is left set the code anew; before the reload it was another one all the same."""
    async with family(1) as scene:
        scene.workers.files = "new"
        id = await scene.ask(rehearses=True)
        scene.workers.crashes["worker-1"].set()
        reload = await scene.ended(id)
        assert (reload.state, reload.is_same_code) == ("done", False)


async def test_what_cannot_be_imported_changes_nothing(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with family() as scene:
        scene.workers.files = "broken"
        with caplog.at_level(logging.INFO, "durable_trio.processes"):
            reload = await scene.reload()
        expected = "the new code cannot be served: SyntaxError; nothing was changed"
        assert (reload.state, reload.replaced, reload.reason) == ("failed", 0, expected)
        assert [vars(record)["event"] for record in caplog.records] == ["reload_started", "reload_failed"]
        assert expected in caplog.records[-1].message
        assert set(scene.workers.serving.values()) == {"old"}
        scene.workers.files = "old"
        scene.workers.crashes["worker-1"].set()
        await scene.until(lambda: "worker-1" not in scene.workers.serving)
        await scene.until(lambda: "worker-1" in scene.workers.serving)


@pytest.mark.parametrize(("first_broken", "replaced"), [("worker-4", 0), ("worker-5", 1)])
async def test_a_new_worker_that_is_not_ready_ends_the_reload_and_old_and_new_go_on(
    autojump_clock: MockClock, first_broken: str, replaced: int
) -> None:
    async with family() as scene:
        scene.workers.files, scene.workers.broken = "new", {first_broken}
        reload = await scene.reload()
        assert (reload.state, reload.workers, reload.replaced) == ("failed", 3, replaced)
        assert f"{first_broken} was not ready: no disk; " in reload.reason
        said = "1 of 3 workers serve the new code, the others the old one" if replaced else "all workers serve the old"
        assert said in reload.reason
        serving = sorted(scene.workers.serving.values())
        assert serving == ["new"] * replaced + ["old"] * (3 - replaced)
        # One that dies now comes back with what the family is to serve: the new code if anybody has it.
        scene.workers.crashes["worker-3"].set()
        await scene.until(lambda: "worker-3" not in scene.workers.serving)
        if not replaced:
            await scene.until(lambda: scene.workers.family.held_back)
            assert "worker-3" not in scene.workers.serving
        else:
            await scene.until(lambda: scene.workers.serving.get("worker-3") == "new")


async def test_after_one_that_has_failed_the_next_reload_finishes_it(autojump_clock: MockClock) -> None:
    async with family(2) as scene:
        scene.workers.files, scene.workers.broken = "new", {"worker-4"}
        assert (await scene.reload()).replaced == 1
        assert (await scene.reload()).state == "done"
        assert set(scene.workers.serving.values()) == {"new"}
        assert [reload.state for reload in scene.all] == ["failed", "done"]


async def test_files_that_change_again_during_a_reload_end_it(autojump_clock: MockClock) -> None:
    async with family(2) as scene:
        scene.workers.files = "new"
        id = await scene.ask()
        await scene.until(lambda: "worker-3" in scene.workers.serving)
        scene.workers.files = "newer"
        reload = await scene.ended(id)
        assert (reload.state, reload.replaced) == ("failed", 1)
        assert "the code has changed since this family started: durable-trio reload" in reload.reason
        assert sorted(scene.workers.serving.values()) == ["new", "old"]


async def test_a_worker_that_dies_meanwhile_comes_back_with_the_new_code_and_is_not_replaced_again(
    autojump_clock: MockClock,
) -> None:
    async with family(2) as scene:
        scene.workers.files = "new"
        id = await scene.ask()
        await scene.until(lambda: "worker-3" in scene.workers.serving)  # and worker-1 drains
        scene.workers.crashes["worker-2"].set()
        assert (await scene.ended(id)).replaced == 2
        assert scene.workers.serving == {"worker-3": "new", "worker-2": "new"}


async def test_a_new_worker_that_dies_at_once_is_waited_for_before_the_next_one_is_touched(
    autojump_clock: MockClock,
) -> None:
    async with family(2) as scene:
        scene.workers.files = "new"
        id = await scene.ask()
        await scene.until(lambda: "worker-3" in scene.workers.serving)
        await trio.sleep(_DRAIN_SECONDS - 0.5)
        scene.workers.crashes["worker-3"].set()
        await scene.until(lambda: "worker-1" not in scene.workers.serving)
        await trio.sleep(1)
        assert scene.all[-1].now.startswith("worker-3 is ready")
        assert (await scene.ended(id)).state == "done"
        assert scene.workers.serving == {"worker-3": "new", "worker-4": "new"}


async def test_a_worker_that_was_held_back_is_replaced_as_any_other(autojump_clock: MockClock) -> None:
    async with family(2) as scene:
        scene.workers.files = "new"
        scene.workers.crashes["worker-1"].set()
        await scene.until(lambda: scene.workers.family.held_back)
        assert list(scene.reloads.report().held_back) == ["worker-1"]
        assert (await scene.reload()).state == "done"
        assert set(scene.workers.serving.values()) == {"new"}
        assert not scene.reloads.report().held_back


# ---- several, and the end ------------------------------------------------------------------------------------------


async def test_what_is_asked_for_during_a_reload_follows_it_with_the_files_of_then(autojump_clock: MockClock) -> None:
    async with family(1) as scene:
        scene.workers.files = "new"
        first = await scene.ask()
        await scene.until(lambda: "worker-2" in scene.workers.serving)
        scene.workers.files = "newer"
        second = await scene.ask()
        assert [reload.state for reload in scene.all] == ["replacing", "waiting"]
        assert (await scene.ended(first)).state == "done"
        assert (await scene.ended(second)).state == "done"
        assert scene.workers.serving == {"worker-3": "newer"}


async def test_signals_that_come_during_a_reload_are_one_reload(autojump_clock: MockClock) -> None:
    async with family(1) as scene:
        for number in range(5):
            scene.workers.requests.add(ReloadRequest(id=str(number)))
            await trio.sleep(_START_SECONDS / 10)
        await scene.until(lambda: [reload.state for reload in scene.all] == ["done", "done"])
        await trio.sleep(100)
        assert len(scene.all) == 2


async def test_more_than_anybody_means_are_refused(autojump_clock: MockClock) -> None:
    async with family(1) as scene:
        for _ in range(9):
            await scene.ask()
        (refused,) = [reload for reload in [await scene.reload()] if reload.state == "failed"]
        assert refused.reason == "8 reloads wait already"
        await scene.until(lambda: not scene.workers.requests.waiting)


async def test_a_request_is_taken_away_once_it_is_known_and_another_server_leaves_it(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with family(1) as scene:
        services = scene.client._client.services_in_use()
        await scene.reload()
        assert await services.writer.ask(ListReports()) == ()
        other = ReloadRequest(id="other", process="elsewhere/boot/7/1")
        await put(other, services.writer, scene.client._client.settings.clock)
        await trio.sleep(10)
        assert len(await services.writer.ask(ListReports())) == 1
        assert len(scene.all) == 1
        assert await scene.client.processes() == ()
        assert "cannot be read" not in caplog.text, "a request is no report"


@pytest.mark.parametrize("moment", ["the probe", "a new worker starts", "an old one drains"])
async def test_a_server_that_stops_during_a_reload_drains_all_and_leaves_nobody(
    autojump_clock: MockClock, moment: str
) -> None:
    async with family(2) as scene:
        scene.workers.files = "new"
        await scene.ask()
        said = {"the probe": "", "a new worker starts": "worker-3 starts", "an old one drains": "worker-3 is ready"}
        await scene.until(lambda: scene.all[-1].now.startswith(said[moment]))
        scene.root.stop()
        await scene.root.wait_ended()
    assert not scene.workers.serving
    assert not scene.workers.pids
    assert scene.all[-1].state == "failed"
    assert "the server is stopping" in scene.all[-1].reason


async def test_code_that_serves_another_database_is_refused(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with family(1) as scene:
        monkeypatch.setattr(scene.workers, "store", "/srv/other.db")
        reload = await scene.reload()
        assert "another database, '/srv/other.db': restart" in reload.reason
        assert scene.workers.serving == {"worker-1": "old"}


async def test_a_fault_of_the_service_ends_the_reload_and_the_next_one_is_served(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with family(1) as scene:
        with monkeypatch.context() as patch:
            patch.setattr(scene.workers.family, "expect", lambda code: 1 / 0)
            assert (await scene.reload()).reason == "a fault of the server has interrupted it; see its log"
        assert (await scene.reload()).state == "done"


# ---- rehearsed -----------------------------------------------------------------------------------------------------


async def test_a_rehearsal_that_finds_something_ends_the_reload_before_anything_is_changed(
    autojump_clock: MockClock,
) -> None:
    async with family(2) as scene:
        scene.workers.files = "diverging"
        reload = await scene.reload(rehearses=True)
        assert (reload.state, reload.reason) == ("failed", "3 runs would diverge; nothing was changed")
        assert set(scene.workers.serving.values()) == {"old"}
        scene.workers.files = "new"
        assert (await scene.reload(rehearses=True)).state == "done"
        assert scene.rehearsals == ["diverging", "new"]
        scene.workers.files = "diverging"
        assert (await scene.reload(rehearses=True, baseline="/before.json")).state == "done"


async def test_where_all_workers_have_died_while_it_rehearses_it_does_not_say_that_nothing_was_changed(
    autojump_clock: MockClock,
) -> None:
    """Those that come back bring the code of the files, as after any death of all."""
    async with family(2) as scene:
        scene.workers.files = "diverging"
        id = await scene.ask(rehearses=True)
        await scene.until(lambda: scene.rehearsals)
        for crash in list(scene.workers.crashes.values()):
            crash.set()
        await scene.until(lambda: set(scene.workers.serving.values()) == {"diverging"})
        reload = await scene.ended(id)
        assert (reload.state, reload.replaced) == ("failed", 0)
        outcome = "all workers had ended meanwhile, and those that have come since serve the code of the files"
        assert reload.reason == f"3 runs would diverge; {outcome}"


async def test_what_was_rehearsed_is_what_is_served(autojump_clock: MockClock) -> None:
    async with family(1) as scene:
        scene.workers.files = "new"
        id = await scene.ask(rehearses=True)
        await scene.until(lambda: scene.rehearsals)
        scene.workers.files = "newer"
        assert (await scene.ended(id)).reason == "the files have changed while they were rehearsed; nothing was changed"
