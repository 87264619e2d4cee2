"""Which rows of its history a failed or cancelled run goes on without. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Final, NamedTuple

from durable_trio.records import StepKind, StepStatus
from durable_trio.rows import Key

__all__ = ["COMPENSATED", "Outcome", "is_compensated", "rows_to_cut"]

#: What is said of a run of which ``is_compensated`` is true.
COMPENSATED: Final = (
    "has been compensated, at least in part, or was abandoned with steps that are not undone, and cannot go on; "
    "fork it before the first step that was undone, or start a new one"
)
END_BRANCH: Final = "(end)"  # of rows that the engine writes when it ends the children of a run


class Outcome(NamedTuple):
    """What resuming looks at in a history row.

    A branch is a path: nurseries and maps stand at its odd places, the branches of nurseries at its even ones. So a
    path of even length is that of a body, one of odd length that of the items of a map.
    """

    seq: int
    key: Key
    kind: StepKind
    status: StepStatus
    started_at: int
    finished_at: int


def is_compensated(history: Sequence[Outcome]) -> bool:
    """Return whether something of the run has been undone, or is noted as what never will be; it cannot go on then."""
    return any(outcome.kind is StepKind.COMPENSATION for outcome in history)


def rows_to_cut(history: Sequence[Outcome]) -> list[Outcome]:
    """Return the rows that are removed, the last first: a part of them is cut as well as all, to be gone on with.

    They are the cancel or ttl row with all after it; without one, the failures at the end.
    """
    ends = [outcome.seq for outcome in history if outcome.kind in (StepKind.CANCEL, StepKind.TTL)]
    if ends:
        return [outcome for outcome in reversed(history) if outcome.seq >= ends[0]]
    return _last_failures(history)


def _last_failures(history: Sequence[Outcome]) -> list[Outcome]:
    """Return the failures that no row which stays may depend on, and the ends of children that nobody awaited.

    An answer to a question about changed code depends on what is around it, and may have been recorded long after it
    was given. So it holds no failure, and goes with those before it, unless its branch has gone on from there.
    """
    removed = []
    kept: dict[str, int] = {}  # by branch: when the last call began whose row stays
    gone_on = set[str]()  # these branches, and all around them
    answers: list[Outcome] = []  # in branches that have not gone on from them
    latest = -1
    for outcome in reversed(history):
        branch = outcome.key.branch
        is_failure = outcome.status is not StepStatus.COMPLETED
        if outcome.kind is StepKind.PATCH:
            if branch not in gone_on:
                answers.append(outcome)
        elif branch == END_BRANCH:
            removed.append(outcome)
        elif is_failure and not _is_followed(outcome, kept, latest):
            removed += [*answers, outcome]
            answers.clear()
        else:
            latest = max(latest, outcome.started_at)
            kept[branch] = max(kept.get(branch, -1), outcome.started_at)
            while branch not in gone_on:
                gone_on.add(branch)
                branch = branch.rpartition("/")[0]
    return removed


def _is_followed(failure: Outcome, kept: dict[str, int], latest: int) -> bool:
    """Return whether the body may have gone on from a failure to one of the rows after it.

    A later row of the same branch or of one around it says so; siblings, and items of one map, do not wait for each
    other. Elsewhere it is told by time: a call that began before the failure does not depend on it. What began at the
    same instant (a virtual clock) does not either, if it is of a sibling.
    """
    path = failure.key.branch.split("/") if failure.key.branch else []
    around = ["/".join(path[:length]) for length in range(0, len(path) + 1, 2)]
    if latest > failure.finished_at or any(branch in kept for branch in around):
        return True
    return latest == failure.finished_at and any(
        began == latest and not _are_siblings(path, branch.split("/")) for branch, began in kept.items()
    )


def _are_siblings(path: list[str], other: list[str]) -> bool:
    """Return whether two paths part inside a nursery or a map; else they part in one body, which goes step by step."""
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(path, other, strict=False)))
    return shared % 2 == 1
