"""What ``list_runs``, ``watch`` and ``prune`` were given, checked; and the cursors of pages."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

from durable_trio.records import RunRow, RunStatus
from durable_trio.stores.base import RunFilter
from durable_trio.workflows import Workflow, check_tags


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
        workflow=workflow.name if isinstance(workflow, Workflow) else workflow,
        tags=tuple(sorted(check_tags(tags).items())),
        **fields,
    )


def make_cursor(row: RunRow) -> str:
    return base64.urlsafe_b64encode(f"{row.created_at}.{row.run}".encode()).decode()


def read_cursor(cursor: str) -> tuple[int, int]:
    try:
        created_at, _, run = base64.urlsafe_b64decode(cursor.encode()).decode().partition(".")
        return int(created_at), int(run)
    except (ValueError, AttributeError):
        raise ValueError(f"{cursor!r} is no cursor of a page") from None
