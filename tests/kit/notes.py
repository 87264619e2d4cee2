"""A table of the user's, on whatever store: texts, in the order in which transactions have noted them.

What a function does with the connection that it is given is a matter of the store. For each kind there is one here,
by the type of the connection; what has none of its own speaks SQL as SQLite does.
"""

from __future__ import annotations

import time
from functools import singledispatch
from typing import Any

import psycopg

from tests.logstore.tables import Tables

__all__ = ["make_notes", "note", "notes", "take_for_ever"]


@singledispatch
def make_notes(connection: Any) -> None:
    """Make the table, if it is not there."""
    connection.execute("CREATE TABLE IF NOT EXISTS notes (number INTEGER PRIMARY KEY, text TEXT)")


@singledispatch
def note(connection: Any, text: str) -> str:
    """Note a text, and return it in capitals."""
    connection.execute("INSERT INTO notes (text) VALUES (?)", (text,))
    return text.upper()


@singledispatch
def notes(connection: Any) -> list[str]:
    """Return what is noted."""
    return [text for (text,) in connection.execute("SELECT text FROM notes ORDER BY number").fetchall()]


@singledispatch
def take_for_ever(connection: Any) -> None:
    """Take so long in the store that the time of a step is over, if it has one of less than a moment."""
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    connection.execute(endless).fetchall()


@make_notes.register
def _(connection: Tables) -> None:
    """A table is there once something is in it."""


@note.register
def _(connection: Tables, text: str) -> str:
    count = connection.get("notes", "count") or 0
    connection.put("notes", count, text)
    connection.put("notes", "count", count + 1)
    return text.upper()


@notes.register
def _(connection: Tables) -> list[str]:
    return [connection.get("notes", number) for number in range(connection.get("notes", "count") or 0)]


@take_for_ever.register
def _(connection: Tables) -> None:
    time.sleep(0.1)


@make_notes.register
def _(connection: psycopg.Connection) -> None:
    # Two that make it at once would disturb each other: it is made where it is missing.
    if connection.execute("SELECT to_regclass('notes') IS NULL").fetchone() == (True,):
        connection.execute("CREATE TABLE notes (number bigserial PRIMARY KEY, text text)")


@note.register
def _(connection: psycopg.Connection, text: str) -> str:
    connection.execute("INSERT INTO notes (text) VALUES (%s)", (text,))
    return text.upper()


@notes.register
def _(connection: psycopg.Connection) -> list[str]:
    return [text for (text,) in connection.execute("SELECT text FROM notes ORDER BY number").fetchall()]


@take_for_ever.register
def _(connection: psycopg.Connection) -> None:
    connection.execute("SELECT pg_sleep(3600)")
