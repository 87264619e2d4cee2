"""Random operations, for tests that compare what a store makes of them with what it should."""

from __future__ import annotations

import random

from durable_trio.records import RunStatus, StepKind, StepStatus
from durable_trio.rows import Key, WaitRow
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
    ParkDamaged,
    Prune,
    ReapExecutor,
    Refuse,
    RegisterExecutor,
    Release,
    RenewLease,
    RequestCancel,
    ResumeRun,
    SendSignal,
    SignalWithStart,
    Store,
)
from durable_trio.stores.questions import ListExecutors, ListRuns, ListUnread, RunFilter
from durable_trio.testing.store_contract.kit import abandon_operation, codes_of, start_operation, step

__all__ = ["Dice"]


class Dice:
    """Random operations on few runs, so that they meet."""

    def __init__(self) -> None:
        self._now = 0

    def operation(self, store: Store, dice: random.Random) -> Operation:
        """Return some operation, more often than not one that makes sense. It may be one that is to be refused."""
        self._now += dice.randrange(3)
        now = self._now
        rows = store.ask(ListRuns(RunFilter(), limit=50))
        run_id = f"run-{dice.randrange(8)}"
        owned = [row for row in rows if row.owner is not None]
        row = dice.choice(owned if owned and dice.random() < 0.6 else rows) if rows else None
        living = [executor.id for executor in store.ask(ListExecutors())]
        executor = dice.choice(living if living and dice.random() < 0.8 else range(1, 6))
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
        status = dice.choice([RunStatus.RUNNING, RunStatus.SUSPENDED, RunStatus.COMPENSATING, *RunStatus])
        error = '{"type": "X"}' if status is RunStatus.COMPENSATING else None
        final = dice.choice([RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED, *RunStatus])
        waits = (WaitRow(key=key, kind="sleep", due_at=now, started_at=now),)
        second = step(now + 1, key=Key("", f"s{dice.randrange(5)}", 0))
        choices: list[Operation] = [
            RegisterExecutor(pid=1, host="h", lease=20, now=now),
            start_operation(
                run_id,
                created_at=now,
                args_digest=bytes([dice.randrange(2)]),
                owner=dice.choice([None, executor]),
                parent=row.run if row and dice.random() < 0.4 else None,
            ),
            ClaimDue(owner=executor, codes=codes_of("work"), now=now, limit=dice.randrange(1, 4)),
            Advance(fence=fence, rows=(new,), now=now),
            Advance(fence=fence, rows=(new, second), taken=taken, waits=waits, published=(("k", "1"),), now=now),
            Advance(fence=fence, status=status, wake_at=now + 3, waits_for=("a",), error=error, now=now),
            Advance(fence=fence, rows=(new,), cleared=(key,), unless_unread=("a", now), now=now),
            Release(fence=fence, status=status, wake_at=now + 2, waits_for=("a",)),
            Refuse(fence=fence, code=dice.randrange(2), problem="{}", now=now),
            Finish(fence=fence, status=final, now=now),
            SendSignal(run_id=run_id, name=dice.choice("ab"), payload="1", signal_id=dice.choice([None, "i"]), now=now),
            RequestCancel(run_id=run_id, reason="null", now=now),
            abandon_operation(run_id, now=now),
            ResumeRun(run_id=run_id, now=now),
            ForkRun(run_id=run_id, before=key, id=f"run-{dice.randrange(8)}", now=now),
            DeleteRun(run_id=run_id),
            Prune(before=now - 30, statuses=(RunStatus.COMPLETED,), limit=1),
            ParkDamaged(fence=fence, problem="{}"),
            RenewLease(executor=executor),
            ContinueAsNew(fence=fence, args="[2]", generations_kept=1, now=now),
            ClaimRun(owner=executor, run_id=run_id, codes=codes_of("work"), now=now),
            SignalWithStart(
                start=start_operation(run_id, created_at=now, args_digest=b"\0"),
                signal=SendSignal(run_id=run_id, name="a", payload="1", signal_id=None, now=now),
            ),
            Advance(fence=fence, children=(start_operation(f"run-{dice.randrange(8)}", created_at=now),), now=now),
            ReapExecutor(executor=executor, renewals=dice.choice([None, 0, 1]), crashed=dice.random() < 0.5, now=now),
        ]
        weights = [3, 9, 9, 9, 9, 6, 4, 6, 2, 4, 6, 2, 1, 2, 2, 1, 1, 1, 2, 1, 1, 2, 2, 2]
        return dice.choices(choices, weights)[0]
