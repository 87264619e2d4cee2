"""Fixtures of this folder."""

from __future__ import annotations

import pytest

from tests.supervisors.troupe import Troupe


@pytest.fixture
def troupe() -> Troupe:
    return Troupe()
