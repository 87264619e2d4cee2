"""Databases for the tests of the command line."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.desk import shop


@pytest.fixture(scope="session")
def abandoned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a database with a run in each status, whose process was killed."""
    folder = tmp_path_factory.mktemp("shop")
    with shop(folder / "shop.db") as process:
        process.kill()
    # Copies of it stand elsewhere: there, the lock of an executor would say nothing, and only its lease would count.
    connection = sqlite3.connect(folder / "shop.db")
    connection.execute("UPDATE executors SET lock = NULL")
    connection.commit()
    connection.close()
    return folder


@pytest.fixture
def db(abandoned: Path, tmp_path: Path) -> str:
    """The path of a copy of that database."""
    for file in abandoned.iterdir():
        shutil.copyfile(file, tmp_path / file.name)
    return str(tmp_path / "shop.db")


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The path of such a database while a process serves it."""
    path = tmp_path_factory.mktemp("live") / "shop.db"
    with shop(path):
        yield str(path)
