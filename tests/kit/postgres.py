"""A PostgreSQL server for tests: one for each process that runs tests, with schemas that tests take in turn.

To make the tables takes longer than most tests. So a schema is emptied when a test gives it back, and the next test
takes it; only tests of how the tables are made want one that is new.

Where no server is installed, tests that need one are skipped by name; in CI they fail instead. ``DURABLE_TRIO_TEST_PG``
is the URL of one that is there already.
"""

from __future__ import annotations

import atexit
import os
import re
from functools import cache
from itertools import chain, count
from typing import Any, LiteralString
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from private_postgres import Server, find_binaries
from psycopg import sql

from durable_trio.stores.postgres.tables import MIGRATIONS

__all__ = [
    "drop_schema",
    "lend_schema",
    "must_be_installed",
    "new_database_url",
    "new_schema_url",
    "port_of",
    "return_schema",
    "server",
]

_numbers = count()
_returned: list[str] = []  # URLs
_connections: dict[str, psycopg.Connection[tuple[Any, ...]]] = {}  # by the URL of their database
_TABLES = re.findall(r"CREATE (?:UNLOGGED )?TABLE (\w+)", " ".join(chain(*MIGRATIONS)))

# Whoever is still at work in the schema, or holds the lock of a store there. A backend is waited for until it is gone.
_END_BACKENDS = """
    SELECT pg_terminate_backend(pid, 10000) FROM (
        SELECT DISTINCT pid FROM pg_locks WHERE pid <> pg_backend_pid() AND (
            relation IN (SELECT oid FROM pg_class WHERE relnamespace = %(schema)s::regnamespace)
            OR locktype = 'advisory'
                AND classid = (hashtext('durable_trio ' || %(schema)s::regnamespace::oid) & 4294967295::bigint)::oid
        )
    ) AS backends
"""
# Rows of most tests are few: to remove them costs a tenth of TRUNCATE, which makes each file anew. What the server has
# learned of a table is forgotten: else its plans are those for an earlier test. Tables that are not ours were made in
# the place of a user.
_EMPTY = """
    DO $$ DECLARE name text; BEGIN
        FOR name IN SELECT oid::regclass FROM pg_class
            WHERE relnamespace IN ({schema}::regnamespace, 'public'::regnamespace) AND relkind = 'r'
                AND NOT (relnamespace = {schema}::regnamespace AND relname = ANY ({own}))
        LOOP
            EXECUTE 'DROP TABLE ' || name || ' CASCADE';
        END LOOP;
        FOR name IN SELECT oid::regclass FROM pg_class
            WHERE relnamespace = {schema}::regnamespace AND relkind = 'r' AND relname <> 'meta'
        LOOP
            EXECUTE CASE WHEN pg_relation_size(name) > 65536 THEN 'TRUNCATE ' ELSE 'DELETE FROM ' END || name;
        END LOOP;
        DELETE FROM pg_statistic
            WHERE starelid IN (SELECT oid FROM pg_class WHERE relnamespace = {schema}::regnamespace);
        UPDATE pg_class SET reltuples = -1, relpages = 0, relallvisible = 0
            WHERE relnamespace = {schema}::regnamespace AND relkind = 'r' AND reltuples <> -1;
        PERFORM setval(oid, 1, false) FROM pg_class WHERE relnamespace = {schema}::regnamespace AND relkind = 'S';
    END $$
"""


@cache
def server() -> Server:
    """Return the server of this process; it is stopped when the process ends."""
    # Without autovacuum, plans do not depend on what it has come to look at.
    started = Server(settings={"synchronous_commit": "off", "shared_buffers": "64MB", "autovacuum": "off"})
    atexit.register(started.close)
    return started


def _url() -> str:
    given = os.environ.get("DURABLE_TRIO_TEST_PG")
    if not given:
        must_be_installed()
    url = _database_at(given) if given else server().url
    _connection(url)  # it is there before and after each test, as the server is
    return url


def must_be_installed() -> None:
    """Skip the test where no server can be started; in CI it fails instead."""
    if find_binaries() is None and not os.environ.get("CI"):
        pytest.skip("no PostgreSQL is installed")


@cache
def _database_at(url: str) -> str:
    """Return the URL of a database of this process's own, on a server that others may use as well."""
    name = f"durable_trio_test_{os.getpid()}"

    def execute(text: str) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(text)

    execute(f"CREATE DATABASE {name} ENCODING UTF8 TEMPLATE template0")
    atexit.register(execute, f"DROP DATABASE {name} WITH (FORCE)")
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def new_schema_url() -> str:
    """Return the URL of a schema that is not there yet."""
    url = _url()
    return f"{url}{'&' if '?' in url else '?'}schema=test_{os.getpid()}_{next(_numbers)}"


def new_database_url() -> str:
    """Return the URL of a database that holds nothing, for one whose tables of users are to be its own."""
    url = _url()
    name = f"durable_trio_test_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} ENCODING UTF8 TEMPLATE template0")
    new = urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
    with psycopg.connect(new, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION amcheck")  # the checker looks at indexes with it
    if "DURABLE_TRIO_TEST_PG" in os.environ:  # else it goes with its server
        atexit.register(_drop_database, url, name)
    return new


def _drop_database(url: str, name: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def lend_schema() -> str:
    """Return the URL of a schema that holds nothing; its tables may be there already."""
    return _returned.pop() if _returned else new_schema_url()


def return_schema(url: str) -> None:
    """Let another test have a schema: empty it, and remove tables of users."""
    base, name = _parts(url)
    ((is_there,),) = _execute(base, "SELECT to_regclass(%s) IS NOT NULL", [f"{name}.meta"])
    if is_there:
        _execute(base, _END_BACKENDS, {"schema": name})
        _execute(base, sql.SQL(_EMPTY).format(schema=name, own=_TABLES))
    _returned.append(url)


def port_of(url: str) -> int:
    """Return the port of a URL."""
    port = urlsplit(url).port
    assert port is not None
    return port


def drop_schema(url: str) -> None:
    """Remove a schema that was new, with all that it holds."""
    base, name = _parts(url)
    _execute(base, sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(name)))


def _parts(url: str) -> tuple[str, str]:
    """Return the URL of the database, and the name of the schema."""
    base, _, name = url.rpartition("schema=")
    return base.rstrip("?&"), name


def _execute(base: str, query: LiteralString | sql.Composed, parameters: Any = None) -> list[tuple[Any, ...]]:
    """Do something that may be done twice, on a connection that stays: a new one takes longer than what is done."""
    try:
        done = _connection(base).execute(query, parameters)
    except psycopg.OperationalError:  # the server has ended it, as it was stopped meanwhile, or has crashed
        _connections.pop(base).close()
        done = _connection(base).execute(query, parameters)
    return done.fetchall() if done.description else []


def _connection(base: str) -> psycopg.Connection[tuple[Any, ...]]:
    if base not in _connections:
        connection = _connections[base] = psycopg.connect(base, autocommit=True)
        connection.execute("SET session_replication_role = replica")  # no trigger needs to see what is emptied
        connection.execute("SET allow_system_table_mods = on")
        atexit.register(connection.close)
    return _connections[base]
