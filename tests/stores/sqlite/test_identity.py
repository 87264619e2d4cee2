"""Files that are removed, moved, replaced or written over under an open store."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from durable_trio.errors import StoreCorrupt, StoreError, StoreFull, StoreInUse, StoreRewound
from durable_trio.stores.contract import Advance, Fence, RegisterExecutor, RenewLease
from durable_trio.stores.questions import CountRuns, FindRun, ListExecutors, ListHistory
from durable_trio.stores.sqlite import SqliteStore, identity, sqlite3
from durable_trio.stores.sqlite.files import time_of_files, would_show
from durable_trio.stores.sqlite.identity import look_at
from durable_trio.testing.store_contract.kit import add, one, owned, row_of, start, step
from tests.stores.sqlite.kit import Spawn, fill, names_of_runs, vacuum

pytestmark = pytest.mark.usefixtures("new_stores_are_made")

SIDES = ["-wal", "-shm", "-turn", "-turn-queue"]


@pytest.fixture
def store(store: SqliteStore) -> SqliteStore:
    """An open store with a run and some history."""
    fill(store, "run")
    return store


def remove(path: Path) -> None:
    path.unlink()


def move(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))


def replace(path: Path) -> None:
    shutil.copy(path, path.with_name("copy"))
    os.replace(path.with_name("copy"), path)


def link(path: Path) -> None:
    move(path)
    path.symlink_to(path.with_name("elsewhere"))


def wait_for_tick(folder: Path) -> None:
    """Wait until a change of a folder is so long ago that the next one has another time."""
    while not would_show(folder.stat(), time_of_files()):
        time.sleep(0.01)


def note_transaction(fence: Fence, do: Callable[[Any], object]) -> Callable[[Any], Advance]:
    def fn(connection: Any) -> Advance:
        do(connection)
        return Advance(fence=fence, rows=(step(99, "t"),), now=20)

    return fn


# ---- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [remove, move, replace, link])
@pytest.mark.parametrize("side", ["", *SIDES])
def test_nothing_is_acknowledged_once_a_name_leads_elsewhere(
    store: SqliteStore, side: str, how: Callable[[Path], None]
) -> None:
    fence = owned(store, "another")[1]
    how(Path(store.path + side))
    asked: tuple[Callable[[], object], ...] = (
        lambda: add(store, fence, step(1)),
        lambda: store.ask(FindRun("run")),
        lambda: store.ask(CountRuns()),
        lambda: store.transact(fence, note_transaction(fence, lambda _: None), seconds_max=5),
        store.foreign_changes,
        store.wal_checkpoint,
        store.connect,
    )
    for ask in asked:
        with pytest.raises(StoreRewound, match="nothing more is stored") as caught:
            ask()
        assert store.path + side in str(caught.value)
        store._files.failure = None  # each finds out by itself


@pytest.mark.parametrize("side", ["", "-wal"])
def test_a_file_that_goes_in_the_middle_of_a_transaction_takes_it_along_unacknowledged(
    store: SqliteStore, side: str
) -> None:
    fence = owned(store, "another")[1]
    with pytest.raises(StoreRewound, match="last commit went into what was there before"):
        store.transact(fence, note_transaction(fence, lambda _: os.unlink(store.path + side)), seconds_max=5)
    with pytest.raises(StoreRewound, match="must not be used on"):
        add(store, fence, step(1))


def test_a_second_change_of_a_folder_within_a_tick_is_noticed_however_long_the_look_took(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leaves the folder with the time of the first. So the time of a look is that before it."""
    fence = owned(store, "another")[1]
    folder = Path(store.path).parent
    (folder / "first").touch()
    assert isinstance(store._files, identity.Files)
    status, stat, check_each = folder.stat(), os.stat, store._files._check_each
    late = 0

    def check_slowly() -> None:
        nonlocal late
        check_each()
        late += 2 * 10**9

    monkeypatch.setattr(identity, "time_of_files", lambda: status.st_ctime_ns + late)
    monkeypatch.setattr(os, "stat", lambda path, **how: status if path == str(folder) else stat(path, **how))
    monkeypatch.setattr(store._files, "_check_each", check_slowly)
    store._files.check_names()
    Path(f"{store.path}-wal").unlink()
    with pytest.raises(StoreRewound, match="-wal"):
        add(store, fence, step(1))


def test_a_folder_that_goes_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    store = SqliteStore(folder / "runs.db")
    store.open()
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(StoreRewound):
        start(store, "lost")
    store.close()
    folder.mkdir()
    store.open()
    start(store, "new")
    store.close()


def test_other_files_in_the_folder_come_and_go(store: SqliteStore, tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"other-{number}").touch()
        start(store, f"run-{number}")
        (tmp_path / f"other-{number}").unlink()
        assert store.ask(FindRun(f"run-{number}")) is not None
    os.unlink(store.path)  # so soon after that the folder's time may be the same
    with pytest.raises(StoreRewound):
        start(store, "lost")


def test_a_folder_that_may_not_be_looked_into_for_a_while_tells_nothing(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    tmp_path.chmod(0o600)
    with monkeypatch.context() as refused:
        refused.setattr(os, "lstat", refuse)  # for whoever may look into any folder
        start(store, "meanwhile")
        refused.setattr(os, "stat", refuse)  # the folder above it, too
        start(store, "still")
    tmp_path.chmod(0o700)
    assert store.ask(FindRun("meanwhile")) is not None
    assert store.ask(FindRun("still")) is not None
    os.unlink(store.path)
    with pytest.raises(StoreRewound):
        start(store, "lost")


def test_an_opening_for_which_descriptors_do_not_suffice_keeps_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise sqlite3.OperationalError("unable to open database file")

    def open_names() -> list[str]:
        paths = [f"/dev/fd/{name}" for name in os.listdir("/dev/fd")]
        return [os.readlink(path) for path in paths if os.path.lexists(path)]

    store = SqliteStore(tmp_path / "runs.db")
    with monkeypatch.context() as refused:
        refused.setattr(identity, "look_at", refuse)
        with pytest.raises(StoreError):
            store.open()
    assert [name for name in open_names() if name.startswith(store.path)] == []
    store.open()
    store.close()


def test_a_database_that_cannot_be_looked_at_for_want_of_descriptors_is_written_to_later(
    store: SqliteStore, spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> list[str]:
        raise OSError(errno.EMFILE, "Too many open files")

    checkpoint = """
import sqlite3
sqlite3.connect(sys.argv[1]).execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
"""
    assert spawn(checkpoint, store.path).wait(timeout=120) == 0
    with monkeypatch.context() as refused:
        refused.setattr(os, "listdir", refuse)
        with pytest.raises(StoreInUse, match="free descriptors"):
            start(store, "new")
    assert store.ask(FindRun("new")) is None
    start(store, "new")


@pytest.mark.parametrize("side", ["", "-wal"])
def test_files_that_are_put_back_with_all_their_times_are_seen_to_be_others(store: SqliteStore, side: str) -> None:
    """As ``cp -a --remove-destination`` and ``rsync -a`` do."""
    path = Path(store.path + side)
    store.wal_checkpoint()
    times = path.parent.stat()
    add(store, owned(store, "another")[1], step(1))
    wait_for_tick(path.parent)
    start(store, "looked at a folder at rest")
    replace(path)
    os.utime(path.parent, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(StoreRewound, match="nothing more is stored"):
        start(store, "lost")


def test_a_database_that_is_another_file_is_refused_whatever_its_folder_tells(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount over a file leaves its folder as it was."""
    replace(Path(store.path))
    monkeypatch.setattr(store._files, "check_names", lambda: None)
    with pytest.raises(StoreRewound, match="replaced by another file"):
        start(store, "lost")


def test_a_store_whose_log_alone_was_removed_saves_what_it_has(store: SqliteStore) -> None:
    os.unlink(store.path + "-wal")
    with pytest.raises(StoreRewound):
        start(store, "lost")
    store.close()
    store.open()
    assert len(store.ask(ListHistory(row_of(store).run))) == 20
    assert store.ask(FindRun("lost")) is None


# ---- content -------------------------------------------------------------------------------------------------------


def backup(store: SqliteStore, target: Path) -> None:
    """Copy the database page by page."""
    with closing(store.connect()) as source, closing(sqlite3.connect(target)) as copy:
        source.backup(copy)


def other_store(_store: SqliteStore, target: Path) -> None:
    other = SqliteStore(target)
    other.open()
    for number in range(30):
        fill(other, f"other-{number}")
    other.close()


_OPEN = """
import logging
logging.basicConfig(format="%(message)s")
from durable_trio.stores.questions import ListRuns, RunFilter
store = SqliteStore(sys.argv[1])
store.open()
say(sorted(row.id for row in store.ask(ListRuns(RunFilter(), limit=100))))
connection = store.connect()
say(connection.execute("PRAGMA integrity_check").fetchall())
connection.close()
store.close()
"""


@pytest.mark.parametrize("make_copy", [backup, vacuum, other_store])
def test_a_copy_that_is_written_over_an_open_database_ends_its_use_and_stays_as_it_is(
    store: SqliteStore, tmp_path: Path, spawn: Spawn, make_copy: Callable[[SqliteStore, Path], None]
) -> None:
    copy = tmp_path / "copy.db"
    make_copy(store, copy)
    fence = fill(store, "later", 200)
    if make_copy is backup:  # else what was copied differs in nothing that the log does not make up for
        store.wal_checkpoint("truncate")
        add(store, fence, step(500, "s", 500))
    shutil.copyfile(copy, store.path)
    digest = hashlib.sha256(copy.read_bytes()).hexdigest()
    with pytest.raises(StoreRewound, match="written over"):
        start(store, "lost")
    store.close()
    assert hashlib.sha256(Path(store.path).read_bytes()).hexdigest() == digest
    with pytest.raises(StoreRewound, match="new process"):
        SqliteStore(store.path).open()
    output, _ = spawn(_OPEN, store.path).communicate(timeout=120)
    found = [f"other-{number}" for number in range(30)] if make_copy is other_store else ["run"]
    assert "was left of another database" in output
    assert output.splitlines()[-2:] == [str(sorted(found)), "[('ok',)]"]


def test_a_copy_of_the_moment_that_is_written_over_an_open_database_does_no_harm(
    store: SqliteStore, tmp_path: Path, spawn: Spawn
) -> None:
    backup(store, tmp_path / "copy.db")
    fence = fill(store, "later", 200)
    shutil.copyfile(tmp_path / "copy.db", store.path)
    try:
        add(store, fence, step(500, "s", 500))
    except StoreRewound:
        store.close()
    else:
        store.close()
        output, _ = spawn(_OPEN, store.path).communicate(timeout=120)
        assert output.splitlines() == ["['later', 'run']", "[('ok',)]"]


@pytest.mark.parametrize("size", [0, 50, 5000])
def test_a_database_that_is_cut_short_ends_its_use(store: SqliteStore, size: int) -> None:
    fence = fill(store, "later", 200)
    store.wal_checkpoint("truncate")
    add(store, fence, step(500, "s", 500))
    os.truncate(store.path, size)
    with pytest.raises(StoreError):  # noqa: PT012  # by whoever meets it first
        for seq in range(501, 600):
            add(store, fence, step(seq, "s", seq))
            store.ask(ListHistory(fence.run))
    store.close()


def test_a_copy_with_its_times_and_size_set_back_is_seen(store: SqliteStore, tmp_path: Path) -> None:
    store.wal_checkpoint("truncate")
    backup(store, tmp_path / "copy.db")
    add(store, owned(store, "another")[1], step(1))
    store.wal_checkpoint("truncate")
    start(store, "noticed")
    status = os.stat(store.path)
    shutil.copyfile(tmp_path / "copy.db", store.path)
    os.truncate(store.path, status.st_size)
    os.utime(store.path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(StoreRewound, match="an earlier state of it was written over"):
        start(store, "lost")


def test_a_copy_that_vacuum_has_made_is_known_by_its_header(store: SqliteStore, tmp_path: Path) -> None:
    """Not only by its schema version: another program may have changed that of the log since."""
    vacuum(store, tmp_path / "copy.db")
    with closing(store.connect()) as connection:
        connection.execute("CREATE TABLE mine (a)")
        connection.execute("CREATE TABLE more (a)")
    shutil.copyfile(tmp_path / "copy.db", store.path)
    with pytest.raises(StoreRewound, match="a copy of it was written over"):
        start(store, "lost")


def test_a_store_without_its_identity_is_still_told_from_others(store: SqliteStore, tmp_path: Path) -> None:
    with closing(store.connect()) as connection, connection:
        connection.execute("DELETE FROM store_identity")
    store.wal_checkpoint("truncate")
    start(store, "goes on")
    other_store(store, tmp_path / "copy.db")
    shutil.copyfile(tmp_path / "copy.db", store.path)
    with pytest.raises(StoreRewound, match="another store"):
        start(store, "lost")


@pytest.mark.parametrize("value", ["'x'", "x'00'", "NULL", "1e300", "CAST(x'ff' AS TEXT)"])
@pytest.mark.parametrize("table", ["runs", "executors"])
def test_a_number_that_makes_no_sense_tells_nothing_of_the_file(store: SqliteStore, table: str, value: str) -> None:
    """Whoever opens it names the damage; who has it open goes on as far as SQLite does."""
    fence = fill(store, "x", 2)
    store.wal_checkpoint("truncate")
    with closing(store.connect()) as connection, connection:
        connection.execute(f"UPDATE sqlite_sequence SET seq = {value} WHERE name = '{table}'")
    store.wal_checkpoint("truncate")
    add(store, fence, step(50, "s", 50))
    store.wal_checkpoint("truncate")
    store.close()
    with pytest.raises(StoreCorrupt):
        SqliteStore(store.path).open()


@pytest.mark.parametrize("moves", ["all of the log", "what a reader leaves"])
def test_renewals_of_which_a_part_is_in_the_log_make_no_earlier_state(store: SqliteStore, moves: str) -> None:
    executor = register(store)
    for number in range(2):
        one(store, RenewLease(executor=executor))
        with closing(sqlite3.connect(store.path)) as reader:
            if moves == "what a reader leaves":
                reader.execute("BEGIN")
                reader.execute("SELECT count(*) FROM runs").fetchall()
                one(store, RenewLease(executor=executor))
                start(store, f"after-{number}")
            store.wal_checkpoint()
        start(store, str(number))


def test_a_page_on_which_something_else_stood_before_tells_nothing_of_renewals(store: SqliteStore) -> None:
    """A reader keeps the executors' newest page out of the file, whose other pages lead there already."""
    count = 80  # more than one page of them
    with closing(store.connect()) as connection, connection:
        for number in range(12):
            connection.execute(f"CREATE TABLE mine_{number} (id INTEGER PRIMARY KEY, a, b, c, d, e)")
            insert = f"INSERT INTO mine_{number} VALUES (?, ?, 2, 3, 4, 5)"
            connection.execute(insert, (-1, "x" * 3500))  # a page of its own
            connection.executemany(insert, ((row, 1) for row in range(count - 15)))
    store.wal_checkpoint()
    with closing(store.connect()) as connection, connection:
        for number in range(12):
            connection.execute(f"DROP TABLE mine_{number}")  # its pages are given to others
    for _ in range(count):
        executor = register(store)
        with closing(sqlite3.connect(store.path)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM runs").fetchall()
            one(store, RenewLease(executor=executor))
            store.wal_checkpoint()
        store.wal_checkpoint()


def test_a_store_that_has_lost_its_identity_gets_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    names_of_runs(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM store_identity")
    names_of_runs(path)
    assert look_at(str(path)).nonce


# ---- the log -------------------------------------------------------------------------------------------------------


def cut(path: str, left: int) -> None:
    os.truncate(path, left)


def cut_and_grow(path: str, size: int) -> None:
    cut(path, size // 2)
    cut(path, size)


def write_over(path: str, content: bytes) -> None:
    with open(path, "r+b") as file:
        file.write(content)


CUTS: dict[str, Callable[[str, int], None]] = {
    "all is lost": lambda path, _: cut(path, 0),
    "half is lost": lambda path, size: cut(path, size // 2),
    "a byte is lost": lambda path, size: cut(path, size - 1),
    "it is all zeros": lambda path, size: write_over(path, bytes(size)),
    "it was cut and has grown again": lambda path, size: cut_and_grow(path, size),
    "it is another one": lambda path, size: write_over(path, os.urandom(size)),
}


@pytest.mark.parametrize("how", CUTS)
def test_a_log_that_is_cut_short_or_written_over_ends_its_use(store: SqliteStore, how: str) -> None:
    fence = fill(store, "later", 200)
    log = Path(f"{store.path}-wal")
    CUTS[how](str(log), log.stat().st_size)
    left = log.read_bytes()
    asked: tuple[Callable[[], object], ...] = (
        lambda: add(store, fence, step(500, "s", 500)),
        lambda: store.transact(fence, note_transaction(fence, lambda _: None), seconds_max=5),
        store.wal_checkpoint,
    )
    for ask in asked:
        with pytest.raises(StoreRewound, match="was cut short or written over"):
            ask()
        store._files.failure = None  # each finds out by itself
    store.close()
    with pytest.raises(StoreRewound, match="new process"):
        SqliteStore(store.path).open()
    assert log.read_bytes() == left


def test_a_log_that_is_cut_short_is_seen_by_all_who_have_it_open_and_by_the_next_one(
    store: SqliteStore, spawn: Spawn
) -> None:
    script = """
store = SqliteStore(sys.argv[1])
store.open()
fence = started(store, "others")
say("open")
sys.stdin.readline()
try:
    store.apply([Advance(fence=fence, rows=(row(1),), now=1)])
except Exception as error:
    say(type(error).__name__)
os._exit(0)
"""
    process = spawn(script, store.path)
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    fence = fill(store, "later", 200)
    os.truncate(f"{store.path}-wal", 0)
    assert process.communicate("go\n", timeout=120)[0] == "StoreRewound\n"  # who was not the last to write
    output, _ = spawn(_OPEN, store.path).communicate(timeout=120)
    assert "StoreRewound" in output
    assert "has it open still" in output
    with pytest.raises(StoreRewound, match="was cut short"):
        add(store, fence, step(500, "s", 500))


def test_a_log_that_was_cut_short_gives_what_was_before_the_cut_to_the_next_process(
    tmp_path: Path, spawn: Spawn
) -> None:
    script = """
store = SqliteStore(sys.argv[1])
store.open()
for number in range(5):
    started(store, f"run-{number}")
size = os.path.getsize(sys.argv[1] + "-wal")
started(store, "last")
os.truncate(sys.argv[1] + "-wal", size + 100)
try:
    started(store, "refused")
except Exception as error:
    say(type(error).__name__)
store.close()
"""
    path = tmp_path / "runs.db"
    assert spawn(script, path).communicate(timeout=120)[0] == "StoreRewound\n"
    assert names_of_runs(path) == [f"run-{number}" for number in range(5)]


def test_a_store_that_is_closed_before_it_has_noticed_does_not_spoil_the_copy(
    store: SqliteStore, tmp_path: Path, spawn: Spawn
) -> None:
    vacuum(store, tmp_path / "copy.db")
    fill(store, "later", 200)
    shutil.copyfile(tmp_path / "copy.db", store.path)
    store.close()
    output, _ = spawn(_OPEN, store.path).communicate(timeout=120)
    assert output.splitlines()[-2:] == ["['run']", "[('ok',)]"]


def test_other_programs_may_move_the_log_and_vacuum(store: SqliteStore, spawn: Spawn) -> None:
    fence = fill(store, "later", 2)
    script = """
import sqlite3
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=20)
for statement in sys.argv[2:]:
    connection.execute(statement).fetchall()
connection.close()
say("done")
"""
    for number, statements in enumerate(
        [
            ["PRAGMA wal_checkpoint(TRUNCATE)"],
            ["CREATE TABLE mine (a)", "PRAGMA wal_checkpoint(TRUNCATE)"],
            ["INSERT INTO mine VALUES (zeroblob(6000000))"],  # moves the log by itself
            ["DELETE FROM mine", "VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"],
        ]
    ):
        output, _ = spawn(script, store.path, *statements).communicate(timeout=120)
        assert output == "done\n"
        add(store, fence, step(100 + number, "s", 100 + number))
        assert look_at(store.path).size == os.path.getsize(store.path)


def test_stores_of_several_processes_move_the_log_in_turn(store: SqliteStore, spawn: Spawn) -> None:
    script = """
store = SqliteStore(sys.argv[1])
store.open()
fence = started(store, sys.argv[2])
for seq in range(150):
    row = HistoryRow(seq=seq, key=Key("", "s", seq), kind=StepKind.STEP, started_at=1, finished_at=1, result="x" * 9000)
    assert store.apply([Advance(fence=fence, rows=(row,), now=1)]) == [True]
    if seq % 10 == 0:
        store.wal_checkpoint("passive" if seq % 20 else "truncate")
store.close()
say("done")
"""
    processes = [spawn(script, store.path, name) for name in "ab"]
    fence = fill(store, "mine", 1)
    for seq in range(1, 100):
        add(store, fence, step(seq, "s", seq))
    assert [process.communicate(timeout=120)[0] for process in processes] == ["done\n"] * 2


# ---- the executors' locks ------------------------------------------------------------------------------------------


def register(store: SqliteStore) -> int:
    operation = RegisterExecutor(pid=os.getpid(), host="h", lease=1, now=1)
    (executor,) = store.apply([operation]) or [0]
    return int(executor)


def locked(store: SqliteStore) -> dict[int, bool | None]:
    return {row.id: row.is_locked for row in store.ask(ListExecutors())}


@pytest.mark.parametrize("how", [remove, replace])
def test_a_lock_in_a_file_that_is_gone_tells_nothing(store: SqliteStore, how: Callable[[Path], None]) -> None:
    mine, before_boot = register(store), register(store)
    with closing(store.connect()) as connection, connection:
        connection.execute("UPDATE executors SET boot_id = 'before' WHERE id = ?", (before_boot,))
    how(Path(f"{store.path}-owners"))
    other = SqliteStore(store.path)
    other.open()
    theirs = register(other)
    assert [locked(store)[executor] for executor in (mine, before_boot, theirs)] == [True, True, None]
    # Of another boot of the machine nothing is left, whatever has become of its lock.
    assert [locked(other)[executor] for executor in (mine, before_boot, theirs)] == [None, False, True]
    assert other.executor_is_alive(mine)
    assert not other.executor_is_alive(before_boot)
    other.close()
    assert locked(store)[theirs] is None  # so its renewals decide, here as there
    other.open()
    assert locked(other)[theirs] is False
    other.close()


def test_a_full_disk_is_no_other_file(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is noted for the next one may have no room; that is no reason to refuse anything."""

    def no_room(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("durable_trio.stores.sqlite.write_turn.os.pwrite", no_room)
    store.wal_checkpoint("truncate")
    try:
        start(store, "new")
    except StoreFull:
        pytest.fail("there is room in the database")
