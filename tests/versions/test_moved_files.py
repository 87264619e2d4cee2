"""A file of any version is moved to PostgreSQL, and every run ends there as it would have ended in the file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import version_flows as flows
from test_files_of_earlier_versions import ENDS, OTHERS, every_run_ends_as_it_should, path

from durable_trio import Engine, StoreError
from durable_trio.stores.moving import move
from tests.engine.harness import serving
from tests.kit.postgres import lend_schema, return_schema

__all__ = ["path"]


@pytest.fixture
def url() -> Iterator[str]:
    """Of a schema that holds nothing."""
    lent = lend_schema()
    yield lent
    return_schema(lent)


async def test_every_run_of_a_file_goes_on_there(path: str, url: str) -> None:
    copied = move(path, url, lambda done, total: None)
    assert copied.copied_count == copied.total == len(ENDS) + len(OTHERS)
    async with serving(url, *flows.WORKFLOWS, durability="normal") as engine:
        await every_run_ends_as_it_should(engine)
    with pytest.raises(StoreError, match="is sealed"):
        async with Engine(path, workflows=flows.WORKFLOWS):
            raise AssertionError("nobody serves the file any more")
