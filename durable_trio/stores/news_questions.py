"""What can be asked of a store about what was committed after a cursor (``stores.cursors``)."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from durable_trio.rows import RunRow
from durable_trio.stores.cursors import Cursor
from durable_trio.stores.operations import Sent
from durable_trio.stores.questions import Question, RunFilter

__all__ = [
    "Change",
    "ChangePage",
    "FindCursor",
    "ListChanges",
    "ListNews",
    "ListSent",
    "SentPage",
]


@attrs.define
class Change:
    """A run as it was after a change, with what it had published by then.

    ``cursor``: the point behind it: who goes on there is given what the page after this change has, and all later ones.
    """

    row: RunRow
    values: Mapping[str, str]
    cursor: Cursor


@attrs.frozen
class ChangePage:
    """Some changes, and the point from which to go on. ``is_last``: there were no more when it was read."""

    changes: tuple[Change, ...]
    cursor: Cursor
    is_last: bool


@attrs.define
class ListChanges(Question[ChangePage]):
    """Answers the runs that were changed after a point, each as it is now; of all, with ``None``.

    No change is missed, and none is given twice, however many write at the same time. Those of one run come in their
    order (``RunRow.changed`` rises with each); among runs there need be none. One that matches no more is left out.
    Values and row are of one instant, so that a watcher is never shown values that are newer than the status.

    Raises:
        CursorLost: what was committed after that point cannot be told; begin with ``None``.
    """

    is_for_people = True
    which: RunFilter
    after: Cursor | None = attrs.field(kw_only=True)
    limit: int = attrs.field(kw_only=True)


@attrs.define(kw_only=True)
class ListNews(Question[ChangePage]):
    """Answers what ``ListChanges`` does of all runs, for the one who passes them on: others wait for it."""

    after: Cursor
    limit: int


@attrs.define
class FindCursor(Question[Cursor]):
    """Answers the point behind all that is committed: whatever is committed from now on comes after it."""


@attrs.frozen
class SentPage:
    """Some of what was sent, and the point from which to go on. ``is_last``: there was no more when it was read."""

    sent: tuple[Sent, ...]
    cursor: Cursor
    is_last: bool


@attrs.define
class ListSent(Question[SentPage]):
    """Answers what was put into the mailboxes of all runs after a point, whether read or not.

    Nothing is missed and nothing given twice; what was sent to one run comes in the order of its mailbox. The point is
    that of ``FindCursor`` or of a page before.

    ``owner`` and ``follows`` of each are those of now: knowing what it follows among what is unread, who owns its
    run by that very claim need not read the mailbox. ``created`` is False of one that was read already.

    Raises:
        CursorLost: what was committed after that point cannot be told; look at each mailbox.
    """

    after: Cursor
    limit: int = attrs.field(kw_only=True)
