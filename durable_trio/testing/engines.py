"""What the fixture ``durable_engine`` is: it opens engines for tests, and tells how where it is used in another way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from os import PathLike
from types import TracebackType
from typing import Any, Final, NoReturn, Unpack

import trio

from durable_trio.engine.engine import Engine, open_engine
from durable_trio.engine.observers import Observer
from durable_trio.engine.settings import ServeOptions
from durable_trio.events import RunParked
from durable_trio.stores.contract import Store
from durable_trio.testing.clock import VirtualClock
from durable_trio.workflows import Workflow

__all__ = ["DurableEngine", "Opening", "ParkedRun"]

_WRITE: Final = "write: async with durable_engine(…) as engine:"


class ParkedRun(AssertionError):
    """A run of the test was parked: it would not end, and whoever waits for it would wait for ever."""


class DurableEngine:
    """Opens engines that end with the block that has opened them.

    Args:
        has_virtual_time: their clock is trio's, which the test has replaced.
    """

    def __init__(self, *, has_virtual_time: bool) -> None:
        self._has_virtual_time = has_virtual_time

    def __call__(
        self,
        *workflows: Workflow[Any, Any],
        store: str | PathLike[str] | Store = ":memory:",
        may_park: bool = False,
        **options: Unpack[ServeOptions],
    ) -> Opening:
        """Return what opens an engine: ``async with durable_engine(order) as engine:``.

        Where the engine parks a run, the block is cancelled and raises ``ParkedRun`` with the reason.

        Args:
            may_park: leave the block alone when a run is parked: for a test that is about that.

        Raises:
            ValueError: with virtual time, something that takes its time elsewhere: a file, or worker processes.
        """
        if "workflows" in options:
            raise TypeError("give the workflows one after the other: durable_engine(order, cancel)")
        if self._has_virtual_time:
            if store != ":memory:" and not isinstance(store, Store):
                raise ValueError(
                    f"a file is written by a thread, and virtual time would leap meanwhile: leave out {store!r} "
                    "(the store is in memory then), or leave out virtual_time"
                )
            if options.get("workers"):
                raise ValueError("workers are processes, whose time is the real one: leave out workers or virtual_time")
            options.setdefault("clock", VirtualClock())
        return Opening(_open(store, workflows, options, may_park=may_park))

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"durable_engine opens engines and is none, it has no {name!r}; {_WRITE}")


class Opening(AbstractAsyncContextManager[Engine]):
    """An engine that is open inside the block."""

    def __init__(self, opened: AbstractAsyncContextManager[Engine]) -> None:
        self._opened = opened

    async def __aenter__(self) -> Engine:
        if not trio.lowlevel.in_trio_run():
            raise RuntimeError(
                "the test has to be run by trio: install pytest-trio, and write trio_mode = true into the "
                "configuration of pytest, or @pytest.mark.trio above the test"
            )
        return await self._opened.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return await self._opened.__aexit__(kind, error, traceback)

    def __await__(self) -> NoReturn:
        raise TypeError(f"this is nothing to await; {_WRITE}")

    def __enter__(self) -> NoReturn:
        raise TypeError(f"an engine is opened and closed by tasks; {_WRITE}")

    def __exit__(self, *_: object) -> None:
        """There for ``with`` to come to ``__enter__``."""

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"the engine is not open yet, there is no {name!r}; {_WRITE}")


class _Watch(Observer):
    """Cancels a block when a run is parked."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.event: RunParked | None = None

    def run_parked(self, event: RunParked) -> None:
        self.event = self.event or event
        self.scope.cancel()


@asynccontextmanager
async def _open(
    store: str | PathLike[str] | Store,
    workflows: tuple[Workflow[Any, Any], ...],
    options: ServeOptions,
    *,
    may_park: bool,
) -> AsyncIterator[Engine]:
    if may_park:
        async with open_engine(store, workflows=workflows, **options) as engine:
            yield engine
        return
    watch = _Watch()
    options["observers"] = [*options.get("observers", ()), watch]
    async with open_engine(store, workflows=workflows, **options) as engine:
        with watch.scope:
            yield engine
        if (event := watch.event) is not None:
            raise ParkedRun(
                f"run {event.run_id!r} of workflow {event.workflow!r} is parked ({event.problem.kind}), and does not "
                f"end by itself: {event.problem.text}\n"
                "A test that is about this writes: durable_engine(…, may_park=True)"
            )
