"""What was committed after a cursor: changes of runs, and what was put into mailboxes.

Not to be seen in a snapshot is what was written by one of the few transactions that were under way, or by one that has
begun later: a seek for each of those, and the end of an index. So a look costs what is new, however long the oldest
transaction has been open.

In a database that was restored from a dump rows may have been written by transactions whose numbers are still to come.
They are as old as can be: nobody is told of them but who begins with everything.
"""

from __future__ import annotations

import json
from typing import Any, Final

import attrs

from durable_trio.rows import MailboxEntry
from durable_trio.stores.cursors import Cursor
from durable_trio.stores.news_questions import Change, ChangePage, ListChanges, ListNews, ListSent, SentPage
from durable_trio.stores.operations import Sent
from durable_trio.stores.postgres.answers.asking import Asking
from durable_trio.stores.postgres.answers.cursors import (
    NOTHING,
    PRESENT,
    START,
    Point,
    Snapshot,
    present_from,
    read_point,
)
from durable_trio.stores.postgres.answers.filters import COMPARED_RUNS, Part, Values, condition, rarest_part
from durable_trio.stores.postgres.answers.lists import gathered
from durable_trio.stores.postgres.rows import RUN_COLUMNS, entry_from, run_from
from durable_trio.stores.postgres.texts import numbers
from durable_trio.stores.postgres.wire import Answer
from durable_trio.stores.questions import RunFilter
from durable_trio.stores.row_columns import columns_of

__all__ = ["list_changes", "list_news", "list_sent"]

# Values come with the rows: they are of the same instant.
_ROWS: Final = f"""
    WITH page AS MATERIALIZED ({{keys}})
    SELECT {RUN_COLUMNS}, page.stamp,
        (
            SELECT json_object_agg(published.key, published.value ORDER BY published.key) FROM published
            WHERE published.run = page.run
        )
    FROM page JOIN runs USING (run) ORDER BY page.stamp, page.run
"""

_IS_RESTORED: Final = "stamp >= pg_snapshot_xmax(pg_current_snapshot())"
_IS_NOT_RESTORED: Final = "stamp < pg_snapshot_xmax(pg_current_snapshot())"

# What is to be seen of each entry: whether it was read, and what its run's owner needs to take it as it is.
_SENT: Final = f"""
    SELECT {", ".join(f"mailbox.{column}" for column in columns_of(MailboxEntry))}, seq IS NULL, owner, token,
        coalesce((
            SELECT id FROM mailbox AS before
            WHERE before.run = mailbox.run AND before.seq IS NULL AND before.id < mailbox.id ORDER BY id DESC LIMIT 1
        ), 0)
    FROM page JOIN mailbox USING (id) LEFT JOIN runs ON runs.run = mailbox.run ORDER BY mailbox.id
"""
# In the order of ids, in which those of one run were committed.
SENT: Final = f"""
    WITH found AS MATERIALIZED (
        SELECT id FROM mailbox WHERE stamp = ANY ($1::xid8[])
        UNION ALL SELECT id FROM mailbox WHERE stamp >= $2::xid8 AND {_IS_NOT_RESTORED}
    ),
    page AS MATERIALIZED (SELECT id FROM found ORDER BY id LIMIT $3::bigint) {_SENT}
"""
SENT_BEHIND: Final = f"""
    WITH page AS MATERIALIZED (
        SELECT id FROM mailbox
        WHERE id > $3::bigint AND NOT pg_visible_in_snapshot(stamp, $1::pg_snapshot)
            AND pg_visible_in_snapshot(stamp, $2::pg_snapshot)
        ORDER BY id LIMIT $4::bigint
    ) {_SENT}
"""

_Request = tuple[str, tuple[Any, ...]]


# ---- changes -------------------------------------------------------------------------------------------------------


def list_changes(asking: Asking, question: ListChanges) -> ChangePage:
    """Return runs that have changed since, and what they have published."""
    point = START if question.after is None else read_point(question.after, 2)
    return _changes(asking, question.which, point, question.limit)


def list_news(asking: Asking, question: ListNews) -> ChangePage:
    """Return what ``list_changes`` does of all runs."""
    return _changes(asking, RunFilter(), read_point(question.after, 2), question.limit)


def _changes(asking: Asking, which: RunFilter, point: Point, limit: int) -> ChangePage:
    limit, part = max(0, limit), None
    if point.base == NOTHING and which != RunFilter():  # else it is not much that is looked at
        part = rarest_part(asking, which)
    if point.target is None:
        ask = asking.only if part is None else asking.exchange
        first, *answers = ask((PRESENT, ()), _to_find(which, part, point, limit + 1))
        present = present_from(first)
        found = _read(answers[0], point.base, present.point)
    else:
        first, behind = asking.exchange((PRESENT, ()), _to_find(which, part, point, limit + 1))
        present = present_from(first)
        found = _read(behind, point.base, Point(present.era, point.target))
        if len(found) <= limit:  # and what was committed since the page before was read
            later = Point(present.era, point.target)
            (rest,) = asking.exchange(_to_find(which, part, later, limit + 1 - len(found)))
            found += _read(rest, point.target, present.point)
    if point is not START:
        present.must_know(point)
    is_last, changes = len(found) <= limit, tuple(found[:limit])
    if is_last:
        return ChangePage(changes, present.point.cursor, is_last)
    return ChangePage(changes, changes[-1].cursor if changes else attrs.evolve(point, era=present.era).cursor, is_last)


def _to_find(which: RunFilter, part: Part | None, point: Point, limit: int) -> _Request:
    """Return the statement for the runs that were changed after a point, as far as its target."""
    rare = part if part is not None and part.key_count < COMPARED_RUNS else None
    values = Values() if rare is None else Values(list(rare.values.given))
    base, behind, under_way = point.base, point.behind, point.base.under_way
    later: tuple[int, ...] = (base.end, 0)  # a run is never 0: before all that the next transaction has written
    if behind:
        under_way = tuple(each for each in under_way if each >= behind[0])
        later = max(later, behind)
    terms = condition(which, values)
    if point.target is not None:
        is_seen = f"pg_visible_in_snapshot(stamp, {values.add(point.target.for_server, 'pg_snapshot')})"
        terms += f" AND ({is_seen} OR {_IS_RESTORED})" if base == NOTHING else f" AND {is_seen}"
    elif base != NOTHING:
        terms += f" AND {_IS_NOT_RESTORED}"
    of_those = f"stamp = ANY ({values.add(numbers(under_way), 'xid8[]')})"
    if behind:
        of_those += f" AND (stamp, run) > ({values.add(behind[0], 'xid8')}, {values.number(behind[1])})"
    of_later = f"(stamp, run) > ({values.add(later[0], 'xid8')}, {values.number(later[1])})"
    ordered = f"ORDER BY stamp, run LIMIT {values.number(limit)}"
    if rare is not None:
        keys = gathered(rare, "stamp, run", f"({of_those} OR {of_later}) AND {terms}")
    else:
        found = (f"(SELECT stamp, run FROM runs WHERE {each} AND {terms} {ordered})" for each in (of_those, of_later))
        keys = f"SELECT stamp, run FROM ({' UNION ALL '.join(found)}) AS found"
    return _ROWS.format(keys=f"{keys} {ordered}"), tuple(values.given)


def _read(answer: Answer, base: Snapshot, target: Point) -> list[Change]:
    """Return changes with the point behind each: in the middle of what the target shows and the base does not."""
    cursor_behind = Point(target.era, base, target.base).cursor_behind
    return [
        Change(run_from(row[:-2]), json.loads(row[-1]) if row[-1] else {}, cursor_behind(row[-2], row[0]))
        for row in answer.rows
    ]


# ---- messages ------------------------------------------------------------------------------------------------------


def list_sent(asking: Asking, question: ListSent) -> SentPage:
    """Return what was put into the mailboxes of all runs after a point."""
    point, limit = read_point(question.after, 1), max(0, question.limit)
    if point.target is None:
        first, new = asking.only((PRESENT, ()), _to_find_sent(point.base, limit + 1))
        present = present_from(first)
        found = _read_sent(new, point.base, present.point)
    else:
        values = (point.base.for_server, point.target.for_server, point.behind[0], limit + 1)
        first, behind = asking.exchange((PRESENT, ()), (SENT_BEHIND, values))
        present = present_from(first)
        found = _read_sent(behind, point.base, Point(present.era, point.target))
        if len(found) <= limit:
            (rest,) = asking.exchange(_to_find_sent(point.target, limit + 1 - len(found)))
            found += _read_sent(rest, point.target, present.point)
    present.must_know(point)
    is_last, sent = len(found) <= limit, found[:limit]
    cursor = present.point.cursor if is_last else sent[-1][1] if sent else point.cursor
    return SentPage(tuple(each for each, _ in sent), cursor, is_last)


def _to_find_sent(base: Snapshot, limit: int) -> _Request:
    return SENT, (numbers(base.under_way), base.end, limit)


def _read_sent(answer: Answer, base: Snapshot, target: Point) -> list[tuple[Sent, Cursor]]:
    """Return what was sent, with the point behind each."""
    cursor_behind = Point(target.era, base, target.base).cursor_behind
    return [(_sent(row), cursor_behind(row[0])) for row in answer.rows]


def _sent(row: tuple[Any, ...]) -> Sent:
    entry, (is_unread, owner, token, before) = entry_from(row[:-4]), row[-4:]
    follows = (token, before) if is_unread and owner is not None else None
    return Sent(entry=entry, created=is_unread, owner=owner, follows=follows)
