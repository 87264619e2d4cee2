"""Both stores make the same of the same operations; and so does every process that has one log open."""

from __future__ import annotations

import random
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, get_args

import attrs
import pytest

from durable_trio.rows import RunRow
from durable_trio.stores.contract import Abandoned, Operation, PutOpenSteps, Sent, Started, Store
from durable_trio.stores.due_questions import FindNextDue
from durable_trio.stores.examination_questions import Examine
from durable_trio.stores.questions import (
    CountBacklog,
    CountByWorkflow,
    CountRuns,
    ListAwaited,
    ListExecutors,
    ListOpenSteps,
    ListRuns,
    ListUntold,
    LoadRun,
    Order,
    RunFilter,
)
from durable_trio.stores.sqlite import SqliteStore
from durable_trio.stores.sqlite.answers.table import ANSWERS as SQLITE_ANSWERS
from durable_trio.stores.sqlite.operations.table import HANDLERS
from durable_trio.testing.store_contract.dice import Dice
from durable_trio.testing.store_contract.kit import codes_of, one
from tests.logstore import LogStore
from tests.logstore.answers import ANSWERS
from tests.logstore.operations import OPERATIONS


def test_each_store_knows_every_operation_and_every_question() -> None:
    assert OPERATIONS.keys() == HANDLERS.keys() | {PutOpenSteps} == set(get_args(Operation))
    own = {Examine, ListExecutors, ListOpenSteps, ListUntold}  # which SQLite answers with what stands beside its tables
    assert ANSWERS.keys() == SQLITE_ANSWERS.keys() | own


def plain(outcome: Any) -> Any:
    """Return an outcome without what stores may say in other ways: change numbers, and the words of errors."""
    match outcome:
        case Exception():
            return type(outcome)
        case RunRow():
            return attrs.evolve(outcome, changed=0)
        case Abandoned() | Started():
            return attrs.evolve(outcome, row=plain(outcome.row))
        case tuple():
            return tuple(map(plain, outcome))
    return outcome


def everything(store: Store) -> dict[str, Any]:
    """Return what a store tells of all that is in it."""
    rows = store.ask(ListRuns(RunFilter(), limit=1000))
    status = store.ask(CountRuns())
    return {
        "runs": [plain(row) for row in rows],
        "loaded": [store.ask(LoadRun(row.run)) for row in rows],
        "awaited": store.ask(ListAwaited([row.run for row in rows])),
        "ended": [row.id for row in store.ask(ListRuns(RunFilter(), order=Order.ENDED, limit=1000))],
        "executors": [row.id for row in store.ask(ListExecutors(ended=True))],
        "workflows": [(each.by_status, each.durations) for each in store.ask(CountByWorkflow(durations_max=99))],
        "backlog": [store.ask(CountBacklog(codes_of("work"), now=now, due_max=99)) for now in (10**3, 10**6)],
        "next due": [
            store.ask(FindNextDue(codes=codes_of("work"), executors=range(20), now=now)) for now in (10**3, 10**6)
        ],
        "counts": (status.runs_by_status, status.parked, status.unfinished_by_version),
    }


@pytest.mark.parametrize("seed", range(4))
def test_both_stores_make_the_same_of_the_same_operations(tmp_path: Path, seed: int) -> None:
    dice, numbers = Dice(), random.Random(seed)
    with closing(SqliteStore(":memory:")) as sqlite, closing(LogStore(tmp_path / "runs.log")) as log:
        sqlite.open()
        log.open()
        kinds = set()
        for turn in range(300):
            operation = dice.operation(sqlite, numbers)
            expected = one(sqlite, operation)
            outcome = one(log, operation)
            assert plain(outcome) == plain(expected), f"turn {turn}: {operation}\n{outcome!r}\n{expected!r}"
            kinds.add(type(expected))
            if turn % 20 == 0:
                found, wanted = everything(log), everything(sqlite)
                for what, value in wanted.items():
                    assert found[what] == value, f"turn {turn}, {what}: {operation}"
    assert {bool, Started, Sent} <= kinds
    assert len(kinds) >= 9


def test_all_who_have_the_log_open_have_the_same_state(tmp_path: Path) -> None:
    dice, numbers = Dice(), random.Random(7)
    with ExitStack() as stack:
        stores = [stack.enter_context(closing(LogStore(tmp_path / "runs.log"))) for _ in range(3)]
        for store in stores:
            store.open()
        for _ in range(60):
            store = numbers.choice(stores)
            batch: list[Operation] = [dice.operation(numbers.choice(stores), numbers) for _ in range(4)]
            store.apply(batch)
        first = everything(stores[0])
        later = stack.enter_context(closing(LogStore(tmp_path / "runs.log")))
        later.open()
        for store in [*stores[1:], later]:
            assert everything(store) == first
