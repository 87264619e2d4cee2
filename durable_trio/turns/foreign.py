"""Where tasks are blocked, as people are told it."""

from __future__ import annotations

import trio

# Where a task that waits for another task of this process is blocked, as seen by the innermost frames' module.
_IN_PROCESS_MODULES = frozenset(
    {"trio._sync", "trio._channel", "trio._core._parking_lot", "trio._core._unbounded_queue"}
)


def foreign_wait(task: trio.lowlevel.Task, *, also_in_process: bool = False) -> str | None:
    """Return where a blocked task waits for something outside the process, as ``file:line in function``, else None.

    A nursery's exit and trio's primitives between tasks are no such waits: their end comes from another task.
    That other task need not be the body's own; ``also_in_process`` counts the primitives too.
    """
    modules: list[str] = []
    for frame, _ in task.iter_await_frames():
        name = frame.f_globals.get("__name__", "")
        modules.append(name)
        if name == "trio._core._run" and frame.f_code.co_name == "_nested_child_finished":
            return None
    if not also_in_process and any(module in _IN_PROCESS_MODULES for module in modules):
        return None
    return place_of(task)


def place_of(task: trio.lowlevel.Task) -> str:
    """Return the innermost line of the user's at which a task is, as ``file:line in function``."""
    place = "unknown place"
    for frame, line in task.iter_await_frames():
        if not frame.f_globals.get("__name__", "").startswith(("trio.", "durable_trio.", "contextlib")):
            place = f"{frame.f_code.co_filename}:{line} in {frame.f_code.co_name}"
    return place
