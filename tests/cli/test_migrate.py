"""``migrate``: brings a database up to date."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from durable_trio.stores.postgres.url import parse_url
from durable_trio.stores.sqlite.tables import SCHEMA_VERSION
from tests.cli.desk import ROOT, call
from tests.kit.postgres import drop_schema, new_schema_url


@pytest.mark.parametrize("version", [1, 2])
def test_a_file_of_an_earlier_version_is_brought_up_to_date(tmp_path: Path, version: int) -> None:
    path = str(tmp_path / "app.db")
    file = ROOT / "tests" / "versions" / "data" / f"schema-{version}.db.gz"
    Path(path).write_bytes(gzip.decompress(file.read_bytes()))
    said = call("migrate", "--db", path)
    assert (said.code, said.err) == (0, f"the schema is of version {SCHEMA_VERSION} now; it was of version {version}\n")
    said = call("migrate", "--db", path)
    assert (said.code, said.err) == (0, f"the schema is of version {SCHEMA_VERSION} already\n")
    assert call("list", "--db", path).code == 0


def test_there_must_be_a_database(tmp_path: Path) -> None:
    assert "there is no database" in call("migrate", "--db", str(tmp_path / "no.db")).error


def test_rights_are_granted_on_a_server_only(db: str) -> None:
    assert call("migrate", "--db", db, "--grants", "app").error.endswith(
        "is a file: who may use it, its permissions say"
    )


@pytest.mark.parametrize("command", [["list"], ["migrate"], ["check"]])
def test_an_address_of_no_store_is_refused_without_its_password(command: list[str]) -> None:
    said = call(*command, "--db", "mysql://joe:secret@host/app?password=secret")
    assert said.code == 1
    assert said.error == (
        "durable-trio: store 'mysql://joe@host/app': a path, ':memory:' or a postgresql:// URL is supported"
    )


@pytest.mark.parametrize(
    "command",
    [
        ["list"],
        ["check"],
        ["stats"],
        ["cancel", "a"],
        ["watch", "--since", "now"],
        ["prune", "--before", "1d"],
    ],
)
def test_no_command_but_start_and_migrate_makes_tables_at_a_server(command: list[str]) -> None:
    """Whoever has mistyped ``schema=`` is told so, and nothing is left behind."""
    url = new_schema_url()
    name = url.rpartition("=")[2]
    said = call(*command, "--db", url)
    assert (said.code, said.out) == (1, "")
    assert f"has no tables of this library in schema '{name}'" in said.error
    with parse_url(url).connect_for_user() as connection:
        assert connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", [name]).fetchall() == []


@pytest.mark.parametrize("command", [["start", "work", "--id", "a"], ["migrate"]])
def test_start_and_migrate_make_the_tables(command: list[str]) -> None:
    url = new_schema_url()
    try:
        assert call(*command, "--db", url).code == 0
        assert call("list", "--db", url).code == 0
    finally:
        drop_schema(url)
