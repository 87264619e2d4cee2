"""Changes of a workflow's code, beside runs that were begun before."""

from __future__ import annotations

from durable_trio.calls.body import Branch


def patched(branch: Branch, change_id: str) -> bool:
    """Return whether the run takes the new way of a change; see ``Context.patched``."""
    branch.check_task()
    key = branch.next_key("change id", change_id)
    body = branch.body
    if body.state.history.take_patch(key):
        return True
    if body.state.is_replaying or body.lobby.has_unmatched_waits():
        return False
    body.state.note(key)
    return True
