"""What is put in place of a database that somebody has open: who meets it, what he says, and that it stays as it is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from durable_trio.errors import StoreCorrupt, StoreError, StoreRewound
from durable_trio.stores.questions import FindRun, ListHistory
from durable_trio.stores.sqlite import SqliteStore, sqlite3
from durable_trio.testing.store_contract.kit import register, row_of, start
from tests.stores.sqlite.kit import Spawn, fill, names_of_runs, vacuum


@pytest.fixture
def store(store: SqliteStore) -> SqliteStore:
    """An open store of which not all is in the log, and nothing in a reader's memory."""
    for number in range(40):
        fill(store, f"early-{number}", 40)
    store.wal_checkpoint("truncate")
    fill(store, "run", 20)
    return store


# ---- what is done --------------------------------------------------------------------------------------------------


def copy_made_by_vacuum(store: SqliteStore) -> None:
    vacuum(store, Path(store.path + ".copy"))
    shutil.copyfile(store.path + ".copy", store.path)


def other_store(store: SqliteStore) -> None:
    other = SqliteStore(store.path + ".copy")
    other.open()
    for number in range(60):
        fill(other, f"other-{number}")
    other.close()
    shutil.copyfile(store.path + ".copy", store.path)


def part_of_a_copy(store: SqliteStore) -> None:
    vacuum(store, Path(store.path + ".copy"))
    content = Path(store.path + ".copy").read_bytes()
    with open(store.path, "r+b") as file:
        file.truncate(0)
        file.write(content[: len(content) // 3])


def part_of_itself(store: SqliteStore) -> None:
    os.truncate(store.path, os.path.getsize(store.path) // 3)


def no_database(store: SqliteStore) -> None:
    Path(store.path).write_bytes(b"\xa5" * 50_000)


def nothing(store: SqliteStore) -> None:
    os.truncate(store.path, 0)


def another_file(store: SqliteStore) -> None:
    vacuum(store, Path(store.path + ".copy"))
    os.replace(store.path + ".copy", store.path)


def same_content_in_another_file(store: SqliteStore) -> None:
    shutil.copyfile(store.path, store.path + ".copy")
    os.replace(store.path + ".copy", store.path)


def no_file(store: SqliteStore) -> None:
    os.unlink(store.path)


def no_log(store: SqliteStore) -> None:
    os.unlink(store.path + "-wal")
    os.unlink(store.path + "-shm")


def copy_without_log(store: SqliteStore) -> None:
    copy_made_by_vacuum(store)
    no_log(store)


def read(store: SqliteStore, runs: list[int]) -> None:
    for run in runs:
        store.ask(ListHistory(run))


WRITTEN = [copy_made_by_vacuum, other_store, part_of_a_copy, part_of_itself, no_database, nothing]
PUT = [another_file, same_content_in_another_file, no_file, no_log, copy_without_log]
Act = Callable[[SqliteStore], None]


# ---- who has it open -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", WRITTEN)
def test_a_read_that_meets_what_was_written_over_a_database_says_so(store: SqliteStore, act: Act) -> None:
    """The log and the copy, read as one, are damaged; but the disk is not."""
    runs = [row_of(store, f"early-{number}").run for number in range(40)]
    act(store)
    there = Path(store.path).read_bytes()
    with pytest.raises(StoreRewound, match="was written over"):
        read(store, runs)
    store.close()
    assert Path(store.path).read_bytes() == there


@pytest.mark.parametrize("is_changed", [False, True])
def test_damage_that_nobody_has_put_there_is_the_disks(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, is_changed: bool
) -> None:
    """Also where the database itself was written to meanwhile: its log was moved."""
    run = row_of(store, "early-7").run
    if is_changed:
        os.utime(store.path)

    def fail(*_: object) -> None:
        error = sqlite3.DatabaseError("database disk image is malformed")
        error.sqlite_errorcode = 11
        raise error

    monkeypatch.setattr("durable_trio.stores.sqlite.store.at_one_instant", fail)
    with pytest.raises(StoreCorrupt, match="check the disk"):
        store.ask(ListHistory(run))
    with pytest.raises(StoreCorrupt, match="failed before"):
        start(store, "later")


def test_a_read_that_meets_damage_while_others_have_the_turn_does_not_wait_for_it(
    store: SqliteStore, other: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durable_trio.stores.sqlite.store._JUDGING_PATIENCE_SECONDS", 0.0)
    runs = [row_of(store, f"early-{number}").run for number in range(40)]
    copy_made_by_vacuum(store)
    other._turn.take()
    try:
        with pytest.raises(StoreError):
            read(store, runs)
    finally:
        other._turn.release()


# ---- who comes -----------------------------------------------------------------------------------------------------


def files(path: str) -> dict[str, bytes]:
    """Return what stands there, without what only carries locks."""
    found = Path(path).parent.glob(f"{Path(path).name}*")
    return {file.name: file.read_bytes() for file in found if "-turn" not in file.name and "-owners" not in file.name}


@pytest.mark.parametrize("act", [*WRITTEN, *PUT])
def test_nobody_begins_beside_an_executor_that_has_something_else_open(store: SqliteStore, act: Act) -> None:
    register(store)
    act(store)
    there = files(store.path)
    newcomer = SqliteStore(store.path)
    with pytest.raises(StoreRewound, match="has it open still; nothing was changed"):
        newcomer.open()
    assert files(store.path) == there


_HOLD = """
store = SqliteStore(sys.argv[1])
store.open()
started(store, "theirs")
say("ready")
sys.stdin.readline()
try:
    started(store, "lost")
except Exception as error:
    say(type(error).__name__)
store.close()
say("closed")
"""


@pytest.mark.parametrize("put", [shutil.copyfile, os.replace])
def test_nobody_begins_beside_a_client_that_has_something_else_open(
    tmp_path: Path, spawn: Spawn, put: Callable[[Path, Path], object]
) -> None:
    """It has no lock; the system tells which files it has open. Once it has ended, what was put there is opened."""
    path, copy = tmp_path / "runs.db", tmp_path / "copy.db"
    store = SqliteStore(path)
    store.open()
    fill(store, "run")
    vacuum(store, copy)
    store.close()
    holder = spawn(_HOLD, path)
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == "ready\n"
    put(copy, path)
    there = path.read_bytes()
    with pytest.raises(StoreRewound, match=rf"process {holder.pid} .*has it open still"):
        store.open()
    assert path.read_bytes() == there
    holder.stdin.write("\n")
    holder.stdin.flush()
    assert holder.stdout.read() == "StoreRewound\nclosed\n"
    assert path.read_bytes() == there
    assert names_of_runs(path) == ["run"]


def test_processes_that_have_the_same_database_open_let_each_other_in(store: SqliteStore, spawn: Spawn) -> None:
    """Also after the log was moved, by whomever, and begun anew."""
    register(store)
    for mode in ("passive", "truncate"):
        fill(store, f"more {mode}", 100)
        with closing(sqlite3.connect(store.path)) as connection:
            connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
        other = SqliteStore(store.path)
        other.open()
        fill(other, f"theirs {mode}")
        other.close()
    output, _ = spawn(
        "store = SqliteStore(sys.argv[1]); store.open(); started(store, 'x'); say('ok')", store.path
    ).communicate(timeout=120)
    assert output == "ok\n"
    assert store.ask(FindRun("theirs truncate")) is not None


# ---- who leaves ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_asked", [False, True])
def test_a_log_that_was_removed_is_not_moved_into_a_copy_at_the_end(store: SqliteStore, is_asked: bool) -> None:
    """SQLite, which has both open, would do so."""
    copy_without_log(store)
    there = Path(store.path).read_bytes()
    if is_asked:
        with pytest.raises(StoreRewound):
            start(store, "lost")
    store.close()
    assert Path(store.path).read_bytes() == there


_GO_ON = """
from durable_trio.stores.questions import FindRun
store = SqliteStore(sys.argv[1])
store.open()
say([name for name in ("ours", "theirs", "later") if store.ask(FindRun(name)) is not None])
started(store, sys.argv[2])
store.close()
"""


def test_a_log_that_was_removed_is_not_moved_into_what_others_have_gone_on_with(
    store: SqliteStore, spawn: Spawn
) -> None:
    """A client has no lock, so that they were let in; they have left a log of theirs, for it had the database open."""
    store.close()
    store.open()
    start(store, "ours")
    no_log(store)
    assert spawn(_GO_ON, store.path, "theirs").communicate(timeout=120)[0] == "[]\n"
    with pytest.raises(StoreRewound):
        start(store, "lost")
    store.close()
    assert spawn(_GO_ON, store.path, "later").communicate(timeout=120)[0] == "['theirs']\n"
