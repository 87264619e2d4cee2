"""Places on the server for tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from durable_trio.stores.postgres.schema import migrate
from durable_trio.stores.postgres.url import Place, parse_url
from tests.kit.postgres import drop_schema, new_schema_url


@pytest.fixture
def url() -> Iterator[str]:
    """Of a schema that is not there yet."""
    new = new_schema_url()
    yield new
    drop_schema(new)


@pytest.fixture
def place(url: str) -> Place:
    """One with its tables."""
    return _migrated(url)


@pytest.fixture
def other_place() -> Iterator[Place]:
    """Another one in the same database."""
    new = new_schema_url()
    yield _migrated(new)
    drop_schema(new)


def _migrated(url: str) -> Place:
    found = parse_url(url)
    wire = found.connect()
    migrate(wire, found.schema, found.name)
    wire.close()
    return found
