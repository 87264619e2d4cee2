"""What the durable calls of one resident run share: its identity, its turns, its converters, its way out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn, Protocol

import attrs

from durable_trio.clock import Clock
from durable_trio.codec import Codec
from durable_trio.context.saga import Saga
from durable_trio.context.workers import StepTasks
from durable_trio.errors import CodecError, Detached
from durable_trio.failures import CannotRebuild, Failures
from durable_trio.records import HistoryRow, Key, Problem
from durable_trio.replay.calls import Call
from durable_trio.replay.turns import Turns
from durable_trio.rules import randomness

Observe = Callable[[str, Mapping[str, Any]], None]


class Parker(Protocol):
    """Sets the run aside."""

    def park(self, problem: Problem) -> None:
        """Park the run with this problem and detach it."""


@attrs.define(kw_only=True, eq=False)
class Environment:
    """Everything around one run's body."""

    run_id: str
    generation: int
    seed: bytes
    fingerprint: str
    turns: Turns
    tasks: StepTasks
    clock: Clock
    codec: Codec
    failures: Failures
    saga: Saga
    host: Parker
    observe: Observe | None
    stored_values: Mapping[str, str]  # as published in the store when the run was claimed
    published: dict[str, str] = attrs.Factory(dict)  # by the body so far, live or at replay
    is_detaching: bool = False

    def where(self, kind: str, key: Key) -> str:
        """Return how errors name a durable call."""
        return f"{kind} {str(key)!r} of run {self.run_id!r}"

    def idempotency_key(self, key: Key) -> str:
        """Return the key that outside services can use to recognise a repeated call."""
        return randomness.idempotency_key(self.seed, self.run_id, self.generation, key)

    def deliver(self, call: Call, row: HistoryRow, annotation: Any) -> Any:
        """Return or raise what a delivered row says; the same live and at replay."""
        if row.error is not None:
            raise self._error_of(call, row)
        if call.outcome is not None or row.result is None:
            return call.outcome
        try:
            return self.codec.decode(row.result, annotation, where=self.where(row.kind, row.key))
        except CodecError as error:
            self.park("codec", f"{error}\nThe recorded value cannot be read back as the code's type.")

    def _error_of(self, call: Call, row: HistoryRow) -> BaseException:
        if call.outcome is not None:
            error: BaseException = call.outcome
            call.outcome = None
            return error
        assert row.error is not None
        try:
            return self.failures.decode(row.error)
        except (CannotRebuild, CodecError) as error:
            self.park(
                "exception",
                f"{self.where(row.kind, row.key)} failed with an exception that cannot be rebuilt: {error}\n"
                "Import its class, or name it in Engine(errors=…).",
            )

    def park(self, kind: str, text: str) -> NoReturn:
        """Set the run aside; never returns."""
        self.host.park(Problem(kind=kind, text=text, fingerprint=self.fingerprint))
        raise Detached
