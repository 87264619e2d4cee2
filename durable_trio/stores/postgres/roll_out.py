"""What is done once before a new version is rolled out, by whoever owns the tables."""

from __future__ import annotations

from durable_trio.stores.postgres.faults import translating
from durable_trio.stores.postgres.schema import grants, migrate
from durable_trio.stores.postgres.tables import SCHEMA_VERSION
from durable_trio.stores.postgres.url import parse_url

__all__ = ["grants_for", "migrate_database"]


def migrate_database(url: str) -> tuple[int, int]:
    """Create or change the tables; return the version of the schema before and now."""
    place = parse_url(url)
    with translating(place.name):
        wire = place.connect()
        try:
            return migrate(wire, place.schema, place.name), SCHEMA_VERSION
        finally:
            wire.close()


def grants_for(url: str, role: str) -> str:
    """Return the statements that let a role use the tables, and nothing else. Nobody is connected to."""
    return grants(parse_url(url).schema, role)
