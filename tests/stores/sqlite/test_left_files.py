"""What stands there when a store is opened: logs that others have left, copies, and files of somebody else."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import closing
from pathlib import Path

import attrs
import pytest

from durable_trio.errors import NotADatabase
from durable_trio.stores.contract import DeleteRun
from durable_trio.stores.questions import FindRun, ListHistory
from durable_trio.stores.sqlite import SqliteStore, identity
from durable_trio.stores.sqlite.identity import log_is_stale, look_at
from durable_trio.stores.sqlite.write_turn import FileTurn
from durable_trio.testing.store_contract.kit import finish, row_of, start
from tests.stores.sqlite.kit import Spawn, fill, names_of_runs, vacuum

pytestmark = pytest.mark.usefixtures("new_stores_are_made")


@pytest.fixture
def store(store: SqliteStore) -> SqliteStore:
    """An open store with a run and some history."""
    fill(store, "run")
    return store


# ---- while it is closed --------------------------------------------------------------------------------------------


_DIE = """
store = SqliteStore(sys.argv[1])
store.open()
fence = started(store, "dies")
for seq in range(int(sys.argv[2])):
    row = HistoryRow(seq=seq, key=Key("", "s", seq), kind=StepKind.STEP, started_at=1, finished_at=1, result="x" * 900)
    store.apply([Advance(fence=fence, rows=(row,), now=1)])
os._exit(9)
"""


@pytest.fixture
def dead(tmp_path: Path, spawn: Spawn) -> tuple[Path, Path]:
    """A store whose process has died, and a copy from before."""
    path, copy = tmp_path / "runs.db", tmp_path / "copy.db"
    store = SqliteStore(path)
    store.open()
    fill(store, "run")
    vacuum(store, copy)
    store.close()
    assert spawn(_DIE, path, 300).wait(timeout=120) == 9
    assert (tmp_path / "runs.db-wal").stat().st_size > 0
    return path, copy


def test_a_log_that_a_killed_process_has_left_is_used(dead: tuple[Path, Path]) -> None:
    assert names_of_runs(dead[0]) == ["dies", "run"]


def test_all_files_together_may_be_copied_elsewhere(dead: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for path in tmp_path.glob("runs.db*"):
        shutil.copy(path, folder)
    assert names_of_runs(folder / "runs.db") == ["dies", "run"]


@pytest.mark.parametrize("lock_files", ["stay", "go"])
def test_a_database_that_is_gone_leaves_no_log_to_a_new_one(
    dead: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, lock_files: str
) -> None:
    dead[0].unlink()
    log = (tmp_path / "runs.db-wal").read_bytes()
    if lock_files == "go":
        for path in tmp_path.glob("runs.db-[to]*"):
            path.unlink()
    (tmp_path / "runs.db-journal").write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + bytes(600))
    assert names_of_runs(dead[0]) == []
    kept = next(tmp_path.glob("runs.db-stale-*-wal"))
    assert kept.read_bytes() == log
    assert str(kept) in caplog.text
    assert list(tmp_path.glob("runs.db-stale-*-journal"))


@pytest.mark.parametrize("how", ["move", "write over"])
def test_a_log_without_a_first_page_is_not_applied_to_a_copy_that_vacuum_has_made(
    tmp_path: Path, spawn: Spawn, how: str
) -> None:
    path, copy = tmp_path / "runs.db", tmp_path / "copy.db"
    store = SqliteStore(path)
    store.open()
    for number in range(30):
        finish(store, fill(store, f"run-{number:02}"))
        if number % 2 == 0:
            store.apply([DeleteRun(run_id=f"run-{number:02}")])
    store.close()
    script = """
store = SqliteStore(sys.argv[1])
store.open()
started(store, "before the copy")
connection = store.connect()
connection.execute("VACUUM INTO ?", (sys.argv[2],))
os._exit(9)
"""
    assert spawn(script, path, copy).wait(timeout=120) == 9
    if how == "move":
        os.replace(copy, path)
    else:
        shutil.copyfile(copy, path)
    runs = ["before the copy", *(f"run-{number:02}" for number in range(1, 30, 2))]
    assert names_of_runs(path) == runs
    assert list(tmp_path.glob("runs.db-stale-*-wal"))


def test_a_log_without_a_first_page_is_applied_where_another_program_has_changed_the_schema(
    tmp_path: Path, spawn: Spawn
) -> None:
    path = tmp_path / "runs.db"
    script = """
import sqlite3
store = SqliteStore(sys.argv[1])
store.open()
started(store, "first")
connection = store.connect()
connection.execute("CREATE TABLE mine (a)")
connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
if sys.argv[2] == "ours":
    started(store, "acknowledged")
else:
    connection.execute("INSERT INTO mine VALUES (1)")
    connection.commit()
os._exit(9)
"""
    for whose in ("ours", "theirs"):
        assert spawn(script, path, whose).wait(timeout=120) == 9
        store = SqliteStore(path)
        store.open()
        with closing(store.connect()) as connection:
            found = connection.execute("SELECT (SELECT count(*) FROM mine), min(id) FROM runs").fetchone()
            connection.execute("DROP TABLE mine")
        assert found == ((0, "acknowledged") if whose == "ours" else (1, "first"))
        store.close()
        path = tmp_path / "other.db"
    assert not list(tmp_path.glob("*-stale-*"))


@pytest.mark.parametrize("how", ["move", "write over"])
def test_a_copy_that_is_put_in_place_of_a_dead_store_is_not_spoilt_by_the_log_that_was_left(
    dead: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    path, copy = dead
    if how == "move":
        os.replace(copy, path)
    else:
        shutil.copyfile(copy, path)
    assert names_of_runs(path) == ["run"]
    assert "another copy stands in its place" in caplog.text
    assert list(tmp_path.glob("runs.db-stale-*-wal"))


def put_pair(source: Path, target: Path) -> None:
    """Put a database and its log in place of others."""
    for side in ("", "-wal"):
        shutil.copyfile(f"{source}{side}", f"{target}{side}")
    Path(f"{target}-shm").unlink(missing_ok=True)


_SNAPSHOT = """
import shutil
store = SqliteStore(sys.argv[1])
store.open()
fence = started(store, sys.argv[2])
for seq in range(300):
    store.apply([Advance(fence=fence, rows=(row(seq),), now=1)])
    if seq == 100 and sys.argv[4] == "between":
        store.wal_checkpoint("truncate")
    if seq == 200:
        for side in ("", "-wal"):
            shutil.copyfile(sys.argv[1] + side, sys.argv[3] + side)
        store.wal_checkpoint("truncate")
        started(store, sys.argv[2] + " later")
if sys.argv[5] == "stopped":
    store.close()
os._exit(9)
"""


@pytest.mark.parametrize("moved", ["between", "never"])
@pytest.mark.parametrize("end", ["killed", "stopped", "reopened and killed", "reopened and stopped"])
def test_a_copy_with_a_log_of_its_own_comes_back_with_it(
    tmp_path: Path, spawn: Spawn, caplog: pytest.LogCaptureFixture, moved: str, end: str
) -> None:
    """Whatever the lock files tell of a later state."""
    path, copy = tmp_path / "runs.db", tmp_path / "copy.db"
    assert spawn(_SNAPSHOT, path, "first", copy, moved, end).wait(timeout=120) == 9
    if "reopened" in end:
        assert names_of_runs(path) == ["first", "first later"]
        assert spawn(_DIE, path, 300).wait(timeout=120) == 9
    if end == "reopened and stopped":
        names_of_runs(path)
    assert Path(f"{path}-turn").exists()
    put_pair(copy, path)
    store = SqliteStore(path)
    store.open()
    assert store.ask(FindRun("first later")) is None
    assert len(store.ask(ListHistory(row_of(store, "first").run))) == 201
    store.close()
    assert names_of_runs(path) == ["first"]
    assert "stands in its place" not in caplog.text


@pytest.mark.parametrize("moved", ["between", "never"])
def test_a_copy_without_its_log_does_not_get_the_one_that_was_left(tmp_path: Path, spawn: Spawn, moved: str) -> None:
    path, copy = tmp_path / "runs.db", tmp_path / "copy.db"
    names_of_runs(path)
    fresh = path.read_bytes()
    assert spawn(_SNAPSHOT, path, "first", copy, moved, "killed").wait(timeout=120) == 9
    path.write_bytes(fresh)
    assert names_of_runs(path) == []
    assert list(tmp_path.glob("runs.db-stale-*-wal"))


def test_a_copy_may_be_put_in_place_while_nobody_has_the_store_open(tmp_path: Path) -> None:
    path, copy = tmp_path / "runs.db", tmp_path / "copy.db"
    store = SqliteStore(path)
    store.open()
    fill(store, "run")
    vacuum(store, copy)
    fill(store, "later", 300)
    store.close()
    for restore in (shutil.copyfile, os.replace):
        restore(copy, path)
        assert names_of_runs(path) == ["run"]
        store.open()
        start(store, "new")
        store.close()
        if restore is shutil.copyfile:
            shutil.copyfile(path, tmp_path / "kept.db")
    assert names_of_runs(path) == ["new", "run"]


def test_what_was_noted_in_another_boot_tells_nothing(dead: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut may leave a database that is older than what was seen of it; its log makes up for that."""
    turn = FileTurn(str(dead[0]))
    seen = look_at(str(dead[0]))
    newer = attrs.evolve(seen, marks={mark: value + 1 for mark, value in seen.marks.items()})
    turn.write_note(json.dumps(attrs.asdict(newer)))
    assert log_is_stale(str(dead[0]), turn)
    monkeypatch.setattr(identity, "boot_id", lambda: "another")
    assert not log_is_stale(str(dead[0]), turn)
    turn.close()


@pytest.mark.parametrize("note", ["", "{}", "[]", "null", '{"inode": 5}', "\xff", "x" * 5000])
def test_a_note_that_makes_no_sense_tells_nothing(dead: tuple[Path, Path], note: str) -> None:
    turn = FileTurn(str(dead[0]))
    turn.write_note("")
    turn.write_note(note)
    turn.close()
    assert names_of_runs(dead[0]) == ["dies", "run"]


# ---- planted files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["symbolic link", "names", "ordinary", "another user"])
@pytest.mark.parametrize("side", ["-wal", "-shm", "-journal", "-turn", "-turn-queue", "-owners"])
@pytest.mark.parametrize("is_new", [True, False])
def test_side_files_that_lead_elsewhere_or_are_somebody_elses_are_refused(
    tmp_path: Path, kind: str, side: str, is_new: bool
) -> None:
    path = tmp_path / "runs.db"
    if not is_new:
        names_of_runs(path)
    planted = Path(f"{path}{side}")
    planted.unlink(missing_ok=True)
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious" * 100)
    if kind == "symbolic link":
        planted.symlink_to(victim)
    elif kind == "names":
        os.link(victim, planted)
    elif kind == "ordinary":
        os.mkfifo(planted)
    elif os.geteuid() != 0:
        pytest.skip("only root gives files away")
    else:
        planted.write_bytes(b"")
        os.chown(planted, 65534, 65534)
    with pytest.raises(NotADatabase, match=kind) as caught:
        SqliteStore(path).open()
    assert str(planted) in str(caught.value)
    assert victim.read_bytes() == b"precious" * 100
