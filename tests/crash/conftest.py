"""Fixtures of the crash tests: the process that starts processes, and what runs give without faults."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.crash.campaigns import make_reference
from tests.crash.zygote import Zygote


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """The process that all workers are forked from."""
    zygote = Zygote()
    yield zygote
    zygote.close()


@pytest.fixture(scope="session")
def reference(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results of all workflows without faults."""
    return make_reference(zygote, tmp_path_factory.mktemp("reference"))
