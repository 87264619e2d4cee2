"""What the store makes of files: its own, other people's, damaged ones, and none."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from durable_trio.errors import (
    DurableError,
    NotADatabase,
    SchemaTooNew,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreReadOnly,
)
from durable_trio.stores.contract import Advance
from durable_trio.stores.questions import CountRuns, ListHistory, ListRuns, LoadRun, RunFilter
from durable_trio.stores.sqlite import SqliteStore, sqlite3
from durable_trio.stores.sqlite.files import time_of_files, would_show
from durable_trio.stores.sqlite.library import note_errno, translate
from durable_trio.testing.store_contract.kit import add, fence_of, one, owned, row_of, start, step

pytestmark = pytest.mark.usefixtures("new_stores_are_made")

Spawn = Callable[..., "subprocess.Popen[str]"]


def digest(path: Path) -> str:
    """Return a digest of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def make(path: Path, *runs: str) -> Path:
    """Make a store with some runs, and close it."""
    store = SqliteStore(path)
    store.open()
    for run_id in runs:
        _row, fence = owned(store, run_id)
        add(store, fence, *(step(seq, "s", seq) for seq in range(20)))
    store.close()
    return path


def run_sql(path: Path, *statements: str) -> None:
    """Run statements as another program would."""
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def refused(path: Path, error: type[StoreError]) -> str:
    """Open a file that must be refused, unchanged, without anything left beside it; return the message."""
    before = digest(path) if path.is_file() else None
    names = sorted(os.listdir(path.parent))
    store = SqliteStore(path)
    with pytest.raises(error) as caught:
        store.open()
    assert type(caught.value) is error
    store.close()
    assert before == (digest(path) if path.is_file() else None)
    assert sorted(os.listdir(path.parent)) == names
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_directory_is_refused(tmp_path: Path) -> None:
    assert "directory" in refused(tmp_path, NotADatabase)


def test_a_text_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("Dear diary,\n" * 1000)
    refused(path, NotADatabase)


def test_a_short_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"x")
    refused(path, NotADatabase)


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
def test_a_database_of_another_program_is_refused(tmp_path: Path, journal_mode: str) -> None:
    path = tmp_path / "other.db"
    run_sql(path, f"PRAGMA journal_mode = {journal_mode}", "CREATE TABLE runs (id)", "INSERT INTO runs VALUES (1)")
    assert "another program" in refused(path, NotADatabase)


def test_a_fifo_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    refused(tmp_path / "fifo", NotADatabase)


def test_a_missing_folder_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        SqliteStore(tmp_path / "missing" / "runs.db").open()
    assert not (tmp_path / "missing").exists()


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADatabase):
        SqliteStore(tmp_path / "file" / "runs.db").open()


def test_an_empty_file_becomes_a_database(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    path.touch(mode=0o644)
    make(path, "run")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_a_creation_that_was_killed_has_left_is_removed(tmp_path: Path) -> None:
    for name in ("runs.db-new", "runs.db-new-wal", "runs.db-new-shm"):
        (tmp_path / name).write_text("half")
    make(tmp_path / "runs.db", "run")
    assert not [name for name in os.listdir(tmp_path) if "new" in name]


def test_paths_with_strange_characters_work(tmp_path: Path) -> None:
    for name in ("a b?mode=ro#x%41.db", "ünï 'quoted\".db", "file:x", ":memory:.db"):
        make(tmp_path / name, "run")
        store = SqliteStore(str(tmp_path / name))
        store.open()
        assert row_of(store).id == "run"
        store.close()
        assert (tmp_path / name).exists()


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_impossible_paths_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match="path"):
        SqliteStore(path)


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "runs.db", "run")
    run_sql(path, "PRAGMA user_version = 99")
    assert "upgrade" in refused(path, SchemaTooNew)


def test_an_impossible_schema_version_is_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "runs.db")
    run_sql(path, "PRAGMA user_version = -1")
    refused(path, NotADatabase)


@pytest.mark.parametrize(
    "statements",
    [
        ("CREATE TRIGGER evil AFTER INSERT ON history BEGIN DELETE FROM runs; END",),
        ("DROP TABLE waits", "CREATE VIEW waits AS SELECT * FROM runs"),
        ("DROP TABLE published", "CREATE VIRTUAL TABLE published USING fts5 (run, key, value)"),
        ("DROP TABLE published", "CREATE TABLE published (run, key, value)"),
        ("DROP TABLE published",),
        ("DROP INDEX runs_line",),
        ("DROP INDEX runs_line", "CREATE INDEX runs_line ON runs (workflow)"),
        ("CREATE TRIGGER evil AFTER INSERT ON runs BEGIN DELETE FROM tags; END",),
        (
            "DROP TRIGGER tags_of_new_run",
            "CREATE TRIGGER tags_of_new_run AFTER INSERT ON runs BEGIN DELETE FROM history; END",
        ),
        ("DROP TRIGGER tags_of_removed_run",),
        ("DROP TABLE change_counter", "CREATE VIEW change_counter AS SELECT 1 AS changed"),
    ],
)
def test_a_file_whose_schema_was_tampered_with_is_refused(tmp_path: Path, statements: tuple[str, ...]) -> None:
    path = make(tmp_path / "runs.db", "run")
    run_sql(path, *statements)
    refused(path, NotADatabase)


def test_tables_of_the_user_may_live_in_the_file(tmp_path: Path) -> None:
    path = make(tmp_path / "runs.db", "run")
    run_sql(
        path, "CREATE TABLE mine (a)", "CREATE VIEW my_view AS SELECT * FROM runs", "CREATE INDEX mine_a ON mine (a)"
    )
    store = SqliteStore(path)
    store.open()
    assert row_of(store).id == "run"
    store.close()


def test_files_belong_to_their_owner_only_under_any_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = SqliteStore(tmp_path / "runs.db")
        store.open()
        owned(store)
        assert store.note_steps(1) is not None
        names = sorted(os.listdir(tmp_path))
        modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in names}
        store.close()
    finally:
        os.umask(before)
    beside = ["-owners", "-shm", "-steps", "-turn", "-turn-queue", "-wal"]
    assert names == ["runs.db", *(f"runs.db{suffix}" for suffix in beside)]
    assert modes == {0o600}


@pytest.mark.parametrize("suffix", ["", "-turn", "-turn-queue", "-owners", "-new"])
def test_a_planted_symbolic_link_never_leads_elsewhere(tmp_path: Path, suffix: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / f"runs.db{suffix}").symlink_to(victim)
    store = SqliteStore(tmp_path / "runs.db")
    if suffix == "-new":  # a draft's name is ours: the link goes, its target stays
        store.open()
        store.close()
    else:
        with pytest.raises(NotADatabase, match="symbolic link"):
            store.open()
    assert victim.read_text() == "precious"
    assert not (tmp_path / "runs.db").is_file() or suffix in ("", "-new", "-owners")


@pytest.mark.parametrize("suffix", ["", "-turn", "-turn-queue", "-owners"])
def test_a_planted_hard_link_is_refused(tmp_path: Path, suffix: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    os.link(victim, tmp_path / f"runs.db{suffix}")
    with pytest.raises(NotADatabase):
        SqliteStore(tmp_path / "runs.db").open()
    assert victim.read_text() == "precious"


def test_a_database_with_a_second_name_is_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "runs.db", "run")
    os.link(path, tmp_path / "other.db")
    refused(tmp_path / "other.db", NotADatabase)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users may enter."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


_OPEN = """
if len(sys.argv) > 2:
    os.setuid(int(sys.argv[2]))
store = SqliteStore(sys.argv[1])
try:
    store.open()
except Exception as error:
    say(type(error).__name__, error)
else:
    say("opened")
"""


@pytest.mark.parametrize("locked", ["folder", "file", "lock file"])
def test_missing_permission_is_an_error_that_names_the_file(open_folder: Path, spawn: Spawn, locked: str) -> None:
    path = open_folder / "runs.db"
    user = None
    if os.geteuid() == 0:  # permissions do not bind root
        user = 65534
        os.chown(open_folder, user, user)
    if locked != "folder":
        make(path, "run")
        for name in os.listdir(open_folder):
            is_locked = (locked == "file" and name == "runs.db") or (locked == "lock file" and name == "runs.db-turn")
            os.chmod(open_folder / name, 0o400 if is_locked else 0o600)
            if user is not None:
                os.chown(open_folder / name, user, user)
    else:
        os.chmod(open_folder, 0o500)
    output, _ = spawn(_OPEN, path, *([user] if user is not None else [])).communicate(timeout=120)
    os.chmod(open_folder, 0o755)
    assert output.startswith("StoreReadOnly")
    assert str(path) in output


def test_a_read_only_file_system_is_an_error(small_disk: Path) -> None:
    path = make(small_disk / "runs.db", "run")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StoreReadOnly, match=r"runs\.db"):
        SqliteStore(path).open()
    with pytest.raises(StoreReadOnly):
        SqliteStore(small_disk / "new.db").open()


def test_a_full_disk_commits_nothing_and_goes_on_once_there_is_room(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 200_000)
    store = SqliteStore(small_disk / "runs.db")
    store.open()
    row, fence = owned(store)
    stored = 0

    def fill() -> None:
        nonlocal stored
        while stored < 1000:
            add(store, fence, step(stored, "s", stored, result="x" * 20_000))
            stored += 1

    with pytest.raises(StoreFull, match="free some room"):
        fill()
    assert 0 < stored < 1000
    assert len(store.ask(ListHistory(row.run))) == stored
    ballast.unlink()
    add(store, fence, step(stored, "s", stored, result="x" * 20_000))
    assert len(store.ask(ListHistory(row.run))) == stored + 1
    store.close()
    ballast.write_bytes(b"")
    store.open()
    assert len(store.ask(ListHistory(row.run))) == stored + 1
    store.close()


def test_a_full_disk_at_creation_leaves_nothing_behind(small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(b"x" * (1 << 20))
    with pytest.raises(StoreFull):
        SqliteStore(small_disk / "runs.db").open()
    assert not (small_disk / "runs.db").exists()
    (small_disk / "ballast").unlink()
    make(small_disk / "runs.db", "run")


@pytest.mark.parametrize("room", [0, 4096, 8192, 32768])
def test_an_existing_store_on_a_full_disk_says_so_and_opens_once_there_is_room(small_disk: Path, room: int) -> None:
    path = make(small_disk / "runs.db", "run")
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    os.truncate(ballast, ballast.stat().st_size - room)
    store = SqliteStore(path)
    with pytest.raises(StoreFull, match="free some room"):  # noqa: PT012  # one or the other
        store.open()
        owned(store, "another")
    store.close()
    ballast.unlink()
    store.open()
    assert len(store.ask(ListHistory(row_of(store).run))) == 20
    store.close()


_FILL = """
import errno, resource
from durable_trio.errors import StoreFull
from durable_trio.stores.questions import ListHistory
store = SqliteStore(sys.argv[1])
store.open()
fence = started(store, "run")
if sys.argv[2] == "limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
seq = refused = 0
while seq < 100:
    seq += 1
    row = HistoryRow(seq=seq, key=Key("", "s", seq), kind=StepKind.STEP, started_at=1, finished_at=1, result="x" * 5000)
    while True:
        try:
            (outcome,) = store.apply([Advance(fence=fence, rows=(row,), now=1)])
            assert outcome is True
            break
        except StoreFull:
            refused += 1
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
say(refused, len(store.ask(ListHistory(fence.run))))
store.close()
"""


def test_a_limit_of_the_file_size_counts_as_full(tmp_path: Path, spawn: Spawn) -> None:
    output, _ = spawn(_FILL, tmp_path / "runs.db", "limit").communicate(timeout=120)
    assert output == "1 100\n"


def test_a_quota_counts_as_full(tmp_path: Path, spawn: Spawn) -> None:
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    inject = ["-P", f"{tmp_path}/runs.db-wal", "-e", "trace=pwrite64", "-e", "inject=pwrite64:error=EDQUOT:when=90..93"]
    if subprocess.run(["strace", "-qq", "-o", os.devnull, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this process must not be traced")
    through = ["strace", "-f", "-qq", "-o", os.devnull, *inject]
    output, _ = spawn(_FILL, tmp_path / "runs.db", "quota", through=through).communicate(timeout=120)
    refused, stored = map(int, output.split())
    assert refused > 0
    assert stored == 100


@pytest.mark.parametrize(
    ("code", "said", "expected"),
    [
        (10, errno.EDQUOT, StoreFull),
        (778, errno.EFBIG, StoreFull),
        (4874, errno.ENOSPC, StoreFull),
        (14, errno.EDQUOT, StoreFull),
        (14, errno.EMFILE, StoreError),
        (10, errno.EIO, StoreCorrupt),
        (10, 0, StoreCorrupt),
        (1034, errno.EDQUOT, StoreCorrupt),  # a sync that failed is never tried again
        (11, errno.ENOSPC, StoreCorrupt),
    ],
)
def test_what_the_system_has_said_tells_a_full_disk_from_a_broken_one(
    tmp_path: Path, code: int, said: int, expected: type[StoreError]
) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    vars(error).update(sqlite_errorcode=code, os_errno=said)
    assert type(translate(error, str(tmp_path / "runs.db"))) is expected


def test_what_the_system_has_said_counts_for_one_error_only() -> None:
    with contextlib.suppress(FileNotFoundError):
        os.stat("/missing")
    errors = [sqlite3.OperationalError("one"), sqlite3.OperationalError("another")]
    for error in errors:
        note_errno(error)
        note_errno(error)
    assert [vars(error).get("os_errno") for error in errors] in ([errno.ENOENT, 0], [None, None])


def test_a_full_database_commits_nothing_of_the_batch(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "runs.db")
    store.open()
    row, fence = owned(store)
    assert store._writer is not None
    pages = store._writer.execute("PRAGMA page_count").fetchone()[0]
    store._writer.execute(f"PRAGMA max_page_count = {pages + 2}").fetchall()
    batch = [Advance(fence=fence, rows=(step(seq, "s", seq, result="x" * 3000),), now=20) for seq in range(20)]
    with pytest.raises(StoreFull):
        store.apply(batch)
    assert store.ask(ListHistory(row.run)) == ()
    store._writer.execute(f"PRAGMA max_page_count = {pages + 1000}").fetchall()
    assert store.apply(batch) == [True] * 20
    store.close()


@pytest.mark.parametrize("size", [50, 100, 512, 5000, 4096 * 7 + 11])
def test_a_truncated_file_gets_an_error_and_stays_as_it_is(tmp_path: Path, size: int) -> None:
    path = make(tmp_path / "runs.db", "a", "b", "c")
    os.truncate(path, size)
    before = digest(path)
    with pytest.raises((StoreCorrupt, NotADatabase)):
        SqliteStore(path).open()
    assert digest(path) == before


@pytest.mark.parametrize("seed", range(12))
def test_flipped_bits_give_errors_of_this_library_or_none(tmp_path: Path, seed: int) -> None:
    path = make(tmp_path / "runs.db", *(f"run-{n}" for n in range(6)))
    content = bytearray(path.read_bytes())
    dice = random.Random(seed)
    for _ in range(30):
        content[dice.randrange(100, len(content))] ^= 1 << dice.randrange(8)
    path.write_bytes(content)
    store = SqliteStore(path)
    try:
        store.open()
        for row in store.ask(ListRuns(RunFilter(), limit=100)):
            store.ask(LoadRun(row.run))
            one(store, Advance(fence=fence_of(row), rows=(step(99, "new"),), now=20))
        store.ask(CountRuns())
    except (DurableError, AssertionError):
        pass
    finally:
        store.close()


def test_a_store_that_found_damage_is_not_used_on(tmp_path: Path) -> None:
    path = make(tmp_path / "runs.db", *(f"run-{n}" for n in range(40)))
    store = SqliteStore(path)
    store.open()
    with path.open("r+b") as file:
        file.seek(4096 * 2)
        file.write(b"\xff" * (path.stat().st_size - 4096 * 2))
    with pytest.raises(StoreCorrupt, match=r"runs\.db"):
        store.ask(ListRuns(RunFilter(), limit=100))
    with pytest.raises(StoreCorrupt, match="must not be used on"):
        start(store, "new")
    store.close()


def test_a_deleted_shm_file_is_made_anew(tmp_path: Path) -> None:
    path = make(tmp_path / "runs.db", "run")
    (tmp_path / "runs.db-shm").write_bytes(b"\xff" * 32768)
    (tmp_path / "runs.db-wal").write_bytes(b"\x37\x7f\x06\x82" + b"\x00" * 4000)
    store = SqliteStore(path)
    store.open()
    assert len(store.ask(ListHistory(row_of(store).run))) == 20
    store.close()


_OPEN_WITH_FEW = """
import resource
from durable_trio.errors import StoreError

def descriptors():
    return len(os.listdir("/dev/fd"))

def limit(count):
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

generous = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
before = descriptors()
for count in range(before - 1, before + 30):
    store = SqliteStore(sys.argv[1])
    limit(count)
    try:
        store.open()
    except StoreError as error:
        limit(generous)
        assert "descriptors" in str(error), error
    else:
        started(store, "run")
        limit(generous)
        break
    assert descriptors() == before, count
store.close()
say(descriptors() - before)
"""


@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="the descriptors cannot be counted")
@pytest.mark.parametrize("is_new", [True, False])
def test_an_opening_for_which_descriptors_do_not_suffice_says_so_wherever_that_shows(
    tmp_path: Path, spawn: Callable[..., subprocess.Popen[str]], is_new: bool
) -> None:
    path = tmp_path / "runs.db"
    if not is_new:
        store = SqliteStore(path)
        store.open()
        store.close()
    assert spawn(_OPEN_WITH_FEW, path).communicate(timeout=120)[0] == "0\n"


def test_a_file_that_is_changed_has_no_earlier_time_than_was_told_before(tmp_path: Path) -> None:
    """The clock itself is ahead of it, by up to a tick."""
    for n in range(300):
        before = time_of_files()
        (tmp_path / str(n)).touch()
        assert tmp_path.stat().st_ctime_ns >= before


def test_a_second_change_shows_after_a_tick_or_where_times_are_whole_seconds_after_one() -> None:
    second = 10**9
    for changed_at, shows_at in ((5 * second + 4_000_000, 10_000_000), (5 * second, second)):
        status = os.stat_result([0] * 10, {"st_ctime_ns": changed_at})
        assert not would_show(status, changed_at + shows_at)
        assert would_show(status, changed_at + shows_at + 1)
