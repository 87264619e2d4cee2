"""Reads the tables of a store as others see them: for those who judge it from outside (``testing.checker``)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg
from psycopg import sql

from durable_trio.stores.postgres.url import parse_url

__all__ = ["reading"]


@contextmanager
def reading(url: str) -> Iterator[psycopg.Connection[Any]]:
    """Give a connection within one transaction that sees one instant and cannot write.

    Names without a schema are those of the store, then those of the user.
    """
    place = parse_url(url)
    with closing(place.connect_for_user()) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        connection.execute(sql.SQL("SET LOCAL search_path = {}, public").format(sql.Identifier(place.schema)))
        yield connection
