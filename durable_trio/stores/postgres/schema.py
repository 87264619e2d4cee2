"""Bringing a database up to date: once, by whoever may, while all others wait for it.

The tables stand in a schema of their own. A role that owns it migrates, with ``durable-trio migrate`` or when a store
is opened; one that may only use the tables is told which version is missing.
"""

from __future__ import annotations

from typing import Final

from durable_trio.errors import SchemaTooNew, StoreError
from durable_trio.stores.postgres.faults import ServerError
from durable_trio.stores.postgres.sqlstates import NO_PERMISSION
from durable_trio.stores.postgres.tables import MIGRATIONS, READABLE_BY, SCHEMA_VERSION
from durable_trio.stores.postgres.wire import Request, Wire

__all__ = ["grants", "migrate", "must_be_there", "quoted", "schema_version"]

# Migrations of all schemas wait for each other: they are rare and short.
_LOCK: Final = "SELECT pg_advisory_xact_lock(hashtextextended('durable_trio migration', 0))"
# (``to_regclass`` gives what this session remembers, also after it has waited for somebody who has made the table.)
_FIND_META: Final = """
    SELECT 1 FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE nspname = $1::text AND relname = 'meta'
"""
_READ_META: Final = "SELECT version, readable_by FROM {schema}.meta"


def quoted(name: str) -> str:
    """Return a name as an identifier in a statement."""
    return '"' + name.replace('"', '""') + '"'


def schema_version(wire: Wire, schema: str, name: str) -> int:
    """Return the version of the tables; 0 if there are none.

    Raises:
        SchemaTooNew: a newer version of this library has made them, which this one cannot work with.
    """
    if not wire.execute(_FIND_META, schema).rows:
        return 0
    version, readable_by = wire.execute(_READ_META.format(schema=quoted(schema))).rows[0]
    if readable_by > SCHEMA_VERSION:
        raise SchemaTooNew(
            f"{name} has schema version {version}, written by a newer version of this library; "
            f"this one knows version {SCHEMA_VERSION}: upgrade it. The database was not changed"
        )
    return int(version)


def must_be_there(wire: Wire, schema: str, name: str) -> int:
    """Return the version of the tables, which are there.

    Raises:
        SchemaTooNew: see ``schema_version``.
        StoreError: there are none.
    """
    version = schema_version(wire, schema, name)
    if not version:
        raise StoreError(
            f"{name} has no tables of this library in schema {schema!r}; they are made by whoever serves it first, and "
            "by `durable-trio migrate --db URL`"
        )
    return version


def migrate(wire: Wire, schema: str, name: str) -> int:
    """Create the schema and its tables, or bring them up to date; return from which version. Others wait meanwhile.

    Raises:
        SchemaTooNew: see ``schema_version``.
        StoreError: the role may not do that; nothing was changed.
    """
    version = schema_version(wire, schema, name)
    if version >= SCHEMA_VERSION:
        return version
    try:
        wire.exchange([Request("BEGIN"), Request(_LOCK)])
        version = schema_version(wire, schema, name)
        if version < SCHEMA_VERSION:
            _bring_up_to_date(wire, schema, version)
        wire.execute("COMMIT")
    except ServerError as error:
        wire.execute("ROLLBACK")
        if error.sqlstate == NO_PERMISSION:
            raise StoreError(
                f"{name} has schema version {version} of {SCHEMA_VERSION}, and this role may not change that: have its "
                f"owner run `durable-trio migrate --db URL`: {error}"
            ) from error
        raise
    return version


def _bring_up_to_date(wire: Wire, schema: str, version: int) -> None:
    if not version:
        found = wire.execute("SELECT 1 FROM pg_namespace WHERE nspname = $1", schema).rows
        if not found:  # IF NOT EXISTS asks for the right to create one even where it is there
            wire.execute(f"CREATE SCHEMA {quoted(schema)}")
    for statements in MIGRATIONS[version:]:
        wire.exchange([Request(statement) for statement in statements])
    wire.execute("UPDATE meta SET version = $1::integer, readable_by = $2::integer", SCHEMA_VERSION, READABLE_BY)


def grants(schema: str, role: str) -> str:
    """Return the statements that let a role use the tables of a schema, and nothing else."""
    place, who = quoted(schema), quoted(role)
    return "\n".join(
        (
            f"GRANT USAGE ON SCHEMA {place} TO {who};",
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {place} TO {who};",
            f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {place} TO {who};",
        )
    )
