"""Fixtures of this folder."""

from __future__ import annotations

import pytest

from .kit import effects


@pytest.fixture
def no_effects() -> None:
    """Nothing that a test before has done is among the effects."""
    effects.clear()
