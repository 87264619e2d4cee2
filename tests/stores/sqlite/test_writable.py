"""Whether a database can be written, for who examines it."""

from __future__ import annotations

import errno
import os
import tempfile
from contextlib import closing

import pytest

from durable_trio.cli.examination import examine
from durable_trio.stores.contract import RegisterExecutor
from durable_trio.stores.sqlite import SqliteStore, sqlite3
from durable_trio.stores.sqlite.writable import why_not_writable
from durable_trio.testing.store_contract.kit import one, start


def test_nothing_keeps_a_database_from_being_written_as_a_rule(store: SqliteStore) -> None:
    with closing(store.connect()) as connection:
        assert why_not_writable(connection, store.path) is None
        assert not connection.in_transaction


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG])
def test_a_disk_that_takes_nothing_is_named(store: SqliteStore, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with closing(store.connect()) as connection:
        assert os.strerror(number) in str(why_not_writable(connection, store.path))


def test_who_holds_a_database_is_named(store: SqliteStore) -> None:
    with closing(sqlite3.connect(store.path)) as holder, closing(sqlite3.connect(store.path, timeout=0)) as connection:
        holder.execute("BEGIN IMMEDIATE")
        found = str(why_not_writable(connection, store.path))
    assert "another program keeps" in found
    assert str(os.getpid()) in found


@pytest.mark.parametrize("why_not", [None, "no room beside it; make some"])
def test_an_examination_says_that_nothing_can_be_written_and_guesses_nothing_else(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, why_not: str | None
) -> None:
    """Who is silent then has a reason. Two executors on two machines, or in two containers, may share a pid."""
    monkeypatch.setattr("durable_trio.stores.sqlite.answers.examination.why_not_writable", lambda *_: why_not)
    for host in ("one", "two"):
        one(store, RegisterExecutor(pid=4711, host=host, lease=1, now=0))
    start(store, "due", due_at=1)
    document = examine(store.path)
    texts = {finding.about: finding.text for finding in document.findings if finding.level == "wrong"}
    assert texts.get("writing") == why_not
    assert texts["silent"].startswith("2 executors without a sign of life: process 4711 (for ")
    assert texts["silent"].count("process 4711") == 2
    assert ("nobody can write" in texts["silent"]) == (why_not is not None)
    assert ("nobody can write" in texts["workflows"]) == (why_not is not None)
