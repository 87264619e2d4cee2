"""A store that does what a test has told it, and what a writer of it is asked for."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio

from durable_trio.stores.contract import Advance, DeleteRun, Fence, Operation, RequestCancel, StartRun, Sweep
from durable_trio.stores.questions import Question
from durable_trio.stores.sqlite import SqliteStore
from durable_trio.stores.writer import Writer
from durable_trio.testing.wrapping import WrappedStore
from tests.engine.harness import PATIENCE_SECONDS

Apply = Callable[[Sequence[Any]], list[Any]]


def echo(batch: Sequence[Any]) -> list[Any]:
    """The outcome of an operation is the name of its run."""
    return [name_of(operation) for operation in batch]


def name_of(operation: Any) -> str:
    if isinstance(operation, StartRun):
        return operation.id
    if isinstance(operation, Sweep):
        return "upkeep"
    return str(operation.run_id if isinstance(operation, DeleteRun | RequestCancel) else operation.fence.run)


class ScriptedStore(WrappedStore):
    """Applies nothing: it notes batches and threads, and does what it is told with them."""

    def __init__(self, apply: Apply = echo, *, may_block: bool = True) -> None:
        super().__init__(SqliteStore(":memory:"))
        self.may_block = may_block
        self.batches: list[list[str]] = []
        self.threads: list[threading.Thread] = []
        self.blocks: list[bool] = []
        self.script = apply
        self.has_turn = True
        self.answer_seconds = 0.0

    def ask(self, question: Question[Any]) -> Any:
        time.sleep(self.answer_seconds)
        return threading.current_thread()

    def apply(self, batch: Sequence[Operation], *, block: bool = True) -> list[Any] | None:
        self.blocks.append(block)
        if not block and not self.has_turn:
            return None
        self.batches.append([name_of(operation) for operation in batch])
        self.threads.append(threading.current_thread())
        return self.script(batch)

    def transact(self, fence: Fence, fn: Callable[[Any], Advance], *, seconds_max: float) -> Any:
        self.batches.append([f"transaction {fence.run}"])
        self.threads.append(threading.current_thread())
        return fn(None)

    def tidy(self) -> None:
        self.batches.append(["tidy"])
        self.threads.append(threading.current_thread())


def nobody(*_: object) -> None:
    """Nobody is to be told."""


def writer_of(store: ScriptedStore) -> Writer:
    return Writer(store, failed=nobody, still_away=nobody, committed_untold=nobody)


@asynccontextmanager
async def running(store: ScriptedStore) -> AsyncIterator[Writer]:
    writer = writer_of(store)
    async with trio.open_nursery() as nursery:
        await nursery.start(writer.run)
        yield writer
        nursery.cancel_scope.cancel()


def caller(name: object) -> RequestCancel:
    """An operation that somebody calls for and waits for."""
    return RequestCancel(run_id=str(name), reason="null", now=1)


def owner(run: int) -> Advance:
    """An operation of a run's owner: its outcome has happened already."""
    return Advance(fence=Fence(run, 1, 1), now=1)


class Outcomes:
    """Takes the outcomes of submitted operations, in the order in which they come."""

    def __init__(self) -> None:
        self.found: list[tuple[str, Any]] = []
        self.changed = trio.Event()

    def submit(self, writer: Writer, *operations: Any) -> None:
        for operation in operations:
            writer.submit(operation, partial(self.take, name_of(operation)))

    def take(self, name: str, outcome: Any) -> None:
        self.found.append((name, outcome))
        self.changed.set()

    async def wait(self, count: int) -> list[tuple[str, Any]]:
        with trio.fail_after(PATIENCE_SECONDS):
            while len(self.found) < count:
                self.changed = trio.Event()
                await self.changed.wait()
        return self.found

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.found]
