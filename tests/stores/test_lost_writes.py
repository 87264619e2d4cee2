"""What runs could not have stored when their process ended is named."""

from __future__ import annotations

from durable_trio import RunStatus
from durable_trio.records import StepKind
from durable_trio.rows import HistoryRow, Key, WaitRow
from durable_trio.stores.contract import Advance, Fence, Finish
from durable_trio.stores.lost_writes import lost_text, named

FENCE = Fence(1, 1, 1)


def step(name: str) -> HistoryRow:
    return HistoryRow(seq=1, key=Key("", name, 0), kind=StepKind.STEP, started_at=1, finished_at=2)


def test_it_is_told_by_keys_and_each_once() -> None:
    advance = Advance(
        fence=FENCE,
        rows=(step("charge"),),
        waits=(WaitRow(key=Key("", "nap", 0), kind="sleep", started_at=1),),
        published=(("progress", "1"),),
    )
    end = Finish(fence=FENCE, status=RunStatus.COMPLETED, now=1)
    assert lost_text([advance, advance, end]) == (
        "step 'charge#0', its wait 'nap#0', its value 'progress', that it has ended: completed"
    )
    assert lost_text([Advance(fence=FENCE)]) == "that it is left"


def test_of_many_only_some_are_named() -> None:
    many = Advance(fence=FENCE, rows=tuple(step(f"step {number}") for number in range(7)))
    assert lost_text([many]).endswith("step 'step 4#0' and 2 more")
    assert named({run: [many] for run in range(12)}, []).endswith(", and 2 more")
