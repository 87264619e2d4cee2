"""``tree``: who serves a database, and how they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import trio

from durable_trio import Engine, open_engine
from durable_trio.cli.screen import Screen
from durable_trio.cli.text import width_of
from durable_trio.cli.tree_view import shape_of, tree_lines
from supervisors import ChildStatus, NodeKind, SupervisorEnded, TreeNode
from tests.cli.desk import PATIENCE_SECONDS, call
from tests.cli.server import field, kill, serving
from tests.cli.test_json import validate


def names(node: dict[str, Any]) -> list[str]:
    return [node["name"], *(name for child in node["children"] for name in names(child))]


def workers_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the nodes of the workers; none before their parent has said that it has any."""
    return [
        worker
        for server in document["servers"]
        for child in server["children"]
        if child["name"] == "workers"
        for worker in child["children"]
    ]


def test_a_database_that_nobody_serves_has_no_trees(db: str) -> None:
    said = call("--db", db, "tree")
    assert (said.code, said.out, said.err) == (0, "", "nobody serves this database now\n")
    document = call("--db", db, "tree", "--json").json
    validate(document, "tree")
    assert document == {"servers": []}


def test_the_tree_of_one_process(live: str) -> None:
    said = call("--db", live, "tree")
    assert said.code == 0
    assert said.out.startswith("engine ")
    assert re.search(r"^   ├─ dispatcher +task · running", said.out, re.MULTILINE)
    assert all(width_of(line) <= 80 for line in said.out.splitlines())
    document = call("--db", live, "tree", "--json").json
    validate(document, "tree")
    (server,) = document["servers"]
    assert {"store", "runs", "services", "recovery"} <= set(names(server))
    assert server["pid"] is not None


def test_trees_of_workers_stand_in_their_parents_and_tell_of_restarts(tmp_path: Path) -> None:
    with serving(tmp_path, "--workers", "2") as server:
        lines = server.says("event=worker_started", count=2)

        def document() -> dict[str, Any]:
            found: dict[str, Any] = call("--db", server.db, "tree", "--json").json
            return found

        # Each process says so itself, a moment later.
        pids = {int(field(line, "pid")) for line in lines}

        def is_whole(found: dict[str, Any]) -> bool:
            workers = workers_of(found)
            return (
                len(found["servers"]) == 1
                and {worker["pid"] for worker in workers} == pids
                and all({"runs", "dispatcher"} <= set(names(worker)) for worker in workers)
            )

        server.until(lambda: is_whole(document()))
        validate(document(), "tree")
        assert {worker["kind"] for worker in workers_of(document())} == {"process"}

        kill(min(pids))
        server.says("event=worker_restarted")
        server.until(lambda: [node["last_error"] for node in workers_of(document()) if node["restart_count"] == 1])
        (restarted,) = [node for node in workers_of(document()) if node["restart_count"]]
        assert "SIGKILL" in restarted["last_error"]
        assert re.search(r"restarted 1×", call("--db", server.db, "tree", env={"COLUMNS": "200"}).out)


@pytest.mark.parametrize("is_unicode", [True, False])
def test_nothing_in_a_tree_moves_the_cursor_or_is_too_wide(is_unicode: bool) -> None:
    node = TreeNode(
        name="engine",
        kind=NodeKind.SUPERVISOR,
        status=ChildStatus.RUNNING,
        last_error="\x1b[2J" + "x" * 200,
        children=(TreeNode(name="runs", kind=NodeKind.TASK, status=ChildStatus.RUNNING),),
    )
    lines = tree_lines(node, Screen(width=60, is_unicode=is_unicode))
    assert len(lines) == 2
    assert all("\x1b[2J" not in line for line in lines)
    assert is_unicode or all(line.isascii() for line in lines if "…" not in line)


def test_a_tree_has_changed_when_something_else_than_time_and_runs_has() -> None:
    run = TreeNode(name="order 1", kind=NodeKind.TASK, status=ChildStatus.RUNNING)
    runs = TreeNode(name="runs", kind=NodeKind.DYNAMIC, status=ChildStatus.RUNNING, up_seconds=1, children=(run,))
    later = TreeNode(name="runs", kind=NodeKind.DYNAMIC, status=ChildStatus.RUNNING, up_seconds=2)
    restarted = TreeNode(name="runs", kind=NodeKind.DYNAMIC, status=ChildStatus.RUNNING, restart_count=1)
    assert shape_of(runs) == shape_of(later)
    assert shape_of(runs) != shape_of(restarted)


def test_recorded_outcomes_are_counted(db: str) -> None:
    """Counted by the store; here as many as there are rows."""

    async def look() -> None:
        with trio.fail_after(PATIENCE_SECONDS):
            async with Engine(db) as client:
                runs = (await client.list_runs()).runs
                rows = [row for run in runs for row in await client.get(run.id).steps()]
                assert (await client.status()).recorded_count == len(rows) > 0

    trio.run(look)


def test_an_engine_gives_the_events_of_its_tree_until_it_is_closed(tmp_path: Path) -> None:
    async def listen() -> None:
        with trio.fail_after(PATIENCE_SECONDS):
            async with open_engine(str(tmp_path / "app.db")) as engine:
                events = engine.events()
            last = [event async for event in events][-1]
            assert isinstance(last, SupervisorEnded)
            assert last.path == ("engine",)
            with pytest.raises(trio.ClosedResourceError):
                engine.events()

    trio.run(listen)
