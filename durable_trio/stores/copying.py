"""Moving: all runs of one database come to another, once and for good. What is copied, and in which order it is done.

The source is *sealed* first: from then on nobody serves it, nor any earlier version of this library. Then its runs are
*drafted* at the target, some at a time: rows that belong to no run that anybody sees, so that nothing of them is
claimed, listed or awaited. When all are there they become runs of the target in one transaction, parents and children
together, and with it the target notes that this copy is finished. So whenever the process dies, each run lives in one
place or, for the moment, in none; who does it again goes on where it ended.

A run whose id the target has already is passed over if it is equal in all that is copied. If it is another one it is
*refused*, as is what the target cannot keep; then the copy stops before anything is seen there.

What is copied: runs that have not been removed, with history, waits, mailbox, published values, refusals and earlier
generations. What is not: who owns a run (nobody does), executors, reports and deaths, and the numbers that a database
gives by itself, to runs, codes, messages and changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice, zip_longest
from typing import Any, Final, Protocol, TypeVar

import attrs

from durable_trio.errors import StoreError

__all__ = [
    "OF_RUN",
    "RUN_COLUMNS",
    "Copied",
    "CopySource",
    "CopyTarget",
    "Finished",
    "Known",
    "RowsOfRun",
    "Seal",
    "SourceRun",
    "UnfitError",
    "compare",
    "copy_runs",
]

Row = dict[str, Any]
RowsOfRun = Iterator[tuple[str, Row]]  # with the table
Progress = Callable[[int, int], None]
T = TypeVar("T")

#: Of a run: what is copied, and what makes it equal to another. Its parent is known by its id.
RUN_COLUMNS: Final = (
    "id",
    "workflow",
    "status",
    "token",
    "claimed_seq",
    "recoveries",
    "priority",
    "queue",
    "created_at",
    "started_at",
    "finished_at",
    "wake_at",
    "ttl_at",
    "parent_id",
    "generation",
    "version",
    "keys",
    "seed",
    "args_digest",
    "forked_from",
    "forked_before",
    "waits_for",
    "problem",
    "tags",
    "compensation_errors",
    "error",
    "result",
    "args",
)
_OF_HISTORY: Final = (
    "seq",
    "branch",
    "name",
    "n",
    "kind",
    "status",
    "attempt",
    "compensates",
    "started_at",
    "finished_at",
    "error",
    "result",
    "earlier",
)
#: By table: the same of what belongs to a run, and by what it is in order. A code is known by what it is of.
OF_RUN: Final[dict[str, tuple[tuple[str, ...], str]]] = {
    "history": (_OF_HISTORY, "seq, branch, name, n"),
    "waits": (
        ("branch", "name", "n", "kind", "due_at", "attempt", "started_at", "error", "earlier"),
        "branch, name, n",
    ),
    "mailbox": (("seq", "kind", "name", "signal_id", "created_at", "payload"), "id"),
    "published": (("key", "seq", "n", "value"), "key"),
    "refusals": (
        ("workflow", "version", "fingerprint", "first_seen_at", "refused_at", "problem"),
        "workflow, version, fingerprint",
    ),
    "earlier_generations": (
        ("generation", "started_at", "finished_at", "left_out", "version", "args"),
        "generation",
    ),
    "earlier_history": (("generation", *_OF_HISTORY), "generation, seq, branch, name, n"),
}
# When a code was seen for the first time is each database's own.
_NOT_COMPARED: Final = ("first_seen_at",)

# What is sent at once: about so many rows, and characters.
_ROWS_MAX: Final = 2000
_CHARACTERS_MAX: Final = 4 * 1024**2
_RUNS_MAX: Final = 500
# Runs of an error that are named.
_NAMED_MAX: Final = 10


class UnfitError(Exception):
    """The target cannot keep that, whoever sends it; the text says why."""


@attrs.frozen
class Seal:
    """What a sealed source says: of which copy, to which target (its name, and its nonce), and whether that is done."""

    copy: str
    target: str
    nonce: str
    is_copied: bool


@attrs.frozen
class SourceRun:
    """A run as it is to be copied. ``number``, ``parent``: the source's own; ``codes``: those that have refused it.

    A code is a workflow, a version, a fingerprint, and when it was seen first.
    """

    number: int
    parent: int | None
    is_due: bool
    codes: tuple[tuple[str, int, str, int], ...]
    values: Row

    @property
    def id(self) -> str:
        """The run's id."""
        return str(self.values["id"])


@attrs.frozen
class Known:
    """What the target knows of a run: its number there as a draft, and as a run with its id that people see."""

    draft: int | None = None
    is_whole: bool = False
    stored: int | None = None


@attrs.frozen
class Finished:
    """A copy is finished: since when (microseconds), and of how many runs."""

    at: int
    run_count: int


@attrs.define
class Copied:
    """What has been done, or would be: of ``total`` runs so many were copied, and so many were there already."""

    total: int
    copied_count: int = 0
    there_count: int = 0
    row_count: int = 0
    is_repeated: bool = False


class CopySource(Protocol):
    """A database whose runs are copied. Nothing changes in it meanwhile."""

    def count(self) -> int:
        """Return how many runs there are."""

    def runs(self) -> Iterator[SourceRun]:
        """Yield them, in the order of their numbers: a parent before its children.

        A run that is damaged raises ``UnfitError`` only when its rows are asked for.
        """

    def rows(self, run: SourceRun) -> RowsOfRun:
        """Yield what belongs to a run, by tables in the order of ``OF_RUN``.

        Raises:
            UnfitError: it is damaged.
        """


class CopyTarget(Protocol):
    """A database that runs are copied to."""

    def finished(self) -> Finished | None:
        """Return whether this copy was finished before."""

    def look(self, runs: Iterable[SourceRun]) -> dict[int, Known]:
        """Return what is known of runs, by the source's number; nothing of those that are new."""

    def rows(self, number: int) -> tuple[Row, RowsOfRun]:
        """Return what the target has of a run that is stored, in the same order and shape as the source."""

    def draft(self, runs: Iterable[tuple[SourceRun, Iterable[tuple[str, Row]]]], *, is_whole: bool) -> None:
        """Keep rows of runs which nobody sees yet; with ``is_whole`` there are no more of them.

        Raises:
            UnfitError: it cannot keep some of them; nothing was kept.
        """

    def pass_over(self, run: SourceRun, stored: int) -> None:
        """Note that a run is there already, under that number."""

    def discard(self, run: SourceRun) -> None:
        """Remove what was drafted of a run."""

    def finish(self) -> None:
        """Make all that was drafted runs that are seen, in one transaction, and note that the copy is finished."""


@attrs.define
class _Copy:
    """A copy under way."""

    source: CopySource
    target: CopyTarget
    progress: Progress
    counts: Copied
    is_dry_run: bool = False
    refused: dict[str, str] = attrs.Factory(dict)
    _ready: list[tuple[SourceRun, list[tuple[str, Row]]]] = attrs.Factory(list)
    _rows: int = 0
    _characters: int = 0

    def run(self) -> None:
        runs = self.source.runs()
        while page := list(islice(runs, _RUNS_MAX)):
            known = self.target.look(page)
            for run in page:
                try:
                    self._copy(run, known.get(run.number, Known()))
                except UnfitError as error:
                    self.refused[run.id] = str(error)
                self._tell()
        self._send()
        self._check_refused()
        self._tell()

    def _tell(self) -> None:
        self.progress(self.counts.copied_count + self.counts.there_count, self.counts.total)

    def _copy(self, run: SourceRun, known: Known) -> None:
        if known.stored is not None:
            difference = compare(run, self.source.rows(run), *self.target.rows(known.stored))
            if difference:
                raise UnfitError(f"another run has this id there: its {difference} is not the same")
            if not self.is_dry_run:
                self.target.pass_over(run, known.stored)
            self.counts.there_count += 1
            return
        if known.is_whole and known.draft is not None:
            self.counts.copied_count += 1
            return
        if known.draft is not None and not self.is_dry_run:
            self.target.discard(run)
        pieces = _pieces(self.source.rows(run))
        first, second = next(pieces), next(pieces, None)
        if second is None:
            self._add(run, first)
            return
        self._send()
        while second is not None:
            self._draft([(run, first)], is_whole=False)
            first, second = second, next(pieces, None)
        self._draft([(run, first)], is_whole=True)
        self.counts.copied_count += 1

    def _add(self, run: SourceRun, rows: list[tuple[str, Row]]) -> None:
        self._ready.append((run, rows))
        self._rows += 1 + len(rows)
        self._characters += _size(run.values) + sum(_size(row) for _, row in rows)
        if self._rows > _ROWS_MAX or self._characters > _CHARACTERS_MAX:
            self._send()

    def _send(self) -> None:
        """Draft what is ready. If the target cannot keep it, what is at fault is found by drafting one by one."""
        ready, self._ready, self._rows, self._characters = self._ready, [], 0, 0
        if not ready:
            return
        try:
            self._draft(ready, is_whole=True)
            self.counts.copied_count += len(ready)
            return
        except UnfitError as error:
            if len(ready) == 1:
                self.refused[ready[0][0].id] = str(error)
                return
        for run, rows in ready:
            try:
                self._draft([(run, rows)], is_whole=True)
                self.counts.copied_count += 1
            except UnfitError as error:
                self.refused[run.id] = str(error)

    def _draft(self, runs: list[tuple[SourceRun, list[tuple[str, Row]]]], *, is_whole: bool) -> None:
        if not self.is_dry_run:
            self.target.draft(runs, is_whole=is_whole)
        self.counts.row_count += sum(len(rows) for _, rows in runs)

    def _check_refused(self) -> None:
        if not self.refused:
            return
        named = [f"{run_id!r} ({why})" for run_id, why in islice(self.refused.items(), _NAMED_MAX)]
        more = len(self.refused) - len(named)
        raise StoreError(
            f"{len(self.refused)} of {self.counts.total} runs cannot be copied: {', '.join(named)}"
            + (f" and {more} more" if more else "")
            + "; nothing of the copy is seen there yet. Remove them, here (after --unseal) or there, and repeat"
        )


def copy_runs(source: CopySource, target: CopyTarget, progress: Progress, *, is_dry_run: bool = False) -> Copied:
    """Copy all runs of a source that is sealed, or go on with that; nothing is done twice.

    Args:
        progress: is told how many runs are done, of how many.
        is_dry_run: only look what would be done; nothing is written.

    Raises:
        StoreError: some runs cannot be copied, which it names; none of the copy is seen at the target yet. Or the
            target cannot be reached (``StoreAway``): do it again.
    """
    finished = target.finished()
    if finished is not None:
        return Copied(finished.run_count, finished.run_count, is_repeated=True)
    counts = Copied(source.count())
    _Copy(source, target, progress, counts, is_dry_run).run()
    if not is_dry_run:
        target.finish()
    return counts


def compare(run: SourceRun, rows: RowsOfRun, values: Row, stored: RowsOfRun) -> str | None:
    """Return in what two runs differ; ``None`` if they are equal in all that is copied."""
    for column in RUN_COLUMNS:
        if run.values[column] != values[column]:
            return column
    for ours, theirs in zip_longest(rows, stored):
        if ours is None or theirs is None:
            return str((ours or theirs)[0])
        if ours[0] != theirs[0]:
            return str(min(ours[0], theirs[0], key=list(OF_RUN).index))
        if any(ours[1][column] != theirs[1][column] for column in ours[1] if column not in _NOT_COMPARED):
            return str(ours[0])
    return None


def _pieces(rows: RowsOfRun) -> Iterator[list[tuple[str, Row]]]:
    """Yield rows, some at a time; at least once."""
    piece: list[tuple[str, Row]] = []
    size = 0
    for table, row in rows:
        if len(piece) >= _ROWS_MAX or size >= _CHARACTERS_MAX:
            yield piece
            piece, size = [], 0
        piece.append((table, row))
        size += _size(row)
    yield piece


def _size(row: Row) -> int:
    return sum(len(value) for value in row.values() if type(value) is str)
