"""Kills its own process at a named point of the life of a commit: a store that wraps another one.

A probe is ``place:kind``. The places are those between which a crash makes a difference:

- ``before``: the batch has been handed over, nothing of it is written;
- ``inside``: only for ``transaction``, when the user's function is about to run its second statement;
- ``commit``: only for ``transaction``, when the function has returned and its rows wait for the commit;
- ``after``: the batch is committed, and nobody has been told: the last instant before each acknowledgement.

The kind is what is committed, told apart as finely as a run can tell: ``kinds_of`` names it. One batch may hold several
kinds; a probe is reached by each batch that holds its kind, and kills at the ``count``-th one.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import attrs

from durable_trio.records import RunStatus, StepKind, StepStatus
from durable_trio.rows import HistoryRow
from durable_trio.stores.contract import (
    Advance,
    ClaimDue,
    Fence,
    Operation,
    ReapExecutor,
    RegisterExecutor,
    RenewLease,
    SendSignal,
    StartRun,
    Store,
)
from durable_trio.testing.wrapping import WrappedStore

__all__ = ["KINDS", "PROBES", "ProbedStore", "kill_self", "kinds_of"]

#: Every kind of commit by its name, and what it is.
KINDS: Final[Mapping[str, str]] = {
    "start": "a run is stored",
    "claim": "runs that are due are claimed",
    "step": "a step has succeeded",
    "step-failed": "a step has failed for good",
    "transaction": "a transaction step, with the user's rows",
    "transaction-failed": "a transaction step has failed, its rows are rolled back",
    "sleep": "a sleep is over",
    "signal": "a signal is taken",
    "timeout": "no signal came in time",
    "cancel": "a run takes the request to cancel",
    "ttl": "a run's time to live is over",
    "child": "a child is started, with the row that says so",
    "child-end": "the end of a child is taken",
    "deadline": "a durable deadline has expired",
    "compensation": "a compensation has succeeded",
    "compensation-failed": "a compensation has failed for good",
    "wait-sleep": "the due time of a sleep",
    "wait-signal": "the due time of a wait for a signal",
    "wait-retry": "attempts and due time of a retry",
    "wait-intent": "an at-most-once step is about to begin",
    "clear": "a wait was cancelled",
    "compensating": "a run begins to compensate",
    "publish": "a value is published",
    "rest": "a run that stays in memory only waits",
    "release": "a run leaves memory",
    "refuse": "a run is given back that this code does not fit",
    "finish": "a run has ended",
    "send-signal": "a signal is sent",
    "request-cancel": "a run is asked to cancel",
    "abandon": "a run is ended without its code",
    "resume": "a parked or failed run may go on",
    "delete": "a run is removed",
    "prune": "old runs are removed",
    "register": "an executor registers",
    "renew": "an executor renews its lease",
    "reap": "an executor is declared dead or retires, its runs are free",
    "tell-death": "who has found an executor dead has told it",
    "tidy": "the database tidies itself up",
}

#: Every probe by its name.
PROBES: Final[tuple[str, ...]] = (
    *(f"{place}:{kind}" for kind in KINDS for place in ("before", "after")),
    "inside:transaction",
    "commit:transaction",
)

_NAMES: Final[Mapping[type, str]] = {
    StartRun: "start",
    ClaimDue: "claim",
    SendSignal: "send-signal",
    RegisterExecutor: "register",
    RenewLease: "renew",
    ReapExecutor: "reap",
}


def kill_self() -> None:
    """Kill this process at once, as a power cut of it alone: no handler, no ``finally``, no ``atexit``."""
    os.kill(os.getpid(), signal.SIGKILL)


def kinds_of(operation: Operation) -> frozenset[str]:
    """Return the names of what an operation commits."""
    if isinstance(operation, Advance):
        return frozenset(_kinds_of_advance(operation))
    name = _NAMES.get(type(operation))
    if name is None:  # ``Finish``, ``RequestCancel``, ``DeleteRun``, …
        words = "".join(f"-{c.lower()}" if c.isupper() else c for c in type(operation).__name__).strip("-")
        name = words.removesuffix("-run")
    return frozenset({name})


def _kinds_of_advance(advance: Advance) -> Iterator[str]:
    for row in advance.rows:
        yield _kind_of_row(row)
    for wait in advance.waits:
        yield f"wait-{wait.kind}"
    if advance.published:
        yield "publish"
    if advance.rows:
        return
    if advance.status is RunStatus.COMPENSATING:
        yield "compensating"
    elif advance.status is RunStatus.SUSPENDED:
        yield "rest"
    if advance.cleared:
        yield "clear"


def _kind_of_row(row: HistoryRow) -> str:
    if row.kind is StepKind.SIGNAL:
        return "signal" if row.status is StepStatus.COMPLETED else "timeout"
    name = row.kind.value.replace("_", "-")
    return name if row.status is StepStatus.COMPLETED else f"{name}-failed"


_TRANSACTION: Final = frozenset({"transaction"})


class ProbedStore(WrappedStore):
    """A store that passes everything on to another one, and kills its process at a probe.

    Args:
        inner: the store that does the work.
        kill_at: the name of a probe; ``None`` kills never.
        count: at which of the times that the probe is reached, from 1.
        kill: called instead of ``kill_self``.

    Raises:
        ValueError: there is no such probe.
    """

    def __init__(
        self, inner: Store, *, kill_at: str | None = None, count: int = 1, kill: Callable[[], None] = kill_self
    ) -> None:
        if kill_at is not None and kill_at not in PROBES:
            raise ValueError(f"there is no probe {kill_at!r}; PROBES lists them")
        super().__init__(inner)
        self._kill_at = kill_at
        self._left = count
        self._kill = kill

    def _reach(self, place: str, kinds: frozenset[str]) -> None:
        wanted_place, _, kind = (self._kill_at or "").partition(":")
        if place != wanted_place or kind not in kinds:
            return
        self._left -= 1
        if self._left == 0:
            self._kill()

    # ---- writing -------------------------------------------------------------------------------------------------

    def apply(self, batch: Sequence[Operation], *, block: bool = True) -> list[Any] | None:
        """Apply a batch, with the probes of its kinds around it (see ``Store.apply``)."""
        if self._kill_at is None:
            return self.inner.apply(batch, block=block)
        kinds = frozenset().union(*(kinds_of(operation) for operation in batch))
        self._reach("before", kinds)
        outcomes = self.inner.apply(batch, block=block)
        if outcomes is not None:
            self._reach("after", kinds - _without_effect(batch, outcomes))
        return outcomes

    def transact(self, fence: Fence, fn: Callable[[Any], Advance], *, seconds_max: float) -> Any:
        """Run a user's transaction, with its four probes (see ``Store.transact``)."""
        self._reach("before", _TRANSACTION)
        outcome = self.inner.transact(fence, _Probed(fn, self._reach), seconds_max=seconds_max)
        self._reach("after", _TRANSACTION)
        return outcome

    def tidy(self) -> None:
        """Tidy up, with a probe before and after (see ``Store.tidy``)."""
        kinds = frozenset({"tidy"})
        self._reach("before", kinds)
        self.inner.tidy()
        self._reach("after", kinds)


@attrs.frozen
class _Probed:
    """A user's function with its probes; equal to that of another call: it is known again by what it is made of."""

    _fn: Callable[[Any], Advance]
    _reach: Callable[[str, frozenset[str]], None] = attrs.field(eq=False)

    def __call__(self, connection: Any) -> Advance:
        statements = 0

        def look() -> None:
            nonlocal statements
            statements += 1
            if statements == 2:
                self._reach("inside", _TRANSACTION)

        with _looking_at_statements(connection, look):
            advance = self._fn(connection)
        self._reach("commit", _TRANSACTION)
        return advance


@contextmanager
def _looking_at_statements(connection: Any, look: Callable[[], None]) -> Iterator[None]:
    """Call a function before each statement of a connection, where its driver has a way to do that."""
    if hasattr(connection, "set_trace_callback"):
        connection.set_trace_callback(lambda _statement: look())
        try:
            yield
        finally:
            connection.set_trace_callback(None)
    elif hasattr(connection, "cursor_factory"):
        factory = connection.cursor_factory

        class Looking(factory):  # type: ignore[misc, valid-type]  # known only here
            def execute(self, *args: Any, **options: Any) -> Any:
                look()
                return super().execute(*args, **options)

        connection.cursor_factory = Looking
        try:
            yield
        finally:
            connection.cursor_factory = factory
    else:
        yield


def _without_effect(batch: Sequence[Operation], outcomes: Sequence[Any]) -> frozenset[str]:
    """Return the kinds of operations that were refused or found nothing to do, and that no other one has brought in.

    So are those that the store has yet to commit, which have no outcome.
    """
    idle: set[str] = set()
    real: set[str] = set()
    for operation, outcome in zip(batch, outcomes, strict=False):
        found_nothing = isinstance(operation, ClaimDue) and outcome == ()
        is_refused = isinstance(outcome, BaseException) or outcome is False
        (idle if found_nothing or is_refused else real).update(kinds_of(operation))
    for operation in batch[len(outcomes) :]:
        idle.update(kinds_of(operation))
    return frozenset(idle - real)
