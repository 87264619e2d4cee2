"""What a process has done and not told when it was killed is told by who takes over, once."""

from __future__ import annotations

import itertools
import signal
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from durable_trio import RunFailed, RunStatus, open_engine
from durable_trio.clock import MICROSECONDS, Clock
from durable_trio.engine.runs.run_log import Fate
from durable_trio.engine.runs.untold import note
from durable_trio.engine.services import recovery
from durable_trio.processes import ProcessIdentity, boot_id
from durable_trio.rows import DeathRow, DeathStage, UntoldRow
from durable_trio.stores.contract import ReapExecutor, Store
from durable_trio.stores.questions import ListDeaths
from durable_trio.stores.writer import Writer
from durable_trio.testing.store_contract.kit import finish, owned, register
from tests.engine import dies
from tests.engine.harness import PATIENCE_SECONDS
from tests.kit import forks
from tests.kit.stores import store_at

pytestmark = pytest.mark.usefixtures("no_leaks")

ROOT = Path(__file__).resolve().parent.parent.parent.parent


def _nobody(*_: object) -> None:
    """Nobody is to be told."""


def kill(path: str, where: str, workflow: str, events: str = "") -> None:
    """Have a process begin a run and die at an instant."""
    command = [sys.executable, "-m", "tests.engine.dies", path, where, events, workflow]
    done = forks.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


def told(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [vars(record) for record in caplog.records if record.name == "durable_trio.runs"]


async def wait_told(caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    with trio.fail_after(PATIENCE_SECONDS):
        while not told(caplog):  # noqa: ASYNC110
            await trio.sleep(0.002)
    return told(caplog)[0]


@pytest.mark.parametrize(
    ("workflow", "event"), [("fails", "run_failed"), ("parks", "run_parked"), ("expires", "run_expired")]
)
@pytest.mark.on_sqlite("what is to be told is noted in a file beside it")
async def test_a_fate_that_was_committed_and_not_told_is_told_by_who_finds_the_process_dead(
    workflow: str, event: str, file_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    await trio.to_thread.run_sync(kill, file_path, "before it is told", workflow)
    async with open_engine(file_path, workflows=dies.WORKFLOWS) as engine:
        first = await wait_told(caplog)
        record = await engine.get("r").record()
    assert (record.problem is not None) if workflow == "parks" else (record.status is RunStatus.FAILED)
    assert (first["event"], first["run_id"], first["workflow"]) == (event, "r", workflow)
    assert first["told_again"] is True  # by who was killed it was perhaps told, which nobody knows
    if workflow == "fails":
        line = dies.bad.__code__.co_firstlineno + 1
        assert (first["step"], first["attempt"], first["cause"]) == ("bad#0", 2, "ValueError: boom")
        assert first["place"] == f"{dies.__file__}:{line} in bad"
    async with open_engine(file_path, workflows=dies.WORKFLOWS):
        pass  # it has looked for the dead before it was open, and does not tell it again
    assert len(told(caplog)) == 1


@pytest.mark.on_sqlite("what is to be told is noted in a file beside it")
@pytest.mark.parametrize(("where", "is_again"), [("before the last is told", True), ("in the last", False)])
async def test_a_compensation_that_has_failed_is_told_once_over_a_kill(
    where: str, is_again: bool, file_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Not the one before it, which the dead process has told; nor twice, where its outcome was not committed."""
    await trio.to_thread.run_sync(kill, file_path, where, "undoes")
    for _ in range(2):  # the second tells nothing again
        async with open_engine(file_path, workflows=dies.WORKFLOWS) as engine:
            with trio.fail_after(PATIENCE_SECONDS), pytest.raises(RunFailed):
                await engine.get("r").result()
    first, last = sorted(told(caplog), key=lambda found: found["event"])
    assert (first["event"], first["step"], first["cause"]) == (
        "compensation_failed",
        "undone last#0",
        "OSError: no way back",
    )
    assert first.get("told_again", False) is is_again
    assert last["event"] == "run_failed"


async def test_what_was_to_be_told_and_not_committed_is_told_when_it_is(
    file_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The process has died before its commit: the run goes on, and its end is told by who has committed it."""
    await trio.to_thread.run_sync(kill, file_path, "inside", "steps")
    async with open_engine(file_path, workflows=dies.WORKFLOWS) as engine:
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.get("r").result() == 3
    assert not told(caplog)


@pytest.mark.parametrize(
    ("where", "rest"),
    [
        ("inside", ["attempt_interrupted second#0 1 died False", "step_started second#0 1 - False"]),
        ("before the commit", ["attempt_interrupted second#0 1 died False", "step_started second#0 1 - False"]),
        ("after the commit", []),
    ],
)
@pytest.mark.on_sqlite("what is to be told is noted in a file beside it")
async def test_each_attempt_opens_and_closes_once_over_a_kill(
    where: str, rest: list[str], file_path: str, tmp_path: Path
) -> None:
    """Also where its outcome was stored and not given to the body: then it ends, and is no replay."""
    events = str(tmp_path / "events")
    await trio.to_thread.run_sync(kill, file_path, where, "steps", events)
    async with open_engine(file_path, workflows=dies.WORKFLOWS, observers=[dies.Writing(events)]) as engine:
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.get("r").result() == 3
    found = (await trio.Path(events).read_text()).splitlines()
    assert found == [
        "step_started first#0 1 - False",
        "step_ended first#0 1 - False",
        "step_started second#0 1 - False",
        "step_ended first#0 1 - True",
        *rest,
        "step_ended second#0 1 - False",
    ]
    opened = Counter(line.split()[1] for line in found if line.startswith("step_started"))
    closed = Counter(line.split()[1] for line in found if "started" not in line and line.endswith("False"))
    assert opened == closed


@pytest.mark.on_sqlite("what is to be told is noted in a file beside it")
async def test_each_item_of_a_map_opens_and_closes_once_over_a_kill(file_path: str, tmp_path: Path) -> None:
    """Also one whose task has not run yet when another one kills the process."""
    events = str(tmp_path / "events")
    await trio.to_thread.run_sync(kill, file_path, "inside", "maps", events)
    async with open_engine(file_path, workflows=dies.WORKFLOWS, observers=[dies.Writing(events)]) as engine:
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.get("r").result() == 3
    found = (await trio.Path(events).read_text()).splitlines()
    opened = Counter(line.split()[1] for line in found if line.startswith("step_started"))
    closed = Counter(line.split()[1] for line in found if "started" not in line and line.endswith("False"))
    assert opened == closed
    assert len(opened) == 4
    assert opened["items#0/item#2"] == 2


@pytest.mark.on_sqlite("what is to be told is noted in a file beside it")
async def test_all_that_died_at_once_left_untold_is_told_though_others_come_at_once(
    file_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Where they have noted it is given to others again, but only once it is read."""
    store = store_at(file_path)
    await trio.to_thread.run_sync(_leave_untold, store, 12)
    async with open_engine(file_path, workflows=dies.WORKFLOWS):
        with trio.fail_after(PATIENCE_SECONDS):
            while len(told(caplog)) < 12:  # noqa: ASYNC110
                await trio.sleep(0.002)
    assert Counter(found["run_id"] for found in told(caplog)) == Counter(f"r{number}" for number in range(12))


@pytest.mark.on_sqlite("what is to be told is noted in a file beside it")
@pytest.mark.parametrize("where", ["before it tells of another one", "as it tells of another one"])
async def test_a_death_is_told_though_who_has_found_it_dies_before_it_has_told_it(
    where: str, file_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """By the next that comes: that the first one has died, how its run has ended, and that the second one has died."""
    await trio.to_thread.run_sync(kill, file_path, "before it is told", "fails")
    await trio.to_thread.run_sync(kill, file_path, where, "steps")
    for _ in range(2):
        async with open_engine(file_path, workflows=dies.WORKFLOWS):
            pass  # it has looked for the dead before it was open
    assert [(found["event"], found["run_id"]) for found in told(caplog)] == [("run_failed", "r")]
    died = [vars(record) for record in caplog.records if vars(record).get("event") == "process_died"]
    assert [(found["executor"], found.get("told_again", False)) for found in died] == [(1, True)]
    assert died[0]["runs"] == 0
    assert "whoever was to say so has died too" in died[0]["message"]


def _dead_teller() -> str:
    """A process that was never there."""
    return f"x/{ProcessIdentity(socket.gethostname(), boot_id(), 2**22 + 7, '1')}"


@contextmanager
def _writing(path: str) -> Iterator[Writer]:
    writer = Writer(store_at(path), failed=_nobody, still_away=_nobody, committed_untold=_nobody)
    writer.store.open()
    try:
        yield writer
    finally:
        writer.store.close()


def _death(stage: DeathStage, teller: str, *untold: UntoldRow) -> ReapExecutor:
    death = DeathRow(executor=1, pid=77, host="h", stage=stage, untold=untold, teller=teller)
    return ReapExecutor(executor=1, death=death, now=5)


async def _look(path: str, times: int = 2) -> tuple[DeathRow, ...]:
    """Look for the dead, as a process that comes; return which deaths are still to be told of."""
    with _writing(path) as writer:
        async with trio.open_nursery() as nursery:
            await nursery.start(writer.run)
            reaper = recovery.Reaper(writer, Clock())
            for _ in range(times):
                await reaper.reap_dead()
            found = await writer.ask(ListDeaths())
            nursery.cancel_scope.cancel()
    return found


async def test_a_death_whose_teller_lives_is_left_to_it(file_path: str, caplog: pytest.LogCaptureFixture) -> None:
    with _writing(file_path) as writer:
        register(writer.store)
        writer.store.apply([_death(DeathStage.DIED, f"x/{ProcessIdentity.own()}")])
        (left,) = await _look(file_path)
        assert left.pid == 77
    assert not caplog.records


@pytest.mark.parametrize("teller", ["", "nonsense", "x/a/b/c/d", "x/h/b/0/1"])
async def test_a_teller_that_cannot_be_read_is_dead(
    teller: str, file_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    with _writing(file_path) as writer:
        register(writer.store)
        writer.store.apply([_death(DeathStage.DIED, teller)])
    assert await _look(file_path) == ()
    assert [vars(record)["event"] for record in caplog.records] == ["process_died"]


@pytest.mark.on_sqlite("what is to be told is noted in a file beside it")
async def test_what_a_silent_process_has_not_told_is_told_when_it_dies_though_who_found_it_silent_has_died_too(
    file_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    silent = store_at(file_path)
    _leave_untold(silent, 1)
    with _writing(file_path) as writer:
        writer.store.apply([_death(DeathStage.WATCHED, _dead_teller())])
    assert await _look(file_path) == ()
    assert [(vars(each)["event"], vars(each)["run_id"]) for each in caplog.records] == [("run_failed", "r0")]


async def test_of_many_that_look_at_once_one_tells(file_path: str, caplog: pytest.LogCaptureFixture) -> None:
    with _writing(file_path) as writer:
        register(writer.store)
        writer.store.apply([_death(DeathStage.DIED, _dead_teller())])
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(_look, file_path, 3)
    assert [vars(record)["event"] for record in caplog.records] == ["process_died"]


def _leave_untold(store: Store, count: int, *, is_alive: bool = False) -> None:
    """Be as many processes, each of which is killed, or silent, after it has committed that its run has failed."""
    store.open()
    for number in range(count):
        row, fence = owned(store, f"r{number}")
        slots = store.note_steps(fence.owner)
        assert slots is not None
        note(slots, row, Fate.FAILED)
        finish(store, fence, RunStatus.FAILED, error='{"type": "ValueError", "message": "boom"}')
    if not is_alive:
        _die(store)


def _die(store: Store) -> None:
    """Leave what a process leaves that is killed."""
    steps = Path(f"{store.path}-steps")
    left = steps.read_bytes()
    store.close()
    steps.write_bytes(left)


@pytest.mark.on_sqlite("what is to be told is noted in a file beside it")
async def test_what_a_silent_process_has_not_told_is_told_when_it_dies(
    file_path: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as it lives it may still tell it itself. Who has declared it dead looks for its end."""
    seconds = itertools.count(0, MICROSECONDS)
    monkeypatch.setattr(recovery, "monotonic_now", lambda: next(seconds))
    silent = store_at(file_path)
    _leave_untold(silent, 1, is_alive=True)
    writer = Writer(store_at(file_path), failed=_nobody, still_away=_nobody, committed_untold=_nobody)
    writer.store.open()
    async with trio.open_nursery() as nursery:
        await nursery.start(writer.run)
        reaper = recovery.Reaper(writer, Clock())
        for _ in range(6):
            await reaper.reap_dead()
        assert [vars(record)["event"] for record in caplog.records] == ["process_silent"]
        _die(silent)
        for _ in range(2):
            await reaper.reap_dead()
        nursery.cancel_scope.cancel()
    writer.store.close()
    assert [(found["event"], found["run_id"]) for found in told(caplog)] == [("run_failed", "r0")]
