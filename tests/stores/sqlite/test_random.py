"""Random operations: batches do what single ones do, and the rows keep their invariants."""

from __future__ import annotations

import random
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import attrs
import pytest

from durable_trio.errors import OwnershipLost, RunConflict
from durable_trio.rows import Key, RunRow, WaitRow
from durable_trio.stores.contract import (
    Abandoned,
    Advance,
    Operation,
    RegisterExecutor,
    RenewLease,
    Sent,
    Started,
    Store,
)
from durable_trio.stores.news_questions import ListSent
from durable_trio.stores.questions import CountRuns, ListExecutors, ListRuns, LoadRun, RunFilter
from durable_trio.stores.sqlite import SqliteStore, sqlite3
from durable_trio.testing.store_contract.dice import Dice
from durable_trio.testing.store_contract.kit import one
from tests.stores.sqlite.numbers import BEGINNING


def plain(outcome: Any) -> Any:
    """Return an outcome without the change numbers, which count transactions."""
    match outcome:
        case Exception():
            return type(outcome), str(outcome)
        case RunRow():
            return attrs.evolve(outcome, changed=0)
        case Abandoned():
            return attrs.evolve(outcome, row=plain(outcome.row))
        case Started():
            return attrs.evolve(outcome, row=plain(outcome.row))
        case tuple():
            return tuple(map(plain, outcome))
    return outcome


def everything(store: Store) -> Any:
    """Return all that a store tells."""
    rows = store.ask(ListRuns(RunFilter(), limit=1000))
    loaded = [(plain(row), store.ask(LoadRun(row.run))) for row in rows]
    sent = store.ask(ListSent(BEGINNING, limit=1000)).sent
    executors = [attrs.evolve(row, silent=None) for row in store.ask(ListExecutors(ended=True))]
    return loaded, executors, sent, store.ask(CountRuns())


@pytest.mark.parametrize("seed", range(8))
def test_batches_do_what_single_operations_do_and_keep_the_rows_whole(tmp_path: Path, seed: int) -> None:
    dice, numbers = Dice(), random.Random(seed)
    single, batched = SqliteStore(":memory:"), SqliteStore(tmp_path / "runs.db", durability="normal")
    single.open()
    batched.open()
    kinds = set()
    for _ in range(60):
        operations, expected = [], []
        for _ in range(8):
            operation = dice.operation(single, numbers)
            operations.append(operation)
            expected.append(plain(one(single, operation)))
        outcomes = batched.apply(operations)
        assert outcomes is not None
        assert [plain(outcome) for outcome in outcomes] == expected, f"seed {seed}: {operations}"
        kinds |= {type(outcome) for outcome in outcomes}
    assert everything(single) == everything(batched)
    assert {bool, Started, Sent} <= kinds
    assert len(kinds) >= 9
    connection = batched.connect()
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    for broken in (
        "SELECT id FROM runs WHERE owner NOT IN (SELECT id FROM executors WHERE ended_at IS NULL)",
        "SELECT id FROM runs WHERE (finished_at IS NULL) = (status IN ('completed', 'failed', 'cancelled'))",
        "SELECT id FROM runs WHERE finished_at IS NOT NULL AND (owner IS NOT NULL OR wake_at IS NOT NULL)",
        "SELECT id FROM runs WHERE status = 'pending' AND (owner IS NOT NULL OR wake_at IS NULL)",
        "SELECT id FROM runs WHERE problem IS NOT NULL AND (owner IS NOT NULL OR wake_at IS NOT NULL)",
        "SELECT id FROM runs WHERE changed > (SELECT changed FROM change_counter)",
    ):
        assert connection.execute(broken).fetchall() == [], broken
    connection.close()
    single.close()
    batched.close()


class Pair:
    """Two processes on one file that do random things. What an executor owns is written by its own process alone."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self.stores = [SqliteStore(path, durability="normal") for _ in range(2)]
        for store in self.stores:
            store.open()
        self._dice, self._numbers = Dice(), random.Random(seed)
        self._place_of: dict[int, int] = {}  # of an executor

    def act(self) -> None:
        """Have one of them do something."""
        place, what = self._numbers.randrange(2), self._numbers.random()
        if what < 0.08:
            self.stores[place].foreign_changes()
        elif what < 0.16:
            self._move_log(place)
        else:
            self._write(place)

    def _move_log(self, place: int) -> None:
        """Move all of the log, or, with a reader, what was there before something is written."""
        with ExitStack() as stack:
            if self._numbers.random() < 0.6:
                reader = stack.enter_context(closing(sqlite3.connect(self.path)))
                reader.execute("BEGIN")
                reader.execute("SELECT count(*) FROM runs").fetchall()
                self._write(1 - place)
            self.stores[place].wal_checkpoint()

    def _write(self, place: int) -> None:
        store, count = self.stores[place], self._numbers.choice((1, 1, 2, 4, 7))
        batch: list[Operation] = []
        while len(batch) < count:
            operation = self._operation(store)
            fence = getattr(operation, "fence", None)
            owner = fence.owner if fence is not None else getattr(operation, "owner", None)
            if owner is None or self._place_of.get(owner) == place:
                batch.append(operation)
        first = batch[0]
        if count == 1 and type(first) is Advance and first.rows and self._numbers.random() < 0.5:
            with suppress(OwnershipLost, RunConflict):
                store.transact(first.fence, lambda _: first, seconds_max=60)
            return
        for operation, outcome in zip(batch, store.apply(batch) or (), strict=True):
            if type(operation) is RegisterExecutor:
                self._place_of[outcome] = place

    def _operation(self, store: SqliteStore) -> Operation:
        numbers = self._numbers
        if self._place_of and numbers.random() < 0.2:
            return RenewLease(executor=numbers.choice(list(self._place_of)))
        operation = self._dice.operation(store, numbers)
        if type(operation) is Advance and numbers.random() < 0.5:  # waits that begin, and that are over
            keys = [Key("", f"s{number}", 0) for number in range(5)]
            if numbers.random() < 0.5:
                return Advance(fence=operation.fence, cleared=tuple(keys), now=1)
            wait = WaitRow(key=numbers.choice(keys), kind="sleep", due_at=5, started_at=numbers.randrange(1000))
            return Advance(fence=operation.fence, waits=(wait,), now=1)
        return operation


@pytest.mark.parametrize("seed", range(4))
def test_nobody_takes_for_an_earlier_state_what_others_have_done(tmp_path: Path, seed: int) -> None:
    pair = Pair(tmp_path / "runs.db", seed)
    for _ in range(250):
        pair.act()
    for store in pair.stores:
        store.close()
