"""A store that hands everything to another one; tests override what they want to disturb."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from durable_trio.rows import ExecutorRow, HistoryRow, MailboxEntry, ReportRow, RunRow, WaitRow
from durable_trio.stores.contract import (
    Advance,
    Backlog,
    Change,
    Fence,
    Loaded,
    Operation,
    RunFilter,
    SetBack,
    Store,
    StoreStatus,
)


class WrappedStore(Store):
    """Delegates every verb to ``inner``.

    ``load_many``, ``news`` and ``mail`` go by ``load``, ``changes_with_values`` and ``unread``, so that one of each is
    enough to override.
    """

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.is_memory = inner.is_memory
        self.durability = inner.durability
        self.answers_apart = inner.answers_apart

    def open(self) -> None:
        self.inner.open()

    def close(self) -> None:
        self.inner.close()

    def apply(self, batch: Sequence[Operation], *, block: bool = True) -> list[Any] | None:
        return self.inner.apply(batch, block=block)

    def hurry(self) -> None:
        self.inner.hurry()

    def transact(self, fence: Fence, fn: Callable[[Any], Advance], *, seconds_max: float) -> Any:
        return self.inner.transact(fence, fn, seconds_max=seconds_max)

    def connect(self) -> Any:
        return self.inner.connect()

    def foreign_changes(self) -> bool | None:
        return self.inner.foreign_changes()

    def executor_is_alive(self, executor: int) -> bool:
        return self.inner.executor_is_alive(executor)

    def run(self, run_id: str) -> RunRow | None:
        return self.inner.run(run_id)

    def load(self, run: int) -> Loaded:
        return self.inner.load(run)

    def waits(self, run: int) -> tuple[WaitRow, ...]:
        return self.inner.waits(run)

    def history(self, run: int) -> tuple[HistoryRow, ...]:
        return self.inner.history(run)

    def list_runs(self, which: RunFilter, *, limit: int, before: tuple[int, int] | None = None) -> tuple[RunRow, ...]:
        return self.inner.list_runs(which, limit=limit, before=before)

    def changes(self, which: RunFilter, *, after: int, limit: int) -> tuple[RunRow, ...]:
        return self.inner.changes(which, after=after, limit=limit)

    def changes_with_values(self, which: RunFilter, *, after: int, limit: int) -> tuple[Change, ...]:
        return self.inner.changes_with_values(which, after=after, limit=limit)

    def last_change(self) -> int:
        return self.inner.last_change()

    def values(self, runs: Sequence[int]) -> Mapping[int, Mapping[str, str]]:
        return self.inner.values(runs)

    def missing_runs(self, run_ids: Sequence[str]) -> tuple[str, ...]:
        return self.inner.missing_runs(run_ids)

    def mailbox_after(self, entry: int, *, limit: int) -> tuple[MailboxEntry, ...]:
        return self.inner.mailbox_after(entry, limit=limit)

    def last_mailbox_id(self) -> int:
        return self.inner.last_mailbox_id()

    def unread(self, run: int) -> tuple[MailboxEntry, ...]:
        return self.inner.unread(run)

    def backlog(self, workflows: Sequence[str], *, now: int, due_max: int) -> Backlog:
        return self.inner.backlog(workflows, now=now, due_max=due_max)

    def set_back(self, workflows: Sequence[str], *, now: int, limit: int) -> tuple[SetBack, ...]:
        return self.inner.set_back(workflows, now=now, limit=limit)

    def owned(self, executor: int) -> tuple[RunRow, ...]:
        return self.inner.owned(executor)

    def executors(self, *, ended: bool = False) -> tuple[ExecutorRow, ...]:
        return self.inner.executors(ended=ended)

    def reports(self) -> tuple[ReportRow, ...]:
        return self.inner.reports()

    def status(self) -> StoreStatus:
        return self.inner.status()

    def wal_checkpoint(self, mode: Literal["passive", "truncate"] = "passive") -> None:
        self.inner.wal_checkpoint(mode)
