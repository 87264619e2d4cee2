"""What can be written to a store about those who execute runs: that they come, live, and have ended."""

from __future__ import annotations

import attrs

from durable_trio.rows import DeathRow, OpenStepRow


@attrs.define(kw_only=True)
class RegisterExecutor:
    """Store a new executor, such that its end is noticed. Outcome: its id, never used before.

    ``lease`` (microseconds): for how long it may be seen not to renew before others take it for dead. It is its own.
    No instant is stored that others would compare with their clocks.

    Runs whose owner is no living executor, which only a damaged store has, are set free with it. ``codes`` are those
    that it has, as workflow, version and fingerprint; each gets a number that is never given out again
    (``ListCodes``). Nobody has them by it any more once it is reaped.
    """

    pid: int
    host: str
    lease: int
    codes: tuple[tuple[str, int, str], ...] = ()
    now: int


@attrs.define(kw_only=True)
class RenewLease:
    """Say that an executor lives: its row's ``renewals`` rise. Outcome: ``True``; ``False`` if it was declared dead."""

    executor: int


@attrs.define(kw_only=True)
class ReapExecutor:
    """Declare an executor dead and set its runs free. Outcome: how many runs.

    It is ``None`` where nothing was done: the executor is alive after all, or was declared dead before, by whomever. So
    of all that do it at the same time one knows that it was the one.
    With ``renewals`` it is done only if it has not renewed since it was seen to have done so that often: a renewal that
    comes first wins. Without, it is done whatever it does: its own orderly end.
    Suspended runs without an unread mailbox entry keep their ``wake_at``; all others get ``wake_at = now``. A running
    or compensating run without a history row since its last claim gets ``recoveries + 1``, with one ``recoveries = 1``.
    ``crashed=False`` (an orderly end) leaves ``recoveries`` as they are, but of ``crashed_runs``: those whose own code
    has ended the executor. With ``death`` that is stored, with the number of runs, until ``TellDeath`` removes it.
    """

    executor: int
    death: DeathRow | None = None
    renewals: int | None = None
    crashed: bool = True
    crashed_runs: frozenset[int] = frozenset()
    now: int


@attrs.define(kw_only=True)
class TellDeath:
    """Change who is to tell of a death, and what; ``None``: it is told. Outcome: ``True``; ``False``: nothing changed.

    That is so if another one than ``teller`` is to tell it by now, or it was told.
    """

    executor: int
    teller: str
    becomes: DeathRow | None


@attrs.define(kw_only=True)
class PutReport:
    """Store what a process says of itself, in place of what it said before; ``None`` removes it. Outcome: ``None``.

    ``process`` names it as ``str(ProcessIdentity.own())`` does, so that a store can tell whether it is still there.
    Nothing depends on it but what people are shown. It changes no run, and is no change for watchers.
    """

    process: str  # of one process: not given out again after its end
    report: str | None  # JSON
    now: int


@attrs.define(kw_only=True)
class PutOpenSteps:
    """Store which steps an executor is executing, in place of what it said before. Outcome: ``None``.

    Only a store that ``takes_open_steps`` knows it, and answers ``ListOpenSteps`` from that. Nothing is stored of an
    executor that has ended. What one was at that is reaped with a ``death`` is kept, for the last eight of them; of one
    that ends otherwise it is forgotten with the reap.

    ``steps``: of that executor, at most a hundred, the longest under way first; ``unlisted_count``: how many more.
    """

    executor: int
    steps: tuple[OpenStepRow, ...]
    unlisted_count: int = 0


@attrs.define(kw_only=True)
class ForgetDeadCodes:
    """Forget of runs that sleep which codes have refused them that no executor has any more, of at most 500 runs.

    Outcome: the position to go on from, as ``after``; ``None`` if none of that set is left. It is about runs that these
    very codes have refused, ``workflow``, ``version`` and ``codes`` being what ``ListRefusedSets`` has answered. Those
    that are due (``now``) are left alone: whoever claims them does it, and where nobody fits them people are told why.
    """

    workflow: str
    version: int
    codes: frozenset[int]
    after: int | None = None
    now: int


ExecutorOperation = (
    RegisterExecutor | RenewLease | ReapExecutor | TellDeath | PutReport | PutOpenSteps | ForgetDeadCodes
)
