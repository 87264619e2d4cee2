"""What ``list_runs``, ``watch`` and ``prune`` were given, checked; and the cursors of pages."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

from durable_trio.records import RunStatus
from durable_trio.rows import RunRow
from durable_trio.stores.questions import RunFilter
from durable_trio.workflows import Workflow, check_tags

# What a store's integers can be.
_INTEGER_MIN, _INTEGER_MAX = -(2**63), 2**63 - 1


def statuses_of(status: RunStatus | str | Iterable[RunStatus | str] | None) -> tuple[RunStatus, ...] | None:
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
    return RunFilter(
        statuses=statuses_of(status),
        workflow=workflow.name if isinstance(workflow, Workflow) else check_text("workflow", workflow),
        tags=tuple(sorted(check_tags(tags).items())),
        **fields,
    )


def make_cursor(row: RunRow) -> str:
    return base64.urlsafe_b64encode(f"{row.created_at}.{row.run}".encode()).decode()


def read_cursor(cursor: str) -> tuple[int, int]:
    if not isinstance(cursor, str):
        raise TypeError(f"cursor must be the next_cursor of a page, a str, not {type(cursor).__name__}")
    try:
        created_at, _, run = base64.urlsafe_b64decode(cursor.encode()).decode().partition(".")
        numbers = int(created_at), int(run)
    except ValueError:
        numbers = None
    if numbers is None or not all(_INTEGER_MIN <= number <= _INTEGER_MAX for number in numbers):
        raise ValueError(f"{cursor!r} is no cursor of a page")
    return numbers


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
