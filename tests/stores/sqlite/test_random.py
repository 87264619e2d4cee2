"""Random operations: batches do what single ones do, and the rows keep their invariants."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import attrs
import pytest

from durable_trio.rows import RunRow
from durable_trio.stores.contract import Abandoned, Sent, Started, Store
from durable_trio.stores.questions import CountRuns, ListExecutors, ListRuns, ListSent, LoadRun, RunFilter
from durable_trio.stores.sqlite import SqliteStore
from durable_trio.testing.store_contract.dice import Dice
from durable_trio.testing.store_contract.kit import one


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
    return loaded, store.ask(ListExecutors(ended=True)), store.ask(ListSent(0, limit=1000)), store.ask(CountRuns())


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
