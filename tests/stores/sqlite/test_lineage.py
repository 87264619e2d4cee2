"""Copies that SQLite itself writes over a database which is open: all that was acknowledged since is gone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from durable_trio.errors import OwnershipLost, StoreError, StoreRewound
from durable_trio.limits import UPKEEP_ROWS_MAX
from durable_trio.records import RunStatus
from durable_trio.stores.contract import (
    Advance,
    ClaimDue,
    ContinueAsNew,
    CutHistory,
    DeleteRun,
    Fence,
    Prune,
    PutReport,
    ReapExecutor,
    RenewLease,
    ResumeRun,
    SendSignal,
    Sweep,
)
from durable_trio.stores.questions import FindRun, ListHistory
from durable_trio.stores.sqlite import SqliteStore, sqlite3
from durable_trio.testing.store_contract.kit import (
    add,
    codes_of,
    finish,
    one,
    owned,
    register,
    row_of,
    signal,
    start,
    step,
)
from tests.stores.sqlite.acts import (
    ACTS,
    LOOKS,
    REFUSED,
    back_up,
    content,
    keep_ended_run,
    prepare,
    restore,
    transact,
    wait_row,
)
from tests.stores.sqlite.numbers import last_change

pytestmark = pytest.mark.usefixtures("new_stores_are_made")

Spawn = Callable[..., "subprocess.Popen[str]"]


# ---- earlier states ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("act", ACTS)
def test_whatever_was_committed_last_is_missed_before_anything_more_is_stored(
    store: SqliteStore, act: str, look: str
) -> None:
    fence = prepare(store)
    copy = back_up(store)
    ACTS[act](store, fence)
    restore(store, copy)
    with pytest.raises(StoreRewound, match=r"an earlier state of it was written over .* nothing more is stored"):
        LOOKS[look](store, fence)
    with pytest.raises(StoreRewound, match="must not be used on"):
        start(store, "lost")
    store.close()
    assert content(store.path) == content(copy)
    store.open()  # what stands there now is in order
    start(store, "again")


@pytest.mark.parametrize("look", LOOKS)
def test_a_copy_of_the_moment_is_no_earlier_state(store: SqliteStore, look: str) -> None:
    fence = prepare(store)
    add(store, fence, step(50, "s", 50))
    restore(store, back_up(store))
    LOOKS[look](store, fence)
    add(store, fence, step(70, "s", 70))


def test_a_report_of_a_process_may_be_lost(store: SqliteStore) -> None:
    prepare(store)
    copy, before = back_up(store), last_change(store)
    one(store, PutReport(process="p", report="{}", now=1))
    assert last_change(store) == before
    restore(store, copy)
    start(store, "new")


def test_what_writes_nothing_takes_no_change_number(store: SqliteStore) -> None:
    fence = prepare(store)
    before = last_change(store)
    LOOKS["a claim that finds nothing"](store, fence)
    assert isinstance(one(store, Advance(fence=Fence(fence.run, fence.owner, 9), rows=(), now=1)), OwnershipLost)
    add(store, fence, step(70, "s", 70))
    assert last_change(store) == before


def test_a_state_from_before_the_process_came_is_an_earlier_one(store: SqliteStore, other: SqliteStore) -> None:
    """Of what others have committed it knows only numbers; and it has done nothing itself."""
    copy = back_up(store)
    prepare(store)
    assert other.foreign_changes()
    restore(store, copy)
    with pytest.raises(StoreRewound, match="an earlier state"):
        other.foreign_changes()


def test_a_copy_that_was_made_by_vacuum_is_seen_too(store: SqliteStore, tmp_path: Path) -> None:
    fence = prepare(store)
    with closing(store.connect()) as connection:
        connection.execute("VACUUM INTO ?", (str(tmp_path / "copy.db"),))
    add(store, fence, step(50, "s", 50))
    restore(store, str(tmp_path / "copy.db"))
    with pytest.raises(StoreRewound, match="an earlier state"):
        add(store, fence, step(51, "s", 51))


def test_a_program_that_takes_back_the_last_step_is_noticed(store: SqliteStore) -> None:
    fence = prepare(store)
    add(store, fence, step(50, "s", 50))
    with closing(sqlite3.connect(store.path)) as connection, connection:
        connection.execute("DELETE FROM history WHERE seq = 50")
    with pytest.raises(StoreRewound, match="an earlier state"):
        add(store, fence, step(51, "s", 51))


# ---- other databases -----------------------------------------------------------------------------------------------


def another_store(path: str) -> None:
    other = SqliteStore(path)
    other.open()
    for number in range(9):
        prepare_run = owned(other, f"other-{number}")[1]
        add(other, prepare_run, *(step(seq, "s", seq) for seq in range(9)))
    other.close()


def another_database(path: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE mine (a)")


def earlier_version(path: str) -> None:
    another_store(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TABLE store_identity")


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize(
    ("make", "what"),
    [
        (another_store, "another store"),
        (another_database, "another database"),
        (earlier_version, "another database"),
        (lambda path: Path(path).touch(), "another database"),
    ],
)
def test_another_database_is_not_written_to(
    store: SqliteStore, tmp_path: Path, make: Callable[[str], None], what: str, look: str
) -> None:
    fence = prepare(store)
    copy = str(tmp_path / "copy.db")
    make(copy)
    restore(store, copy)
    with pytest.raises(StoreRewound, match=f"{what} was written over"):
        LOOKS[look](store, fence)
    store.close()
    assert content(store.path) == content(copy)


def test_a_copy_that_has_gone_on_elsewhere_is_another_future(store: SqliteStore, tmp_path: Path) -> None:
    fence = prepare(store)
    copy = back_up(store)
    one(store, RenewLease(executor=fence.owner))
    elsewhere = SqliteStore(copy)
    elsewhere.open()
    one(elsewhere, ReapExecutor(executor=fence.owner, crashed=True, now=100))
    for number in range(9):
        add(elsewhere, owned(elsewhere, f"later-{number}")[1], step(1))
    signal(elsewhere)
    elsewhere.close()
    restore(store, copy)
    with pytest.raises(StoreRewound, match="an earlier state"):
        add(store, fence, step(51, "s", 51))


# ---- when it happens -----------------------------------------------------------------------------------------------


def test_a_copy_that_comes_with_a_batch_in_hand_is_seen(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that comes when the files have been looked at already."""
    fence = prepare(store)
    copy = back_up(store)
    add(store, fence, step(50, "s", 50))
    check = store._files.check_content

    def check_then_restore(writer: Any) -> None:
        check(writer)
        restore(store, copy)

    monkeypatch.setattr(store._files, "check_content", check_then_restore)
    for do in (LOOKS["a write"], LOOKS["a step of the user's tables"]):
        with pytest.raises(StoreRewound, match="an earlier state"):
            do(store, fence)
        store._files.failure = None
    assert content(store.path) == content(copy)


def test_a_copy_that_comes_right_after_a_step_of_the_users_tables_is_seen(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fence = prepare(store)
    copy = back_up(store)
    monkeypatch.setattr(store._files, "check_committed", lambda: restore(store, copy))
    with pytest.raises(StoreRewound, match="an earlier state"):
        transact(store, fence)


def test_a_copy_that_comes_while_a_batch_is_done_again_is_seen(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that is refused late is rolled back, and begun anew."""
    fence = prepare(store)
    copy = back_up(store)
    add(store, fence, step(50, "s", 50))
    with closing(store.connect()) as connection, connection:
        connection.execute("CREATE TABLE mine (run REFERENCES runs (run) DEFERRABLE INITIALLY DEFERRED)")
        connection.execute("INSERT INTO mine SELECT run FROM runs WHERE id = 'ended'")
    monkeypatch.setattr(
        "durable_trio.stores.sqlite.operations.removals.what_keeps", lambda *_: None
    )  # so that the commit refuses
    apart = SqliteStore.apply.__globals__["apply_apart"]

    def restore_before(*arguments: Any) -> Any:
        restore(store, copy)
        return apart(*arguments)

    monkeypatch.setitem(SqliteStore.apply.__globals__, "apply_apart", restore_before)
    with pytest.raises(StoreRewound, match="an earlier state"):
        one(store, DeleteRun(run_id="ended"))


@pytest.mark.parametrize("place", ["first", "last"])
def test_a_wait_that_was_over_in_a_batch_that_is_done_again_is_not_missed(
    store: SqliteStore, other: SqliteStore, place: str
) -> None:
    fence = prepare(store)
    keep_ended_run(store)
    ACTS["an intent"](store, fence)
    over = Advance(fence=fence, rows=(), cleared=(wait_row().key,), now=20)
    store.apply([REFUSED, over] if place == "first" else [over, REFUSED])
    start(other, "theirs")
    start(store, "mine")


@pytest.mark.parametrize("place", ["first", "last"])
def test_what_was_committed_in_a_batch_that_is_done_again_is_missed(store: SqliteStore, place: str) -> None:
    fence = prepare(store)
    keep_ended_run(store)
    copy = back_up(store)
    last = Advance(fence=fence, rows=(step(50, "s", 50),), now=20)
    store.apply([REFUSED, last] if place == "first" else [last, REFUSED])
    restore(store, copy)
    with pytest.raises(StoreRewound, match="an earlier state"):
        start(store, "lost")


@pytest.mark.parametrize("lost", ["a step", "a start"])
@pytest.mark.parametrize("moves_log", ["by itself", "all of it"])
def test_a_copy_so_large_that_sqlite_moves_the_log_is_left_as_it_is(
    store: SqliteStore, moves_log: str, lost: str
) -> None:
    """So that the file alone, without its log, is an earlier state too."""
    fence = prepare(store)
    for number in range(5):
        add(store, fence, step(100 + number, "s", 100 + number, result='"' + "x" * 1_000_000 + '"'))
    copy = back_up(store)
    ACTS[lost](store, fence)
    store.wal_checkpoint()
    ACTS["a lease"](store, fence)
    restore(store, copy)
    if moves_log == "all of it":
        with closing(sqlite3.connect(store.path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    with pytest.raises(StoreRewound, match="an earlier state"):
        add(store, fence, step(51, "s", 51))
    store.close()
    assert content(store.path) == content(copy)
    again = SqliteStore(store.path)
    again.open()
    assert len(again.ask(ListHistory(fence.run))) == 9
    again.close()
    assert not list(Path(store.path).parent.glob("*-stale-*"))


# ---- other processes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("log", ["goes on", "is begun anew"])
@pytest.mark.parametrize("how", ["as it writes", "as it looks"])
def test_whoever_misses_nothing_is_told(store: SqliteStore, other: SqliteStore, log: str, how: str) -> None:
    theirs = owned(other, "theirs")[1]
    fence = prepare(store)
    assert other.foreign_changes()
    copy = back_up(store)
    add(store, fence, step(50, "s", 50))
    restore(store, copy)
    add(other, theirs, step(1))  # it goes on from the copy
    if log == "is begun anew":  # which the other one notes for whoever comes next
        other.wal_checkpoint("truncate")
    with pytest.raises(StoreRewound):
        add(store, fence, step(51, "s", 51))
    store.close()
    newcomer = SqliteStore(store.path)
    newcomer.open()
    start(newcomer, "newcomer")
    with pytest.raises(StoreRewound, match="an earlier state of it was written over"):
        add(other, theirs, step(2, "s", 2)) if how == "as it writes" else other.foreign_changes()
    other.close()
    start(newcomer, "goes on")
    newcomer.close()


def by_another_process(store: SqliteStore, other: SqliteStore, fence: Fence) -> dict[str, Callable[[], object]]:
    """What others may do to a run that this process has written to last."""

    def take_over() -> Fence:
        one(other, ReapExecutor(executor=fence.owner, crashed=True, now=100))
        executor = register(other)
        (row,) = one(other, ClaimDue(owner=executor, codes=codes_of("work"), now=2000, limit=1))
        return Fence(row.run, executor, row.token)

    def resume() -> None:
        finish(store, fence, RunStatus.FAILED)
        add_failed = one(other, ResumeRun(run_id="run", now=60))
        assert add_failed.id == "run"

    def remove() -> None:
        finish(store, fence)
        assert one(other, DeleteRun(run_id="run")) is True

    def prune() -> None:
        finish(store, fence)
        pruned = one(other, Prune(before=1000, statuses=tuple(RunStatus), limit=10))
        assert pruned.position is not None or pruned.count == 2
        one(other, Prune(before=1000, statuses=tuple(RunStatus), limit=10, after=pruned.position))
        start(store, "between the pieces")
        while one(other, Sweep(hidden_before=1)):
            start(store, os.urandom(4).hex())

    def cut() -> None:
        finish(store, fence, RunStatus.FAILED)
        changed = row_of(store).changed
        rows = tuple((row.key, row.seq) for row in store.ask(ListHistory(fence.run)))
        assert one(other, CutHistory(run_id="run", changed=changed, rows=rows)) is True

    return {
        "continue as new": lambda: one(other, ContinueAsNew(fence=take_over(), args="[]", now=70)),
        "take over": take_over,
        "resume": resume,
        "remove": remove,
        "prune": prune,
        "cut": cut,
    }


@pytest.mark.parametrize("rows", [1, UPKEEP_ROWS_MAX + 5])
@pytest.mark.parametrize("what", ["continue as new", "take over", "resume", "remove", "prune", "cut"])
def test_what_another_process_removes_is_not_missed(
    store: SqliteStore, other: SqliteStore, what: str, rows: int
) -> None:
    fence = prepare(store)
    if what == "resume":
        rows = 1
    add(store, fence, *(step(100 + number, "s", 100 + number) for number in range(rows)))
    by_another_process(store, other, fence)[what]()
    for _ in range(3):
        store.foreign_changes()
        start(store, os.urandom(4).hex())
        start(other, os.urandom(4).hex())


@pytest.mark.parametrize("by", ["its owner", "its owner, with a step", "its end", "another process"])
def test_a_wait_that_is_over_is_not_missed(store: SqliteStore, other: SqliteStore, by: str) -> None:
    fence = prepare(store)
    ACTS["an intent"](store, fence)
    if by == "another process":
        taken = by_another_process(store, other, fence)["take over"]()
        assert isinstance(taken, Fence)
        assert one(other, Advance(fence=taken, rows=(), cleared=(wait_row().key,), now=90)) is True
    elif by == "its end":
        finish(store, fence)
    else:
        rows = (step(50, "s", 50),) if by == "its owner, with a step" else ()
        assert one(store, Advance(fence=fence, rows=rows, cleared=(wait_row().key,), now=20)) is True
    for number in range(2):
        start(other, f"theirs-{number}")
        store.foreign_changes()
        start(store, f"mine-{number}")


@pytest.mark.parametrize("rows", [0, 1])
def test_a_wait_that_is_over_in_one_batch_with_a_new_signal_is_not_missed(
    store: SqliteStore, other: SqliteStore, rows: int
) -> None:
    """Also if a branch beside it has recorded something: the batch is known by the signal alone."""
    fence = prepare(store)
    ACTS["an intent"](store, fence)
    over = Advance(fence=fence, rows=(step(50, "s", 50),) * rows, cleared=(wait_row().key,), now=20)
    last = [Advance(fence=fence, rows=(), now=20)] * rows
    sent = SendSignal(run_id="run", name="go", payload="1", signal_id=None, now=9)
    store.apply([over, *last, sent])
    start(other, "theirs")
    start(store, "mine")


def test_a_wait_that_is_over_is_not_missed_between_two_commits_of_one_batch(store: SqliteStore) -> None:
    """Another program, which takes no turn, commits after what has removed it."""
    fence = prepare(store)
    keep_ended_run(store)
    ACTS["an intent"](store, fence)
    over = Advance(fence=fence, rows=(), cleared=(wait_row().key,), now=20)
    left = [0]

    def commit_before_the_third(statement: str) -> None:
        left[0] += statement == "BEGIN IMMEDIATE"
        if left[0] == 3:  # after the one of the whole batch, and the first operation's
            with closing(sqlite3.connect(store.path)) as connection, connection:
                connection.execute("CREATE TABLE theirs (a)")

    assert store._writer is not None
    store._writer.set_trace_callback(commit_before_the_third)
    assert store.apply([over, REFUSED, over]) is not None
    start(store, "mine")


@pytest.mark.parametrize("beside", [0, 1])
def test_renewals_that_come_together_make_no_earlier_state(store: SqliteStore, other: SqliteStore, beside: int) -> None:
    """A thread renews while the loop is held up, whose own renewal then comes, alone or with other things."""
    fence = prepare(store)
    one(store, RenewLease(executor=fence.owner))
    late = RenewLease(executor=fence.owner)
    store.apply([late, late, *[Advance(fence=fence, rows=(step(50, "s", 50),), now=20)] * beside])
    start(other, "theirs")
    assert store.foreign_changes()
    transact(store, fence)


def test_a_renewal_is_known_by_its_number(store: SqliteStore) -> None:
    """So a copy from between two, which has gone on elsewhere, is another future still."""
    fence = prepare(store)
    one(store, RenewLease(executor=fence.owner))
    copy = back_up(store)
    one(store, RenewLease(executor=fence.owner))
    with closing(sqlite3.connect(copy)) as connection, connection:
        connection.execute("UPDATE change_counter SET changed = changed + 9")
    restore(store, copy)
    with pytest.raises(StoreRewound, match="an earlier state"):
        add(store, fence, step(51, "s", 51))


def test_a_renewal_that_was_rolled_back_with_its_batch_is_not_missed(store: SqliteStore, other: SqliteStore) -> None:
    """The batch is done again; by then another program has declared the executor dead, so that it does not renew."""
    fence = prepare(store)
    refused = Advance(fence=fence, rows=(step(50, "s", 50), step(51, "s", 50)), now=20)
    left = [0]

    def end_before_the_second(statement: str) -> None:
        left[0] += statement == "BEGIN IMMEDIATE"
        if left[0] == 2 and statement == "BEGIN IMMEDIATE":
            with closing(sqlite3.connect(store.path)) as connection, connection:
                connection.execute("UPDATE executors SET ended_at = 1")

    assert store._writer is not None
    store._writer.set_trace_callback(end_before_the_second)
    outcomes = store.apply([RenewLease(executor=fence.owner), refused])
    assert outcomes is not None
    assert outcomes[0] is False
    start(other, "theirs")
    assert store.foreign_changes()
    start(store, "mine")


def test_an_advance_that_changes_nothing_leaves_what_is_known(store: SqliteStore) -> None:
    fence = prepare(store)
    copy = back_up(store)
    add(store, fence, step(50, "s", 50))
    assert one(store, Advance(fence=fence, rows=(), now=20)) is True
    restore(store, copy)
    with pytest.raises(StoreRewound):
        start(store, "lost")


_TAKE_TURNS = """
from durable_trio.stores.contract import ContinueAsNew, DeleteRun, Finish, Prune, RenewLease, SendSignal
from durable_trio.records import RunStatus
store = SqliteStore(sys.argv[1])
store.open()
for number in range(60):
    fence = started(store, f"{sys.argv[2]}-{number}")
    for seq in range(4):
        assert store.apply([Advance(fence=fence, rows=(row(seq),), now=1)]) == [True]
        store.foreign_changes()
    store.apply([SendSignal(run_id=f"{sys.argv[2]}-{number}", name="go", payload="1", signal_id=None, now=1)])
    store.apply([RenewLease(executor=fence.owner)])
    if number % 3 == 0:
        store.apply([ContinueAsNew(fence=fence, args="[]", now=1)])
    else:
        store.apply([Finish(fence=fence, status=RunStatus.COMPLETED, now=1)])
    store.apply([Prune(before=5, statuses=(RunStatus.COMPLETED,), limit=5)])
    if number % 10 == 0:
        store.wal_checkpoint("truncate")
        connection = store.connect()
        store._turn.take()  # SQLite's own waiting is not fair
        connection.execute("CREATE TABLE IF NOT EXISTS mine (a)")
        connection.execute("INSERT INTO mine VALUES (1)")
        connection.commit()
        store._turn.release()
        connection.close()
store.close()
say("done")
"""


def test_processes_that_write_in_turn_are_never_accused(store: SqliteStore, spawn: Spawn) -> None:
    processes = [spawn(_TAKE_TURNS, store.path, name) for name in "ab"]
    fence = prepare(store)
    for seq in range(100, 250):
        add(store, fence, step(seq, "s", seq))
        store.foreign_changes()
    assert [process.communicate(timeout=120)[0] for process in processes] == ["done\n"] * 2
    start(store, "last")


def test_a_process_that_is_killed_between_its_commits_accuses_nobody(store: SqliteStore, spawn: Spawn) -> None:
    script = """
store = SqliteStore(sys.argv[1])
store.open()
fence = started(store, "dies")
store.apply([Advance(fence=fence, rows=(row(1),), now=1)])
store._turn.take()
store._writer.execute("BEGIN IMMEDIATE")
store._writer.execute("DELETE FROM history")
os._exit(9)
"""
    fence = prepare(store)
    assert spawn(script, store.path).wait(timeout=120) == 9
    add(store, fence, step(50, "s", 50))
    assert store.ask(FindRun("dies")) is not None


def test_in_memory_a_users_commit_is_noticed_as_before() -> None:
    store = SqliteStore(":memory:")
    store.open()
    fence = prepare(store)
    with closing(store.connect()) as connection:
        connection.execute("CREATE TABLE mine (a)")
        assert store.foreign_changes() is True
        transact(store, fence)
        assert store.foreign_changes() is False
    store.close()


def test_an_error_of_the_database_during_the_look_is_not_taken_for_a_look(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has come meanwhile is looked at the next time."""
    fence = prepare(store)
    copy = back_up(store)
    add(store, fence, step(50, "s", 50))
    restore(store, copy)

    def refuse() -> None:
        error = sqlite3.OperationalError("database is locked")
        error.sqlite_errorcode = 5
        raise error

    with monkeypatch.context() as refused:
        refused.setattr(store._lineage, "_look", refuse)
        assert store.foreign_changes() is None
        with pytest.raises(StoreError):
            start(store, "refused")
    with pytest.raises(StoreRewound):
        store.foreign_changes()
