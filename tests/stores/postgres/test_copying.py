"""A file's runs are copied to a server: all of them, once, and wherever the process that does it dies."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pytest

from durable_trio.errors import SchemaTooNew, StoreAway, StoreError, StoreInUse
from durable_trio.rows import Key
from durable_trio.stores import copying
from durable_trio.stores.contract import Advance, Fence, ReapExecutor, RegisterExecutor, SendSignal
from durable_trio.stores.examination_questions import Examine
from durable_trio.stores.moving import Sealed, count_copy, move, sealed, take_back
from durable_trio.stores.postgres.copy_target import SHOW
from durable_trio.stores.postgres.faults import ConnectionLost
from durable_trio.stores.postgres.roll_out import migrate_database
from durable_trio.stores.postgres.store import PostgresStore
from durable_trio.stores.postgres.url import parse_url
from durable_trio.stores.postgres.wire import Answer, Request, Wire
from durable_trio.stores.questions import ListExecutors, ListRuns, RunFilter
from durable_trio.stores.sqlite import SqliteStore, tables
from durable_trio.stores.sqlite.library import sqlite3
from tests.kit.crash_points import EVERY_CRASH, SEED
from tests.kit.forks import Forked
from tests.kit.postgres import lend_schema, return_schema
from tests.stores.conftest import Spawn
from tests.stores.postgres import copied_file
from tests.stores.postgres.copied_file import RUN_COUNT, claimable, fill, history, seen, started
from tests.stores.postgres.kit import connect

_ROOT = Path(__file__).resolve().parents[3]
_TABLES = (*copying.OF_RUN, "tags")


def silent(done: int, total: int) -> None:
    """Show nothing."""


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Of a file with something of everything."""
    name = str(tmp_path / "app.db")
    fill(name)
    return name


def look(path: str, tmp_path: Path) -> dict[str, Any]:
    """Return what a file holds once the runs of its dead executor are free."""
    copy = str(tmp_path / "copy.db")
    shutil.copy(path, copy)
    with closing(SqliteStore(copy)) as store:
        store.open()
        for executor in store.ask(ListExecutors()):
            assert not executor.is_locked
        # What a copy does before it seals a file.
        store.apply([ReapExecutor(executor=executor.id, now=1) for executor in store.ask(ListExecutors())])
        return seen(store)


def without_times(found: dict[str, Any]) -> dict[str, Any]:
    """When the runs of a dead executor became due is when somebody looked."""
    return {
        run_id: (attrs.evolve(row, wake_at=None if row.id in ("orphan", "late") else row.wake_at), *rest)
        for run_id, (row, *rest) in found.items()
    }


def seen_at(url: str) -> dict[str, Any]:
    """What people are told there."""
    with closing(PostgresStore(url, durability="normal")) as store:
        store.open()
        return seen(store)


def counts_at(url: str) -> dict[str, int]:
    """How many rows there are, of whatever runs; nothing if there are no tables yet."""
    with connect(url) as connection:
        if connection.execute("SELECT to_regclass('runs')").fetchone() == (None,):
            return {}
        return {
            table: int(connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()[0])  # type: ignore[index]
            for table in ("runs", "copied_runs", *_TABLES)
        }


def test_all_that_belongs_to_a_run_is_there_afterwards(path: str, url: str, tmp_path: Path) -> None:
    expected = look(path, tmp_path)
    assert count_copy(path, url, silent).copied_count == RUN_COUNT
    assert sealed(path) is None
    copied = move(path, url, silent)
    assert (copied.total, copied.copied_count, copied.there_count) == (RUN_COUNT, RUN_COUNT, 0)
    assert len(expected) == RUN_COUNT
    found = seen_at(url)
    assert without_times(found) == without_times(expected)
    assert found["child"][1] == "parent"
    assert found["fork"][0].forked_from == "ended"
    assert found["anew"][0].generation == 1
    assert len(found["anew"][3]) == 1
    assert found["refused"][0].problem == '"p"'
    assert {row.owner for row, *_ in found.values()} == {None}
    with connect(url) as connection:
        mail = "SELECT seq, name, signal_id FROM mailbox JOIN runs USING (run) WHERE runs.id = 'parent' ORDER BY 1"
        assert connection.execute(mail).fetchall() == [(4, "go", "sent-1"), (None, "other", None)]
        assert connection.execute("SELECT count(*) FROM copied_runs").fetchall() == [(0,)]
        assert connection.execute("SELECT waits_for FROM runs WHERE id = 'parent'").fetchall() == [(["go", "é"],)]


def test_what_was_copied_goes_on_there(path: str, url: str) -> None:
    move(path, url, silent)
    with closing(PostgresStore(url, durability="normal")) as store:
        store.open()
        sent = SendSignal(run_id="parent", name="go", payload="1", signal_id="sent-1", now=9)
        (outcome,) = store.apply([sent]) or [None]
        assert outcome is not None
        assert not outcome.created
        # What had begun comes first; the child and its parent are not due, and the code is one that was refused.
        found = claimable(store)
        assert set(found[:-2]) == {"anew", "orphan", "late"}
        assert found[-2:] == ["new", "fork"]
        assert store.ask(ListRuns(RunFilter(tags=(("color", "red é"),)), limit=9))[0].id == "parent"


def test_the_file_is_refused_by_all_versions_until_the_seal_is_taken_back(
    path: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    move(path, url, silent)
    with pytest.raises(
        StoreError, match=r"is sealed: its runs were copied to postgresql://.* --unseal` takes that back"
    ):
        SqliteStore(path).open()
    connection = sqlite3.connect(path)
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    connection.close()
    # Which is what each of them has asked when it opened a file: whether the number is higher than its own.
    assert version > 2
    monkeypatch.setattr(tables, "sealed_version", lambda version: None)
    with pytest.raises(SchemaTooNew, match="The file was not changed"):
        SqliteStore(path).open()
    monkeypatch.undo()
    with pytest.raises(StoreError, match="stays sealed: its runs were copied"):
        take_back(path, url)
    with pytest.raises(StoreError, match="stays sealed"):
        take_back(path, None)
    assert take_back(path, url, is_sure=True)
    assert not take_back(path, url)
    with closing(SqliteStore(path)) as store:
        store.open()
        assert len(store.ask(ListRuns(RunFilter(), limit=100))) == RUN_COUNT
    again = move(path, url, silent)  # nothing has changed here or there
    assert (again.copied_count, again.there_count) == (0, RUN_COUNT)


def test_a_copy_that_is_not_finished_is_taken_back_on_both_sides(path: str, url: str) -> None:
    kill_at(path, url, 40)
    assert sum(counts_at(url).values())
    with closing(PostgresStore(url, durability="normal")) as store:
        store.open()
        assert store.ask(Examine(due_before=0, set_aside="x")).dangling_count == 0
    assert take_back(path, url)
    assert sum(counts_at(url).values()) == 0
    SqliteStore(path).open()


def test_a_file_that_somebody_serves_is_left_alone(path: str, url: str, spawn: Spawn) -> None:
    with closing(SqliteStore(path)) as store:
        store.open()
        store.apply([RegisterExecutor(pid=1, host="h", lease=1, now=1)])
        with pytest.raises(StoreInUse, match="is served by"):
            move(path, url, silent)
        assert sealed(path) is None
    with closing(SqliteStore(path)) as store:
        store.open()
        with pytest.raises(StoreInUse, match="is open in this process, or in one that cannot be seen"):
            move(path, url, silent)
        assert sealed(path) is None
    client = spawn("store = SqliteStore(sys.argv[1])\nstore.open()\nsay('open')\nsys.stdin.read()", path)
    assert client.stdout is not None
    client.stdout.readline()
    with pytest.raises(StoreInUse, match=r"has .* open: stop all processes"):
        move(path, url, silent)
    assert sealed(path) is None
    SqliteStore(path).open()


def test_runs_with_the_same_ids_are_passed_over_if_they_are_equal_and_named_if_not(path: str, url: str) -> None:
    copied = str(Path(path).with_name("copied.db"))
    shutil.copy(path, copied)
    move(copied, url, silent)
    with closing(PostgresStore(url, durability="normal")) as store:
        store.open()
        (own,) = store.apply([RegisterExecutor(pid=1, host="h", lease=10**6, now=1)]) or [0]
        with connect(url) as connection:
            connection.execute("UPDATE runs SET owner = %s, token = 3 WHERE id = 'orphan'", [own])
            (run,) = connection.execute("SELECT run FROM runs WHERE id = 'orphan'").fetchone() or (0,)
            connection.execute(
                "UPDATE history SET result = '1' WHERE seq = 1 AND run = (SELECT run FROM runs WHERE id = 'ended')"
            )
            connection.execute("DELETE FROM runs WHERE id IN ('fork', 'late')")
        store.apply([Advance(fence=Fence(run, own, 3), rows=history(1, of="more"))])
    before = counts_at(url)
    for _ in range(2):
        with pytest.raises(StoreError) as raised:
            move(path, url, silent)
        text = str(raised.value)
        assert "2 of 9 runs cannot be copied" in text
        assert "'ended' (another run has this id there: its history is not the same)" in text
        assert "'orphan' (another run has this id there: its token is not the same)" in text
    assert counts_at(url)["runs"] == before["runs"]
    with pytest.raises(StoreError, match="2 of 9 runs cannot be copied"):
        count_copy(path, url, silent)


def test_what_the_server_cannot_keep_is_named(path: str, url: str) -> None:
    with closing(SqliteStore(path)) as store:
        store.open()
        store.apply([started("nul", args='["\0"]')])
    connection = sqlite3.connect(path)
    connection.execute(
        "UPDATE history SET result = CAST(x'80' AS TEXT) "
        "WHERE run = (SELECT run FROM runs WHERE id = 'ended') AND seq = 0"
    )
    connection.commit()
    connection.close()
    with pytest.raises(StoreError) as raised:
        move(path, url, silent)
    assert "2 of 10 runs cannot be copied" in str(raised.value)
    assert "'ended' (it is damaged: in table history, result is not UTF-8)" in str(raised.value)
    assert "'nul' (" in str(raised.value)
    assert counts_at(url)["runs"] == 0
    assert counts_at(url)["copied_runs"] == 8


def test_a_run_that_is_started_there_meanwhile_is_named(path: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(done: int, total: int) -> None:
        if done == total:
            with closing(PostgresStore(url, durability="normal")) as store:
                store.open()
                store.apply([started("late", args="[1]")])

    monkeypatch.setattr(copying, "_ROWS_MAX", 0)
    with pytest.raises(StoreError, match=r"were started at .* meanwhile: 'late'"):
        move(path, url, start)
    assert list(seen_at(url)) == ["late"]
    with pytest.raises(StoreError, match="1 of 9 runs cannot be copied: 'late' "):
        move(path, url, silent)
    with connect(url) as connection:
        connection.execute("DELETE FROM runs")
    assert move(path, url, silent).copied_count == RUN_COUNT


def test_if_the_last_answer_is_lost_it_is_found_finished(path: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    exchange = Wire.exchange

    def lost(wire: Wire, requests: Sequence[Request]) -> list[Answer]:
        answers = exchange(wire, requests)
        if any(request.text == SHOW for request in requests):
            wire.close()
            raise ConnectionLost("gone")
        return answers

    monkeypatch.setattr(Wire, "exchange", lost)
    with pytest.raises(StoreAway):
        move(path, url, silent)
    monkeypatch.undo()
    assert sealed(path) == Sealed(parse_url(url).name, False)
    with closing(PostgresStore(url, durability="normal")) as store:
        store.open()
        assert "fork" in claimable(store)  # and so they are not what they were
    with pytest.raises(StoreError, match="stays sealed: its runs were copied"):
        take_back(path, url)
    assert move(path, url, silent).is_repeated
    assert sealed(path) == Sealed(parse_url(url).name, True)


def test_one_goes_on_with_the_database_that_was_begun_with(path: str, url: str) -> None:
    kill_at(path, url, 40)
    other = lend_schema()
    try:
        with pytest.raises(StoreError, match=r"is being copied to .*, which is another database than"):
            move(path, other, silent)
    finally:
        return_schema(other)


def kill_at(path: str, url: str, step: int) -> int | None:
    """Copy in a process that is killed after so many steps; else return how many there were."""
    command = [sys.executable, "-m", "tests.stores.postgres.copied_file", path, url, str(step)]
    with Forked(command, cwd=str(_ROOT), stdout=subprocess.PIPE, text=True) as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode in (0, -signal.SIGKILL)
    return int(output) if process.returncode == 0 else None


@pytest.fixture
def other_url() -> Iterator[str]:
    """Of another schema that holds nothing."""
    lent = lend_schema()
    yield lent
    return_schema(lent)


def test_wherever_it_is_killed_it_goes_on_and_no_run_lives_twice(
    path: str, url: str, other_url: str, tmp_path: Path
) -> None:
    whole, begun = str(tmp_path / "whole.db"), str(tmp_path / "begun.db")
    shutil.copy(path, whole)
    migrate_database(other_url)  # so that there are as many steps each time
    count = kill_at(whole, other_url, 10**6)
    assert count is not None
    expected, counts = without_times(seen_at(other_url)), counts_at(other_url)
    for step in some_of(count):
        shutil.copy(path, begun)
        lent = lend_schema()
        try:
            migrate_database(lent)
            assert kill_at(begun, lent, step) is None
            seal = sealed(begun)
            there = counts_at(lent).get("runs", 0)
            if seal is None:
                assert there == 0
            else:
                assert there in (0, RUN_COUNT)
                assert there or not seal.is_copied
                with pytest.raises(StoreError, match="is sealed"):
                    SqliteStore(begun).open()
            move(begun, lent, silent)
            assert without_times(seen_at(lent)) == expected
            assert counts_at(lent) == counts
            assert sealed(begun) == Sealed(parse_url(lent).name, True)
        finally:
            return_schema(lent)


def some_of(count: int) -> list[int]:
    """Return after how many steps to die: some of the first ones, and the last ones, at which everything changes."""
    if EVERY_CRASH:
        return list(range(count))
    return [*sorted(random.Random(SEED).sample(range(count - 5), 4)), *range(count - 5, count)]


def test_it_is_killed_again_and_again(path: str, url: str) -> None:
    step = 20
    while kill_at(path, url, step) is None:
        step += 3
    assert step < 300
    assert len(seen_at(url)) == RUN_COUNT
    assert counts_at(url)["copied_runs"] == 0


def test_a_long_history_comes_in_pieces(tmp_path: Path, url: str) -> None:
    path = str(tmp_path / "long.db")
    with closing(SqliteStore(path, durability="normal")) as store:
        store.open()
        own = copied_file._register(store)
        (outcome,) = store.apply([started("long", owner=own)]) or [None]
        assert outcome is not None
        fence = Fence(outcome.row.run, own, 1)
        store.apply([Advance(fence=fence, rows=history(5000))])
    move(path, url, silent)
    rows = seen_at(url)["long"][2][0]
    assert [row.key for row in rows] == [Key("b/é" if seq % 2 else "", "s", seq) for seq in range(5000)]
