"""One batch: one transaction.

What most batches consist of goes together through three parts, whatever their number in two round trips: *facts* locks
and reads what the operations concern, *decide* says what comes of them, *write* does it. Rarer ones are statements of
their own in between, by the functions of ``operations``.

A batch cannot fail for one of its operations. ``decide`` refuses what is to be refused before anything is written. If
the server refuses something all the same, which only faulty callers bring about, the batch is done anew, with a
savepoint around each operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from durable_trio.stores.contract import Operation
from durable_trio.stores.postgres.operations.table import HANDLERS
from durable_trio.stores.postgres.transaction import Transaction

__all__ = ["OPERATIONS", "apply_batch", "apply_within"]

OPERATIONS: Final = frozenset(HANDLERS)


def apply_batch(transaction: Transaction, batch: Sequence[Operation]) -> list[Any]:
    """Commit a batch and return one outcome for each operation."""
    transaction.wire.exchange(transaction.opening)
    outcomes = apply_within(transaction, batch)
    transaction.decided(outcomes)
    transaction.execute("COMMIT")
    return outcomes


def apply_within(transaction: Transaction, batch: Sequence[Operation]) -> list[Any]:
    """Apply operations in a transaction that was begun, and return one outcome for each; the caller commits it."""
    return [HANDLERS[type(operation)](transaction, operation) for operation in batch]
