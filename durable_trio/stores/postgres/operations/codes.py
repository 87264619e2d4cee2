"""Codes: which of them executors have, and which runs they have refused."""

from __future__ import annotations

from typing import Final

from durable_trio.stores.contract import RegisterExecutor
from durable_trio.stores.postgres.transaction import Transaction

__all__ = ["FORGET_CODES", "register_codes"]

# In one order, so that two that register the same ones do not wait for each other.
ADD_CODE: Final = """
    INSERT INTO codes (workflow, version, fingerprint, first_seen_at)
    VALUES ($1::text, $2::bigint, $3::text, $4::bigint) ON CONFLICT (workflow, version, fingerprint) DO NOTHING
"""
# A statement of its own, and after that: it sees the one that another transaction has just added.
ADD_EXECUTOR_CODE: Final = """
    INSERT INTO executor_codes (executor, code)
    SELECT $1::bigint, code FROM codes WHERE workflow = $2::text AND version = $3::bigint AND fingerprint = $4::text
    ON CONFLICT DO NOTHING
"""
#: An executor is no more: nobody has its codes because of it.
FORGET_CODES: Final = "DELETE FROM executor_codes WHERE executor = $1::bigint"
# Of executors that are none that live.
FORGET_STRAY_CODES: Final = """
    DELETE FROM executor_codes
    WHERE NOT EXISTS (SELECT 1 FROM executors WHERE id = executor_codes.executor AND ended_at IS NULL)
"""


def register_codes(transaction: Transaction, executor: int, operation: RegisterExecutor) -> None:
    """Note which codes a new executor has."""
    transaction.execute(FORGET_STRAY_CODES)
    for code in sorted(operation.codes):
        transaction.exchange((ADD_CODE, (*code, operation.now)), (ADD_EXECUTOR_CODE, (executor, *code)))
