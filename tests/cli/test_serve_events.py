"""What ``serve`` says of its workers."""

from __future__ import annotations

from durable_trio.cli.serve_events import TreeLog
from supervisors import ChildStatus, NodeKind, TreeNode


def worker(name: str, **fields: object) -> TreeNode:
    return TreeNode(name=name, kind=NodeKind.PROCESS, status=ChildStatus.RUNNING, **fields)  # type: ignore[arg-type]


def test_a_worker_that_has_died_before_all_were_there_is_told_before_it_is_back() -> None:
    """Nobody hears of it when it happens: the tree is not open yet."""
    error = "ProcessFailed: process 'worker-1' ended with signal SIGKILL\nwhat it said"
    nodes = [worker("worker-1", pid=8, restart_count=1, last_error=error), worker("worker-2", pid=7)]
    lines = list(TreeLog().present(iter(nodes)))
    assert [line.event for line in lines] == ["worker_exited", "worker_restarted", "worker_started"]
    assert lines[0].fields == {"worker": "worker-1", "reason": error.partition("\n")[0]}


def test_one_that_is_not_back_yet_is_told_too() -> None:
    lines = list(TreeLog().present(iter([worker("worker-1", last_error="ProcessFailed: it was killed")])))
    assert [line.event for line in lines] == ["worker_exited"]
