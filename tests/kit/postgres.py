"""A PostgreSQL server for tests: one for each process that runs tests, and a schema for each test.

Where no server is installed, tests that need one are skipped by name; in CI they fail instead. ``DURABLE_TRIO_TEST_PG``
is the URL of one that is there already.
"""

from __future__ import annotations

import atexit
import os
from functools import cache
from itertools import count
from urllib.parse import urlsplit

import psycopg
import pytest
from private_postgres import Server, find_binaries

__all__ = ["drop_schema", "new_schema_url", "port_of", "server"]

_numbers = count()


@cache
def server() -> Server:
    """Return the server of this process; it is stopped when the process ends."""
    started = Server(settings={"synchronous_commit": "off", "shared_buffers": "64MB"})
    atexit.register(started.close)
    return started


def _url() -> str:
    given = os.environ.get("DURABLE_TRIO_TEST_PG")
    if given:
        return given
    if find_binaries() is None and not os.environ.get("CI"):
        pytest.skip("no PostgreSQL is installed")
    return server().url


def new_schema_url() -> str:
    """Return the URL of a schema that is not there yet."""
    url = _url()
    return f"{url}{'&' if '?' in url else '?'}schema=test_{os.getpid()}_{next(_numbers)}"


def port_of(url: str) -> int:
    """Return the port of a URL."""
    port = urlsplit(url).port
    assert port is not None
    return port


def drop_schema(url: str) -> None:
    """Remove the schema of a URL with all that it holds."""
    base, _, name = url.rpartition("schema=")
    with psycopg.connect(base.rstrip("?&"), autocommit=True) as connection:
        connection.execute(f'DROP SCHEMA IF EXISTS "{name}" CASCADE')
