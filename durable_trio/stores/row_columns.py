"""The columns that a record is read from: its fields are these, in their order (``rows``)."""

from __future__ import annotations

from typing import Final

import attrs

from durable_trio.rows import Key

__all__ = ["columns_of"]

# Of rows: what is judged, or known of them otherwise.
_NO_COLUMNS: Final = ("damage", "is_new", "is_locked", "silent", "is_alive")


def columns_of(row: type[attrs.AttrsInstance]) -> tuple[str, ...]:
    """Return the columns of a kind of row, the three of its key in the place of that."""
    names = [field.name for field in attrs.fields(row) if field.name not in _NO_COLUMNS]
    return tuple(column for name in names for column in (Key._fields if name == "key" else (name,)))
