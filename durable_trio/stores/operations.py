"""What can be written to a store, as values: each operation, who is eligible, what is atomic, and its outcome.

``Store.apply`` says what holds for all of them.
"""

from __future__ import annotations

from typing import Final

import attrs

from durable_trio.clock import INSTANT_MAX
from durable_trio.records import RunStatus
from durable_trio.rows import NO_VERSION, HistoryRow, Key, MailboxEntry, RunRow, ServedCode, WaitRow
from durable_trio.stores.executor_operations import ExecutorOperation
from durable_trio.stores.piece_operations import PieceOperation

#: Of a value that a run cannot compare with what it publishes now: before every other.
NO_POSITION: Final = (-1, 0)


@attrs.define
class Fence:
    """Who claims to own a run: the store's key of the run, the executor, and the token of the claim."""

    run: int
    owner: int
    token: int


@attrs.define(kw_only=True)
class StartRun:
    """Store a new run. Outcome: ``Started``, or ``RunConflict``; ``RunNotFound`` if there is no run ``parent``.

    The same ``id`` again with equal ``workflow`` and ``args_digest``: ``Started(created=False)`` with the run as it
    is stored. Otherwise ``RunConflict``, and nothing is written. With ``owner`` the run is claimed in the same
    transaction (status running, token 1, ``started_at = created_at``), provided that executor has not ended; if
    it has, the run is stored unowned. Without, it is ``pending`` with ``wake_at = due_at``, capped at ``ttl_at``.
    ``version`` of its workflow: it keeps that; ``NO_VERSION`` until its first claim.
    """

    id: str
    workflow: str
    args: str
    args_digest: bytes
    queue: str | None = None
    priority: int = 0
    tags: str = "{}"
    seed: bytes
    created_at: int
    due_at: int
    ttl_at: int | None = None
    owner: int | None = None
    parent: int | None = None
    version: int = NO_VERSION


@attrs.define
class Started:
    """A run is stored. ``created`` is False for one that was there already; ``claimed`` if it was claimed with it."""

    row: RunRow
    created: bool
    claimed: bool


@attrs.define(kw_only=True)
class ClaimDue:
    """Claim runs that nobody owns and whose ``wake_at`` has come. Outcome: ``tuple[RunRow, ...]`` as claimed.

    Eligible: some of ``codes`` is of its workflow and version, and is none that has refused it (``Refuse``); ``owner``
    NULL, ``wake_at <= now``; at most ``limit``. What has been claimed before goes before all first claims; then higher
    priority, then earlier ``wake_at``, then the order of start. Each gets the owner, ``token + 1``, its ``wake_at``
    NULL; a pending one gets ``started_at = now`` unless it has one; one that is ``pending`` or ``suspended`` becomes
    ``running``, ``compensating`` stays. A suspended one that has an error was parked while it compensated, and
    becomes that again. One with ``NO_VERSION`` gets the newest version that ``codes`` has of its workflow. Of the codes
    that have refused it those are forgotten that no executor has any more. An executor that has ended gets
    ``OwnershipLost``.

    Of runs that some code has refused at most half as many as ``limit`` are claimed while others are due; with a limit
    of 1 whichever of both was due first.

    Cost must not grow with runs that are not due, or of other workflows, nor with those that are, or their priorities,
    nor with those that are due and refused by ``codes``; it may with versions, and with sets of codes that have refused
    some run. Where very many become due at the same time, they may come in the order of their due times, whatever
    their priority.

    One whose row is damaged is parked instead: it comes unowned and with its ``damage``.

    Of the *suspects*, those with ``SUSPECT_RECOVERIES`` or more, at most ``suspects_max`` are claimed; others are
    passed over, and stay where they are.
    """

    owner: int
    codes: tuple[ServedCode, ...]
    now: int
    limit: int
    suspects_max: int | None = None  # as many as there are


@attrs.define(kw_only=True)
class ClaimRun:
    """Claim one run by its id, due or not. Outcome: its ``RunRow`` as claimed, or an error as a value.

    ``RunNotFound``; ``RunFinished`` if it has ended; ``RunConflict`` if an executor owns it, none of ``codes`` may
    have it (``ClaimDue``), or it is parked as damaged; ``OwnershipLost`` if the claiming executor has ended. What
    changes is as for ``ClaimDue``.

    ``is_asked_for``: by a person, whose word is one more try: what has refused it is forgotten, a problem is cleared.
    """

    owner: int
    run_id: str
    codes: tuple[ServedCode, ...]
    is_asked_for: bool = False
    now: int


@attrs.define(kw_only=True)
class Advance:
    """Commit, all or nothing, what a run's owner has to say. Outcome: ``True``; ``False``; or ``OwnershipLost``.

    ``rows`` are appended to the history (a key that is there already: outcome ``RunConflict``, nothing written).
    ``waits`` are inserted or replaced by key, ``cleared`` are removed (missing ones are no error). ``taken`` marks
    mailbox entries as consumed by the row of that seq; for one that is not unread, or is another run's, the outcome is
    ``RunConflict`` and nothing is written. ``published`` are upserted, JSON text by key, with ``position``: where in
    its life the run has published them, which ``LoadRun`` gives back.
    ``children`` are started with this run as their parent, as ``StartRun`` does; if an id is taken, the outcome is
    ``RunConflict`` with that id, and nothing is written.
    ``unless_unread=(name, at)``: if an unread signal of that name with ``created_at <= at`` is in the mailbox (or one
    that claims to be later than ``now``: it was stamped before the clock was set back), the outcome is ``False`` and
    nothing is written. Nothing else asks what ``now`` is. ``unless_cancelled``: likewise for an unread cancel.
    ``status``: the run's new status, if given; ``RunConflict``, and nothing is written, if it may not follow the one
    that the run has (``rules.run_life``). With ``suspended``, ``wake_at`` and ``waits_for`` are stored with it,
    although the run stays owned: if its executor dies, it is not woken before. Otherwise both are NULL.
    ``error`` replaces the run's error, if given.
    """

    fence: Fence
    rows: tuple[HistoryRow, ...] = ()
    waits: tuple[WaitRow, ...] = ()
    cleared: tuple[Key, ...] = ()
    taken: tuple[tuple[int, int], ...] = ()  # (mailbox id, seq)
    published: tuple[tuple[str, str], ...] = ()
    position: tuple[int, int] = NO_POSITION
    children: tuple[StartRun, ...] = ()
    unless_unread: tuple[str, int] | None = None
    unless_cancelled: bool = False
    status: RunStatus | None = None
    wake_at: int | None = None
    waits_for: tuple[str, ...] = ()
    error: str | None = None
    now: int = INSTANT_MAX


@attrs.define(kw_only=True)
class Release:
    """Let a run go without ending it. Outcome: ``True``; ``False`` if there is something to do; ``OwnershipLost``.

    Stores status, ``wake_at`` and ``waits_for`` and sets the owner NULL. With ``suspended``, it is refused
    (``False``, nothing written) while the mailbox has an unread entry that the run waits for: any cancel or child
    end, or a signal of a name in ``waits_for``. Other statuses are always released; they are those that the run has, so
    that another status is ``RunConflict``.
    """

    fence: Fence
    status: RunStatus
    wake_at: int | None
    waits_for: tuple[str, ...] = ()


@attrs.define(kw_only=True)
class Refuse:
    """Give a run back that a code of its workflow does not fit. Outcome: ``Refused``, or ``OwnershipLost``.

    In one transaction: it is unowned, and due now for other codes; ``compensating`` stays, all else is ``suspended``.
    The code is added to those that have refused it, of which those that no executor has any more are forgotten.
    ``problem`` is kept for each of them: the newest is shown as the run's while no executor has a code of its workflow
    and version that has not refused it. Such a run is *parked*, which is stored nowhere.

    One that more than ``REFUSALS_MAX`` codes would have refused which executors have is parked with that problem
    instead, as by ``ParkDamaged``: no code takes it before somebody resumes it. The outcome is ``Refused(())`` then.
    """

    fence: Fence
    code: int
    problem: str  # JSON of a Problem
    now: int


@attrs.frozen
class Refused:
    """A run was given back. ``untried``: the codes that may still fit it, and that some executor has."""

    untried: tuple[int, ...]


@attrs.define(kw_only=True)
class ParkDamaged:
    """Park a run that is damaged, which no code mends. Outcome: ``True`` or ``OwnershipLost``.

    It is suspended with that problem, ``wake_at`` NULL, unowned.
    """

    fence: Fence
    problem: str  # JSON of a Problem


@attrs.define(kw_only=True)
class Finish:
    """End a run. Outcome: ``True``; ``False``; or ``OwnershipLost``; ``RunConflict`` if it cannot end like that.

    What compensates does not complete. With ``unless_cancelled``: if the mailbox has an unread cancel, the outcome is
    ``False`` and nothing is written.
    Sets the final status, result, error, ``finished_at``, ``compensation_errors``; owner, ``wake_at`` and
    ``waits_for`` become NULL, its wait rows go. A run with a parent leaves an entry of kind ``child`` (name: its
    id, payload: its status as JSON) in the parent's mailbox, in the same transaction, if the parent has not ended;
    an unowned suspended parent is woken, as by ``SendSignal``.
    """

    fence: Fence
    status: RunStatus
    result: str | None = None
    error: str | None = None
    compensation_errors: str = "[]"
    unless_cancelled: bool = False
    now: int


@attrs.define(kw_only=True)
class ContinueAsNew:
    """End a run's history and let it begin anew with other arguments. Outcome: ``True`` or ``OwnershipLost``.

    Or ``RunConflict`` if it compensates: it would be half undone.

    Wait rows go, the generation rises by one, the run is pending, unowned and due now, its recoveries are 0,
    ``started_at`` and ``error`` NULL; with ``version`` that is its version from now on, also one that no executor
    knows: then it waits for one. Its history is that of an earlier generation from now on (``ListGeneration``). Of
    these ``generations_kept`` are kept, ``None`` for all, each with at most ``GENERATION_ROWS_MAX`` rows, the last
    ones. Where more are stored than that, the oldest go, some with each operation, so that the work of one is bounded.
    What the run was started with stays known, so that the same start again is still the same run. Unread mailbox
    entries and published values stay, the values at ``NO_POSITION``: the history in which they had another is gone.
    """

    fence: Fence
    args: str
    version: int | None = None  # the one that it has
    generations_kept: int | None = 0
    now: int


@attrs.define(kw_only=True)
class SendSignal:
    """Put a signal into a run's mailbox. Outcome: ``Sent``, or an error as a value.

    ``RunNotFound``, ``RunFinished``, ``RunConflict``, ``MailboxFull``. The same ``signal_id`` to one run again,
    with the same name and payload, is the same signal (``created=False``), also when it was consumed long ago and when
    the run has ended; with another name or payload ``RunConflict``.
    With ``unread_max``: if so many signals to the run are unread, ``MailboxFull``, and nothing is written. Not for one
    whose name a suspended run ``waits_for`` and has no unread signal of: only that lets it go on, and make room.
    An unowned suspended run that waits for that name is woken, unless it is parked as damaged: it gets
    ``wake_at = now``, or keeps an earlier one and with it its place among those that are due.
    """

    run_id: str
    name: str
    payload: str
    signal_id: str | None
    unread_max: int | None = None
    now: int


@attrs.define
class Sent:
    """A message is in a mailbox. ``owner`` is the run's executor, if any, at that instant.

    ``follows``: of a new entry for an owned run, what its owner needs to know that no other has come before it: the
    fencing token of the run, and the id of the unread entry before this one in the mailbox, 0 if it is the only one.
    ``None`` of others, and where a store does not tell: then the owner reads the mailbox.
    """

    entry: MailboxEntry
    created: bool
    owner: int | None
    follows: tuple[int, int] | None = None


@attrs.define(kw_only=True)
class SignalWithStart:
    """Store a run unless it is there, and put a signal into its mailbox: both or neither. Outcome: ``Started``.

    Or the error of the one that was refused, as ``StartRun`` and ``SendSignal`` give it. The run is not claimed.
    """

    start: StartRun
    signal: SendSignal


@attrs.define(kw_only=True)
class RequestCancel:
    """Ask a run to cancel. Outcome: ``Sent``; ``None`` if its body had already ended; or ``RunNotFound``.

    A pending, unowned run ends at once: cancelled, ``finished_at = now`` (``Sent`` with that entry, owner ``None``); so
    does one that some code has refused, or that is damaged, and that has no history, no open call and no unfinished
    child: it could not be mended by code. A final or compensating run: ``None``, nothing written. Asking again is the
    same entry (``created=False``), also when it was read long ago. An unowned suspended run is woken, as by
    ``SendSignal``, if the entry is unread; one that some code has refused, or that is damaged, gets ``wake_at = now``,
    what has refused it is forgotten, and a problem is cleared.
    The entry's kind and name are ``cancel``; ``reason`` is JSON (a string or null) and becomes its payload; ``error``
    that of a run that ends at once.
    """

    run_id: str
    reason: str
    error: str | None = None
    now: int


@attrs.define(kw_only=True)
class AbandonRun:
    """End a run that no code ends: cancelled, whoever owns it. Outcome: ``Abandoned``, or an error as a value.

    ``RunNotFound``; ``RunFinished`` if it has ended. Its token rises, so that its owner writes nothing any more. Its
    owner, problem, refusals and wait rows go; ``error`` becomes its error. Each compensation that is registered in its
    history and has no row gets one, failed with ``not_undone``, the last completed step first. Children that it has
    started, and that have not ended, are asked to cancel, with ``reason`` and ``error_of_child`` as by
    ``RequestCancel``; so is the run itself, if it has an owner who has it wait: he finds that it is his no more. A
    parent is told as by ``Finish``.
    """

    run_id: str
    reason: str
    error: str
    error_of_child: str
    not_undone: str
    now: int


@attrs.define
class Abandoned:
    """A run has ended: as it was before, how many of its steps are not undone, and what was sent."""

    row: RunRow
    not_undone_count: int
    sent: tuple[Sent, ...]


@attrs.define(kw_only=True)
class ResumeRun:
    """Let a parked, failed or cancelled run go on. Outcome: the new ``RunRow``, ``RunNotFound`` or ``RunConflict``.

    An unowned run that some code has refused, or that is damaged: that is forgotten, ``wake_at = now``: all codes may
    try it once more. A failed or cancelled run
    none of whose history rows is a compensation: the cancel or ttl row with all rows after it is removed; without one,
    the rows of branch ``(end)`` and the last failures. Those are rows that are not completed and that no row which
    stays follows: later in the same branch or in one around it, or of a call that began after the failure. Items of a
    map, and branches of one nursery, do not follow each other. Signals consumed by removed rows are unread again, a
    consumed or unread cancel entry goes; result, error and ``finished_at`` become NULL, recoveries 0, status pending,
    ``wake_at = now``; ``ttl_at`` NULL if it has passed. Values published since the first removed row get
    ``NO_POSITION``. Anything else: ``RunConflict``.

    The outcome is ``TooLong``, and nothing is written, for a history of more than ``UPKEEP_ROWS_MAX`` rows, unless the
    caller has cut it (``CutHistory``): ``cut_at`` is the run's ``changed`` when it was looked at; ``RunConflict`` if
    it is another one now.

    With ``version`` that is its version from now on. Then any run may be meant that nobody owns and that has not
    completed: one which is neither parked nor has ended is left as it is but for that; ``RunConflict`` if it is the
    version that it has.
    """

    run_id: str
    version: int | None = None
    cut_at: int | None = None
    now: int


Operation = (
    StartRun
    | ClaimDue
    | ClaimRun
    | Advance
    | Release
    | Refuse
    | Finish
    | ContinueAsNew
    | SendSignal
    | SignalWithStart
    | RequestCancel
    | AbandonRun
    | ResumeRun
    | ParkDamaged
    | PieceOperation
    | ExecutorOperation
)
