"""Whatever is done to a store, in whatever order: statuses move as the table of a run's life says."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from durable_trio.stores.contract import Store
from durable_trio.stores.sqlite import SqliteStore
from durable_trio.testing.store_contract.life import LifeOfRuns

# Each number makes an operation. First come some that bring a few runs into all kinds of statuses; of the others a
# failure shows only as many as it needs.
beginnings = st.integers(0, 1000)
operations = st.lists(st.integers(0, 2**16), max_size=80)


def live(store: Store, beginning: int, numbers: list[int]) -> None:
    store.open()
    try:
        life = LifeOfRuns(store)
        for number in (*range(beginning * 100, beginning * 100 + 100), *numbers):
            life.go_on(random.Random(number))
    finally:
        store.close()


@settings(max_examples=25)
@given(beginnings, operations)
def test_in_memory(beginning: int, numbers: list[int]) -> None:
    live(SqliteStore(":memory:"), beginning, numbers)


@settings(max_examples=10)
@given(beginnings, operations)
def test_in_a_file(beginning: int, numbers: list[int]) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        live(SqliteStore(Path(folder) / "runs.db", durability="normal"), beginning, numbers)
