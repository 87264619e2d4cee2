"""The report of a divergence: two aligned columns, what matched, and what did not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from durable_trio.records import StepKind
from durable_trio.rows import HistoryRow, Key
from durable_trio.rules.divergence import explain

KEYS = st.builds(Key, st.sampled_from(["", "a#0"]), st.text("ab/é", min_size=1, max_size=8), st.integers(0, 9))
ROWS = st.builds(
    HistoryRow,
    seq=st.integers(1, 99),
    key=KEYS,
    kind=st.sampled_from(StepKind),
    started_at=st.just(0),
    finished_at=st.just(0),
)
CALLS = st.lists(st.tuples(st.sampled_from(["step", "sleep"]), KEYS.map(str)), max_size=4)


@given(st.lists(ROWS, max_size=12), st.none() | ROWS, CALLS, st.booleans())
def test_history_and_code_stand_side_by_side(
    delivered: list[HistoryRow], expected: HistoryRow | None, waiting: list[tuple[str, str]], ended: bool
) -> None:
    text = explain(delivered, expected, waiting, ended=ended)
    lines = text.splitlines()
    columns = {line.index("|") for line in lines if "|" in line}
    assert len(columns) == 1
    (middle,) = columns
    left = [line[:middle].strip() for line in lines]
    right = [line[middle + 1 :].strip() for line in lines]
    assert (left[0], right[0]) == ("history", "code")
    assert (f"> {expected.kind} {expected.key}" if expected else "> (no more rows)") in left
    for kind, key in waiting:
        assert f"> {kind} {key}" in right
    assert ("> (the body has ended)" in right) == ended
    assert ("> (no durable call)" in right) == (not ended and not waiting)
    for row in delivered[-2:]:
        place = left.index(f"{row.kind} {row.key}")
        assert right[place] == left[place]
    assert len(lines) <= 1 + 1 + len(delivered[-8:]) + 1 + len(waiting) + ended
