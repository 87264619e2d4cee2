"""The groups of an index (``stores.lines``), found by a seek each.

Two indexes have runs in groups: that of the line, of which a claim takes those that fit its executor, and that of the
refused, of which some are parked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from durable_trio.stores.sqlite.layout import stored

__all__ = ["Walk"]


class Walk:
    """How the groups of an index are found, which has its runs in order of workflow, version, refused.

    Args:
        source: the index, with its condition.
    """

    def __init__(self, source: str) -> None:
        of_workflow = f"SELECT version, refused FROM {source} AND workflow = CAST(? AS TEXT)"
        # SQLite seeks by the first column only of a comparison of rows; so in steps.
        self.first = f"{of_workflow} ORDER BY version, refused LIMIT 1"
        self.next_refused = f"{of_workflow} AND version = ? AND refused > CAST(? AS TEXT) ORDER BY refused LIMIT 1"
        self.next_version = f"{of_workflow} AND version > ? ORDER BY version, refused LIMIT 1"

    def groups(self, execute: Callable[..., Any], workflow: str) -> Iterator[tuple[Any, Any]]:
        """Give version and refused of each group of a workflow; where the file is damaged, either may be anything."""
        name = stored(workflow)
        row = execute(self.first, (name,)).fetchone()
        while row is not None:
            yield row
            version, refused = row
            row = None
            if type(version) is int and not isinstance(refused, bytes):  # behind bytes stands nothing more
                behind = stored(refused) if isinstance(refused, str) else b""  # numbers stand before all texts
                row = execute(self.next_refused, (name, version, behind)).fetchone()
            if row is None and type(version) is int:
                row = execute(self.next_version, (name, version)).fetchone()
