"""Lists of runs, page by page; see ``engine.list_runs``."""

from __future__ import annotations

import attrs

from durable_trio.engine.awaited import awaited_of
from durable_trio.engine.client import Client
from durable_trio.engine.filters import check_limit, make_cursor, order_of, read_cursor
from durable_trio.records import Page
from durable_trio.stores.questions import ListRuns, RunFilter


async def page_of(client: Client, which: RunFilter, *, sort: str, limit: int, cursor: str | None) -> Page:
    """Return some runs of a filter, in an order, with what each of them waits for."""
    services = client.services_in_use()
    limit, order = check_limit(limit), order_of(sort)
    before = None if cursor is None else read_cursor(cursor, order)
    rows = await services.writer.ask(ListRuns(which, order=order, limit=limit + 1, before=before))
    page = rows[:limit]
    following = make_cursor(page[-1], order) if len(rows) > limit else None
    records, awaited = await client.records(page), await awaited_of(services, page, client.settings.clock.stamp())
    runs = (attrs.evolve(record, waits_for=each) for record, each in zip(records, awaited, strict=True))
    return Page(runs=tuple(runs), next_cursor=following)
