"""Which rows a failed run goes on without, where it has recorded answers about changes of its code."""

from __future__ import annotations

from typing import Final

import pytest

from durable_trio.records import StepKind, StepStatus
from durable_trio.rows import Key
from durable_trio.rules.resuming import Outcome, rows_to_cut

#: What a row is of; each began and ended in the second of its seq.
STEP, FAILED, ANSWER = "step", "failed", "answer"
_LEFT: Final = "nursery#0/left"
_RIGHT: Final = "nursery#0/right"


@pytest.mark.parametrize(
    ("rows", "cut"),
    [
        # Recorded late, of a question before the failure; or of one after it, which will be asked again.
        ([("", STEP), ("", FAILED), ("", ANSWER)], [3, 2]),
        # Nobody's failure is held by the answer of another branch.
        ([(_LEFT, FAILED), (_RIGHT, ANSWER)], [2, 1]),
        ([(_LEFT, FAILED), (_RIGHT, FAILED), ("", ANSWER)], [3, 2, 1]),
        # What has gone on from an answer needs it, and holds the failures itself.
        ([("", FAILED), ("", ANSWER), ("", STEP)], []),
        ([("", FAILED), ("", ANSWER), (_LEFT, STEP)], []),
        ([("", ANSWER), ("", STEP), ("", FAILED)], [3]),
        # Without a failure nothing is asked again.
        ([("", STEP), ("", ANSWER)], []),
    ],
)
def test_an_answer_holds_no_failure_and_goes_with_it_unless_its_branch_has_gone_on(
    rows: list[tuple[str, str]], cut: list[int]
) -> None:
    history = [
        Outcome(
            seq,
            Key(branch, "name", seq),
            StepKind.PATCH if what == ANSWER else StepKind.STEP,
            StepStatus.FAILED if what == FAILED else StepStatus.COMPLETED,
            seq * 1000,
            seq * 1000,
        )
        for seq, (branch, what) in enumerate(rows, start=1)
    ]
    assert [outcome.seq for outcome in rows_to_cut(history)] == cut


def test_at_one_instant_an_answer_stays_that_a_row_beside_a_failure_has_gone_on_from() -> None:
    rows = [(_LEFT, StepKind.STEP), (_RIGHT, StepKind.PATCH), (_RIGHT, StepKind.STEP)]
    statuses = [StepStatus.FAILED, StepStatus.COMPLETED, StepStatus.COMPLETED]
    history = [
        Outcome(seq, Key(branch, "name", seq), kind, status, 0, 0)
        for seq, ((branch, kind), status) in enumerate(zip(rows, statuses, strict=True), start=1)
    ]
    assert [outcome.seq for outcome in rows_to_cut(history)] == [1]
