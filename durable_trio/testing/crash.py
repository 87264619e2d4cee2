"""Crashes inside one process: for tests that crash a run after each of its commits and look at what comes of it.

A cancelled task runs its ``finally`` blocks, a killed one does not. So a simulated crash first cuts every way out: the
store raises ``SimulatedCrash``, which stops the engine and detaches its runs; then the tasks are cancelled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import attrs

from durable_trio.stores.contract import Advance, Fence, Operation, RegisterExecutor, Store
from durable_trio.stores.questions import ListDeaths, ListExecutors, Question
from durable_trio.stores.sqlite import SqliteStore
from durable_trio.testing.wrapping import WrappedStore

T = TypeVar("T")


class SimulatedCrash(BaseException):  # like KeyboardInterrupt, it is no error of anybody
    """The process would have died here."""


class CrashingStore(WrappedStore):
    """A store that outlives engines and crashes them where it is told.

    Args:
        inner: the store that keeps the data; default one in memory.
    """

    def __init__(self, inner: Store | None = None) -> None:
        super().__init__(SqliteStore(":memory:") if inner is None else inner)
        #: Commits so far, of all engines.
        self.commit_count = 0
        self._crash_at: int | None = None
        self._loses_it = False
        self._has_crashed = False
        self._living: set[int] = set()

    def crash_after(self, commits: int | None, *, loses_it: bool = False) -> None:
        """Crash at the commit of that number from now on (1 is the next); ``None`` means never.

        ``loses_it``: before that commit, so that it is lost; otherwise after it, before anybody learns of it.
        """
        self._crash_at = None if commits is None else self.commit_count + commits
        self._loses_it = loses_it

    def open(self) -> None:
        self._has_crashed = False
        self._living.clear()
        super().open()

    def close(self) -> None:
        """Keep the data: the store outlives the engine. ``dispose`` closes it."""
        self._living.clear()

    def dispose(self) -> None:
        """Close the inner store."""
        super().close()

    def apply(self, batch: Sequence[Operation], *, block: bool = True) -> list[Any] | None:
        outcomes: list[Any] | None = self._crashing(lambda: self.inner.apply(batch, block=block))
        for operation, outcome in zip(batch, outcomes or (), strict=False):
            if isinstance(operation, RegisterExecutor) and isinstance(outcome, int):
                self._living.add(outcome)
        return outcomes

    def transact(self, fence: Fence, fn: Callable[[Any], Advance], *, seconds_max: float) -> Any:
        return self._crashing(lambda: self.inner.transact(fence, fn, seconds_max=seconds_max))

    def ask(self, question: Question[T]) -> T:
        """Answer as ``inner`` does; only the executors of the engine that has the store open now are alive."""
        answer: Any = super().ask(question)
        if isinstance(question, ListExecutors):
            answer = tuple(attrs.evolve(row, is_locked=row.id in self._living) for row in answer)
        elif isinstance(question, ListDeaths):
            answer = tuple(attrs.evolve(row, is_locked=row.executor in self._living) for row in answer)
        judged: T = answer
        return judged

    def _crashing(self, commit: Callable[[], Any]) -> Any:
        if self._has_crashed:
            raise SimulatedCrash
        self.commit_count += 1
        if self.commit_count != self._crash_at:
            return commit()
        self._has_crashed = True
        self._living.clear()
        if not self._loses_it:
            commit()
        raise SimulatedCrash
