"""Why a run that is due is taken by nobody: each reason by itself."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from durable_trio.engine.servers import NOBODY_SERVES, Servers
from durable_trio.records import ProcessReport
from durable_trio.rows import NO_VERSION, ExecutorRow, ServedCode
from supervisors import ChildStatus, NodeKind, TreeNode

REPORT = ProcessReport(
    pid=7,
    host="here",
    parent_pid=1,
    executor=3,
    workflows=("order",),
    started_at=datetime(2026, 1, 1, tzinfo=UTC),
    updated_at=datetime(2026, 1, 1, tzinfo=UTC),
    tree=TreeNode(name="engine", kind=NodeKind.TASK, status=ChildStatus.RUNNING),
    concurrency=2,
)


def executor(id: int, *, silent_seconds: float | None = 1) -> ExecutorRow:
    silent = None if silent_seconds is None else int(silent_seconds * 1_000_000)
    return ExecutorRow(
        id=id,
        pid=7,
        host="here",
        started_at=0,
        renewals=3,
        is_locked=True,
        lease=60_000_000,
        silent=silent,
        ended_at=None,
    )


def why(servers: Servers, workflow: str = "order", version: int = 0, **options: Any) -> str:
    return servers.why_not(workflow, version, **{"due_since": 60_000_000, **options})


def serving_order(*executors: int, versions: tuple[int, ...] = (0,)) -> dict[int, tuple[ServedCode, ...]]:
    return dict.fromkeys(executors, tuple(ServedCode("order", version, 1) for version in versions))


def test_each_reason_has_words_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Servers(executors=(executor(3),), reports={3: REPORT}, served=serving_order(3))
    assert why(Servers(executors=(), reports={}, served={})) == NOBODY_SERVES
    assert "no executor knows the workflow 'ship'" in why(one, "ship")
    assert "no executor has version 2 of 'order', only 0: serve" in why(one, version=2)
    several = attrs.evolve(one, served=serving_order(3, versions=(1, 7)))
    assert "no executor has version 2 of 'order', only 1, 7: serve" in why(several, version=2)
    assert "look at the log there" in why(several, version=7)
    assert "look at the log there" in why(several, version=NO_VERSION)
    assert why(attrs.evolve(one, reports={3: attrs.evolve(REPORT, is_draining=True)})) == (
        "executor 3 (process 7) drains, and takes no more runs"
    )
    silent = attrs.evolve(one, executors=(executor(3, silent_seconds=61),))
    assert why(silent) == "executor 3 (process 7) gives no sign of life; stopped, or hanging"
    assert "has no place free" in why(attrs.evolve(one, busy_counts={3: 2}))
    assert "one at a time" in why(one, is_suspect=True)
    assert "look at the log there" in why(one)
    assert why(one, due_since=1) == "an executor takes it in a moment"
    monkeypatch.setattr(os, "statvfs", lambda _path: SimpleNamespace(f_bavail=0, f_frsize=4096))
    assert "no room on the disk" in why(attrs.evolve(one, path="/data/app.db"))


def test_one_that_is_well_is_enough_and_one_without_a_report_may_know() -> None:
    draining = attrs.evolve(REPORT, is_draining=True)
    two = Servers(executors=(executor(3), executor(4)), reports={3: draining, 4: REPORT}, served=serving_order(3, 4))
    assert "look at the log" in why(two)
    assert "drain, and take no more" in why(attrs.evolve(two, reports={3: draining, 4: draining}))
    assert "look at the log" in why(Servers(executors=(executor(5),), reports={}, served=serving_order(5)))
