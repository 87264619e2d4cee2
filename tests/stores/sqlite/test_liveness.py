"""Who is there, as a store of one file judges it: by kernel locks, and by what processes call themselves."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import attrs
import pytest

from durable_trio.processes import ProcessIdentity
from durable_trio.rows import DeathRow, DeathStage
from durable_trio.stores.contract import PutReport, ReapExecutor, RenewLease
from durable_trio.stores.questions import ListDeaths, ListExecutors, ListReports
from durable_trio.stores.sqlite import SqliteStore
from durable_trio.testing.store_contract.kit import one, register


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path / "runs.db")
    store.open()
    yield store
    store.close()


@pytest.fixture
def ended() -> str:
    """The name of a process that has ended."""
    with subprocess.Popen(["true"]) as process:
        return str(attrs.evolve(ProcessIdentity.own(), pid=process.pid))


def death_of(executor: int, teller: str) -> DeathRow:
    return DeathRow(executor=executor, pid=7, stage=DeathStage.WATCHED, teller=teller)


def test_a_report_is_of_one_that_lives_has_ended_or_never_was(store: SqliteStore, ended: str) -> None:
    own = ProcessIdentity.own()
    later = attrs.evolve(own, started="1")  # the number was given to another one
    elsewhere = attrs.evolve(own, host="another", boot_id="another")
    before = attrs.evolve(own, boot_id="another")
    names: dict[str, bool | None] = {str(own): True, ended: False, str(later): False, str(before): False}
    names |= {str(elsewhere): True, "x": None, "a/b/0/1": None}  # of another machine nothing is known
    for name in names:
        one(store, PutReport(process=name, report="{}", now=5))
    assert {row.process: row.is_alive for row in store.ask(ListReports())} == names


def test_a_teller_that_has_ended_or_cannot_be_read_is_not_there(store: SqliteStore, ended: str) -> None:
    tellers = {f"a/{ProcessIdentity.own()}": True, f"a/{ended}": False, "nonsense": False, "": False}
    executors = [register(store) for _ in tellers]
    for executor, teller in zip(executors, tellers, strict=True):
        one(store, ReapExecutor(executor=executor, death=death_of(executor, teller), now=5))
    assert {row.teller: row.is_teller_alive for row in store.ask(ListDeaths())} == tellers


def test_the_process_of_one_that_was_declared_dead_is_there_until_it_ends(store: SqliteStore) -> None:
    """Where its lock is in a file that stands there no more, nobody says so: nothing tells."""
    other = SqliteStore(store.path)
    other.open()
    silent = register(store)
    one(other, ReapExecutor(executor=silent, death=death_of(silent, "x"), now=5))
    assert [row.is_locked for row in other.ask(ListDeaths())] == [True]
    assert [row.is_locked for row in store.ask(ListDeaths())] == [True]
    Path(f"{store.path}-owners").unlink()
    newcomer = SqliteStore(store.path)
    newcomer.open()
    assert [row.is_locked for row in newcomer.ask(ListDeaths())] == [None]
    newcomer.close()
    store.close()
    other.close()


def test_since_when_somebody_is_silent_is_told_of_this_boot_alone(store: SqliteStore) -> None:
    executor = register(store, lease=1000)

    def silent() -> int | None:
        return store.ask(ListExecutors())[0].silent

    with closing(store.connect()) as connection, connection:
        connection.execute("UPDATE executors SET renewed_at = renewed_at - 60000000")
    assert (silent() or 0) >= 60_000_000
    assert store.ask(ListExecutors())[0].is_silent
    one(store, RenewLease(executor=executor))
    assert (silent() or 0) < 60_000_000
    with closing(store.connect()) as connection, connection:
        connection.execute("UPDATE executors SET renewed_at = renewed_at + 600000000")  # set by another program
    assert silent() == 0
    with closing(store.connect()) as connection, connection:
        connection.execute("UPDATE executors SET boot_id = 'another'")
    assert silent() is None
    assert not store.ask(ListExecutors())[0].is_silent
