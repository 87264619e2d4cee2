"""Stores at work on a server that fails, in all ways at once."""

from __future__ import annotations

import os

import pytest
from private_postgres import find_binaries

from tests.stores.postgres.storm import COUNTED, Storm


@pytest.mark.skipif(
    find_binaries() is None and "CI" not in os.environ, reason="no PostgreSQL is installed that could be stopped"
)
def test_nothing_is_lost_or_done_twice_however_the_server_and_the_way_to_it_fail() -> None:
    counted = Storm(seed=1, seconds=3.0, hands=3).run()
    assert all(counted[each] for each in COUNTED), counted
