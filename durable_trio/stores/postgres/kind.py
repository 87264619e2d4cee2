"""Stores on PostgreSQL servers, as a kind among others (``stores.kinds``): their addresses are URLs."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Final

from durable_trio.stores.kind import Kind
from durable_trio.stores.postgres.reading import PostgresReader
from durable_trio.stores.postgres.roll_out import grants_for, migrate_database
from durable_trio.stores.postgres.store import PostgresStore

__all__ = ["POSTGRES"]

POSTGRES: Final = Kind(
    make_store=PostgresStore,
    make_reader=PostgresReader,
    readable=nullcontext,
    migrate=migrate_database,
    grants=grants_for,
)
