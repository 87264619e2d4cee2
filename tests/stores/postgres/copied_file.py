"""A file with something in every table that is copied, and how it is seen in whatever store it has come to.

As a program it copies a file, and kills itself after some steps: ``FILE URL COUNT``.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import attrs
import pytest

from durable_trio.records import RunStatus, StepKind
from durable_trio.rows import HistoryRow, Key, ServedCode, WaitRow
from durable_trio.stores import copying, moving
from durable_trio.stores.code_questions import ListCodes
from durable_trio.stores.contract import (
    Advance,
    ClaimDue,
    ContinueAsNew,
    Fence,
    Finish,
    ForkRun,
    ReapExecutor,
    Refuse,
    RegisterExecutor,
    Release,
    SendSignal,
    StartRun,
    Store,
)
from durable_trio.stores.generation_questions import ListGeneration, ListGenerations
from durable_trio.stores.postgres.wire import Answer, Request, Wire
from durable_trio.stores.questions import ListRuns, LoadRun, RunFilter
from durable_trio.stores.sqlite import SqliteStore, sealing
from durable_trio.stores.sqlite.library import sqlite3

RUN_COUNT = 9


def started(run_id: str, **more: Any) -> StartRun:
    """Return the start of a run that is due at 5."""
    values: dict[str, Any] = {
        "workflow": "w",
        "args": '["é", "\\u0000", null]',
        "args_digest": b"\0\xff",
        "seed": b"seed",
    }
    return StartRun(**values | {"id": run_id, "created_at": 3, "due_at": 5, "version": 0} | more)


def history(count: int, *, of: str = "s") -> tuple[HistoryRow, ...]:
    """Return rows of steps, from seq 0 on."""
    return tuple(
        HistoryRow(
            seq=seq,
            key=Key("b/é" if seq % 2 else "", of, seq),
            kind=StepKind.STEP,
            attempt=2,
            result=f'"{seq} \\u0000 \\\\ é"',
            error=None,
            compensates=seq == 1,
            started_at=10,
            finished_at=20 + seq,
            earlier='["first"]',
        )
        for seq in range(count)
    )


def fill(path: str) -> None:
    """Make such a file; its executor has gone without a word."""
    store = SqliteStore(path, durability="normal")
    store.open()
    with closing(store):
        own = _register(store)
        for run_id in ("parent", "refused", "anew", "ended", "orphan", "late"):
            more = {"tags": '{"color": "red é", "x": "1"}', "priority": 3, "queue": "q"} if run_id == "parent" else {}
            store.apply([started(run_id, owner=own, ttl_at=4 * 10**15 if run_id == "late" else None, **more)])
        runs = {row.id: row for row in _all(store)}
        fences = {run_id: Fence(row.run, own, row.token) for run_id, row in runs.items()}
        child = started("child", parent=runs["parent"].run, due_at=4 * 10**15)
        wait = WaitRow(key=Key("", "go", 0), kind="signal", due_at=99, attempt=1, started_at=9, error="1", earlier="[]")
        store.apply(
            [
                SendSignal(run_id="parent", name="go", payload="1", signal_id="sent-1", now=7),
                SendSignal(run_id="parent", name="other", payload='"é"', signal_id=None, now=8),
                Advance(
                    fence=fences["parent"],
                    rows=history(5),
                    waits=(wait,),
                    children=(child,),
                    published=(("progress", "5"), ("ké", '"v"')),
                    position=(4, 1),
                ),
            ]
        )
        (entry, *_) = store.ask(LoadRun(runs["parent"].run)).unread
        store.apply([Advance(fence=fences["parent"], taken=((entry.id, 4),))])
        store.apply(
            [Release(fence=fences["parent"], status=RunStatus.SUSPENDED, wake_at=4 * 10**15, waits_for=("go", "é"))]
        )
        store.apply([Refuse(fence=fences["refused"], code=code.code, problem='"p"', now=9) for code in _codes(store)])
        store.apply([Advance(fence=fences["anew"], rows=history(3))])
        store.apply([ContinueAsNew(fence=fences["anew"], args="[2]", generations_kept=None, now=30)])
        store.apply([Advance(fence=fences["ended"], rows=history(2))])
        store.apply([Finish(fence=fences["ended"], status=RunStatus.COMPLETED, result='"r"', now=40)])
        store.apply([ForkRun(run_id="ended", before=Key("b/é", "s", 1), id="fork", now=50)])
        store.apply([Advance(fence=fences["orphan"], rows=history(1))])
        store.apply([started("new", version=-1)])
    # As if its process had been killed: it has not ended by its row.
    connection = sqlite3.connect(path)
    connection.execute("UPDATE executors SET ended_at = NULL, boot_id = 'another'")
    connection.commit()
    connection.close()


def _register(store: Store) -> int:
    (own,) = store.apply([RegisterExecutor(pid=1, host="h", lease=1, codes=(("w", 0, "f"),), now=1)]) or [0]
    return int(own)


def _codes(store: Store) -> tuple[Any, ...]:
    return store.ask(ListCodes())


def _all(store: Store) -> tuple[Any, ...]:
    return store.ask(ListRuns(RunFilter(), limit=100))


def seen(store: Store) -> dict[str, Any]:
    """Return all that a store tells of its runs, without the numbers that it gives itself."""
    rows = {row.id: row for row in _all(store)}
    ids = {row.run: row.id for row in rows.values()}
    return {
        row.id: (
            attrs.evolve(row, run=0, parent=None, changed=0),
            None if row.parent is None else ids[row.parent],
            _loaded(store, row.run),
            [
                (generation, store.ask(ListGeneration(row.run, generation.generation)))
                for generation in store.ask(ListGenerations(row.run, limit=100))
            ],
        )
        for row in rows.values()
    }


def _loaded(store: Store, run: int) -> Any:
    loaded = store.ask(LoadRun(run))
    unread = [attrs.evolve(entry, id=0, run=0) for entry in loaded.unread]
    waits = sorted(loaded.waits, key=lambda wait: wait.key)
    return loaded.history, waits, unread, dict(loaded.values), dict(loaded.positions), loaded.damage


def claimable(store: Store) -> list[str]:
    """Return the ids of what may be claimed some time later, in order."""
    own = _register(store)
    (code, *_) = _codes(store)
    claim = ClaimDue(owner=own, codes=(ServedCode("w", 0, code.code),), now=3 * 10**15, limit=100)
    (rows,) = store.apply([claim]) or [()]
    store.apply([ReapExecutor(executor=own, crashed=False, now=11)])
    return [row.id for row in rows]


def small_pieces() -> None:
    """Have even a small file copied in many pieces."""
    copying._RUNS_MAX, copying._ROWS_MAX = 2, 3  # type: ignore[misc]


class _Steps:
    """Everything that is done to the file's seal, or asked of the server, is a step."""

    def __init__(self, last: int) -> None:
        self.count = 0
        self._last = last

    def take(self, *_: object) -> None:
        if self.count == self._last:
            os.kill(os.getpid(), signal.SIGKILL)
        self.count += 1


def main(path: str, url: str, last: int) -> None:
    """Copy, and die after so many steps; else print how many there were."""
    small_pieces()
    steps = _Steps(last)
    exchange, writing = Wire.exchange, sealing._writing

    def counted(wire: Wire, requests: Sequence[Request]) -> list[Answer]:
        steps.take()
        return exchange(wire, requests)

    @contextmanager
    def traced(path: str, **options: bool) -> Iterator[Any]:
        with writing(path, **options) as connection:
            connection.set_trace_callback(steps.take)
            yield connection

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(Wire, "exchange", counted)
        patches.setattr(sealing, "_writing", traced)
        moving.move(path, url, lambda done, total: None)
    print(steps.count)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
