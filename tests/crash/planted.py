"""Bugs, planted in a worker by name. Each breaks one promise; a checker that does not notice is blind.

A planted bug is a store between the probes and the engine, or a patch of one function. Never used but by tests.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any, Final

import attrs

from durable_trio.records import RunStatus, StepKind
from durable_trio.rows import HistoryRow
from durable_trio.stores.contract import Advance, Fence, Finish, Operation, SendSignal, Sent, Store
from durable_trio.stores.questions import Loaded, LoadRun, LoadRuns, LookAtMailbox, MailboxLook, Question
from durable_trio.testing.probes import ProbedStore

Outcomes = list[Any]


class Wrong(ProbedStore):
    """The probed store with a way to get every batch wrong: ``wrong`` may change it, split it or keep it back."""

    def right(self, batch: Sequence[Operation], *, block: bool = True) -> Outcomes | None:
        """Apply a batch as it should be."""
        return super().apply(batch, block=block)

    def one_by_one(self, batch: Sequence[Operation]) -> Outcomes:
        """Apply operations each in a transaction of its own."""
        outcomes: Outcomes = []
        for operation in batch:
            outcomes += self.right([operation]) or []
        return outcomes

    def change(self, batch: Sequence[Operation], how: Callable[[Operation], Operation]) -> Outcomes | None:
        """Apply a batch with each operation changed."""
        return self.right([how(operation) for operation in batch])

    def ask(self, question: Question[Any]) -> Any:
        answer = super().ask(question)
        match question:
            case LoadRun():
                return self.loaded(answer)
            case LoadRuns():
                return tuple(map(self.loaded, answer))
            case LookAtMailbox():
                return self.looked(answer)
        return answer

    def loaded(self, loaded: Loaded) -> Loaded:
        """Return what a run is to find instead of what is stored."""
        return loaded

    def looked(self, look: MailboxLook) -> MailboxLook:
        """Return what a run is to find in its mailbox instead of what is stored."""
        return look

    def sql(self, statement: str, values: Sequence[Any] = ()) -> None:
        """Write past the engine."""
        with closing(self.inner.connect()) as connection:
            connection.execute(statement, values)
            connection.commit()


class AcknowledgeBeforeCommit(Wrong):
    """Step outcomes are given back at once and committed with the next batch."""

    def __init__(self, inner: Store, **options: Any) -> None:
        super().__init__(inner, **options)
        self._owed: list[Operation] = []

    def apply(self, batch: Sequence[Operation], *, block: bool = True) -> Outcomes | None:
        owed, self._owed = self._owed, []
        if owed:
            self.right(owed)
        if all(isinstance(operation, Advance) and _has(operation, StepKind.STEP) for operation in batch):
            self._owed = list(batch)
            return [True] * len(batch)
        return self.right(batch)


class OverwriteOutcome(Wrong):
    """A recorded outcome is written again, with another value."""

    def apply(self, batch: Sequence[Operation], *, block: bool = True) -> Outcomes | None:
        outcomes = self.right(batch)
        for operation in batch:
            if isinstance(operation, Advance) and _has(operation, StepKind.STEP):
                statement = "UPDATE history SET result = '77' WHERE run = ? AND seq = ? AND result IS NOT NULL"
                self.sql(statement, (operation.fence.run, operation.rows[0].seq))
        return outcomes


class ConsumeBeforeRecord(Wrong):
    """A signal is marked as consumed in one transaction, and recorded in the next."""

    def apply(self, batch: Sequence[Operation], *, block: bool = True) -> Outcomes | None:
        for operation in batch:
            if isinstance(operation, Advance) and operation.taken and _has(operation, StepKind.SIGNAL):
                for entry, seq in operation.taken:
                    self.sql("UPDATE mailbox SET seq = ? WHERE id = ?", (seq, entry))
        return self.change(batch, _without_taken)


class RecordBeforeConsume(Wrong):
    """A signal is recorded, and marked as consumed in a second transaction."""

    def apply(self, batch: Sequence[Operation], *, block: bool = True) -> Outcomes | None:
        outcomes = self.change(batch, _without_taken)  # a crash here gives the signal a second time
        for operation in batch:
            if isinstance(operation, Advance):
                for entry, seq in operation.taken:
                    self.sql("UPDATE mailbox SET seq = ? WHERE id = ?", (seq, entry))
        return outcomes


class RegisterCompensationLate(Wrong):
    """The step's outcome is committed first, that it can be undone in a second transaction."""

    def apply(self, batch: Sequence[Operation], *, block: bool = True) -> Outcomes | None:
        outcomes = self.change(batch, _without_compensation)
        for operation in batch:
            if isinstance(operation, Advance):
                for row in operation.rows:
                    if row.compensates:
                        statement = "UPDATE history SET compensates = 1 WHERE run = ? AND seq = ?"
                        self.sql(statement, (operation.fence.run, row.seq))
        return outcomes


class ForgetWaits(Wrong):
    """Wait rows of one kind are not stored."""

    kind = ""

    def apply(self, batch: Sequence[Operation], *, block: bool = True) -> Outcomes | None:
        return self.change(batch, self._without)

    def _without(self, operation: Operation) -> Operation:
        if not isinstance(operation, Advance):
            return operation
        return attrs.evolve(operation, waits=tuple(wait for wait in operation.waits if wait.kind != self.kind))


class ForgetIntent(ForgetWaits):
    """The intent of an at-most-once step is not stored."""

    kind = "intent"


class ForgetRetry(ForgetWaits):
    """The attempts of a retry are not stored."""

    kind = "retry"


class SleepAnew(Wrong):
    """A sleep that was interrupted begins anew."""

    def loaded(self, loaded: Loaded) -> Loaded:
        return attrs.evolve(loaded, waits=tuple(wait for wait in loaded.waits if wait.kind != "sleep"))


class LoseSignal(Wrong):
    """A signal is acknowledged and not stored."""

    def apply(self, batch: Sequence[Operation], *, block: bool = True) -> Outcomes | None:
        outcomes = self.right(batch)
        for operation, outcome in zip(batch, outcomes or [], strict=False):
            if isinstance(operation, SendSignal) and isinstance(outcome, Sent):
                self.sql("DELETE FROM mailbox WHERE id = ? AND seq IS NULL", (outcome.entry.id,))
        return outcomes


class SignalsBackwards(Wrong):
    """Signals are given to the run from the last to the first."""

    def loaded(self, loaded: Loaded) -> Loaded:
        return attrs.evolve(loaded, unread=loaded.unread[::-1])

    def looked(self, look: MailboxLook) -> MailboxLook:
        named = {name: attrs.evolve(signals, entries=signals.entries[::-1]) for name, signals in look.named.items()}
        return attrs.evolve(look, entries=look.entries[::-1], named=named)


class TransactionTwice(Wrong):
    """The user's rows are committed by themselves, and again with the checkpoint."""

    def transact(self, fence: Fence, fn: Callable[[Any], Advance], *, seconds_max: float) -> Any:
        with closing(self.inner.connect()) as connection:
            try:
                fn(connection)
                connection.commit()
            except Exception:
                connection.rollback()
        return super().transact(fence, fn, seconds_max=seconds_max)


class CancelOverwrites(Wrong):
    """A cancel makes a finished run a cancelled one."""

    def apply(self, batch: Sequence[Operation], *, block: bool = True) -> Outcomes | None:
        outcomes = self.right(batch)
        for operation in batch:
            if isinstance(operation, Finish) and operation.status is RunStatus.COMPLETED:
                self.sql("UPDATE runs SET status = 'cancelled', result = NULL WHERE run = ?", (operation.fence.run,))
        return outcomes


class ForgetCompensation(Wrong):
    """The outcome of a compensation is acknowledged and not recorded."""

    def apply(self, batch: Sequence[Operation], *, block: bool = True) -> Outcomes | None:
        return self.change(batch, _without_compensation_rows)


class HalfABatch(Wrong):
    """The history row and the wait that it ends are two transactions, of which the second never comes."""

    def apply(self, batch: Sequence[Operation], *, block: bool = True) -> Outcomes | None:
        return self.change(batch, _without_cleared)


def _has(operation: Advance, kind: StepKind) -> bool:
    return any(row.kind is kind for row in operation.rows)


def _without_taken(operation: Operation) -> Operation:
    return attrs.evolve(operation, taken=()) if isinstance(operation, Advance) else operation


def _without_cleared(operation: Operation) -> Operation:
    return attrs.evolve(operation, cleared=()) if isinstance(operation, Advance) else operation


def _without_compensation(operation: Operation) -> Operation:
    if not isinstance(operation, Advance):
        return operation
    return attrs.evolve(operation, rows=tuple(attrs.evolve(row, compensates=False) for row in operation.rows))


def _without_compensation_rows(operation: Operation) -> Operation:
    if not isinstance(operation, Advance):
        return operation
    rows: tuple[HistoryRow, ...] = tuple(row for row in operation.rows if row.kind is not StepKind.COMPENSATION)
    return attrs.evolve(operation, rows=rows)


# ---- patches ---------------------------------------------------------------------------------------------------------


def _replace(module: str, name: str, change: Callable[[Any], Any]) -> None:
    found = importlib.import_module(f"durable_trio.{module}")
    setattr(found, name, change(getattr(found, name)))


def _compensate_forwards() -> None:
    """Compensation runs in the order of the steps."""
    _replace("calls.saga", "in_order", lambda in_order: lambda registered: in_order(registered)[::-1])


def _fire_early() -> None:
    """Sleeps end after half their time."""
    _replace("calls.sleep", "due_after", lambda due_after: lambda now, seconds: due_after(now, seconds / 2))


def _ignore_fence() -> None:
    """Who has lost a run goes on writing to it, and nobody is told to have lost anything."""
    for module in ("operations.progress", "user_step"):
        _replace(f"stores.sqlite.{module}", "is_owned", lambda _is_owned: lambda _transaction, _fence: True)
    fence = "WHERE run = ? AND owner = ? AND token = ?"
    none = "WHERE run = ? AND ? IS NOT NULL AND ? IS NOT NULL"
    progress = "stores.sqlite.operations.progress"
    _replace(progress, "IS_OWNED", lambda sql: sql.replace(fence, none))
    _replace(progress, "ADD_HISTORY", lambda by_more: {key: sql.replace(fence, none) for key, sql in by_more.items()})


_STORES: Final[Mapping[str, type[Wrong]]] = {
    "acknowledge before commit": AcknowledgeBeforeCommit,
    "overwrite an outcome": OverwriteOutcome,
    "consume a signal before it is recorded": ConsumeBeforeRecord,
    "record a signal before it is consumed": RecordBeforeConsume,
    "register a compensation after the commit": RegisterCompensationLate,
    "store no intent": ForgetIntent,
    "store no attempts": ForgetRetry,
    "begin a sleep anew": SleepAnew,
    "lose a signal": LoseSignal,
    "give signals backwards": SignalsBackwards,
    "commit a transaction twice": TransactionTwice,
    "overwrite a final state": CancelOverwrites,
    "skip the record of compensations": ForgetCompensation,
    "commit half an operation": HalfABatch,
}
_PATCHES: Final[Mapping[str, Callable[[], None]]] = {
    "compensate forwards": _compensate_forwards,
    "fire timers early": _fire_early,
    "check no fence": _ignore_fence,
}
#: Every planted bug by its name.
PLANTED: Final = (*_STORES, *_PATCHES)


def plant(name: str, inner: Store, **options: Any) -> Store:
    """Return the store for a worker with that bug; the process is spoilt from then on."""
    if name in _PATCHES:
        _PATCHES[name]()
        return ProbedStore(inner, **options)
    return _STORES[name](inner, **options)
