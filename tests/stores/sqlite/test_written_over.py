"""A copy that is written over the file of a database while that holds all of its log."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path
from typing import Literal

import pytest

from durable_trio.errors import StoreRewound
from durable_trio.stores.sqlite import SqliteStore, sqlite3
from durable_trio.testing.store_contract.kit import (
    add,
    start,
    step,
)
from tests.stores.sqlite.acts import ACTS, LOOKS, back_up, prepare


def move_log(store: SqliteStore, mode: str) -> None:
    """Move the log as another program does."""
    with closing(sqlite3.connect(store.path)) as connection:
        assert connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()[0] == 0


@pytest.mark.parametrize("mode", ["passive", "truncate"])
@pytest.mark.parametrize("look", [look for look in LOOKS if look != "a look"])
@pytest.mark.parametrize("act", ACTS)
def test_a_file_that_is_written_over_when_it_holds_the_whole_log_is_missed_too(
    store: SqliteStore, act: str, look: str, mode: str
) -> None:
    """SQLite does not see it, and the log has nothing left that the copy would have to go with."""
    fence = prepare(store)
    copy = back_up(store)
    ACTS[act](store, fence)
    move_log(store, mode)
    shutil.copyfile(copy, store.path)
    expected = Path(copy).read_bytes()
    with pytest.raises(StoreRewound, match="an earlier state"):
        LOOKS[look](store, fence)
    store.close()
    assert Path(store.path).read_bytes() == expected


@pytest.mark.parametrize("mode", ["passive", "truncate"])
def test_a_file_that_is_written_over_when_it_holds_the_whole_log_is_missed_by_others(
    store: SqliteStore, other: SqliteStore, mode: Literal["passive", "truncate"]
) -> None:
    """They have committed nothing, but find what was noted when the log was moved."""
    copy = back_up(store)
    start(store, "new")
    store.wal_checkpoint(mode)
    shutil.copyfile(copy, store.path)
    with pytest.raises(StoreRewound, match="an earlier state"):
        start(other, "lost")


@pytest.mark.parametrize("mode", ["passive", "truncate"])
def test_a_file_that_is_written_over_with_its_own_content_has_lost_nothing(
    store: SqliteStore, other: SqliteStore, mode: str
) -> None:
    fence = prepare(store)
    start(other, "theirs")
    add(store, fence, step(50, "s", 50))
    move_log(store, mode)
    shutil.copyfile(store.path, f"{store.path}.copy")
    shutil.copyfile(f"{store.path}.copy", store.path)
    start(other, "go on")
    add(store, fence, step(51, "s", 51))
