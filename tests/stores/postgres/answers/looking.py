"""How much the server looks at to answer a question."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from durable_trio.stores.postgres.answers.table import ANSWERS, Asking
from durable_trio.stores.postgres.url import ENGINE, PEOPLE, Place
from durable_trio.stores.postgres.wire import Answer, Request, Wire
from durable_trio.stores.questions import Question


class _Looked:
    """A connection that has each statement's plan told, and counts the rows that were read from tables and indexes."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.row_count = 0

    @property
    def is_in_transaction(self) -> bool:
        return self._wire.is_in_transaction

    def exchange(self, requests: Sequence[Request]) -> list[Answer]:
        answers = self._wire.exchange(requests)
        for text, values in requests:
            if text.strip().startswith(("SELECT", "WITH")):
                told = self._wire.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {text}", *values).rows[0][0]
                self.row_count += sum(map(_rows_of, _scans(json.loads(told)[0]["Plan"])))
        return answers


def _scans(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "Relation Name" in plan:
        yield plan
    for part in plan.get("Plans", ()):
        yield from _scans(part)


def _rows_of(scan: dict[str, Any]) -> int:
    each = scan["Actual Rows"] + scan.get("Rows Removed by Filter", 0) + scan.get("Rows Removed by Index Recheck", 0)
    return int(each * scan["Actual Loops"])


def rows_looked_at(place: Place, question: Question[Any]) -> int:
    """Return how many rows the server reads to answer a question."""
    wire = place.connect(settings=PEOPLE if question.is_for_people else ENGINE)
    try:
        looked = _Looked(wire)
        ANSWERS[type(question)](Asking(looked, 0), question)  # type: ignore[arg-type]
        return looked.row_count
    finally:
        wire.close()
