"""What ``list_runs``, ``watch`` and ``prune`` were given, checked; and the cursors of pages."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, Final

from durable_trio.limits import PAGE_RUNS_MAX
from durable_trio.records import RunStatus
from durable_trio.rows import RunRow
from durable_trio.stores.contract import Store
from durable_trio.stores.cursors import Cursor
from durable_trio.stores.questions import Order, RunFilter
from durable_trio.workflows import Workflow, check_tags

# What a store's integers can be.
_INTEGER_MIN, _INTEGER_MAX = -(2**63), 2**63 - 1


def statuses_of(status: RunStatus | str | Iterable[RunStatus | str] | None) -> tuple[RunStatus, ...] | None:
    """Return the statuses that are asked for; ``None`` for any.

    Raises:
        ValueError: one of them is none.
    """
    if status is None:
        return None
    if isinstance(status, str):
        status = [status]
    found = []
    for item in status:
        try:
            found.append(RunStatus(item))
        except ValueError:
            known = ", ".join(RunStatus)
            raise ValueError(f"{item!r} is no status of a run; choose among {known}") from None
    return tuple(found)


def make_filter(
    *,
    status: RunStatus | str | Iterable[RunStatus | str] | None = None,
    workflow: str | Workflow[..., Any] | None = None,
    tags: Mapping[str, str] | None = None,
    **fields: Any,
) -> RunFilter:
    """Return a filter; ``fields`` are others of it, as they are.

    Raises:
        TypeError, ValueError: something of it cannot be looked for.
    """
    return RunFilter(
        statuses=statuses_of(status),
        workflow=workflow.name if isinstance(workflow, Workflow) else check_text("workflow", workflow),
        tags=tuple(sorted(check_tags(tags).items())),
        **fields,
    )


def check_limit(limit: int) -> int:
    """Return how many a page has at most.

    Raises:
        ValueError: it is none.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= PAGE_RUNS_MAX:
        raise ValueError(f"limit must be between 1 and {PAGE_RUNS_MAX}, not {limit!r}")
    return limit


def order_of(sort: str) -> Order:
    """Return the order of a list.

    Raises:
        ValueError: there is no such order.
    """
    try:
        return Order(sort)
    except ValueError:
        raise ValueError(f"{sort!r} is no order of a list; choose among {', '.join(Order)}") from None


#: By what the runs of a list are ordered, and so the pages of it.
_ORDERED_BY: Final[dict[Order, Callable[[RunRow], int | None]]] = {
    Order.NEWEST: lambda row: row.created_at,
    Order.OLDEST: lambda row: row.created_at,
    Order.CHANGED: lambda row: row.changed,
    Order.ENDED: lambda row: row.finished_at,
}


def make_cursor(row: RunRow, order: Order = Order.NEWEST) -> str:
    """Return the cursor of the page that goes on after a run."""
    number = _ORDERED_BY[order](row)
    text = f"{_INTEGER_MIN if number is None else number}.{row.run}"
    return base64.urlsafe_b64encode((text if order is Order.NEWEST else f"{text}.{order}").encode()).decode()


def read_cursor(cursor: str, order: Order = Order.NEWEST) -> tuple[int, int]:
    """Return where a page of an order ended.

    Raises:
        TypeError, ValueError: no page of that order has given it.
    """
    if not isinstance(cursor, str):
        raise TypeError(f"cursor must be the next_cursor of a page, a str, not {type(cursor).__name__}")
    try:
        number, _, rest = base64.urlsafe_b64decode(cursor.encode()).decode().partition(".")
        run, _, given_for = rest.partition(".")
        numbers = _numbers(number, run)
    except ValueError:
        numbers = None
    if numbers is None:
        raise ValueError(f"{cursor!r} is no cursor of a page")
    if (given_for or Order.NEWEST) != order:
        raise ValueError(f"{cursor!r} is the cursor of a list with another order than {str(order)!r}")
    return numbers


#: In place of a cursor of a watch: only what changes from now on.
NOW: Final = "now"
#: In place of a cursor of a watch: all that there is, as without one.
BEGINNING: Final = "beginning"
_WORDS: Final = (BEGINNING, NOW)


def read_since(store: Store, cursor: str) -> Cursor | None:
    """Return the cursor from which a watch is to go on; ``None`` for the present.

    Raises:
        TypeError, ValueError: no watch has given it.
    """
    if not isinstance(cursor, str):
        raise TypeError(f"since must be the cursor of a watch, a str, not {type(cursor).__name__}")
    if cursor == NOW:
        return None
    try:
        return store.read_cursor(cursor)
    except ValueError as error:
        near = get_close_matches(cursor.lower(), _WORDS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"take one that a watch gave, {BEGINNING!r} or {NOW!r}"
        raise ValueError(f"{cursor!r} is no cursor of a watch; {hint} ({error})") from None


# What cursors of a watch of overdue runs begin with: their order is another one.
_OVERDUE: Final = "due-"


def make_overdue_cursor(row: RunRow) -> str:
    """Return the cursor of a run that is overdue: its place in the order in which those were due."""
    return f"{_OVERDUE}{row.wake_at}-{row.run}"


def read_overdue_cursor(cursor: str) -> tuple[int, int] | None:
    """Return since when a run was due, and the run; ``None`` for the present.

    Raises:
        TypeError, ValueError: no watch of overdue runs has given it.
    """
    if not isinstance(cursor, str):
        raise TypeError(f"since must be the cursor of a watch, a str, not {type(cursor).__name__}")
    if cursor == NOW:
        return None
    due, _, run = cursor.removeprefix(_OVERDUE).partition("-")
    is_one = cursor.startswith(_OVERDUE) and all(part.isascii() and part.isdigit() for part in (due, run))
    numbers = _numbers(due, run) if is_one else None
    if numbers is None:
        text = f"{cursor!r} is no cursor of a watch of overdue runs; take one that it gave, such as {_OVERDUE}4711-12"
        raise ValueError(text)
    return numbers


def _numbers(*pair: str) -> tuple[int, int] | None:
    """Return two numbers that a store can hold; ``None`` if one of them is none."""
    try:
        first, second = map(int, pair)
    except ValueError:
        return None
    return (first, second) if all(_INTEGER_MIN <= number <= _INTEGER_MAX for number in (first, second)) else None


def check_text(what: str, text: object) -> str | None:
    """Return what is looked for, which need not be a name that could be given.

    Raises:
        TypeError: it is no ``str``.
        ValueError: it has a lone surrogate.
    """
    if text is None:
        return None
    if not isinstance(text, str):
        raise TypeError(f"{what} must be a str, not {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} {text!r} is no Unicode text") from None
    return text
