"""Fixtures of the tests with worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.crash.campaigns import make_reference
from tests.crash.zygote import Zygote
from tests.engine.workers.kit import Scene


@pytest.fixture
def scene(tmp_path: Path, file_path: str) -> Iterator[Scene]:
    """A store, and whoever serves it; nobody is left at the end."""
    scene = Scene(tmp_path, file_path)
    yield scene
    scene.clear()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the runs of one wave give without faults."""
    zygote = Zygote()
    yield make_reference(zygote, tmp_path_factory.mktemp("undisturbed"))
    zygote.close()
