"""What is executed again and again: each statement is prepared once, what many wait for is asked in one, and a commit
asks the system little."""

from __future__ import annotations

import fcntl
import os
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from durable_trio.records import RunStatus
from durable_trio.rows import WaitRow
from durable_trio.stores.contract import Advance, ClaimDue, Finish, Prune, Release
from durable_trio.stores.news_questions import ListChanges, ListNews, ListSent
from durable_trio.stores.questions import CountBacklog, CountRuns, FindRun, LoadRuns, LookAtMailbox, RunFilter
from durable_trio.stores.sqlite import SqliteStore, identity
from durable_trio.stores.sqlite.operations.table import HANDLERS
from durable_trio.stores.sqlite.transaction import BEGIN, COMMIT, Transaction
from durable_trio.testing.store_contract.kit import (
    add,
    codes_of,
    fence_of,
    one,
    owned,
    register,
    signal,
    start,
    start_operation,
    step,
)
from tests.stores.sqlite.numbers import BEGINNING

_READ = 20  # SQLite asks the authorizer when it compiles a statement: 20 is a column that is read


def live(store: SqliteStore, executor: int, run_id: str) -> None:
    """Have a run do all that runs often do, and everybody else what they often ask."""
    start(store, run_id)
    assert store.ask(CountBacklog(codes_of("work"), now=1000, due_max=9)).due_count == 1
    (row,) = one(store, ClaimDue(owner=executor, codes=codes_of("work"), now=1000, limit=5))
    store.ask(LoadRuns([row.run]))
    first = step(1)
    wait = WaitRow(key=first.key, kind="sleep", due_at=2000, started_at=1000)
    assert one(store, Advance(fence=fence_of(row), waits=(wait,), now=1001)) is True
    released = Release(fence=fence_of(row), status=RunStatus.SUSPENDED, wake_at=2000, waits_for=("go",))
    assert one(store, released) is True
    signal(store, run_id, now=1003)
    (row,) = one(store, ClaimDue(owner=executor, codes=codes_of("work"), now=2000, limit=5))
    (entry,) = store.ask(LookAtMailbox(row.run, after=0, names={"go": 0}, limit=5)).entries
    taken = Advance(fence=fence_of(row), rows=(first,), cleared=(first.key,), taken=((entry.id, 1),), now=2001)
    assert one(store, taken) is True
    assert one(store, Finish(fence=fence_of(row), status=RunStatus.COMPLETED, result="1", now=2002)) is True
    store.ask(FindRun(run_id))
    store.ask(ListNews(after=BEGINNING, limit=5))
    store.ask(ListChanges(RunFilter(), after=None, limit=5))
    store.ask(ListSent(BEGINNING, limit=5))
    store.ask(CountRuns())
    one(store, Prune(before=1, statuses=(RunStatus.COMPLETED,), limit=5))


def test_what_is_done_again_is_not_compiled_again(tmp_path: Any) -> None:
    """SQLite compiles a statement anew for each value that its plan may depend on, such as a bare ``LIMIT ?``."""
    store = SqliteStore(tmp_path / "runs.db")
    store.open()
    compiled: list[tuple[str | None, str | None]] = []

    def note(action: int, table: str | None, column: str | None, *_: Any) -> int:
        if action == _READ:
            compiled.append((table, column))
        return 0

    for connection in (store._writer, store._reader, store._answerer):
        assert connection is not None
        connection.set_authorizer(note)
    executor = register(store)
    for n in range(3):
        live(store, executor, f"run-{n}")
    assert compiled
    compiled.clear()
    live(store, executor, "once more")
    assert not compiled
    store.close()


def test_what_is_due_is_asked_in_one_statement(tmp_path: Any) -> None:
    """However many workflows there are: beside a busy event loop each statement may wait for the GIL."""
    store = SqliteStore(tmp_path / "runs.db")
    store.open()
    start(store)
    statements: list[str] = []
    assert store._reader is not None
    store._reader.set_trace_callback(statements.append)
    found = store.ask(CountBacklog(codes_of(*(f"other-{n}" for n in range(30)), "work"), now=1000, due_max=9))
    assert found.due_count == 1
    assert len([sql for sql in statements if "SELECT" in sql and not sql.startswith("--")]) == 1
    store.close()


def test_what_is_often_written_is_bound_without_a_look_for_an_adapter(store: SqliteStore) -> None:
    """For ``None`` and for a ``bool`` that takes longer than the rest of a small statement."""
    fence = owned(store)[1]
    connection = store._writer
    assert connection is not None
    bound: list[Any] = []
    cursor = connection.cursor()

    def execute(sql: str, values: Any = ()) -> Any:
        bound.extend(values.values() if isinstance(values, dict) else values)
        return cursor.execute(sql, values)

    transaction = Transaction(cursor, execute, store._locks)
    transaction.execute(BEGIN)
    wait = WaitRow(key=step(2, "waits").key, kind="sleep", due_at=2000, started_at=1000)
    for operation in (
        start_operation("new"),
        start_operation("begun", owner=fence.owner),
        Advance(fence=fence, rows=(step(1),), waits=(wait,), now=1),
        ClaimDue(owner=fence.owner, codes=codes_of("work"), now=1, limit=1),
    ):
        assert not isinstance(HANDLERS[type(operation)](transaction, operation), Exception)
    transaction.execute(COMMIT)
    assert len(bound) > 50
    assert not [value for value in bound if value is None or type(value) is bool]


def test_a_commit_asks_the_system_no_more_than_it_did(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call of the system costs a commit more than a hundred steps of the interpreter. A bound may be lowered."""
    fence = owned(store)[1]
    monkeypatch.setattr(identity, "would_show", lambda *_: True)  # the folder is at rest at once
    add(store, fence, step(1))
    counts: Counter[str] = Counter()
    with monkeypatch.context() as counting:
        for module, names in ((os, ("stat", "lstat", "fstat", "pread", "pwrite", "getpid")), (fcntl, ("flock",))):
            for name in names:
                counting.setattr(module, name, partial(_counted, counts, getattr(module, name)))
        add(store, fence, step(2, "other"))
    assert counts == {"stat": 2, "lstat": 1, "pread": 2, "flock": 4}


def _counted(counts: Counter[str], fn: Callable[..., Any], *args: Any, **options: Any) -> Any:
    counts[fn.__name__] += 1
    return fn(*args, **options)
