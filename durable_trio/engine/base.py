"""What all parts of the engine's facade share: its settings, its tree, and how stored rows become records."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from os import PathLike
from typing import TYPE_CHECKING, Any, Unpack, cast

import trio

from durable_trio.codec import Codec
from durable_trio.engine.observers import Observer, Observers
from durable_trio.engine.records_of import run_record
from durable_trio.engine.run import Run
from durable_trio.engine.settings import EngineOptions, make_settings
from durable_trio.engine.wiring import Parts
from durable_trio.errors import RunNotFound
from durable_trio.failures import Failures
from durable_trio.records import RunRecord, RunRow
from durable_trio.stores.contract import Store
from durable_trio.stores.sqlite import SqliteStore
from durable_trio.workflows import Registry, Workflow
from supervisors import Supervisor

if TYPE_CHECKING:
    from durable_trio.engine.engine import Engine


class EngineBase:
    """An engine before it is opened, and what handles ask of it."""

    def __init__(
        self,
        store: str | PathLike[str] | Store,
        *,
        workflows: Iterable[Workflow[Any, Any]] = (),
        observers: Sequence[Observer] = (),
        errors: Sequence[type[Exception]] = (),
        durability: str = "full",
        strict: bool = False,
        workers: int = 0,
        app: str | None = None,
        **options: Unpack[EngineOptions],
    ) -> None:
        self._settings = make_settings(
            {
                "observers": tuple(observers),
                "errors": tuple(errors),
                "durability": durability,
                "strict": strict,
                "workers": workers,
                "app": app,
                **options,
            }
        )
        self._registry = Registry(workflows)
        self._observers = Observers(observers)
        self._codec = Codec(payload_bytes_max=self._settings.payload_bytes_max)
        if isinstance(store, Store):
            self._store = store
        elif isinstance(store, str) and "://" in store:
            raise ValueError(f"store {store!r}: only files and ':memory:' are supported")
        else:
            self._store = SqliteStore(store, durability=durability)
        self._parts: Parts | None = None
        self._root: Supervisor | None = None
        self._closed = False
        self._client: AsyncExitStack | None = None
        # Where it was opened, and that thread's name.
        self._home: tuple[trio.lowlevel.TrioToken, str] | None = None

    def _handle(self, run_id: str, workflow: Workflow[Any, Any] | None) -> Run[Any]:
        return Run(cast("Engine", self), run_id, workflow)  # every base is part of one

    def _make_parts(self) -> Parts:
        return Parts(
            self._store,
            settings=self._settings,
            registry=self._registry,
            codec=self._codec,
            observers=self._observers,
        )

    def _parts_in_use(self) -> Parts:
        """Return the parts, for a call that needs them.

        Raises:
            RuntimeError: the engine is not open, or it was opened by another ``trio.run``; nothing has happened.
        """
        parts = self._open_parts()
        self._check_home()
        return parts

    def _check_home(self) -> None:
        """Refuse a call from elsewhere: whatever is shared with the engine's tasks must be touched by them only."""
        try:
            here = trio.lowlevel.current_trio_token()
        except RuntimeError:  # no trio in this thread
            here = None
        if self._home is None or here is self._home[0]:
            return
        raise RuntimeError(
            f"the engine belongs to the trio.run of thread {self._home[1]!r}, and was called from elsewhere, in thread "
            f"{threading.current_thread().name!r}: from a thread write trio.from_thread.run(engine.start, …), with "
            "trio_token=… if trio has not made that thread; or open an engine of its own there, as a client"
        )

    def _open_parts(self) -> Parts:
        if self._parts is None:
            if self._closed:
                raise trio.ClosedResourceError("the engine is closed")
            raise RuntimeError(
                "the engine is not open: use it while it serves, inside `async with open_engine(…)`, "
                "or as a client inside `async with Engine(…)`"
            )
        return self._parts

    # ---- for handles -------------------------------------------------------------------------------------------

    async def _row(self, run_id: str) -> RunRow:
        front = self._parts_in_use().front
        row = await front.read(front.store.run, run_id)
        if row is None:
            raise RunNotFound(f"there is no run {run_id!r}", run_id=run_id)
        return row

    async def _record(self, run_id: str) -> RunRecord:
        (record,) = await self._records([await self._row(run_id)])
        return record

    async def _records(self, rows: Sequence[RunRow]) -> list[RunRecord]:
        front = self._parts_in_use().front
        values = await front.ask(front.store.values, [row.run for row in rows])
        records = []
        for row in rows:
            workflow = self._registry.get(row.workflow)
            failures = self._failures_of(workflow)
            records.append(
                run_record(
                    row,
                    codec=self._codec,
                    workflow=workflow,
                    failures=failures,
                    values=values.get(row.run, {}),
                )
            )
        return records

    def _failures_of(self, workflow: Workflow[..., Any] | None) -> Failures:
        return self._parts_in_use().runs.failures_of(workflow)

    async def _workflow_of(self, run_id: str) -> Workflow[..., Any] | None:
        return self._registry.get((await self._row(run_id)).workflow)
