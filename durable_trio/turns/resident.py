"""What the turns ask of the resident run whose turns they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from durable_trio.rows import HistoryRow, WaitRow


class Resident(Protocol):
    """The run in memory, as its turns know it. All of it is synchronous and must not raise.

    What the calls of its body ask of it besides stands in ``calls.body``.
    """

    def control(self, row: HistoryRow) -> None:
        """A cancel or ttl row is delivered: cancel the body."""

    def went_live(self) -> None:
        """All recorded rows are delivered."""

    def idle(self, due_at: int | None, waits_for: tuple[str, ...], waits: tuple[WaitRow, ...], *, now: int) -> None:
        """The run only waits now. ``waits`` are not stored yet. ``due_at``: call ``pump`` then.

        ``now``: what the clock says, if there is a ``due_at``.
        """

    def moved(self) -> None:
        """The run, which has only waited, has something to do again."""

    def foreign(self, places: Sequence[str]) -> None:
        """The body is blocked in waits that are not durable."""

    def stuck(self, row: HistoryRow, *, hopeless: bool) -> None:
        """At replay nobody waits for the next row; hopeless if no task waits for anything outside either."""

    def alarm(self, due_at: int, now: int) -> None:
        """Call ``pump`` at that time, though the run does not only wait. The clock says ``now``."""

    def look_into_mailbox(self) -> None:
        """The mailbox holds more than the run knows of: read it and call ``message``."""

    def is_left_undecided(self) -> None:
        """The body is cancelled, and waits for the commit of what it has done: that may never come."""

    def quiesced(self) -> None:
        """Held, and no function runs and nothing is on its way to the store any more."""

    def write_refused(self, error: BaseException) -> None:
        """A write was refused: the run is no longer ours, or the store is lost."""

    def failed(self, error: BaseException) -> None:
        """Something of ours has failed in this run: park it."""

    def task_abandoned(self, place: str, is_own: bool) -> None:
        """A task of the body did not leave and was abandoned at that place. ``is_own``: it was the body's own."""
