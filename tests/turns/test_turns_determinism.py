"""Turns: a body that shares memory between its tasks sees the same at replay, whatever trio's scheduler does."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import trio

from durable_trio import Context, Engine, SignalTimeout, workflow
from durable_trio.calls.map import MapItem
from durable_trio.context.nursery import DurableNursery
from durable_trio.stores import submitted
from durable_trio.stores.contract import Advance, Operation, SendSignal
from durable_trio.testing.schedule import scheduling
from durable_trio.turns import lobby
from durable_trio.turns.call import Call
from durable_trio.turns.lane import Lane
from durable_trio.turns.lobby import Lobby
from durable_trio.turns.stage import OPEN
from durable_trio.turns.state import RunState
from durable_trio.turns.turns import Turns
from tests.calls import test_map
from tests.context import test_branches, test_failing_branches, test_select
from tests.kit.crash_points import EVERY_CRASH
from tests.kit.measured import unmeasured
from tests.kit.schedules import MEASURED_COUNT, OFTEN, RUN_ID, Ended, Notes, Program, Trial, UnfinishedStore, attempt

Operations = list[list[Any]]


#: How often each operation was met by all trials; a generator that never makes one proves nothing of it.
COUNTS: Counter[str] = Counter()


def make_operations(chance: random.Random, depth: int, *, length: int = 4) -> Operations:
    """Return some operations for one branch."""
    return [_make_operation(chance, depth) for _ in range(chance.randint(1, length))]


def _make_operation(chance: random.Random, depth: int) -> list[Any]:
    kinds = ["step"] * 5 + ["sleep"] * 3 + ["set"] * 3 + ["wait", "send", "receive", "lock"] * 2
    kinds += ["signal", "publish", "map", "yield", "fail step"]
    if depth:
        kinds += ["nursery"] * 5 + ["deadline"] * 3 + ["clean", "plain", "swallow"] * 2
    if chance.random() < 0.3:
        kinds += ["cancel", "fail"]
    kind = chance.choice(kinds)
    if kind == "nursery":
        count = chance.randint(1, 4)
        return [
            kind,
            make_operations(chance, depth - 1, length=2),
            *(make_operations(chance, depth - 1) for _ in range(count)),
        ]
    if kind in ("deadline", "clean", "plain", "swallow"):
        return [kind, chance.choice([0, 0.5, 2, 3, 10]), make_operations(chance, depth - 1)]
    if kind in ("step", "sleep", "fail step"):
        return [kind, chance.choice([0, 0, 0.5, 1, 2])]
    return [kind, chance.randint(0, 1)]


class Shared:
    """What the branches of one stay have in common."""

    def __init__(self, ctx: Context) -> None:
        self.notes = Notes(ctx)
        self.events = [trio.Event(), trio.Event()]
        self.channels = [trio.open_memory_channel[str](size) for size in (0, 1)]
        self.locks = [trio.Lock(), trio.Lock()]


async def work(seconds: float) -> float:
    """Take some virtual time, or none."""
    if seconds:
        await trio.sleep(seconds)
    return float(seconds)


async def fail(seconds: float) -> None:
    """Fail after some time."""
    await work(seconds)
    raise ValueError(f"after {seconds}")


class Branch:
    """Performs the operations of one branch, and notes what comes of each."""

    def __init__(self, ctx: Context, shared: Shared, name: str, nursery: DurableNursery | None) -> None:
        self.ctx = ctx
        self.shared = shared
        self.name = name
        self.nursery = nursery

    async def perform(self, operations: Operations, prefix: str = "") -> None:
        for number, (kind, *arguments) in enumerate(operations):
            place = f"{self.name}{prefix}.{number}"
            COUNTS[kind] += 1
            try:
                result = await getattr(self, "do_" + kind.replace(" ", "_"))(place, *arguments)
            except trio.Cancelled:
                self.note(place, kind, "cancelled")
                COUNTS["cancelled"] += 1
                raise
            except ExceptionGroup as group:
                self.note(place, kind, repr(group))
                raise
            except Exception as error:
                self.note(place, kind, repr(error))
                raise
            self.note(place, kind, result)

    def note(self, place: str, kind: str, what: object) -> None:
        self.shared.notes.add(f"{place} {kind}: {what}")

    async def do_step(self, place: str, seconds: float) -> object:
        return await self.ctx.step("s", work, seconds)

    async def do_fail_step(self, place: str, seconds: float) -> object:
        try:
            return await self.ctx.step("f", fail, seconds)
        except ValueError as error:
            return repr(error)

    async def do_sleep(self, place: str, seconds: float) -> None:
        await self.ctx.sleep(seconds)

    async def do_signal(self, place: str, number: int) -> object:
        try:
            return await self.ctx.wait_signal(f"signal {number}", timeout=3)
        except SignalTimeout:
            return "timeout"

    async def do_set(self, place: str, number: int) -> None:
        self.shared.events[number].set()
        self.shared.events[number] = trio.Event()

    async def do_wait(self, place: str, number: int) -> bool:
        with self.ctx.move_on_after(2) as scope:
            await self.shared.events[number].wait()
        return scope.cancelled_caught

    async def do_send(self, place: str, number: int) -> bool:
        with self.ctx.move_on_after(2) as scope:
            await self.shared.channels[number][0].send(place)
        return scope.cancelled_caught

    async def do_receive(self, place: str, number: int) -> object:
        with self.ctx.move_on_after(2):
            return await self.shared.channels[number][1].receive()
        return None

    async def do_lock(self, place: str, number: int) -> None:
        with self.ctx.move_on_after(5):
            async with self.shared.locks[number]:
                self.note(place, "lock", "held")
                await self.ctx.step("locked", work, 0.5)

    async def do_publish(self, place: str, number: int) -> None:
        await self.ctx.publish(f"key {number}", place)

    async def do_map(self, place: str, number: int) -> object:
        return await self.ctx.map("z", work, [0, 1, 0.5, number], limit=2 + number)

    async def do_yield(self, place: str, number: int) -> None:
        for _ in range(number + 1):
            await trio.lowlevel.checkpoint()

    async def do_cancel(self, place: str, number: int) -> None:
        if self.nursery is not None:
            self.nursery.cancel_scope.cancel()

    async def do_fail(self, place: str, number: int) -> None:
        raise KeyError(place)

    async def do_nursery(self, place: str, own: Operations, *branches: Operations) -> None:
        try:
            async with self.ctx.open_nursery() as nursery:
                for number, operations in enumerate(branches):
                    nursery.start_soon(self._branch, f"{place}/{number}", nursery, operations)
                await self.perform(own, f".{place[-1]}own")
        except* KeyError as group:
            self.note(place, "nursery", f"except* {group!r}")

    async def _branch(self, ctx: Context, name: str, nursery: DurableNursery, operations: Operations) -> None:
        await Branch(ctx, self.shared, name, nursery).perform(operations)

    async def do_deadline(self, place: str, seconds: float, operations: Operations) -> object:
        with self.ctx.move_on_after(seconds, shield=bool(seconds == 3)) as scope:
            await self.perform(operations, place[-2:])
        return scope.cancelled_caught

    async def do_clean(self, place: str, seconds: float, operations: Operations) -> None:
        try:
            await self.ctx.step("s", work, 1)
        finally:
            with self.ctx.move_on_after(seconds, shield=True):
                await self.perform(operations, place[-2:])

    async def do_plain(self, place: str, seconds: float, operations: Operations) -> None:
        """Wait in plain trio tasks, which have no context, for those that have."""
        async with trio.open_nursery() as nursery:
            for number in range(2):
                nursery.start_soon(self._listen, place, number)
            await self.perform(operations, place[-2:])
            nursery.cancel_scope.cancel()

    async def _listen(self, place: str, number: int) -> None:
        try:
            await self.shared.events[0].wait()
            self.note(place, "plain", number)
        except trio.Cancelled:
            self.note(place, "plain", f"{number} cancelled")
            raise

    async def do_swallow(self, place: str, seconds: float, operations: Operations) -> str:
        try:
            await self.perform(operations, place[-2:])
        except trio.Cancelled:
            if self.ctx.detaching:
                raise
            return "swallowed"  # the next cancel point raises again
        return "done"


@workflow(max_recoveries=OFTEN)
async def storm(ctx: Context, operations: list[Any]) -> list[str]:
    """Perform operations; the result is what was noted."""
    shared = Shared(ctx)
    try:
        await Branch(ctx, shared, "", None).perform(operations)
    except Exception as error:
        shared.notes.add(f"end: {error!r}")
    return list(shared.notes)


def storm_program(chance: random.Random) -> Program:
    """Return a random program, with some signals at certain times."""
    operations: Operations = [
        ["nursery", make_operations(chance, 2), *(make_operations(chance, 2) for _ in range(chance.randint(2, 4)))]
    ]
    times = sorted(round(chance.uniform(0, 8), 1) for _ in range(3))
    is_cancelled = chance.random() < 0.2

    async def drive(engine: Engine) -> None:
        for number, time in enumerate(times):
            await trio.sleep_until(time)
            await engine.send_signal(RUN_ID, f"signal {number % 2}", number, id=f"s{number}")
        if is_cancelled:
            await engine.cancel(RUN_ID)

    return Program(storm, (operations,), drive)


def storm_trial(seed: int) -> Trial:
    """Run a random program with some crashes and some replays."""
    chance = random.Random(seed)
    program = storm_program(chance)
    crashes = [(chance.randint(1, 40), chance.random() < 0.5) for _ in range(3)]
    trial = attempt(program, seed, crashes=crashes, replays=["oldest first", "newest first", seed + 1])
    trial.assert_repeatable()
    if trial.status == "completed":
        assert trial.value == trial.stays[-1]
    COUNTS["rows"] += len(trial.keys)
    return trial


# ---- the tests -----------------------------------------------------------------------------------------------------


STORM_COUNT = 50 if EVERY_CRASH else 24


def test_random_programs_see_the_same_at_replay_whatever_the_schedule_and_the_crash() -> None:
    COUNTS.clear()
    for seed in range(STORM_COUNT):
        try:
            with unmeasured() if seed >= MEASURED_COUNT else contextlib.nullcontext():
                storm_trial(seed)
        except (AssertionError, Ended) as error:
            raise AssertionError(f"storm_trial({seed}) repeats it") from error
    rare = {kind: count for kind, count in COUNTS.items() if count < STORM_COUNT}
    assert not rare, f"the generator makes too few of {rare}"
    assert COUNTS["cancelled"] > 10 * STORM_COUNT
    assert COUNTS["rows"] > 10 * STORM_COUNT


def test_trio_still_has_the_hook_for_its_scheduling_order() -> None:
    order: list[int] = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(6):

                async def note(number: int = number) -> None:
                    order.append(number)

                nursery.start_soon(note)

    orders: dict[Any, list[int]] = {}
    for choice in ("oldest first", "newest first", 1, 1, 2):
        order.clear()
        with scheduling(choice):
            trio.run(main)
        assert orders.setdefault(choice, list(order)) == order, "one seed gives one order"
    assert orders["oldest first"] == [0, 1, 2, 3, 4, 5]
    assert orders["newest first"] == [5, 4, 3, 2, 1, 0]
    assert orders[1] != orders[2]


def test_the_hook_is_as_it_was_after_the_block() -> None:
    module: Any = trio._core._run
    before = module._r, module._ALLOW_DETERMINISTIC_SCHEDULING
    with scheduling(1):
        assert module._ALLOW_DETERMINISTIC_SCHEDULING
        assert module._r is not before[0]
    assert (module._r, module._ALLOW_DETERMINISTIC_SCHEDULING) == before


def test_a_task_that_trio_has_scheduled_is_the_last_of_its_run_queue() -> None:
    """What keeps the tasks of a body apart rests on this."""
    seen: list[bool] = []

    class Look(trio.abc.Instrument):
        def task_scheduled(self, task: trio.lowlevel.Task) -> None:
            seen.append(task._runner.runq[-1] is task)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.lowlevel.checkpoint)
            nursery.start_soon(trio.sleep, 0.001)

    trio.run(main, instruments=[Look()])
    assert len(seen) > 4
    assert all(seen)


# ---- a refused row, a late look ------------------------------------------------------------------------------------


class LateSignalStore(UnfinishedStore):
    """Has a signal of another process arrive right before a timeout is committed."""

    def apply(self, batch: Sequence[Operation], *, block: bool = True) -> list[Any] | None:
        assert self.commit_count < 1000, "the run spins"
        if any(isinstance(operation, Advance) and operation.unless_unread is not None for operation in batch):
            signal = SendSignal(run_id=RUN_ID, name="go", payload='"late"', signal_id="late", now=0)
            self.inner.apply([signal])
        return super().apply(batch, block=block)


@workflow(max_recoveries=OFTEN)
async def timeout_and_cancel(ctx: Context) -> list[str]:
    """A timeout is refused, because a signal came before, when its scope has just been cancelled."""
    notes = Notes(ctx)

    async def waiter(ctx: Context) -> None:
        try:
            notes.add(await ctx.wait_signal("go", timeout=1))
        except SignalTimeout:
            notes.add("timeout")
        except trio.Cancelled:
            notes.add("cancelled")
            raise

    async with ctx.open_nursery() as nursery:
        nursery.start_soon(waiter)
        await ctx.step("s", work, 1.0)
        nursery.cancel_scope.cancel()
    notes.add("end")
    return list(notes)


def test_a_timeout_that_the_store_refuses_is_cancelled_if_its_scope_was_meanwhile() -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        # The cancelling branch's row is committed first, the timeout is still on its way when it goes on.
        monkeypatch.setattr(submitted, "BATCH_OPERATIONS_MAX", 1)
        for seed in range(20):  # one in four of them comes upon that moment
            trial = attempt(Program(timeout_and_cancel), seed, store=LateSignalStore())
            assert trial.value == ["cancelled", "end"]


# ---- planted bugs --------------------------------------------------------------------------------------------------


def _without_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deliver rows while tasks of the body can still run (and so wake several at once)."""
    _no_lane(monkeypatch)
    monkeypatch.setattr(RunState, "runnable_count", property(lambda self: 0, lambda self, value: None), raising=False)


def _waves_unsorted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deliver cancellations in any order."""
    chance = random.Random(1)
    monkeypatch.setattr(Call, "place_in_wave", property(lambda self: chance.random()))


def _map_items_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancel the items of a map where their own keys are, not with their map."""
    monkeypatch.setattr(MapItem, "place_in_wave", Call.place_in_wave)


def _eager_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a signal while something of the run is on its way."""

    def take(self: Turns) -> bool:
        match = self.mailbox.matching_signal()
        if match is None:
            return False
        self.mailbox.record_signal(*match)
        return True

    monkeypatch.setattr(Turns, "_take_signal", take)


def _no_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the order of tasks that are woken together to trio."""
    for name in ("delivered", "stepped"):
        monkeypatch.setattr(Lane, name, lambda self: None)
    monkeypatch.setattr(Lane, "scheduled", lambda self, task: None)


def _uncommitted_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the body go by an outcome that is not committed yet."""
    monkeypatch.setattr(lobby, "_UNDECIDED", None)


def _barrier_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin calls without a row at replay, while rows are still to be delivered."""
    original = Lobby.add

    def add(self: Lobby, call: Call) -> None:
        original(self, call)
        if call.stage in OPEN and self.state.is_replaying:
            self._begin(call)

    monkeypatch.setattr(Lobby, "add", add)


def _publish_out_of_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Go on at once after a publish at replay."""
    original = Lobby.extend

    async def extend(self: Lobby, submit: Callable[[Callable[[Any], None]], None]) -> Any:
        if self.state.is_replaying:
            await trio.lowlevel.checkpoint()
            return True
        return await original(self, submit)

    monkeypatch.setattr(Lobby, "extend", extend)


@pytest.mark.parametrize(
    ("plant", "check"),
    [
        (_without_quiet, test_branches.test_a_list_in_order_of_completion_is_the_same_after_any_crash),
        (_waves_unsorted, test_failing_branches.test_all_kinds_of_waits_are_cancelled_in_the_same_order_at_replay),
        (_map_items_behind, test_map.test_a_cancelled_map_ends_at_the_same_place_among_cancelled_branches_at_replay),
        (_eager_signals, test_select.test_the_loser_of_a_select_does_not_take_the_next_signal),
        (_no_lane, test_branches.test_tasks_that_one_event_wakes_go_in_the_same_order_at_replay),
        (_uncommitted_counts, test_a_timeout_that_the_store_refuses_is_cancelled_if_its_scope_was_meanwhile),
        (_barrier_open, test_failing_branches.test_a_step_that_a_recorded_failure_has_stopped_does_not_begin_again),
        (_publish_out_of_turn, test_branches.test_publishing_takes_the_same_place_in_a_turn_at_replay),
    ],
)
def test_a_planted_bug_is_caught(
    monkeypatch: pytest.MonkeyPatch, plant: Callable[[pytest.MonkeyPatch], None], check: Callable[[], None]
) -> None:
    plant(monkeypatch)
    with pytest.raises((AssertionError, Ended, ExceptionGroup)) as caught:
        check()
    assert any(isinstance(error, AssertionError | Ended) for error in _with_causes(caught.value))


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, what it groups, and what caused it: a crash is the cause of its supervisor's failure."""
    yield error
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _with_causes(inner)
    if error.__cause__ is not None:
        yield from _with_causes(error.__cause__)
