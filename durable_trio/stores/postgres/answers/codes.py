"""Which codes executors have, and what these have refused."""

from __future__ import annotations

from typing import Final

from durable_trio.rows import CodeRow, ServedCode
from durable_trio.rules.refused import codes_in
from durable_trio.stores.code_questions import CountRefused, ListCodes, ListServed, RefusedCount, ServedBy
from durable_trio.stores.postgres.answers.asking import Asking
from durable_trio.stores.postgres.parked import OF_LIVING, REFUSED
from durable_trio.stores.postgres.rows import CODE_COLUMNS, code_from

__all__ = ["count_refused", "list_codes", "list_served"]

CODES: Final = f"SELECT {CODE_COLUMNS} FROM codes ORDER BY code"
CODES_OF_EXECUTOR: Final = f"""
    SELECT {CODE_COLUMNS} FROM codes
    WHERE code IN (SELECT code FROM executor_codes WHERE executor = $1::bigint) ORDER BY code
"""
SERVED: Final = f"SELECT executor, workflow, version, codes.code FROM {OF_LIVING} ORDER BY executor, codes.code"
REFUSED_COUNTS: Final = f"""
    SELECT workflow, version, refused, count(*) FROM runs WHERE {REFUSED} GROUP BY workflow, version, refused
    ORDER BY workflow, version, refused
"""


def list_codes(asking: Asking, question: ListCodes) -> tuple[CodeRow, ...]:
    """Return codes."""
    asked = (CODES, ()) if question.executor is None else (CODES_OF_EXECUTOR, (question.executor,))
    return tuple(map(code_from, asking.only(asked)[0].rows))


def list_served(asking: Asking, question: ListServed) -> tuple[ServedBy, ...]:
    """Return which codes executors have."""
    return tuple(
        ServedBy(executor, ServedCode(workflow, version, code))
        for executor, workflow, version, code in asking.only((SERVED, ()))[0].rows
    )


def count_refused(asking: Asking, question: CountRefused) -> tuple[RefusedCount, ...]:
    """Return how many runs were refused."""
    return tuple(
        RefusedCount(workflow, version, frozenset(codes_in(refused)), count)
        for workflow, version, refused, count in asking.only((REFUSED_COUNTS, ()))[0].rows
    )
