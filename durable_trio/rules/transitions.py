"""How a run may go from status to status: the theory, then the table.

A run is begun once; it may wait and go on any number of times; once its body has failed or was cancelled it
compensates, and from there it only ends. A final status is left by nothing but an explicit resume.
"""

from __future__ import annotations

from typing import Final

from durable_trio.records import RunStatus

_S = RunStatus

#: Which statuses may follow each, by the hand of the executor that owns the run.
AFTER: Final[dict[RunStatus, frozenset[RunStatus]]] = {
    _S.PENDING: frozenset({_S.RUNNING, _S.CANCELLED, _S.FAILED}),
    _S.RUNNING: frozenset({_S.SUSPENDED, _S.COMPENSATING, _S.COMPLETED, _S.FAILED, _S.CANCELLED}),
    _S.SUSPENDED: frozenset({_S.RUNNING, _S.COMPENSATING, _S.FAILED, _S.CANCELLED, _S.COMPLETED}),
    _S.COMPENSATING: frozenset({_S.FAILED, _S.CANCELLED, _S.SUSPENDED}),
    _S.COMPLETED: frozenset(),
    _S.FAILED: frozenset({_S.PENDING}),
    _S.CANCELLED: frozenset({_S.PENDING}),
}


def is_allowed(before: RunStatus, after: RunStatus) -> bool:
    """Return whether a run may go from one status to the other; staying is always allowed."""
    return before is after or after in AFTER[before]
