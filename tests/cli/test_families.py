"""What is told of families of workers by their parents' reports: which can be reloaded, and what is wrong with them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from durable_trio import ProcessReport, Reload, WorkerFamily
from durable_trio.cli.families import findings_of, held_back, reloadable
from durable_trio.cli.faults import Failed
from supervisors import ChildStatus, NodeKind, TreeNode

_NOW = datetime(2026, 3, 12, tzinfo=UTC)
_WHY = "the files have changed since this family started (app.py): durable-trio reload"


def report(pid: int, *statuses: str, parent_pid: int = 1, family: WorkerFamily | None = None) -> ProcessReport:
    """Return what a process says; of its workers the statuses."""
    children = [
        TreeNode(name=f"worker-{number}", kind=NodeKind.PROCESS, status=ChildStatus(status))
        for number, status in enumerate(statuses, start=1)
    ]
    root = TreeNode(name="engine", kind=NodeKind.SUPERVISOR, status=ChildStatus.RUNNING, children=tuple(children))
    options: dict[str, Any] = {"started_at": _NOW, "updated_at": _NOW, "workflows": (), "executor": None, "host": "h"}
    return ProcessReport(pid=pid, parent_pid=parent_pid, tree=root, family=family, **options)


def test_the_one_server_with_workers_is_meant_whoever_else_serves() -> None:
    parent, worker, alone = report(7, family=WorkerFamily(can_reload=True)), report(8, parent_pid=7), report(9)
    assert reloadable([worker, alone, parent], None) is parent
    assert reloadable([worker, alone, parent], 7) is parent


@pytest.mark.parametrize(
    ("pid", "reports", "expected"),
    [
        (None, [], "nobody serves this database"),
        (5, [report(7)], "process 5 does not serve this database"),
        (8, [report(7, family=WorkerFamily(can_reload=True)), report(8, parent_pid=7)], "process 8 does not serve"),
        (None, [report(7)], "process 7 cannot reload: restart it, which drains (SIGTERM) and loses nothing."),
        (None, [report(7, family=WorkerFamily()), report(8, parent_pid=7)], "process 7 cannot reload: restart it"),
        (None, [report(7), report(9)], "processes 7, 9 cannot reload: restart them"),
        (
            None,
            [report(7, family=WorkerFamily(can_reload=True)), report(9, family=WorkerFamily(can_reload=True))],
            "2 servers with workers serve this database: name one by --process (7, 9)",
        ),
    ],
)
def test_what_cannot_be_reloaded_is_told_what_to_do(
    pid: int | None, reports: list[ProcessReport], expected: str
) -> None:
    with pytest.raises(Failed) as caught:
        reloadable(reports, pid)
    assert expected in str(caught.value)


def test_workers_that_cannot_come_back_are_wrong_and_told_by_their_reasons() -> None:
    family = WorkerFamily(held_back={"worker-1": _WHY, "worker-2": _WHY, "worker-3": "no module", "worker-4": _WHY})
    server = report(7, "waiting", "starting", "waiting", "running", family=family)
    assert [(finding.level, finding.text) for finding in findings_of([server, report(8, parent_pid=7)])] == [
        ("wrong", f"2 of 4 workers of process 7 cannot come back: {_WHY}"),
        ("wrong", "1 of 4 workers of process 7 cannot come back: no module"),
    ]
    assert list(held_back(server)) == ["worker-1", "worker-2", "worker-3"], "the fourth is back"


def test_of_reloads_the_last_one_that_has_ended_counts() -> None:
    def told(*reloads: Reload) -> list[tuple[str, str]]:
        family = WorkerFamily(can_reload=True, reloads=reloads)
        return [(finding.level, finding.text) for finding in findings_of([report(7, family=family)])]

    nothing = Reload(id="1", state="failed", reason="SyntaxError; nothing was changed")
    half = Reload(id="2", state="failed", workers=3, replaced=1, reason="worker-5 was not ready")
    done, going = Reload(id="3", state="done"), Reload(id="4", state="replacing", workers=3, replaced=1)
    assert told(nothing) == [("note", "the last reload of process 7 has failed: SyntaxError; nothing was changed")]
    assert told(half, going) == [("wrong", "the last reload of process 7 has failed: worker-5 was not ready")]
    assert told(nothing, half, done) == []
    assert told(going) == []
