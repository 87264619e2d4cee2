"""Random operations: batches do what single ones do, and the rows keep their invariants."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import attrs
import pytest

from durable_trio.records import RunStatus, StepKind, StepStatus
from durable_trio.rows import Key, RunRow, WaitRow
from durable_trio.stores.contract import (
    Advance,
    ClaimDue,
    ClaimRun,
    ContinueAsNew,
    DeleteRun,
    Fence,
    Finish,
    ForkRun,
    Operation,
    Park,
    Prune,
    ReapExecutor,
    RegisterExecutor,
    Release,
    RenewLease,
    RequestCancel,
    ResumeRun,
    SendSignal,
    Sent,
    SignalWithStart,
    Started,
    Store,
    Unpark,
)
from durable_trio.stores.questions import (
    CountRuns,
    ListEntries,
    ListExecutors,
    ListRuns,
    ListUnread,
    LoadRun,
    RunFilter,
)
from durable_trio.stores.sqlite import SqliteStore
from durable_trio.testing.store_contract.kit import one, start_operation, step


class Dice:
    """Random operations on few runs, so that they meet."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)
        self._now = 0

    def operation(self, store: Store) -> Operation:
        """Return some operation, more often than not one that makes sense."""
        dice = self._dice
        self._now += dice.randrange(3)
        now = self._now
        rows = store.ask(ListRuns(RunFilter(), limit=50))
        run_id = f"run-{dice.randrange(8)}"
        row = dice.choice(rows) if rows else None
        executor = dice.randrange(1, 6)
        fence = Fence(1, 1, 1)
        if row is not None:
            fence = Fence(row.run, row.owner or executor, row.token - (dice.random() < 0.1))
        key = Key("", f"s{dice.randrange(5)}", 0)
        kind = dice.choice([StepKind.STEP, StepKind.SIGNAL, StepKind.CANCEL, StepKind.COMPENSATION, StepKind.STEP])
        new = step(
            now,
            key=key,
            kind=kind,
            status=dice.choice((StepStatus.COMPLETED, StepStatus.FAILED, StepStatus.TIMED_OUT)),
            compensates=dice.random() < 0.5,
        )
        unread = store.ask(ListUnread(fence.run))
        taken = ((unread[0].id, now),) if unread and dice.random() < 0.7 else ()
        status = dice.choice([RunStatus.RUNNING, RunStatus.SUSPENDED, RunStatus.COMPENSATING])
        final = dice.choice([RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED])
        waits = (WaitRow(key=key, kind="sleep", due_at=now, started_at=now),)
        second = step(now + 1, key=Key("", f"s{dice.randrange(5)}", 0))
        choices: list[Operation] = [
            RegisterExecutor(pid=1, host="h", boot_id="b", lease_until=now + 20, now=now),
            start_operation(
                run_id,
                created_at=now,
                args_digest=bytes([dice.randrange(2)]),
                owner=dice.choice([None, executor]),
                parent=row.run if row and dice.random() < 0.4 else None,
            ),
            ClaimDue(owner=executor, workflows=("work",), now=now, limit=dice.randrange(1, 4)),
            Advance(fence=fence, rows=(new,), now=now),
            Advance(fence=fence, rows=(new, second), taken=taken, waits=waits, published=(("k", "1"),), now=now),
            Advance(fence=fence, status=status, wake_at=now + 3, waits_for=("a",), cleared=(key,), now=now),
            Advance(fence=fence, rows=(new,), unless_unread=("a", now), now=now),
            Release(fence=fence, status=status, wake_at=now + 2, waits_for=("a",), now=now),
            Park(fence=fence, problem="{}", fingerprint=str(dice.randrange(2)), now=now),
            Finish(fence=fence, status=final, now=now),
            SendSignal(run_id=run_id, name=dice.choice("ab"), payload="1", signal_id=dice.choice([None, "i"]), now=now),
            RequestCancel(run_id=run_id, reason="null", now=now),
            ResumeRun(run_id=run_id, now=now),
            ForkRun(run_id=run_id, before=key, id=f"run-{dice.randrange(8)}", now=now),
            DeleteRun(run_id=run_id),
            Prune(before=now - 30, statuses=(RunStatus.COMPLETED,), limit=1),
            Unpark(workflow="work", fingerprint="0", now=now),
            RenewLease(executor=executor, lease_until=now + 9),
            ContinueAsNew(fence=fence, args="[2]", now=now),
            ClaimRun(owner=executor, run_id=run_id, workflow="work", now=now),
            SignalWithStart(
                start=start_operation(run_id, created_at=now, args_digest=b"\0"),
                signal=SendSignal(run_id=run_id, name="a", payload="1", signal_id=None, now=now),
            ),
            Advance(fence=fence, children=(start_operation(f"run-{dice.randrange(8)}", created_at=now),), now=now),
            ReapExecutor(
                executor=executor, lease_before=dice.choice([None, now]), crashed=dice.random() < 0.5, now=now
            ),
        ]
        weights = [3, 9, 9, 9, 9, 6, 4, 6, 2, 4, 6, 2, 2, 2, 1, 1, 1, 2, 1, 1, 2, 2, 2]
        return dice.choices(choices, weights)[0]


def plain(outcome: Any) -> Any:
    """Return an outcome without the change numbers, which count transactions."""
    match outcome:
        case Exception():
            return type(outcome), str(outcome)
        case RunRow():
            return attrs.evolve(outcome, changed=0)
        case Started():
            return attrs.evolve(outcome, row=plain(outcome.row))
        case tuple():
            return tuple(map(plain, outcome))
    return outcome


def everything(store: Store) -> Any:
    """Return all that a store tells."""
    rows = store.ask(ListRuns(RunFilter(), limit=1000))
    loaded = [(plain(row), store.ask(LoadRun(row.run))) for row in rows]
    return loaded, store.ask(ListExecutors(ended=True)), store.ask(ListEntries(0, limit=1000)), store.ask(CountRuns())


@pytest.mark.parametrize("seed", range(8))
def test_batches_do_what_single_operations_do_and_keep_the_rows_whole(tmp_path: Path, seed: int) -> None:
    dice = Dice(seed)
    single, batched = SqliteStore(":memory:"), SqliteStore(tmp_path / "runs.db", durability="normal")
    single.open()
    batched.open()
    kinds = set()
    for _ in range(60):
        operations, expected = [], []
        for _ in range(8):
            operation = dice.operation(single)
            operations.append(operation)
            expected.append(plain(one(single, operation)))
        outcomes = batched.apply(operations)
        assert outcomes is not None
        assert [plain(outcome) for outcome in outcomes] == expected, f"seed {seed}: {operations}"
        kinds |= {type(outcome) for outcome in outcomes}
    assert everything(single) == everything(batched)
    assert {bool, Started, Sent} <= kinds
    assert len(kinds) >= 9
    connection = batched.connect()
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    for broken in (
        "SELECT id FROM runs WHERE owner NOT IN (SELECT id FROM executors WHERE ended_at IS NULL)",
        "SELECT id FROM runs WHERE (finished_at IS NULL) = (status IN ('completed', 'failed', 'cancelled'))",
        "SELECT id FROM runs WHERE finished_at IS NOT NULL AND (owner IS NOT NULL OR wake_at IS NOT NULL)",
        "SELECT id FROM runs WHERE status = 'pending' AND (owner IS NOT NULL OR wake_at IS NULL)",
        "SELECT id FROM runs WHERE problem IS NOT NULL AND (owner IS NOT NULL OR wake_at IS NOT NULL)",
        "SELECT id FROM runs WHERE changed > (SELECT changed FROM change_counter)",
    ):
        assert connection.execute(broken).fetchall() == [], broken
    connection.close()
    single.close()
    batched.close()
