"""Scopes with a durable deadline."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from durable_trio.calls.body import Branch
from durable_trio.clock import due_after, seconds_of
from durable_trio.failures import CARRYING
from durable_trio.turns.deadlines import DeadlineScope


@contextmanager
def move_on_after(branch: Branch, duration: float | timedelta, *, shield: bool) -> Iterator[DeadlineScope]:
    """Leave the block when a time has passed since it was entered; see ``Context.move_on_after``."""
    branch.check_task()
    seconds = seconds_of(duration)
    body = branch.body
    due_at = due_after(body.state.last_stamp, seconds)
    scope = DeadlineScope(branch.next_key("deadline name", "deadline"), due_at, shield=shield)
    body.lobby.enter_deadline(scope)
    try:
        with scope.scope, CARRYING:
            yield scope
    finally:
        body.lobby.exit_deadline(scope)
