"""What is written to a store piece by piece: long histories are cut and copied, and what nobody sees is removed.

A run may have more rows than one transaction should change, for all writes wait meanwhile. So each operation here does
a bounded part, and whoever asks for it goes on with the next, while other operations have their turn in between.
"""

from __future__ import annotations

import attrs

from durable_trio.records import RunStatus
from durable_trio.rows import Key, RunRow


@attrs.define
class TooLong:
    """The history of that run is to be cut by the caller, piece by piece."""

    row: RunRow


@attrs.define(kw_only=True)
class CutHistory:
    """Remove rows (key and seq) that a run is to go on without. Outcome: ``True``, ``RunNotFound`` or ``RunConflict``.

    ``RunConflict`` if the run is not failed or cancelled, or ``changed`` is another one. Signals that they have
    consumed are unread again. The run stays as it is: a part of what is to be cut is no less resumable.
    """

    run_id: str
    changed: int
    rows: tuple[tuple[Key, int], ...]


@attrs.define(kw_only=True)
class ForkRun:
    """Store a copy of a run with its history before one row. Outcome: ``RunRow``, or an error as a value.

    The rows of started children are copied with attempt 0: the children stay those of the original.
    ``RunNotFound`` for an unknown run, ``ValueError`` if no row has the key ``before``, ``RunConflict`` if ``id``
    exists. Rows with a lower seq are copied with ``compensates`` false, compensation, cancel and ttl rows left out.
    The copy is pending with ``wake_at = now``, has the same workflow, args, queue, priority, tags, seed and generation,
    and says of which run and before which row it is one; earlier generations are not copied. With
    ``signals`` it gets signals, too, in order of arrival: as unread those that are, or that were consumed by a row that
    is not copied; as consumed those with an id that were consumed before, so that the same ones again are known.

    Of a history with more than ``UPKEEP_ROWS_MAX`` rows nothing is copied yet: the outcome is a ``Draft``, which nobody
    sees. The caller has the rows copied (``CopyHistory``) and ends with the same operation with that draft.
    ``RunConflict`` then too if the run was changed meanwhile so that the copy would be of two histories; nothing is
    left of it.
    """

    run_id: str
    before: Key
    id: str
    signals: bool = False
    draft: Draft | None = None
    now: int


@attrs.define
class Draft:
    """A copy that is not finished: of the run ``source[0]`` as it was then, the rows with a seq below ``before``."""

    run: int
    source: tuple[int, int, int | None]  # run, generation, finished_at
    before: int


@attrs.define(kw_only=True)
class CopyHistory:
    """Copy rows of the run ``run_id`` into a draft, by their keys. Outcome: ``True``, or ``RunConflict``.

    Those of kinds that are not copied, and those from ``Draft.before`` on, are passed over. ``RunConflict``, and the
    draft is discarded, if the run was changed, or nobody has gone on with the draft for too long.
    """

    run_id: str
    draft: Draft
    keys: tuple[Key, ...]
    now: int


@attrs.define(kw_only=True)
class DeleteRun:
    """Remove a final run with all its rows. Outcome: ``True``, ``RunNotFound``, or ``RunConflict`` if not final.

    ``RunConflict`` also if it cannot be removed, because a row of somebody else's table refers to it.
    One that is parked because it is damaged is removed as well: there is no other way to end it.
    One with many rows is not stored any more either, for whoever looks; its rows are removed by ``Sweep``.
    """

    run_id: str


@attrs.define(kw_only=True)
class Prune:
    """Remove some final runs that ended before ``before``, oldest first, at most ``limit``. Outcome: ``Pruned``.

    It looks at a bounded number of runs and removes a bounded number of rows; the next operation goes on after
    ``Pruned.position``. Runs with many rows are removed as by ``DeleteRun``. A child is spared while its parent is
    stored and not final, and has the start of the child in its history. What cannot be removed stays, and is named.
    """

    before: int
    statuses: tuple[RunStatus, ...]
    limit: int
    after: tuple[int, int] | None = None


@attrs.define
class Pruned:
    """How many runs were removed, and of how many of them rows are left; where to go on, ``None`` at the end."""

    count: int
    hidden_count: int
    position: tuple[int, int] | None
    stuck: tuple[Stuck, ...] = ()


@attrs.frozen
class Stuck:
    """A run that cannot be removed, for what others have tied to it: its id, why, and where it stands."""

    run_id: str
    why: str
    position: tuple[int, int]


@attrs.define(kw_only=True)
class Sweep:
    """Remove some rows of what nobody sees. Outcome: how many; 0 if nothing is left after ``after``.

    That is runs that were removed, and copies that nobody has gone on with since ``hidden_before``; 1 for the former
    only. ``Stuck`` is the outcome if the next of them cannot be removed: pass it over, by its position.
    """

    hidden_before: int
    after: tuple[int, int] | None = None


PieceOperation = CutHistory | ForkRun | CopyHistory | DeleteRun | Prune | Sweep
