"""A file that is only read stays as it is, whoever serves it meanwhile; one of an earlier version is copied first."""

from __future__ import annotations

import gzip
import os
from contextlib import closing
from pathlib import Path

import pytest

from durable_trio.errors import NotADatabase, SchemaTooNew, StoreError
from durable_trio.stores.questions import FindRun, ListRuns, Order, RunFilter
from durable_trio.stores.sqlite import SqliteStore, sqlite3
from durable_trio.stores.sqlite.reading import SqliteReader, readable
from durable_trio.stores.sqlite.tables import SCHEMA_VERSION
from durable_trio.stores.unfinished_questions import ListUnfinished, LoadUnfinished
from tests.stores.sqlite.kit import fill

EARLIER = Path(__file__).parents[2] / "versions" / "data" / "schema-2.db.gz"


def content(path: str) -> dict[str, bytes]:
    """Return all files of a database but the shared memory, which readers mark."""
    folder = os.path.dirname(path)
    return {name: (Path(folder) / name).read_bytes() for name in os.listdir(folder) if not name.endswith("-shm")}


def version_of(path: str) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


def test_it_reads_beside_a_store_that_is_open_and_changes_nothing(store: SqliteStore) -> None:
    fill(store, "run")
    before = content(store.path)
    with readable(store.path) as path:
        assert path == store.path
        reader = SqliteReader(path)
        reader.open()
        row = reader.ask(FindRun("run"))
        assert row is not None
        assert reader.ask(ListUnfinished()) == (row.run,)
        page = reader.ask(LoadUnfinished([row.run]))
        assert page.taken == 1
        assert page.runs[0].row.id == "run"
        fill(store, "later")
        assert reader.ask(FindRun("later")) is not None
        with closing(reader.connect()) as connection, pytest.raises(sqlite3.OperationalError, match="readonly"):
            connection.execute("DELETE FROM runs")
        reader.close()
    assert before.keys() == content(store.path).keys()


def test_it_refuses_to_write_and_to_answer_what_it_cannot(store: SqliteStore) -> None:
    reader = SqliteReader(store.path)
    with pytest.raises(StoreError, match="not open"):
        reader.ask(FindRun("run"))
    reader.open()
    reader.open()
    with pytest.raises(StoreError, match="only read"):
        reader.apply([])
    with pytest.raises(StoreError, match="only read"):
        reader.tidy()
    with pytest.raises(TypeError, match="no question"):
        reader.ask(ListRuns(RunFilter(), order=Order.NEWEST, limit=1))
    reader.close()
    reader.close()


def test_one_of_an_earlier_version_is_copied_and_the_copy_is_brought_up_to_date(tmp_path: Path) -> None:
    path = str(tmp_path / "app.db")
    Path(path).write_bytes(gzip.decompress(EARLIER.read_bytes()))
    before = Path(path).read_bytes()
    with pytest.raises(StoreError, match="copy it first"):
        SqliteReader(path).open()
    with readable(path) as copy:
        assert copy != path
        assert version_of(copy) == SCHEMA_VERSION
        reader = SqliteReader(copy)
        reader.open()
        assert reader.ask(FindRun("waits")) is not None
        reader.close()
    assert not os.path.exists(copy)
    assert Path(path).read_bytes() == before


def test_what_is_no_store_or_a_newer_one_is_refused(tmp_path: Path, store: SqliteStore) -> None:
    other = tmp_path / "other.db"
    other.write_bytes(b"no database at all" * 100)
    with pytest.raises(NotADatabase), readable(str(other)):
        raise AssertionError
    with closing(store.connect()) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(SchemaTooNew), readable(store.path):
        raise AssertionError
