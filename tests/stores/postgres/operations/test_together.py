"""Random operations of several stores on the same few runs: whatever comes between what, the tables fit together."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

import pytest

from durable_trio.errors import StoreError
from durable_trio.stores.postgres.store import PostgresStore
from durable_trio.testing.store_contract.dice import Dice
from tests.stores.postgres.kit import Rows, at_once

_OF_RUNS = (
    "history",
    "mailbox",
    "waits",
    "published",
    "refusals",
    "tags",
    "earlier_history",
    "earlier_generations",
)
# What no run may be, in the words of a condition.
_NEVER = {
    "owned by somebody who is dead": """
        owner IS NOT NULL AND NOT EXISTS (SELECT 1 FROM executors WHERE id = runs.owner AND ended_at IS NULL)
    """,
    "ended, but owned or due": """
        status IN ('completed', 'failed', 'cancelled')
            AND (owner IS NOT NULL OR wake_at IS NOT NULL OR finished_at IS NULL)
    """,
    "not ended, but with an end": "status NOT IN ('completed', 'failed', 'cancelled') AND finished_at IS NOT NULL",
    "asleep with mail that it waits for": """
        owner IS NULL AND status = 'suspended' AND wake_at IS NULL AND problem IS NULL AND EXISTS (
            SELECT 1 FROM mailbox WHERE mailbox.run = runs.run AND seq IS NULL
                AND (kind <> 'signal' OR name = ANY (waits_for))
        )
    """,
    "of a parent that is gone": "parent IS NOT NULL AND parent NOT IN (SELECT run FROM runs)",
    "a copy that is hidden": "hidden_at > 0",
}


@pytest.mark.parametrize(("batch_size", "may_conflict"), [(1, False), (3, True)])
def test_the_tables_fit_together_whatever_comes_between_what(
    open_store: Callable[[], PostgresStore], rows: Rows, batch_size: int, may_conflict: bool
) -> None:
    """Single operations never wait for each other in a circle. Batches of rare ones may: they are done again."""
    stores = [open_store() for _ in range(4)]
    deadlocks = rows.deadlock_count

    def work(store: PostgresStore, seed: int) -> list[str]:
        numbers, dice, left_out = random.Random(seed), Dice(), []
        for _ in range(60 // batch_size):
            outcomes = store.apply([dice.operation(store, numbers) for _ in range(batch_size)])
            assert outcomes is not None
            left_out += [str(outcome) for outcome in outcomes if type(outcome) is StoreError]
        return left_out

    assert at_once(*(partial(work, store, seed) for seed, store in enumerate(stores))) == [[], [], [], []]
    for table in _OF_RUNS:
        assert rows.all(f"SELECT run FROM {table} WHERE run NOT IN (SELECT run FROM runs)") == [], table
    for what, condition in _NEVER.items():
        assert rows.all(f"SELECT id, status, owner, wake_at FROM runs WHERE {condition}") == [], what
    assert may_conflict or rows.deadlock_count == deadlocks
