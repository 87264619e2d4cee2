"""What operations concern: which runs are locked, and what else is to be known before it can be decided what they do.

A run is locked if it changes, or if somebody's message to it must come before or after. What an owner adds to the
history locks nothing: that a run is still his is certain until the commit, because nobody but he and those who declare
executors dead change it, and these wait for the row of his executor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

import attrs

from durable_trio.clock import INSTANT_MAX
from durable_trio.rows import Key
from durable_trio.rules.run_life import WAITING
from durable_trio.stores.contract import (
    Advance,
    Fence,
    Finish,
    Release,
    RenewLease,
    RequestCancel,
    SendSignal,
    SignalWithStart,
    StartRun,
)

__all__ = ["HOT", "Named", "Needs", "Start", "needs_of"]


class Start(NamedTuple):
    """A run to be inserted unless there is one. ``fence``: of its parent, where that starts it; else it is not."""

    operation: StartRun
    owner: int | None
    parent: int | None
    fence: Fence | None


class Named(NamedTuple):
    """Unread signals of a name to look for: those that were sent by ``at``, or that claim to be later than ``now``."""

    name: str
    at: int = INSTANT_MAX
    now: int = INSTANT_MAX


@attrs.define(eq=False)
class Needs:
    """What is to be known. Runs are named by their number where an owner writes, by their id where others do."""

    executors: set[int] = attrs.Factory(set)
    looked_at: set[int] = attrs.Factory(set)  # runs whose owner and token are read
    locked: set[int] = attrs.Factory(set)
    locked_ids: set[str] = attrs.Factory(set)
    ending: set[int] = attrs.Factory(set)  # whose parents are locked
    cancelled_ids: set[str] = attrs.Factory(set)  # whose parents are locked, too
    starts: dict[str, Start] = attrs.Factory(dict)
    children: dict[str, int] = attrs.Factory(dict)  # by id: the run that starts it
    numbers: int = 0  # of new entries, at most
    taken: list[int] = attrs.Factory(list)
    controls: set[tuple[int, str]] = attrs.Factory(set)  # run and kind
    named: set[tuple[int, Named]] = attrs.Factory(set)
    receivers: set[str] = attrs.Factory(set)  # ids of runs whose mailbox gets an entry
    limited: dict[str, int] = attrs.Factory(dict)  # how many unread signals may be in it
    named_ids: set[tuple[str, str]] = attrs.Factory(set)  # id of a run, and name
    signal_ids: set[tuple[str, str]] = attrs.Factory(set)  # id of a run, and of a signal
    history: set[tuple[int, Key]] = attrs.Factory(set)

    def fence(self, fence: Fence, *, is_locked: bool) -> None:
        """Note that an owner writes."""
        self.executors.add(fence.owner)
        (self.locked if is_locked else self.looked_at).add(fence.run)

    def start(self, operation: StartRun, *, owner: int | None, parent: int | None, fence: Fence | None = None) -> None:
        """Note that a run is to be there."""
        self.starts.setdefault(operation.id, Start(operation, owner, parent, fence))
        if owner is not None:
            self.executors.add(owner)
        if parent is not None and fence is None:
            self.looked_at.add(parent)


def needs_of(operations: Iterable[Any], *, is_careful: bool) -> Needs:
    """Return what some operations need.

    Args:
        is_careful: whether it is to be known which history rows are there already. Only faulty callers write one twice,
            and the database finds that out.
    """
    needs = Needs()
    for operation in operations:
        _NEEDS[type(operation)](needs, operation)
        if is_careful and type(operation) is Advance:
            needs.history.update((operation.fence.run, row.key) for row in operation.rows)
    for run_id in needs.cancelled_ids & needs.starts.keys():
        parent = needs.starts[run_id].parent
        if parent is not None:
            needs.locked.add(parent)
    return needs


def _advance(needs: Needs, operation: Advance) -> None:
    fence = operation.fence
    is_locked = bool(operation.published) or operation.status is not None or operation.error is not None
    needs.fence(fence, is_locked=is_locked)
    if operation.unless_unread is not None:
        needs.named.add((fence.run, Named(*operation.unless_unread, operation.now)))
    if operation.unless_cancelled:
        needs.controls.add((fence.run, "cancel"))
    needs.taken += [entry for entry, _ in operation.taken]
    for child in operation.children:
        needs.start(child, owner=child.owner, parent=fence.run, fence=fence)
        needs.children[child.id] = fence.run


def _release(needs: Needs, operation: Release) -> None:
    fence = operation.fence
    needs.fence(fence, is_locked=True)
    if operation.status in WAITING:
        needs.controls.update([(fence.run, "cancel"), (fence.run, "child")])
        needs.named.update((fence.run, Named(name)) for name in operation.waits_for)


def _finish(needs: Needs, operation: Finish) -> None:
    run = operation.fence.run
    needs.fence(operation.fence, is_locked=True)
    needs.ending.add(run)
    needs.numbers += 1
    if operation.unless_cancelled:
        needs.controls.add((run, "cancel"))


def _start(needs: Needs, operation: StartRun) -> None:
    needs.start(operation, owner=operation.owner, parent=operation.parent)


def _send(needs: Needs, operation: SendSignal) -> None:
    run_id = operation.run_id
    needs.locked_ids.add(run_id)
    needs.receivers.add(run_id)
    needs.numbers += 1
    if operation.unread_max is not None:
        needs.limited[run_id] = max(operation.unread_max, needs.limited.get(run_id, 0))
        needs.named_ids.add((run_id, operation.name))
    if operation.signal_id is not None:
        needs.signal_ids.add((run_id, operation.signal_id))


def _send_with_start(needs: Needs, operation: SignalWithStart) -> None:
    needs.start(operation.start, owner=None, parent=operation.start.parent)
    _send(needs, operation.signal)


def _cancel(needs: Needs, operation: RequestCancel) -> None:
    needs.locked_ids.add(operation.run_id)
    needs.receivers.add(operation.run_id)
    needs.cancelled_ids.add(operation.run_id)
    needs.numbers += 2  # one to itself, one to its parent


def _renew(needs: Needs, operation: RenewLease) -> None:
    needs.executors.add(operation.executor)


_NEEDS: Final[dict[type, Callable[[Needs, Any], None]]] = {
    Advance: _advance,
    Release: _release,
    Finish: _finish,
    StartRun: _start,
    SendSignal: _send,
    SignalWithStart: _send_with_start,
    RequestCancel: _cancel,
    RenewLease: _renew,
}

#: Operations that go together in two round trips.
HOT: Final = frozenset(_NEEDS)
