"""A store that has no place to note open steps is told now and then which take their time, and else nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from durable_trio.clock import Clock
from durable_trio.engine.services.open_steps import ReportedSteps
from durable_trio.errors import StoreAway
from durable_trio.records import StepKind
from durable_trio.rows import Key, OpenStepRow
from durable_trio.stores.contract import PutOpenSteps
from durable_trio.stores.questions import OpenSteps


class Written:
    """A writer that keeps what it is given, and fails when it is told to."""

    def __init__(self, *, takes: bool = True) -> None:
        self.store = SimpleNamespace(takes_open_steps=takes)
        self.told: list[PutOpenSteps] = []
        self.is_away = False

    async def write(self, operation: PutOpenSteps) -> None:
        if self.is_away:
            raise StoreAway("away")
        self.told.append(operation)

    def names(self) -> list[list[str]]:
        return [[step.key.name for step in operation.steps] for operation in self.told]


class Process:
    """A process with open steps, and a clock that stands still unless it is set; all in microseconds."""

    def __init__(self, writer: Written) -> None:
        self.now = 10_000_000
        self.executor: int | None = 1
        self.open: list[OpenStepRow] = []
        self.unlisted_count = 0
        clock = SimpleNamespace(stamp=lambda: self.now)
        self.reported = ReportedSteps(cast(Any, writer), cast(Clock, clock), lambda: self.executor, self.find)

    def find(self) -> OpenSteps:
        return OpenSteps(tuple(self.open), self.unlisted_count)

    def begin(self, name: str, *, executor: int = 1) -> None:
        self.open.append(
            OpenStepRow(
                run=1,
                token=1,
                key=Key("", name, 0),
                kind=StepKind.STEP,
                attempt=1,
                started_at=self.now,
                executor=executor,
                pid=1,
                thread=1,
                is_alive=True,
            )
        )

    async def look(self, seconds: float = 0.0) -> None:
        self.now += round(seconds * 1_000_000)
        await self.reported.put()


@pytest.fixture
def writer() -> Written:
    return Written()


@pytest.fixture
def process(writer: Written) -> Process:
    return Process(writer)


async def test_nothing_is_written_while_no_step_takes_its_time(writer: Written, process: Process) -> None:
    for number in range(10):
        process.begin(f"{number}")
        await process.look(0.1)
        process.open.clear()
        await process.look(0.5)
    assert writer.told == []


async def test_a_step_that_takes_its_time_is_told_once_and_that_it_has_ended(writer: Written, process: Process) -> None:
    process.begin("long")
    for _ in range(5):
        process.now += 600_000
        process.begin("short")
        await process.look()
        process.open.pop()
    assert writer.names() == [["long"]]
    process.open.clear()
    for _ in range(3):
        await process.look(0.6)
    assert writer.names() == [["long"], []]


async def test_of_many_steps_the_longest_under_way_are_told_and_how_many_more(
    writer: Written, process: Process
) -> None:
    for number in range(150):
        process.begin(f"{number}")
        process.now += 1
    process.unlisted_count = 7
    await process.look(1)
    assert writer.names() == [[f"{number}" for number in range(100)]]
    assert writer.told[0].unlisted_count == 57


async def test_what_could_not_be_told_is_told_at_the_next_look(writer: Written, process: Process) -> None:
    process.begin("long")
    writer.is_away = True
    await process.look(1)
    writer.is_away = False
    await process.look(1)
    assert writer.names() == [["long"]]


async def test_who_becomes_another_executor_tells_what_that_one_is_at(writer: Written, process: Process) -> None:
    process.executor = None
    process.begin("before", executor=1)
    await process.look(1)
    process.executor = 1
    await process.look(1)
    process.executor = 2
    await process.look(1)
    process.begin("after", executor=2)
    await process.look(1)
    assert [(each.executor, [step.key.name for step in each.steps]) for each in writer.told] == [
        (1, ["before"]),
        (2, ["after"]),
    ]


async def test_a_store_that_notes_them_at_once_is_told_nothing() -> None:
    writer = Written(takes=False)
    process = Process(writer)
    process.begin("long")
    await process.look(1)
    assert writer.told == []
