"""What runs had to have stored when their process ended, in the words of people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from durable_trio.errors import StoreError
from durable_trio.logger import Logger
from durable_trio.rows import RunRow
from durable_trio.stores.contract import Advance, Finish
from durable_trio.stores.precedence import OWNERS, Item, UserTransaction
from durable_trio.unseen import visible

__all__ = ["by_run", "lost_text", "named", "tell_lost"]

_LOGGER = Logger("durable_trio.store")

_THINGS_TOLD: Final = 5
_RUNS_NAMED: Final = 10


def by_run(items: Iterable[Item]) -> dict[int, list[Any]]:
    """Return, by run, what its owner has submitted."""
    left: dict[int, list[Any]] = {}
    for item in items:
        if isinstance(item, OWNERS):
            left.setdefault(item.fence.run, []).append(item)
    return left


def tell_lost(left: dict[int, list[Any]], rows: Iterable[RunRow], error: StoreError | None) -> None:
    """Say what runs leave behind, and because of what."""
    _LOGGER.warning(
        "%d runs leave this process with something that could not be stored; they go on from their last stored "
        "step, and do again what they have done since: %s: %s",
        len(left),
        named(left, rows),
        error,
        extra={"event": "writes_lost", "runs": len(left), "cause": str(error)},
    )


def named(left: dict[int, list[Any]], rows: Iterable[RunRow]) -> str:
    """Return the runs that leave something behind, by their ids as far as these are known, with what it is."""
    ids = {row.run: repr(visible(row.id)) for row in rows}
    told = [f"{ids.get(run, f'number {run}')} ({lost_text(items)})" for run, items in list(left.items())[:_RUNS_NAMED]]
    more = f", and {len(left) - len(told):,} more" if len(left) > len(told) else ""
    return ", ".join(told) + more


def lost_text(items: Iterable[Any]) -> str:
    """Return what one run has to have stored."""
    found = list(dict.fromkeys(thing for item in items for thing in _things(item)))
    more = f" and {len(found) - _THINGS_TOLD} more" if len(found) > _THINGS_TOLD else ""
    return ", ".join(found[:_THINGS_TOLD]) + more if found else "that it is left"


def _things(item: Any) -> Iterator[str]:
    if isinstance(item, Advance):
        for row in item.rows:
            yield f"{row.kind} {visible(str(row.key))!r}"
        for wait in item.waits:
            yield f"its wait {visible(str(wait.key))!r}"
        for key, _ in item.published:
            yield f"its value {visible(key)!r}"
    elif isinstance(item, Finish):
        yield f"that it has ended: {item.status}"
    elif isinstance(item, UserTransaction):
        yield "a transaction"
