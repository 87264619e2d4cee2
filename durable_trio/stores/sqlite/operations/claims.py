"""Claims: an executor takes runs that are due, in order, by index seeks only.

Each workflow has its lines (``tables.LINE``): what has begun goes before all first claims; within a line a higher
priority goes first, then the earlier due time, then the order of start. A claim looks at the heads of lines, so it
costs the same however many wait, of however many priorities. Before that it moves runs whose time has come from
``later`` into line, a bounded number of them: their order there is that of their due times.

Runs of one version that the same codes have refused have lines of their own (``groups``): a claim leaves those whose
version its executor does not know, and those that its code has refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from durable_trio.clock import INSTANT_MIN
from durable_trio.errors import OwnershipLost, RunConflict, RunFinished, RunNotFound
from durable_trio.records import RunStatus
from durable_trio.rows import NO_VERSION, RunRow
from durable_trio.rules.fitting import Fitting
from durable_trio.rules.refused import codes_in, refused_text
from durable_trio.rules.run_life import FINAL, RunEvent, changed_by
from durable_trio.stores.contract import ClaimDue, ClaimRun
from durable_trio.stores.lines import BEGUN, NEW, SUSPECT, Due, Group, places_for_refused
from durable_trio.stores.outcomes import (
    executor_ended,
    is_damaged,
    of_other_code,
    parked_as_damaged,
    run_not_found,
    why_not_claimed,
)
from durable_trio.stores.sqlite.columns import OWNED_COLUMNS, run_from, status_from
from durable_trio.stores.sqlite.groups import Walk
from durable_trio.stores.sqlite.layout import CODES_CHARACTERS, COUNT_MAX, NO_INTEGER
from durable_trio.stores.sqlite.library import sqlite3
from durable_trio.stores.sqlite.operations.codes import forget_other_refusals, forget_refusals, living_codes
from durable_trio.stores.sqlite.operations.damage import park_damaged, update_run
from durable_trio.stores.sqlite.parked import IS_UNGROUPED
from durable_trio.stores.sqlite.tables import IN_LINE, LINE
from durable_trio.stores.sqlite.transaction import Transaction
from durable_trio.stores.statuses import is_one_of, status_after, word

__all__ = ["FIND_IN_LINE", "FIND_LATER", "claim", "claim_due", "claim_run"]

# Runs that one claim moves into line, of each workflow: some claims' worth, and a millisecond or two of the turn.
_MOVED_MAX: Final = 256

FIND_IN_LINE: Final = f"""
    SELECT priority, wake_at, run FROM {IN_LINE} AND workflow = ? AND version = ? AND refused = ? AND {LINE} = ?
    ORDER BY priority DESC, wake_at, run LIMIT ? + 0
"""
GROUPS: Final = Walk(IN_LINE)
# Only a damaged file has any: they are in no group.
FIND_UNGROUPED: Final = f"SELECT run FROM {IN_LINE} AND workflow = ? AND {IS_UNGROUPED} LIMIT ? + 0"
_OF_SET: Final = frozenset(CODES_CHARACTERS)
FIND_LATER: Final = """
    SELECT run FROM runs INDEXED BY runs_later
    WHERE workflow = ? AND (token > 0) = ? AND owner IS NULL AND wake_at IS NOT NULL AND is_due IS NOT 1
        AND wake_at <= ?
    ORDER BY wake_at, run LIMIT ? + 0
"""
MOVE: Final = "UPDATE runs SET is_due = ? WHERE run = ?"
CLAIM: Final = f"""
    UPDATE runs SET
        owner = :owner,
        token = token + 1,
        wake_at = NULL,
        is_due = 0,
        waits_for = NULL,
        version = CASE version WHEN {NO_VERSION} THEN :version ELSE version END,
        refused = :refused,
        changed = CASE WHEN {is_one_of(changed_by(RunEvent.CLAIM))} THEN :changed ELSE changed END,
        started_at = CASE WHEN status = {word(RunStatus.PENDING)} THEN coalesce(started_at, :now) ELSE started_at END,
        status = CASE WHEN error IS NULL THEN {status_after(RunEvent.CLAIM)}
            ELSE {status_after(RunEvent.CLAIM_UNDOING)} END,
        claimed_seq = coalesce(
            CAST((SELECT max(seq) FROM history WHERE history.run = runs.run AND seq <= {COUNT_MAX}) AS INTEGER), -1
        )
    WHERE run = :run
    RETURNING {OWNED_COLUMNS}
"""
FIND_CLAIMABLE: Final = "SELECT run, status, workflow, version, refused, owner, problem FROM runs WHERE id = ?"
CLEAR_PROBLEM: Final = "UPDATE runs SET problem = NULL, fingerprint = NULL WHERE run = ?"


def claim(transaction: Transaction, values: dict[str, Any]) -> RunRow:
    """Claim a run with ``CLAIM``. One whose row is damaged is parked: it comes with its damage, and unowned."""
    try:
        row = run_from(transaction.execute(CLAIM, values).fetchall()[0])
    except sqlite3.IntegrityError as error:
        return park_damaged(transaction, values["run"], why=str(error))
    if row.damage is not None or row.status in FINAL:
        return park_damaged(transaction, values["run"])
    return row


def claim_due(transaction: Transaction, operation: ClaimDue) -> tuple[RunRow, ...] | OwnershipLost:
    """Claim runs that are due (see ``ClaimDue``)."""
    if not transaction.is_executor_alive(operation.owner):
        return executor_ended(operation.owner)
    limit, now, fitting = operation.limit, operation.now, Fitting(operation.codes)
    if limit <= 0:
        return ()
    _move_into_line(transaction, fitting.workflows, now)
    groups = []
    for workflow in fitting.workflows:
        found, ungrouped = _groups(transaction, workflow, limit)
        if ungrouped:
            return tuple(park_damaged(transaction, run) for run in ungrouped)
        groups += [each for each in found if fitting.fits(workflow, each.version, codes_in(each.refused))]
    suspects_max = limit if operation.suspects_max is None else min(limit, operation.suspects_max)
    suspects = _heads(transaction, groups, SUSPECT, now, suspects_max)

    def in_order(which: Iterable[Group]) -> list[Due]:
        those = list(which)
        begun = [each for each in suspects if each.group in those] + _heads(transaction, those, BEGUN, now, limit)
        first = sorted(begun)[:limit]
        return first + _heads(transaction, those, NEW, now, limit - len(first))

    fresh = in_order(group for group in groups if not group.refused)
    again = in_order(group for group in groups if group.refused)
    claimed = []
    taken = again[: places_for_refused(fresh, again, limit)]
    for due in taken + fresh[: limit - len(taken)]:
        if due.wake_at < INSTANT_MIN:  # nothing is ever due then, and the claim would wipe it out
            claimed.append(park_damaged(transaction, due.run))
            continue
        claimed.append(_claim_of(transaction, operation.owner, now, fitting, due.run, due.group))
    return tuple(claimed)


def _groups(transaction: Transaction, workflow: str, limit: int) -> tuple[list[Group], list[int]]:
    """Return the groups of a workflow that have runs in line; and runs that are in none, because they are damaged."""
    found: list[Group] = []
    for version, refused in GROUPS.groups(transaction.execute, workflow):
        if type(version) is not int or not NO_VERSION <= version <= COUNT_MAX or not _is_set(refused):
            return found, [run for (run,) in transaction.execute(FIND_UNGROUPED, (workflow, limit)).fetchall()]
        found.append(Group(workflow, version, refused))
    return found, []


def _is_set(refused: object) -> bool:
    """Return whether a value can be what is stored of the codes that have refused a run."""
    return isinstance(refused, str) and _OF_SET.issuperset(refused)


def _claim_of(transaction: Transaction, owner: int, now: int, fitting: Fitting, run: int, group: Group) -> RunRow:
    refused = ""
    if group.refused:
        refused = refused_text(codes_in(group.refused) & living_codes(transaction, group.workflow))
        forget_other_refusals(transaction, run, refused)
    values = {
        "owner": owner,
        "changed": transaction.change(),
        "now": now,
        "run": run,
        "version": fitting.version(group.workflow, group.version),
        "refused": refused,
    }
    return claim(transaction, values)


def _move_into_line(transaction: Transaction, workflows: tuple[str, ...], now: int) -> None:
    for workflow in workflows:
        for has_begun in (1, 0):
            found = transaction.execute(FIND_LATER, (workflow, has_begun, now, _MOVED_MAX)).fetchall()
            for (run,) in found:
                update_run(transaction, MOVE, (1, run), run=run)


def _heads(transaction: Transaction, groups: Sequence[Group], line: int, now: int, limit: int) -> list[Due]:
    """Return the first of a kind of line, over some groups, in order."""
    found: list[Due] = []
    for group in groups if limit > 0 else ():
        values = (group.workflow, group.version, group.refused, line, limit)
        for priority, wake_at, run in transaction.execute(FIND_IN_LINE, values).fetchall():
            # In line although it is not due: the clock was set back. What has begun sees for itself what is due, and it
            # may have been woken by a message; what is new must neither begin early nor stand in the way.
            if type(priority) is not int or type(wake_at) is not int:  # damaged: at the head, due when nothing ever is
                found.append(Due(NO_INTEGER, NO_INTEGER, run, group))
            elif wake_at <= now or line != NEW:
                found.append(Due(-priority, wake_at, run, group))
            else:
                update_run(transaction, MOVE, (0, run), run=run)
    return sorted(found)[:limit]


def claim_run(
    transaction: Transaction, operation: ClaimRun
) -> RunRow | RunNotFound | RunFinished | RunConflict | OwnershipLost:
    """Claim one run by its id (see ``ClaimRun``)."""
    if not transaction.is_executor_alive(operation.owner):
        return executor_ended(operation.owner)
    found = transaction.execute(FIND_CLAIMABLE, (operation.run_id,)).fetchone()
    if found is None:
        return run_not_found(operation.run_id)
    run, status, workflow, version, refused, owner, problem = found
    run_id, fitting = operation.run_id, Fitting(operation.codes)
    error = why_not_claimed(run_id, fitting.workflows, workflow, status_from(status), status, owner)
    if error is not None:
        return error
    if operation.is_asked_for:
        update_run(transaction, CLEAR_PROBLEM, (run,), run=run)
        if refused:
            forget_refusals(transaction, run)
        refused = ""
    elif problem is not None:
        return parked_as_damaged(run_id)
    if type(version) is not int or not _is_set(refused):
        return is_damaged(run_id, park_damaged(transaction, run).damage or "")
    if not fitting.fits(workflow, version, codes_in(refused)):
        return of_other_code(run_id, workflow)
    row = _claim_of(transaction, operation.owner, operation.now, fitting, run, Group(workflow, version, refused))
    return row if row.damage is None else is_damaged(run_id, row.damage)
