"""``copy``: how one moves from a file to a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from durable_trio.stores import moving
from tests.cli.desk import call
from tests.kit.postgres import drop_schema, lend_schema, new_schema_url, return_schema


@pytest.fixture
def url() -> Iterator[str]:
    """Of a schema that holds nothing."""
    lent = lend_schema()
    yield lent
    return_schema(lent)


@pytest.fixture
def file(tmp_path: Path) -> str:
    """With two runs."""
    path = str(tmp_path / "app.db")
    for run_id in ("a", "b"):
        assert call("start", "work", "1", "--id", run_id, "--db", path).code == 0
    return path


def test_runs_are_counted_then_copied_and_not_twice(file: str, url: str) -> None:
    said = call("copy", file, url, "--dry-run")
    assert (said.code, said.out, said.err) == (0, "would copy 2 runs of 2\n", "")
    assert call("list", "--db", file).code == 0
    said = call("copy", file, url)
    assert (said.code, said.out, said.err) == (0, "copied 2 runs of 2\n", "")
    assert sorted(line.split()[0] for line in call("list", "--db", url).out.splitlines()[1:]) == ["a", "b"]
    assert call("copy", file, url).out == f"2 runs of {file} were copied before\n"
    for command in ("list", "check", "migrate"):
        assert "is sealed: its runs were copied to" in call(command, "--db", file).error


def test_a_program_gets_a_document(file: str, url: str) -> None:
    document = {
        "total": 2,
        "copied_count": 2,
        "there_count": 0,
        "row_count": 0,
        "is_repeated": False,
        "is_dry_run": True,
    }
    assert call("copy", file, url, "--dry-run", "--json").json == document
    assert call("copy", file, url, "--json").json == document | {"is_dry_run": False}
    repeated = {"is_dry_run": False, "is_repeated": True}
    assert call("copy", file, url, "--json").json == document | repeated


def test_a_dry_run_makes_no_tables(file: str) -> None:
    url = new_schema_url()
    try:
        assert call("copy", file, url, "--dry-run").out == "would copy 2 runs of 2\n"
        assert call("migrate", "--db", url).err.endswith(" now\n")  # there were none
    finally:
        drop_schema(url)


def test_the_seal_is_taken_back_only_by_somebody_who_is_sure(file: str, url: str) -> None:
    assert call("copy", file, "--unseal").err == f"'{file}' is not sealed\n"
    call("copy", file, url)
    assert "each would live in both; confirm by --yes" in call("copy", file, url, "--unseal").error
    assert "each would live in both; confirm by --yes" in call("copy", file, "--unseal").error
    said = call("copy", file, url, "--unseal", "--yes")
    assert (said.code, said.err) == (0, f"'{file}' is not sealed any more\n")
    assert call("list", "--db", file).code == 0
    assert call("copy", file, url).out == "copied 0 runs of 2; 2 were there already\n"


def test_ctrl_c_says_what_is_left(file: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(moving, "seal", interrupted)
    said = call("copy", file, url)
    assert (said.code, said.err) == (130, "nothing was changed\n")
    monkeypatch.undo()
    monkeypatch.setattr(moving, "FileSource", interrupted)
    said = call("copy", file, url)
    assert said.code == 130
    assert "stays sealed, and nothing is seen at the other database before all is there" in said.err
    assert "the same command goes on, and --unseal takes it back" in said.err
    monkeypatch.undo()
    assert "is sealed: its runs are being copied to" in call("list", "--db", file).error
    assert call("copy", file, url, "--unseal").err == f"'{file}' is not sealed any more\n"
    assert call("copy", file, url).out == "copied 2 runs of 2\n"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), "name the URL of the database that the runs are copied to"),
        (("other.db",), "'other.db' is no postgresql:// URL: runs are copied from a file to a server"),
        (("mysql://joe:secret@host/x",), "store 'mysql://joe@host/x': a path, ':memory:' or a postgresql:// URL"),
        (("postgresql://h/x", "--unseal", "--dry-run"), "--unseal goes with neither --dry-run nor --json"),
        (("postgresql://h/x", "--yes"), "--yes goes with --unseal only"),
    ],
)
def test_what_cannot_be_meant_is_refused(file: str, words: tuple[str, ...], text: str) -> None:
    assert text in call("copy", file, *words).error


def test_there_must_be_a_file_of_this_library(tmp_path: Path, url: str) -> None:
    assert "there is no database" in call("copy", str(tmp_path / "no.db"), url).error
    other = tmp_path / "other.db"
    other.write_bytes(b"x" * 5000)
    assert call("copy", str(other), url).code == 1
    assert sorted(each.name for each in tmp_path.iterdir()) == ["other.db"]
