"""What the parts of the contract share: the store under test, and short ways to put something into it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from durable_trio.records import RunStatus, StepKind, StepStatus
from durable_trio.rows import HistoryRow, Key, RunRow, ServedCode
from durable_trio.stores.contract import (
    AbandonRun,
    Advance,
    ClaimDue,
    Fence,
    Finish,
    Operation,
    Refuse,
    Refused,
    RegisterExecutor,
    Release,
    SendSignal,
    Sent,
    Started,
    StartRun,
    Store,
)
from durable_trio.stores.cursors import Cursor
from durable_trio.stores.news_questions import ListChanges, ListSent
from durable_trio.stores.questions import CountBacklog, FindRun, RunFilter

# Strings that break what builds statements, paths or JSON by gluing.
STRANGE = (
    "'; DROP TABLE runs; --",
    '" OR 1=1 --',
    "' UNION SELECT 1,2,3 --",
    "%",
    "_",
    "?1",
    ":name",
    "$(id)",
    "{}",
    "[]",
    "../../etc/passwd",
    "a\\b",
    "Grüße, 世界 🌍 e\u0301",
    "\u202eevil",
    "null",
    "0",
    "x" * 256,
)


class ContractKit:
    """The factory that a subclass gives, the fixture of an open store, and helpers."""

    def make_store(self, tmp_path: Path) -> Store:
        """Return a new store without any data; it is not open yet. A test calls it once."""
        raise NotImplementedError("say how to make a store")

    def reopen(self, tmp_path: Path) -> Store | None:
        """Return another instance on the data that ``make_store`` made; ``None`` if data lives with the instance."""
        return None

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        """An open store."""
        store = self.make_store(tmp_path)
        store.open()
        try:
            yield store
        finally:
            store.close()


def one(store: Store, operation: Operation) -> Any:
    """Apply a single operation and return its outcome."""
    outcomes = store.apply([operation])
    assert outcomes is not None
    assert len(outcomes) == 1
    return outcomes[0]


def register(store: Store, *, lease: int = 1000, now: int = 0, pid: int = 4711) -> int:
    """Register an executor."""
    outcome = one(store, RegisterExecutor(pid=pid, host="host", lease=lease, now=now))
    assert isinstance(outcome, int)
    return outcome


def start_operation(run_id: str = "run", **options: Any) -> StartRun:
    """Return the operation that starts a run, with defaults for what a test does not care about."""
    created_at = options.get("created_at", 10)
    defaults: dict[str, Any] = {
        "workflow": "work",
        "args": "[]",
        "args_digest": b"digest",
        "seed": b"seed",
        "created_at": created_at,
        "due_at": created_at,
    }
    return StartRun(id=run_id, **(defaults | options))


def start(store: Store, run_id: str = "run", **options: Any) -> RunRow:
    """Start a run and return its row."""
    outcome = one(store, start_operation(run_id, **options))
    assert isinstance(outcome, Started)
    return outcome.row


def owned(store: Store, run_id: str = "run", **options: Any) -> tuple[RunRow, Fence]:
    """Start a run that a new executor owns; return its row and its fence."""
    row = start(store, run_id, owner=register(store), **options)
    return row, fence_of(row)


def fence_of(row: RunRow) -> Fence:
    """Return the fence of a claimed run."""
    assert row.owner is not None
    return Fence(row.run, row.owner, row.token)


def in_status(store: Store, status: RunStatus, run_id: str = "run") -> tuple[RunRow, Fence]:
    """Bring a new run into a status; return its row, and the fence of a new executor that owns it, if any does."""
    executor = register(store)
    row = start(store, run_id, owner=None if status is RunStatus.PENDING else executor)
    fence = Fence(row.run, executor, row.token)
    if status is RunStatus.SUSPENDED:
        assert one(store, Advance(fence=fence, status=status, now=20)) is True
    elif status is RunStatus.COMPENSATING:
        assert one(store, Advance(fence=fence, status=status, error='{"type": "X"}', now=20)) is True
    elif status.is_final:
        assert finish(store, fence, status) is True
    row = row_of(store, run_id)
    assert row.status is status
    return row, fence


def stale(fence: Fence) -> Fence:
    """Return the fence of a claim that came before this one."""
    return Fence(fence.run, fence.owner, fence.token - 1)


def codes_of(*workflows: str, version: int = 0, code: int = 0) -> tuple[ServedCode, ...]:
    """Return what an executor has that knows these workflows; its code has refused nothing."""
    return tuple(ServedCode(workflow, version, code) for workflow in workflows)


def claim(store: Store, owner: int, *, now: int = 1000, limit: int = 10, workflows: tuple[str, ...] = ("work",)) -> Any:
    """Claim what is due."""
    return one(store, ClaimDue(owner=owner, codes=codes_of(*workflows), now=now, limit=limit))


def next_due(store: Store, workflows: Sequence[str]) -> int | None:
    """Return the earliest ``wake_at`` of unowned runs of these workflows."""
    return store.ask(CountBacklog(codes_of(*workflows), now=0, due_max=1)).next_due_at


def step(seq: int, name: str = "step", n: int = 0, **options: Any) -> HistoryRow:
    """Return a history row."""
    defaults: dict[str, Any] = {
        "key": Key("", name, n),
        "kind": StepKind.STEP,
        "status": StepStatus.COMPLETED,
        "result": json.dumps(seq),
        "started_at": seq,
        "finished_at": seq + 1,
    }
    return HistoryRow(seq=seq, **(defaults | options))


def add(store: Store, fence: Fence, *rows: HistoryRow) -> None:
    """Append rows to a run's history."""
    assert one(store, Advance(fence=fence, rows=rows, now=20)) is True


def finish(store: Store, fence: Fence, status: RunStatus = RunStatus.COMPLETED, **options: Any) -> Any:
    """End a run."""
    return one(store, Finish(fence=fence, status=status, **({"now": 50} | options)))


def suspend(store: Store, fence: Fence, *, wake_at: int | None = None, waits_for: tuple[str, ...] = ()) -> Any:
    """Release a run as suspended."""
    operation = Release(fence=fence, status=RunStatus.SUSPENDED, wake_at=wake_at, waits_for=waits_for)
    return one(store, operation)


def abandon_operation(run_id: str = "run", **changes: Any) -> AbandonRun:
    """Return an operation that abandons a run."""
    given: dict[str, Any] = {
        "reason": '"why"',
        "error": '{"type": "X"}',
        "error_of_child": '{"type": "Y"}',
        "not_undone": '{"type": "Z"}',
        "now": 60,
    }
    return AbandonRun(run_id=run_id, **(given | changes))


def park(store: Store, fence: Fence, code: int = 1) -> None:
    """Have a run refused by a code, while nobody has another."""
    assert one(store, Refuse(fence=fence, code=code, problem='{"kind": "divergence"}', now=40)) == Refused(())


def signal(store: Store, run_id: str = "run", name: str = "go", payload: str = "1", **options: Any) -> Any:
    """Send a signal."""
    return one(
        store, SendSignal(run_id=run_id, name=name, payload=payload, **({"signal_id": None, "now": 60} | options))
    )


def row_of(store: Store, run_id: str = "run") -> RunRow:
    """Return a run that is stored."""
    row = store.ask(FindRun(run_id))
    assert row is not None
    return row


def changed_runs(store: Store, which: RunFilter, *, after: Cursor | None = None, limit: int = 99) -> tuple[RunRow, ...]:
    """Return runs that have changed since, without their values."""
    return tuple(change.row for change in store.ask(ListChanges(which, after=after, limit=limit)).changes)


def changed_since(store: Store, cursor: Cursor) -> set[str]:
    """Return the ids of the runs that were changed since."""
    return {row.id for row in changed_runs(store, RunFilter(), after=cursor)}


def sent_since(store: Store, cursor: Cursor) -> tuple[Sent, ...]:
    """Return what was sent since."""
    page = store.ask(ListSent(cursor, limit=99))
    assert page.is_last
    return page.sent
