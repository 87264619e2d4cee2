"""What a process says of its supervision tree, and how other processes show it."""

from __future__ import annotations

import os
from typing import Any

import pytest
import trio

from durable_trio import Context, Engine, workflow
from durable_trio.clock import from_datetime, to_datetime
from durable_trio.codec import coders
from durable_trio.codec.classes import class_coder
from durable_trio.engine.services.reports import merged
from durable_trio.records import ProcessReport
from durable_trio.stores.questions import ListExecutors
from supervisors import ChildStatus, NodeKind, TreeNode, format_tree
from tests.engine.harness import PATIENCE_SECONDS, serving, wait_until


@workflow
async def waiting(ctx: Context) -> None:
    await ctx.wait_signal("never", timeout=0.9)


async def reported(client: Engine, text: str = "") -> tuple[ProcessReport, ...]:
    """Wait until somebody's report is stored, and has some text in its tree."""
    with trio.fail_after(PATIENCE_SECONDS):
        while True:
            reports = await client.processes()
            if any(text in format_tree(report.tree) for report in reports):
                return reports
            await trio.sleep(0.02)


async def test_the_tree_of_an_engine_is_the_one_of_its_design(file_path: str) -> None:
    async with serving(file_path, waiting) as engine:
        drawing = engine.format_tree()
    assert [line.lstrip("│├└─ ").split()[0] for line in drawing.splitlines()] == [
        "engine",
        "store",
        "runs",
        "services",
        "timers",
        "recovery",
        "feed",
        "dispatcher",
        "janitor",
        "reports",
    ]


async def test_resident_runs_stand_below_their_child_of_the_tree(file_path: str) -> None:
    async with serving(file_path, waiting) as engine:
        await engine.start(waiting, id="w-1")
        await wait_until(lambda: "waiting w-1" in engine.format_tree())
        (runs,) = (child for child in engine.tree().children if child.name == "runs")
        assert [child.name for child in runs.children] == ["waiting w-1"]


async def test_another_process_sees_the_tree_until_the_engine_ends(file_path: str) -> None:
    async with serving(file_path, waiting) as engine, Engine(file_path) as client:
        (report,) = await reported(client)
        assert (report.pid, report.parent_pid) == (os.getpid(), os.getppid())
        assert report.workflows == ("waiting",)
        assert [executor.id for executor in (await engine.status()).executors] == [report.executor]
        (tree,) = await client.trees()
        assert [child.name for child in tree.children] == ["store", "runs", "services"]
        assert tree.pid == os.getpid()
    async with Engine(file_path) as client:
        assert await client.processes() == ()


async def test_a_restarted_service_is_reported_and_logged(
    file_path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(file_path, waiting) as engine, Engine(file_path) as client:
        store = engine._client.store
        with monkeypatch.context() as patch:
            original = store.ask
            patch.setattr(store, "ask", lambda question: 1 / 0 if question == ListExecutors() else original(question))
            await wait_until(lambda: "ZeroDivisionError" in engine.format_tree())
        await reported(client, "ZeroDivisionError")
    (logged, *_) = [record for record in caplog.records if "crashed" in record.message]
    assert logged.message == "engine/services/recovery crashed: ZeroDivisionError: division by zero"
    assert logged.exc_info is not None


async def test_what_reports_are_stored_by_is_compiled_once_in_a_process(
    file_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took longer than all the rest of opening an engine on a file."""
    compiled: list[object] = []
    compile_class = class_coder

    def noted(*args: Any) -> Any:
        compiled.append(args[-1])
        return compile_class(*args)

    async with serving(file_path, waiting) as engine:
        await reported(engine, "reports")
    monkeypatch.setattr(coders, "class_coder", noted)
    async with serving(file_path, waiting) as engine:
        assert await reported(engine, "reports")
    assert compiled == []


async def test_a_store_in_memory_reports_to_nobody() -> None:
    async with serving(":memory:", waiting) as engine:
        assert await engine.processes() == ()
        assert engine.tree().name == "engine"


def test_workers_are_shown_in_their_places_and_grow_older() -> None:
    at = to_datetime(1_000_000)

    def report(pid: int, parent_pid: int, *children: TreeNode) -> ProcessReport:
        tree = node("engine", NodeKind.SUPERVISOR, children=children)
        return ProcessReport(
            pid=pid,
            host="h",
            parent_pid=parent_pid,
            executor=None,
            workflows=(),
            started_at=at,
            updated_at=at,
            tree=tree,
        )

    parent = report(
        1,
        0,
        node("workers", NodeKind.DYNAMIC, children=(node("worker-1", NodeKind.PROCESS, pid=2),)),
    )
    worker = report(2, 1, node("store", NodeKind.TASK, up_seconds=3.0))
    alone = report(7, 0, node("store", NodeKind.TASK))
    first, second = merged([alone, worker, parent], now=from_datetime(at, what="now") + 2_000_000)
    assert (first.pid, second.pid) == (1, 7)
    (workers,) = first.children
    (place,) = workers.children
    assert [(child.name, child.up_seconds) for child in place.children] == [("store", 5.0)]


def node(
    name: str,
    kind: NodeKind,
    *,
    pid: int | None = None,
    up_seconds: float | None = None,
    children: tuple[TreeNode, ...] = (),
) -> TreeNode:
    return TreeNode(name=name, kind=kind, status=ChildStatus.RUNNING, pid=pid, up_seconds=up_seconds, children=children)
