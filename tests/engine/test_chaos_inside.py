"""One fault anywhere inside parks at most the run that it is in, or restarts a service; all other runs end right."""

from __future__ import annotations

import functools
import os
from contextlib import nullcontext
from typing import Any, Final

import pytest
import trio

from durable_trio import open_engine
from durable_trio.calls.child import ChildEndCall, StartChildCall
from durable_trio.calls.generation import ContinueCall
from durable_trio.calls.map import MapCall, MapItem
from durable_trio.calls.signal import SignalCall
from durable_trio.calls.sleep import SleepCall
from durable_trio.calls.step import FunctionCall
from durable_trio.calls.transaction import TransactionCall
from durable_trio.engine.runs.actor import RunActor
from durable_trio.engine.runs.ending import Ending
from durable_trio.engine.runs.refusing import Refusing
from durable_trio.engine.runs.resident import ResidentRun
from durable_trio.engine.runs.service import Runs
from durable_trio.engine.services import janitor, reports
from durable_trio.engine.services.dispatcher import Dispatcher
from durable_trio.engine.services.feed import Feed, Subscription
from durable_trio.engine.services.recovery import Reaper, Recovery
from durable_trio.engine.services.timers import Timers
from durable_trio.stores.reads import Reads
from durable_trio.stores.submitted import Submitted
from durable_trio.stores.threads import Waiter
from durable_trio.stores.writer import Writer
from durable_trio.turns.agenda import Agenda
from durable_trio.turns.call import Call
from durable_trio.turns.lane import Lane
from durable_trio.turns.lobby import Lobby
from durable_trio.turns.mailbox import Mailbox
from durable_trio.turns.port import Port, _InFlight
from durable_trio.turns.state import RunState
from durable_trio.turns.turns import Turns
from tests.engine.chaos_kit import Chaos, Fault, Outcome, Target, run_trial, steps
from tests.engine.harness import PATIENCE_SECONDS
from tests.kit.crash_points import SEED
from tests.kit.measured import unmeasured

#: Calls of each method that fail. By default one, of some methods of runs and calls; more by hand: of all.
PER_DOOR: Final = int(os.environ.get("DURABLE_TRIO_CHAOS", "0"))
#: So many of them are measured by coverage; the others are met in the same way.
MEASURED_COUNT: Final = 4

GROUPS: Final[dict[str, tuple[tuple[type, ...], int]]] = {
    # Those classes, and of how many of their methods a call fails by default.
    "services": ((Timers, Recovery, Reaper, Feed, Subscription, Dispatcher), 16),
    "writer": ((Writer, Submitted, Reads), 6),
    "service of runs": ((Runs, Refusing, RunActor, Ending), 4),
    "pump": ((Turns, _InFlight, Port, Waiter), 10),
    "runs": ((Lobby, RunState, Mailbox, Agenda, Lane, ResidentRun), 6),
    "calls": (
        (
            Call,
            SleepCall,
            SignalCall,
            FunctionCall,
            TransactionCall,
            MapCall,
            MapItem,
            ChildEndCall,
            StartChildCall,
            ContinueCall,
        ),
        6,
    ),
}


def check(found: Outcome, reference: Outcome, target: Target) -> None:
    if not found.has_opened:
        return  # the engine says so, and was not used
    parked = [(record.id, record.problem) for record in found.parked]
    assert len(parked) <= 1, f"{target}: {parked}"
    for _, problem in parked:
        assert problem is not None
        if problem.kind != "divergence":  # so it looks where it was met in the body's own task at replay
            assert problem.kind == "internal_error", f"{target}: {problem.text}"
            assert "Fault" in problem.text
    # One that was met in the body's own task, or around a function of the user's, is recorded as that's failure.
    others = {run_id: end for run_id, end in found.ends.items() if end != reference.ends[run_id]}
    assert len(others) <= 1, f"{target}: {others}"
    assert all(" at call " in end for end in others.values()), f"{target}: {others} {parked}"
    assert found.ends.keys() == reference.ends.keys(), f"{target}: {parked}"


@functools.cache
def undisturbed() -> Outcome:
    """Return how the runs end without a fault."""
    return run_trial(Chaos(), None)


@pytest.mark.parametrize("group", GROUPS)
def test_one_fault_touches_one_run_or_one_service(group: str) -> None:
    owners, doors_max = GROUPS[group]
    chaos = Chaos(*owners)
    reference = run_trial(chaos, None)
    assert len(reference.ends) == 13
    assert not reference.parked
    targets = chaos.targets(max(1, PER_DOOR), seed=7 + SEED, doors_max=None if PER_DOOR else doors_max)
    for number, target in enumerate(targets):
        with unmeasured() if number >= MEASURED_COUNT else nullcontext():
            found = run_trial(chaos, target)
        assert chaos.is_met, target
        check(found, reference, target)


@pytest.mark.parametrize(
    "target",
    [
        *(Target("Submitted._take_starts", number) for number in (2, 5)),  # with something in hand already
        Target("Submitted.take", 8),
        Target("Writer._commit", 13),
        *(Target("Runs._left", number) for number in (1, 4)),
        *(Target("Lane._next", number) for number in (4, 10, 19)),  # also in a run that is leaving already
        *(Target("RunActor.run", number) for number in (1, 3)),
    ],
    ids=str,
)
def test_a_fault_where_others_are_in_hand_costs_a_restart_and_nobody_waits_for_ever(target: Target) -> None:
    chaos = Chaos(Writer, Submitted, Runs, RunActor, Lane)
    found = run_trial(chaos, target)
    assert chaos.is_met
    check(found, undisturbed(), target)
    assert found.parked == []


@pytest.mark.parametrize("number", range(1, 7))
def test_an_alarm_that_could_not_be_set_is_set_again(number: int) -> None:
    """One of them is all that wakes a run which sleeps in the store."""
    chaos = Chaos(Timers)
    target = Target("Timers.call_at", number)
    found = run_trial(chaos, target)
    assert chaos.is_met
    check(found, undisturbed(), target)


async def test_services_that_only_a_file_needs_are_restarted(file_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On real time, for a file has threads; the runs are short."""
    monkeypatch.setattr(janitor, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(reports, "_GATHER_SECONDS", 0.01)
    chaos = Chaos(janitor.Janitor, reports.Reports, skipped=frozenset({"Reports.watch", "Reports.read"}))
    with chaos.armed():
        assert await use_file(file_path) == 6
    for target in chaos.targets(1, seed=3):
        with chaos.armed(target), trio.fail_after(PATIENCE_SECONDS):
            assert await use_file(file_path) == 6, target
        assert chaos.is_met, target


async def use_file(path: str) -> Any:
    """Serve a file for a while; return what a run in it has returned, if it could be opened."""
    result: Any = 6
    try:
        async with open_engine(path, workflows=[steps]) as engine:
            if engine._client.services is not None:
                result = await engine.run(steps, 4)
                await trio.sleep(0.05)  # the janitor and the reporter come by
                assert await engine.run(steps, 4) == result
    except* Fault:
        assert engine._client.services is None
    return result
