"""PostgreSQL as a store: the extra ``postgres``. ``psycopg`` is imported only here."""

from durable_trio.stores.postgres.reading import PostgresReader
from durable_trio.stores.postgres.roll_out import grants_for, migrate_database
from durable_trio.stores.postgres.store import PostgresStore

__all__ = ["PostgresReader", "PostgresStore", "grants_for", "migrate_database"]
