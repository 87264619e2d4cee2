"""One batch: one transaction.

What most batches consist of goes together through three parts, whatever their number in two round trips: *facts* locks
and reads what the operations concern, *decide* says what comes of them, *write* does it. Rarer ones are statements of
their own in between, by the functions of ``operations``.

A batch cannot fail for one of its operations. ``decide`` refuses what is to be refused before anything is written. If
the server refuses something all the same, which only faulty callers bring about, the batch is done anew, with a
savepoint around each operation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Final

from durable_trio.stores.contract import Operation, ReapExecutor
from durable_trio.stores.outcomes import RefusalError, left_out
from durable_trio.stores.postgres.faults import ServerError
from durable_trio.stores.postgres.hot import apply_together
from durable_trio.stores.postgres.known import NotTogetherError
from durable_trio.stores.postgres.needs import HOT
from durable_trio.stores.postgres.operations.table import HANDLERS
from durable_trio.stores.postgres.transaction import Transaction
from durable_trio.stores.postgres.wire import Request

__all__ = ["OPERATIONS", "apply_batch", "apply_within"]

OPERATIONS: Final = HOT | frozenset(HANDLERS)

# What a single operation may bring about by what it contains; of what the server says only some (``_is_of_operation``).
_OF_OPERATIONS: Final = (RefusalError, ServerError, UnicodeError)

_COMMIT: Final = Request("COMMIT")
_SAVEPOINT: Final = Request("SAVEPOINT operation")
_RELEASE: Final = Request("RELEASE operation")
_BACK: Final = (Request("ROLLBACK TO operation"), _RELEASE)
LOCK_REAPED: Final = "SELECT 1 FROM executors WHERE id = $1::bigint FOR UPDATE"
LOCK_LIVING: Final = "SELECT 1 FROM executors WHERE id = $1::bigint FOR KEY SHARE"


def apply_batch(transaction: Transaction, batch: Sequence[Operation]) -> list[Any]:
    """Commit a batch and return one outcome for each operation."""
    try:
        return _apply_and_commit(transaction, batch)
    except (NotTogetherError, *_OF_OPERATIONS) as error:
        if isinstance(error, ServerError) and not _is_of_operation(error):
            raise
    transaction.roll_back()
    transaction.wire.exchange(transaction.opening)
    outcomes = [_attempt(transaction, operation) for operation in batch]
    transaction.decided(outcomes)
    transaction.wire.exchange([_COMMIT])
    return outcomes


def apply_within(transaction: Transaction, batch: Sequence[Operation]) -> list[Any]:
    """Apply operations in a transaction that was begun, and return one outcome for each; the caller commits it.

    Raises:
        ServerError, RefusalError: one of them cannot be done; nothing can be done in the transaction any more.
    """
    outcomes: list[Any] = []
    for operation in batch:
        if type(operation) in HOT:
            outcomes += apply_together(transaction, [operation], is_careful=True)
        else:
            outcomes.append(HANDLERS[type(operation)](transaction, operation))
    return outcomes


def _apply_and_commit(transaction: Transaction, batch: Sequence[Operation]) -> list[Any]:
    """Do what goes together at once; what begins and ends the transaction goes out with the first and the last."""
    before = [*transaction.opening, *_locks(batch)]
    outcomes: list[Any] = []

    def commit(last: list[Any]) -> Sequence[Request]:
        transaction.decided(outcomes + last)
        return (_COMMIT,)

    segments = list(_segments(batch))
    for place, (is_hot, segment) in enumerate(segments, 1):
        if is_hot and place == len(segments):
            return outcomes + apply_together(transaction, segment, before=before, after=commit)
        if is_hot:
            outcomes += apply_together(transaction, segment, before=before)
        else:
            if before:
                transaction.wire.exchange(before)
            outcomes.append(HANDLERS[type(segment[0])](transaction, segment[0]))
        before = []
    transaction.wire.exchange(commit([]))
    return outcomes


def _segments(batch: Sequence[Operation]) -> Iterator[tuple[bool, list[Operation]]]:
    """Yield what is done together: hot operations that follow each other, and each of the others."""
    for is_hot, group in groupby(batch, key=lambda operation: type(operation) in HOT):
        if is_hot:
            yield True, list(group)
        else:
            yield from ((False, [operation]) for operation in group)


def _locks(batch: Sequence[Operation]) -> Iterator[Request]:
    """Yield locks of executors in their order, where some are to be declared dead and others write: of two such
    batches, of executors that take each other for dead, none waits for the other.
    """
    reaped = {operation.executor for operation in batch if isinstance(operation, ReapExecutor)}
    if reaped and len(batch) > 1:
        owners = {executor for operation in batch for executor in _executors(operation)}
        for executor in sorted(reaped | owners):
            yield Request(LOCK_REAPED if executor in reaped else LOCK_LIVING, (executor,))


def _executors(operation: Any) -> Iterator[int]:
    """Yield whoever an operation is of."""
    for executor in (
        getattr(operation, "executor", None),
        getattr(operation, "owner", None),
        getattr(getattr(operation, "fence", None), "owner", None),
    ):
        if executor is not None:
            yield executor


def _attempt(transaction: Transaction, operation: Operation) -> Any:
    """Apply an operation within a savepoint; if it is refused it leaves nothing behind but its outcome."""
    ended = len(transaction.ended)
    transaction.wire.exchange([_SAVEPOINT])
    try:
        if type(operation) in HOT:
            (outcome,) = apply_together(transaction, [operation], after=lambda _: (_RELEASE,), is_careful=True)
            return outcome
        outcome = HANDLERS[type(operation)](transaction, operation)
        transaction.wire.exchange([_RELEASE])
    except _OF_OPERATIONS as error:
        if isinstance(error, ServerError) and not _is_of_operation(error):
            raise
        transaction.wire.exchange(_BACK)
        transaction.forget_since(ended)
        return error.outcome if isinstance(error, RefusalError) else left_out(error)
    return outcome


def _is_of_operation(error: ServerError) -> bool:
    return error.is_of_operation and error.table != "commits"  # which is of the batch
