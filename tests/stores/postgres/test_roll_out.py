"""Owners of tables, and roles that only use them: by the command line, and by an engine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from urllib.parse import quote, urlsplit

import psycopg
import pytest
from psycopg import conninfo

from durable_trio.errors import SchemaTooNew, StoreAway, StoreError
from durable_trio.stores.postgres.store import PostgresStore
from durable_trio.stores.postgres.tables import SCHEMA_VERSION
from durable_trio.stores.postgres.texts import texts
from durable_trio.stores.postgres.url import parse_url
from durable_trio.testing.store_contract.kit import start
from tests.cli.desk import call
from tests.kit.postgres import drop_schema, new_schema_url
from tests.stores.postgres.kit import at_once


@pytest.fixture
def url() -> Iterator[str]:
    """Of a schema that is not there."""
    new = new_schema_url()
    yield new
    drop_schema(new)


@pytest.fixture
def role(url: str) -> Iterator[str]:
    """A role that may do nothing."""
    with psycopg.connect(parse_url(url).conninfo, autocommit=True) as connection:
        connection.execute("CREATE ROLE clerk LOGIN")
        yield "clerk"
        connection.execute("DROP OWNED BY clerk")
        connection.execute("DROP ROLE clerk")


def as_role(url: str, role: str) -> str:
    return url.replace("//postgres@", f"//{role}@")


def test_tables_are_made_once(new_url: str) -> None:
    assert call("migrate", "--db", new_url).err == f"the schema is of version {SCHEMA_VERSION} now\n"
    assert call("migrate", "--db", new_url).err == f"the schema is of version {SCHEMA_VERSION} already\n"
    assert call("list", "--db", new_url).code == 0


def test_those_who_come_together_make_them_once(new_url: str) -> None:
    stores = [PostgresStore(new_url) for _ in range(4)]
    try:
        at_once(*(store.open for store in stores))
    finally:
        for store in stores:
            store.close()


def test_a_role_that_may_not_make_them_is_told_who_may(new_url: str, role: str) -> None:
    url = as_role(new_url, role)
    assert "have its owner run `durable-trio migrate --db URL`" in call("migrate", "--db", url).error
    assert "made by whoever serves it first, and by `durable-trio migrate --db URL`" in call("list", "--db", url).error


def test_a_role_with_the_rights_that_are_printed_uses_the_tables_and_owns_none(url: str, role: str) -> None:
    call("migrate", "--db", url)
    assert "durable-trio migrate --grants" in call("list", "--db", as_role(url, role)).error
    said = call("migrate", "--db", url, "--grants", role)
    assert said.code == 0
    with psycopg.connect(parse_url(url).conninfo, autocommit=True) as connection:
        connection.execute(said.out.encode())
    assert call("start", "work", "1", "--id", "first", "--db", as_role(url, role)).code == 0
    assert call("list", "--db", as_role(url, role)).out.splitlines()[1].startswith("first")
    with psycopg.connect(parse_url(as_role(url, role)).conninfo, autocommit=True) as connection:
        schema = parse_url(url).schema
        for statement in (f"DROP TABLE {schema}.runs", f"CREATE TABLE {schema}.mine (a integer)"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())


def test_a_role_that_may_have_no_more_connections_is_told_of_its_own_limit(url: str, role: str) -> None:
    with psycopg.connect(parse_url(url).conninfo, autocommit=True) as connection:
        connection.execute(f"ALTER ROLE {role} CONNECTION LIMIT 0".encode())
    with pytest.raises(StoreAway, match=r"too many connections \(its CONNECTION LIMIT; each process takes"):
        PostgresStore(as_role(url, role)).open()


def test_tables_of_a_newer_version_are_used_if_they_say_that_they_may_be(new_url: str) -> None:
    call("migrate", "--db", new_url)
    with psycopg.connect(parse_url(new_url).conninfo, autocommit=True) as connection:
        schema = parse_url(new_url).schema
        connection.execute(f"UPDATE {schema}.meta SET version = 99".encode())
        store = PostgresStore(new_url)
        store.open()
        store.close()
        connection.execute(f"UPDATE {schema}.meta SET readable_by = 99".encode())
        with pytest.raises(SchemaTooNew, match="upgrade it"):
            store.open()


def test_an_address_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="is no URL of a PostgreSQL database"):
        PostgresStore("postgresql://localhost/x?sslmoed=require")
    with pytest.raises(ValueError, match="is no name of a schema"):
        PostgresStore("postgresql://localhost/x?schema=" + 64 * "x")
    with pytest.raises(ValueError, match="names more than one schema"):
        PostgresStore("postgresql://localhost/x?schema=a&connect_timeout=1&schema=b")
    with pytest.raises(StoreError, match="cannot be reached") as raised:
        PostgresStore("postgresql://joe:secret@127.0.0.1:1/x?passfile=/nowhere&schema=x").open()
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://joe:se%zzcret@host/x",
        "postgresql://joe:secret@[::1]x/x",
        "postgresql://joe:p@secret@host/x",
        "postgresql://joe:12/secret@host/x",
        "postgresql://joe:secret",
        "postgresql://host/x?password=secret=",
    ],
)
def test_what_is_said_of_an_address_does_not_quote_a_password(url: str) -> None:
    with pytest.raises(ValueError, match="is no URL of a PostgreSQL database") as raised:
        PostgresStore(url)
    assert "cret" not in str(raised.value)


def test_an_address_is_read_as_libpq_reads_it() -> None:
    place = parse_url("postgresql://joe:a#b?c+d@host/x?options=-c%20geqo%3Doff&schema=A+%22b%22&user=me+you")
    assert (place.schema, place.name.partition("?")[0]) == ('A+"b"', "postgresql://joe@host/x")
    known = conninfo.conninfo_to_dict(place.conninfo)
    assert (known["password"], known["options"], known["user"]) == ("a#b?c+d", "-c geqo=off", "me+you")
    assert conninfo.conninfo_to_dict(parse_url("postgresql:///x").conninfo)["dbname"] == "x"


def test_settings_of_a_role_change_nothing_of_what_is_stored(new_url: str) -> None:
    """Nor whether one learns that a commit was not waited for."""
    unusual = ("standard_conforming_strings=off", "client_min_messages=error", "idle_session_timeout=20s")
    options = quote(" ".join(f"-c {each}" for each in unusual))
    url = f"{new_url}&options={options}"
    assert call("migrate", "--db", url).code == 0
    with closing(PostgresStore(url)) as store:
        store.open()
        assert start(store, tags=r'{"a\\":"b\u0000c"}').id == "run"
        settings = "SELECT name FROM pg_settings WHERE setting <> boot_val AND name = ANY($1::text[])"
        with store._writer.used() as wire:
            assert wire.execute(settings, texts(each.partition("=")[0] for each in unusual)).rows == []


def test_a_database_of_another_encoding_is_refused_before_anything_is_made_in_it() -> None:
    url = urlsplit(new_schema_url())
    name = f"latin_{os.getpid()}"
    with psycopg.connect(parse_url(url.geturl()).conninfo, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
        try:
            for command in ("list", "migrate"):
                error = call(command, "--db", url._replace(path=f"/{name}").geturl()).error
                assert "the encoding of the database is LATIN1" in error
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
