"""A sample has its share of each kind, and each kind at least one where there is room."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from durable_trio.rules.sampling import sample_of, spread

KINDS = st.dictionaries(st.integers(0, 30), st.integers(1, 60), min_size=1, max_size=20)


@given(st.integers(0, 100), st.integers(1, 120))
def test_what_is_spread_is_even_and_in_order(size: int, count: int) -> None:
    items = list(range(size))
    found = spread(items, count)
    assert len(found) == min(size, count)
    assert found == sorted(set(found))
    if found:
        gaps = [b - a for a, b in zip([-1, *found], [*found, size], strict=True)]
        assert max(gaps) <= 2 * max(1, size // len(found)) + 1


@given(KINDS, st.integers(1, 400))
def test_each_kind_has_its_share(sizes: dict[int, int], count: int) -> None:
    kinds = {kind: [(kind, number) for number in range(size)] for kind, size in sizes.items()}
    found = sample_of(kinds, count)
    total = sum(sizes.values())
    assert len(found) == len(set(found)) == min(count, total)
    if count < total:
        shares = {kind: sum(1 for each, _ in found if each == kind) for kind in sizes}
        assert sum(1 for share in shares.values() if share) == min(count, len(sizes))
        if count >= 2 * len(sizes):
            for kind, size in sizes.items():
                assert shares[kind] <= size * count / total + len(sizes)


def test_the_largest_kinds_come_first() -> None:
    assert sample_of({"rare": [1], "often": [2, 3, 4]}, 1) == [3]
    assert sample_of({"rare": [1], "often": [2, 3, 4]}, 2) == [3, 1]
