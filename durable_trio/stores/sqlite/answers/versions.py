"""Which versions runs have, which codes have refused them, and who has which."""

from __future__ import annotations

from typing import Final

from durable_trio.rows import ServedCode
from durable_trio.rules.refused import codes_in
from durable_trio.stores.code_questions import CountRefused, ListServed, RefusedCount, ServedBy
from durable_trio.stores.sqlite.answers.streams import IS_SHOWN
from durable_trio.stores.sqlite.columns import text_from
from durable_trio.stores.sqlite.library import sqlite3
from durable_trio.stores.sqlite.parked import OF_LIVING
from durable_trio.stores.sqlite.tables import OF_A_VERSION, REFUSED

__all__ = ["count_of_versions", "count_refused", "list_served"]

SERVED: Final = f"SELECT executor, workflow, version, codes.code FROM {OF_LIVING} ORDER BY executor, codes.code"
REFUSED_COUNTS: Final = f"""
    SELECT workflow, version, refused, count(*) FROM runs INDEXED BY runs_refused WHERE {REFUSED}
    GROUP BY workflow, version, refused
"""
# Those of version 0 are what is left of all.
COUNTS: Final = f"""
    SELECT workflow, version, count(*) FROM runs INDEXED BY runs_of_version WHERE {OF_A_VERSION} AND {IS_SHOWN}
    GROUP BY workflow, version
"""


def list_served(connection: sqlite3.Connection, question: ListServed) -> tuple[ServedBy, ...]:
    """Return which codes executors have. What is damaged is left out: no executor has written it."""
    rows = connection.execute(SERVED).fetchall()
    return tuple(
        ServedBy(executor, ServedCode(workflow, version, code))
        for executor, workflow, version, code in rows
        if [type(executor), type(workflow), type(version)] == [int, str, int]
    )


def count_refused(connection: sqlite3.Connection, question: CountRefused) -> tuple[RefusedCount, ...]:
    """Return how many runs were refused. What is damaged is left out."""
    rows = connection.execute(REFUSED_COUNTS).fetchall()
    return tuple(
        RefusedCount(workflow, version, frozenset(codes_in(refused)), count)
        for workflow, version, refused, count in rows
        if [type(workflow), type(version), type(refused)] == [str, int, str]
    )


def count_of_versions(connection: sqlite3.Connection) -> dict[tuple[str, int], int]:
    """Return how many runs have not ended, by workflow and version, but for version 0."""
    rows = connection.execute(COUNTS).fetchall()
    return {(text_from(workflow), version): count for workflow, version, count in rows if type(version) is int}
