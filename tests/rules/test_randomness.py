"""The rule of chance: the same for the same place of a run, another one for every other."""

from __future__ import annotations

import uuid

from hypothesis import given
from hypothesis import strategies as st

from durable_trio.rows import Key
from durable_trio.rules.randomness import idempotency_key, random_float, random_uuid

SEEDS = st.binary(min_size=16, max_size=16)
BRANCHES = st.sampled_from(["", "a#0", "a#1", "a#0/b#0", "1"])
PLACES = st.tuples(SEEDS, st.integers(0, 20), BRANCHES, st.integers(1, 200))


@given(PLACES)
def test_values_are_the_same_again_and_of_their_kind(place: tuple[bytes, int, str, int]) -> None:
    value, identity = random_float(*place), random_uuid(*place)
    assert (value, identity) == (random_float(*place), random_uuid(*place))
    assert 0 <= value < 1
    assert (identity.version, identity.variant) == (4, uuid.RFC_4122)


@given(st.lists(PLACES, min_size=2, max_size=40, unique=True))
def test_another_place_has_another_value(places: list[tuple[bytes, int, str, int]]) -> None:
    assert len({random_float(*place) for place in places}) == len(places)
    assert len({random_uuid(*place) for place in places}) == len(places)


def test_floats_are_spread_evenly() -> None:
    values = [random_float(b"seed" * 4, 0, "", count) for count in range(1, 2001)]
    assert abs(sum(values) / len(values) - 0.5) < 0.03
    for tenth in range(10):
        assert 140 < sum(tenth <= value * 10 < tenth + 1 for value in values) < 260


KEYS = st.builds(Key, BRANCHES, st.sampled_from(["a", "b", "a#0"]), st.integers(0, 5))


@given(st.lists(st.tuples(SEEDS, st.sampled_from(["r", "s"]), st.integers(0, 3), KEYS), min_size=2, unique=True))
def test_each_step_of_each_generation_of_each_run_has_its_own_idempotency_key(
    steps: list[tuple[bytes, str, int, Key]],
) -> None:
    keys = [idempotency_key(*step) for step in steps]
    assert len(set(keys)) == len(steps)
    assert keys == [idempotency_key(*step) for step in steps]
    assert all(len(key) == 32 and int(key, 16) >= 0 for key in keys)
