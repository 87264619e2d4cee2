"""The write turn among real processes: fair, let go by the dead, and never waited for for ever."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from durable_trio.errors import NotADatabase, StoreInUse
from durable_trio.stores.contract import Advance
from durable_trio.stores.questions import FindRun, ListHistory, ListRuns, RunFilter
from durable_trio.stores.sqlite import SqliteStore
from durable_trio.stores.sqlite import write_turn as turn
from durable_trio.stores.sqlite.write_turn import FileTurn, MemoryTurn
from durable_trio.testing.store_contract.kit import add, fence_of, owned, row_of, start, start_operation, step

Spawn = Callable[..., "subprocess.Popen[str]"]

PATIENCE_SECONDS = 60  # far above anything that a busy machine needs

_OPEN = """
say("ready")
sys.stdin.readline()
store = SqliteStore(sys.argv[1])
store.open()
started(store, f"run-{os.getpid()}")
store.close()
say("done")
"""

_WRITE = """
store = SqliteStore(sys.argv[1], durability="normal")
store.open()
fence = started(store, f"run-{os.getpid()}")
say("ready")
sys.stdin.readline()
worst, count, end = 0.0, 0, time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    begun = time.monotonic()
    assert store.apply([Advance(fence=fence, rows=(row(count),), now=1)]) == [True]
    worst, count = max(worst, time.monotonic() - begun), count + 1
store.close()
say(count, worst)
"""

_HOLD = """
store = SqliteStore(sys.argv[1])
store.open()
fence = started(store, "held")
assert store._turn.take()
store._writer.execute("BEGIN IMMEDIATE")
store._writer.execute("UPDATE runs SET error = 'half'")
say("ready")
sys.stdin.readline()
store._writer.execute("ROLLBACK")
store._turn.release()
say("released")
sys.stdin.readline()
"""


def told(process: subprocess.Popen[str], word: str) -> None:
    """Wait until a process says a word."""
    assert process.stdout is not None
    assert process.stdout.readline() == f"{word}\n"


def tell(process: subprocess.Popen[str]) -> None:
    """Let a process go on."""
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    """An open store in a file."""
    store = SqliteStore(tmp_path / "runs.db", durability="normal")
    store.open()
    yield store
    store.close()


def test_many_processes_may_open_a_new_file_at_once(tmp_path: Path, spawn: Spawn) -> None:
    path = tmp_path / "runs.db"
    processes = [spawn(_OPEN, path) for _ in range(16)]
    for process in processes:
        told(process, "ready")
    for process in processes:
        tell(process)
    outputs = [process.communicate(timeout=PATIENCE_SECONDS)[0] for process in processes]
    assert outputs == ["done\n"] * 16
    store = SqliteStore(path)
    store.open()
    assert len(store.ask(ListRuns(RunFilter(), limit=99))) == 16
    store.close()


def test_busy_writers_take_turns(tmp_path: Path, spawn: Spawn, capsys: pytest.CaptureFixture[str]) -> None:
    seconds = 1.5
    processes = [spawn(_WRITE, tmp_path / "runs.db", seconds) for _ in range(4)]
    for process in processes:
        told(process, "ready")
    for process in processes:
        tell(process)
    outputs = [process.communicate(timeout=PATIENCE_SECONDS)[0] for process in processes]
    counts = [int(output.split()[0]) for output in outputs]
    waits = [float(output.split()[1]) for output in outputs]
    with capsys.disabled():
        print(f"\n[turns: commits {counts}, worst wait {max(waits) * 1000:.1f} ms]", end=" ")
    assert min(counts) * 4 > sum(counts) / 4


def test_a_process_killed_in_its_turn_lets_go_of_it_and_leaves_nothing(store: SqliteStore, spawn: Spawn) -> None:
    process = spawn(_HOLD, store.path)
    told(process, "ready")
    advance = Advance(fence=fence_of(row_of(store, "held")), rows=(step(1),), now=1)
    assert store.apply([advance], block=False) is None
    process.kill()
    process.wait()
    start(store, "mine")
    assert row_of(store, "held").error is None


def test_what_was_acknowledged_outlives_a_kill(store: SqliteStore, spawn: Spawn) -> None:
    script = """
store = SqliteStore(sys.argv[1], durability=sys.argv[2])
store.open()
fence = started(store, sys.argv[2])
for seq in range(10**9):
    batch = [Advance(fence=fence, rows=(row(2 * seq + half),), now=1) for half in (0, 1)]
    assert store.apply(batch) == [True, True]
    say(seq)
"""
    for durability in ("normal", "full"):
        process = spawn(script, store.path, durability)
        assert process.stdout is not None
        while process.stdout.readline() != "40\n":
            pass
        process.kill()
        acknowledged = int(["40", *process.stdout.read().split()][-1])
        stored = [row.seq for row in store.ask(ListHistory(row_of(store, durability).run))]
        assert stored == list(range(len(stored)))
        assert len(stored) % 2 == 0
        assert len(stored) in (2 * acknowledged + 2, 2 * acknowledged + 4)
    connection = store.connect()
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


def test_a_process_stopped_in_its_turn_is_named_and_may_go_on(
    store: SqliteStore, spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turn, "PATIENCE_SECONDS", 0.2)
    _, fence = owned(store, "mine")
    process = spawn(_HOLD, store.path)
    told(process, "ready")
    os.kill(process.pid, signal.SIGSTOP)
    for _ in range(2):  # the second takes over the wait of the first
        with pytest.raises(StoreInUse) as caught:
            add(store, fence, step(1))
        assert re.search(rf"process {process.pid}\b", str(caught.value))
        assert "stopped" in str(caught.value)
    assert store.apply([Advance(fence=fence, rows=(step(1),), now=1)], block=False) is None
    os.kill(process.pid, signal.SIGCONT)
    tell(process)
    told(process, "released")
    monkeypatch.setattr(turn, "PATIENCE_SECONDS", 10.0)
    add(store, fence, step(1))
    assert store._turn.take(block=False)  # nobody holds on to the turn of an abandoned wait
    store._turn.release()


def test_a_turn_that_comes_when_nobody_wants_it_any_more_is_let_go(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, third = SqliteStore(store.path), SqliteStore(store.path)
    other.open()
    third.open()
    with monkeypatch.context() as patch:
        patch.setattr(turn, "PATIENCE_SECONDS", 0.1)
        assert store._turn.take()
        with pytest.raises(StoreInUse):
            start(other, "gives-up")
    store._turn.release()
    start(third, "third")
    start(other, "comes-back")
    third.close()
    other.close()


def test_a_store_closes_while_another_process_is_stopped_in_its_turn(
    tmp_path: Path, spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durable_trio.stores.sqlite.store._LEAVING_PATIENCE_SECONDS", 0.1)
    store = SqliteStore(tmp_path / "runs.db")
    store.open()
    process = spawn(_HOLD, store.path)
    told(process, "ready")
    os.kill(process.pid, signal.SIGSTOP)
    threads = threading.active_count()
    store.close()
    assert threading.active_count() == threads + 1  # the wait goes on, and closes the lock files when it ends
    os.kill(process.pid, signal.SIGCONT)
    tell(process)
    told(process, "released")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while threading.active_count() > threads:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    store.open()
    assert row_of(store, "held").error is None
    store.close()


def test_two_stores_of_one_process_take_turns(store: SqliteStore) -> None:
    other = SqliteStore(store.path)
    other.open()
    assert store._turn.take()
    done = threading.Event()

    def wait_and_start() -> None:
        start(other, "waits")
        done.set()

    thread = threading.Thread(target=wait_and_start)
    thread.start()
    assert not done.wait(0.1)
    assert other.apply([start_operation("never")], block=False) is None
    store._turn.release()
    assert done.wait(PATIENCE_SECONDS)
    thread.join()
    assert row_of(store, "waits").id == "waits"
    start(store, "mine")
    other.close()


def test_one_store_is_used_by_one_thread_at_a_time(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn, "PATIENCE_SECONDS", 0.1)
    assert store._turn.take()
    assert not store._turn.take(block=False)
    with pytest.raises(StoreInUse, match=r"this process \(pid"):
        start(store)
    store._turn.release()
    start(store)


@pytest.mark.parametrize("is_told", [True, False])
def test_who_has_the_turn_is_named_whether_the_kernel_tells_it_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_told: bool
) -> None:
    """On some file systems, and outside of Linux, it does not."""
    if not is_told:
        monkeypatch.setattr(turn, "flock_holder", lambda _: None)
    stores = [SqliteStore(tmp_path / "runs.db") for _ in range(2)]
    for store in stores:
        store.open()
    monkeypatch.setattr(turn, "PATIENCE_SECONDS", 0.1)
    file = tmp_path / "runs.db-turn"
    for take in (stores[0]._turn.take_free, stores[0]._turn.take):
        file.write_bytes(b"0   " + file.read_bytes()[4:])
        assert take()
        with pytest.raises(StoreInUse, match=r"this process \(pid"):
            start(stores[1])
        assert file.read_bytes().startswith(b"0   ") == is_told  # it is written only where it has to be
        stores[0]._turn.release()
    for store in stores:
        store.close()


def test_the_turn_of_a_memory_database_works_alike() -> None:
    memory = MemoryTurn()
    assert memory.take()
    assert not memory.take(block=False)
    with pytest.raises(StoreInUse):
        memory.take(patience_seconds=0.05)
    threading.Timer(0.05, memory.release).start()
    assert memory.take(patience_seconds=PATIENCE_SECONDS)
    memory.release()
    memory.close()


@pytest.mark.parametrize("make", [lambda path: MemoryTurn(), FileTurn], ids=["memory", "file"])
def test_a_free_turn_is_taken_at_once_and_another_is_not_waited_for(
    make: Callable[[str], MemoryTurn | FileTurn], tmp_path: Path
) -> None:
    turn = make(str(tmp_path / "x"))
    assert turn.take_free()
    assert not turn.take_free()
    turn.release()
    assert turn.take_free()
    turn.release()
    turn.close()


def test_a_turn_is_not_free_while_somebody_waits_for_it(tmp_path: Path) -> None:
    """Who comes later must not pass by: neither another process, nor another thread of the one that waits."""
    turn, other = FileTurn(str(tmp_path / "x")), FileTurn(str(tmp_path / "x"))
    fcntl.flock(other._queue, fcntl.LOCK_EX)  # as the one does that is next
    assert not turn.take_free()
    with pytest.raises(StoreInUse):
        turn.take(patience_seconds=0.01)
    assert not turn.take_free()  # its own wait goes on
    fcntl.flock(other._queue, fcntl.LOCK_UN)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not turn.take_free():
        assert time.monotonic() < deadline
        time.sleep(0.001)
    turn.release()
    turn.close()
    other.close()


@pytest.mark.parametrize("lock", ["_turn", "_queue"])
def test_a_wait_under_way_is_hurried_and_those_after_it_have_only_what_is_left(tmp_path: Path, lock: str) -> None:
    holder, waiting = FileTurn(str(tmp_path / "x")), FileTurn(str(tmp_path / "x"))
    fcntl.flock(getattr(holder, lock), fcntl.LOCK_EX)
    refused = threading.Event()

    def take() -> None:
        with pytest.raises(StoreInUse):
            waiting.take(patience_seconds=1000)
        refused.set()

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    while waiting._waiter is None:
        time.sleep(0.001)
    waiting.hurry(0.05)
    assert refused.wait(PATIENCE_SECONDS)
    thread.join()
    assert waiting.patience.seconds(5) == 0
    with pytest.raises(StoreInUse):
        waiting.take(patience_seconds=1000)
    fcntl.flock(getattr(holder, lock), fcntl.LOCK_UN)
    while not waiting.take(block=False):  # the wait that was given up may have it for a moment
        time.sleep(0.001)
    waiting.release()
    waiting.close()
    holder.close()


def test_turns_that_come_at_once_use_nothing_of_a_hurry(tmp_path: Path) -> None:
    turn = FileTurn(str(tmp_path / "x"))
    turn.hurry(1000)
    for _ in range(100):
        assert turn.take()
        turn.release()
    turn.hurry(0)  # said again it changes nothing
    assert turn.patience.seconds(2000) > 900
    turn.close()


def test_waiting_threads_cost_no_processor_time(tmp_path: Path) -> None:
    first, second = FileTurn(str(tmp_path / "x")), FileTurn(str(tmp_path / "x"))
    first.take()
    before = time.process_time()
    with pytest.raises(StoreInUse):
        second.take(patience_seconds=0.3)
    assert time.process_time() - before < 0.1
    second.close()
    first.release()
    first.close()


def test_lock_files_that_are_no_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x-turn").mkdir()
    with pytest.raises(NotADatabase):
        FileTurn(str(tmp_path / "x"))


def test_a_foreign_writer_that_does_not_end_is_named(store: SqliteStore, spawn: Spawn) -> None:
    process = spawn(
        """
from durable_trio.stores.sqlite import sqlite3
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
say("ready")
sys.stdin.readline()
""",
        store.path,
    )
    told(process, "ready")
    assert store._writer is not None
    store._writer.execute("PRAGMA busy_timeout = 100").fetchall()
    with pytest.raises(StoreInUse, match=rf"process {process.pid}\b"):
        start(store)
    assert store.apply([start_operation("never")], block=False) is None
    tell(process)
    process.wait(timeout=PATIENCE_SECONDS)
    start(store)


def test_a_fork_neither_keeps_nor_loses_the_locks_of_its_parent(store: SqliteStore) -> None:
    executor = owned(store)[1].owner
    other = SqliteStore(store.path)
    other.open()
    assert store._turn.take()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            try:
                store.ask(FindRun("run"))
            except Exception as error:
                code = 0 if "fork" in str(error) else 2
            store.close()
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert not other._turn.take(block=False)
    store._turn.release()
    assert other._turn.take(block=False)
    other._turn.release()
    assert other.executor_is_alive(executor)
    other.close()


def test_locks_end_with_the_parent_although_a_fork_lives_on(tmp_path: Path, spawn: Spawn) -> None:
    path = tmp_path / "runs.db"
    process = spawn(
        """
store = SqliteStore(sys.argv[1])
store.open()
fence = started(store, "run")
store._turn.take()
child = os.fork()
if child == 0:
    say(fence.owner)
    time.sleep(60)
time.sleep(60)
""",
        path,
    )
    assert process.stdout is not None
    executor = int(process.stdout.readline())
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        pytest.skip("this system does not list children")
    child = int(children.read_text())
    process.kill()
    process.wait()
    try:
        store = SqliteStore(path)
        store.open()
        assert not store.executor_is_alive(executor)
        store.close()
    finally:
        os.kill(child, signal.SIGKILL)
