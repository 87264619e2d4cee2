"""PostgreSQL as a store: the extra ``postgres``. ``psycopg`` is imported only here."""

from durable_trio.stores.postgres.store import PostgresStore

__all__ = ["PostgresStore"]
