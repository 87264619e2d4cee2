"""Which steps are executing is noted in memory that outlives the process, and read whole or not at all."""

from __future__ import annotations

import pytest

from durable_trio.records import StepKind
from durable_trio.rows import Key, UntoldRow
from durable_trio.stores.step_slots import (
    HEAD_BYTES,
    PACK_NOTED,
    REGION_BYTES,
    StepSlots,
    is_region_of,
    pack_untold,
    read_region,
)


def make() -> StepSlots:
    return StepSlots(bytearray(REGION_BYTES), executor=7, pid=123, boot_id="boot")


def noted(name: str, branch: str = "", *, run: int = 1, token: int = 2, attempt: int = 3, n: int = 4) -> bytes:
    return PACK_NOTED(run, token, 5, attempt, n) + f"{StepKind.STEP}\0{name}\0{branch}".encode()


def keys(slots: StepSlots) -> list[Key]:
    region = read_region(bytes(slots.buffer))
    assert region is not None
    return [step.key for step in region.steps]


def test_a_step_is_told_while_it_has_its_slot_and_no_longer() -> None:
    slots = make()
    slot = slots.take(noted("pay/now", "map#0", run=11, token=22, attempt=3, n=4))
    region = read_region(bytes(slots.buffer))
    assert region is not None
    (step,) = region.steps
    assert (region.executor, region.pid, region.boot_id) == (7, 123, "boot")
    assert (step.run, step.token, step.attempt, step.kind, step.started_at) == (11, 22, 3, StepKind.STEP, 5)
    assert step.key == Key("map#0", "pay/now", 4)
    assert step.thread == slots.thread
    slots.give_back(slot)
    assert keys(slots) == []


def test_what_is_to_be_told_of_a_run_is_noted_beside_its_steps_and_is_none() -> None:
    slots = make()
    untold = UntoldRow(event="run_failed", run_id="ü" * 200, token=22)
    slot = slots.take(pack_untold(untold, 11))
    slots.take(noted("pay", run=11))
    region = read_region(bytes(slots.buffer), run=11)
    assert region is not None
    assert region.untold == (untold,)
    assert keys(slots) == [Key("", "pay", 4)]
    slots.give_back(slot)
    region = read_region(bytes(slots.buffer))
    assert region is not None
    assert region.untold == ()


@pytest.mark.parametrize(
    "name", ["x" * 256, "ü" * 256, "€" * 256, "🙂" * 256], ids=["ascii", "two bytes", "three bytes", "four bytes"]
)
def test_the_longest_names_are_told_whole(name: str) -> None:
    slots = make()
    slot = slots.take(noted(name, name))
    assert slot > 0
    assert keys(slots) == [Key(name, name, 4)]
    slots.give_back(slot)
    assert keys(slots) == []


def test_of_a_branch_that_is_too_deep_the_name_and_the_beginning_are_told() -> None:
    slots = make()
    slots.take(noted("pay", "🙂" * 5000))
    (key,) = keys(slots)
    assert key.name == "pay"
    assert key.branch.startswith("🙂🙂🙂")
    assert key.branch.endswith("…")


def test_steps_beyond_the_slots_are_counted_and_nobody_fails(caplog: pytest.LogCaptureFixture) -> None:
    slots = make()
    count = len(slots.free)
    taken = [slots.take(noted("s", n=n)) for n in range(count + 5)]
    assert [slot > 0 for slot in taken] == [True] * count + [False] * 5
    assert len(set(taken[:count])) == count
    region = read_region(bytes(slots.buffer))
    assert region is not None
    assert (len(region.steps), region.unlisted_count) == (count, 5)
    assert [vars(record)["event"] for record in caplog.records] == ["steps_unlisted"]
    for slot in reversed(taken):
        slots.give_back(slot)
    region = read_region(bytes(slots.buffer))
    assert region is not None
    assert (region.steps, region.unlisted_count) == ((), 0)
    assert len(slots.free) == count


def test_long_names_beyond_their_slots_are_counted_too() -> None:
    slots = make()
    taken = [slots.take(noted("x" * 250, n=n)) for n in range(30)]
    region = read_region(bytes(slots.buffer))
    assert region is not None
    assert len(region.steps) + region.unlisted_count == 30
    assert region.unlisted_count > 0
    for slot in taken:
        slots.give_back(slot)
    assert keys(slots) == []


def test_a_slot_that_was_written_by_half_counts_for_nothing_wherever_it_was_cut() -> None:
    """As where the process dies in the middle, over what an earlier step has left in the same slot."""
    slots = make()
    slots.give_back(slots.take(noted("the_step_before")))
    before = bytes(slots.buffer)
    slot = slots.take(noted("the_next_step_of_all"))
    after = bytes(slots.buffer)
    length = HEAD_BYTES + len(noted("the_next_step_of_all"))
    whole = 0
    for cut in range(length + 1):
        torn = before[:slot] + after[slot : slot + cut] + before[slot + cut :]
        region = read_region(torn)
        assert region is not None
        assert [step.key.name for step in region.steps] in ([], ["the_next_step_of_all"]), cut
        whole += bool(region.steps)
    assert whole >= 1


def test_what_is_no_region_tells_nothing() -> None:
    assert read_region(b"") is None
    assert read_region(bytes(REGION_BYTES)) is None
    assert read_region(b"x" * REGION_BYTES) is None
    assert is_region_of(b"") == 0
    assert is_region_of(b"x" * 200) is None
    data = bytearray(make().buffer)
    data[256:] = b"\xff" * (REGION_BYTES - 256)
    region = read_region(bytes(data))
    assert region is not None
    assert region.steps == ()


def test_who_has_a_slot_does_not_notice_that_the_region_was_closed() -> None:
    slots = make()
    small, large = slots.take(noted("a")), slots.take(noted("x" * 250))
    shown = slots.buffer
    slots.close()
    slots.give_back(small)
    slots.give_back(large)
    slots.is_in_thread(slots.take(noted("b")))
    region = read_region(bytes(shown))
    assert region is not None
    assert [step.key.name for step in region.steps] == ["a", "x" * 250]
