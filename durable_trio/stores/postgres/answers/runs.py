"""Answers about one run."""

from __future__ import annotations

from typing import Final

from durable_trio.rows import RunRow
from durable_trio.stores.postgres.answers.asking import Asking
from durable_trio.stores.postgres.rows import RUN_COLUMNS, run_from
from durable_trio.stores.questions import FindRun

__all__ = ["find_run"]

FIND_RUN: Final = f"SELECT {RUN_COLUMNS} FROM runs WHERE id = $1::text"


def find_run(asking: Asking, question: FindRun) -> RunRow | None:
    """Return the run with an id."""
    found = asking.execute(FIND_RUN, question.run_id).rows
    return run_from(found[0]) if found else None
