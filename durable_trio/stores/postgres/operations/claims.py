"""Claims: an executor takes runs that are due, in order, by index seeks only.

How runs stand in line tells ``stores.lines``. A claim looks at the heads of lines without a lock, then locks those that
it wants, in order, and passes over what somebody else holds: another claim takes it, or who writes to it makes it due
for the next. So no claim ever waits, and none holds a run that it does not take. A lock that was given is looked at
once more by the server, as the row is now; and what is done to the run then is a statement after that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import attrs

from durable_trio.errors import OwnershipLost, RunConflict, RunFinished, RunNotFound
from durable_trio.records import RunStatus
from durable_trio.rows import RunRow
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
from durable_trio.stores.postgres.fronts import Line, Stretch
from durable_trio.stores.postgres.operations.codes import living_codes
from durable_trio.stores.postgres.operations.damage import FORGET_REFUSALS, park_damaged
from durable_trio.stores.postgres.rows import OWNED_COLUMNS, run_from
from durable_trio.stores.postgres.tables import LINE
from durable_trio.stores.postgres.texts import numbers, rows, texts
from durable_trio.stores.postgres.transaction import NOW, Transaction
from durable_trio.stores.statuses import STATUS_OF, is_one_of, status_after, word

__all__ = ["claim_due", "claim_run"]

# Runs that one claim moves into line, of each workflow: some claims' worth.
_MOVED_MAX: Final = 256
# How deep a claim looks into each line: first a little further than it needs to, then behind what others hold.
_DEPTHS: Final = (2, 8, 32)

_TIME: Final[tuple[str, tuple[Any, ...]]] = (f"SELECT {NOW}", ())
_IN_LINE: Final = "runs.owner IS NULL AND runs.wake_at IS NOT NULL AND runs.is_due"
# The same of runs that are named: in words by which the server does not take it for a walk through the whole line.
_IS_IN_LINE: Final = "CASE WHEN runs.is_due THEN runs.owner IS NULL AND runs.wake_at IS NOT NULL ELSE false END"
MOVE_INTO_LINE: Final = f"""
    UPDATE runs SET is_due = true WHERE run = ANY (ARRAY(
        SELECT later.run FROM unnest($1::text[]) AS asked (workflow), (VALUES (true), (false)) AS begun (has_token),
            LATERAL (
                SELECT run FROM runs
                WHERE owner IS NULL AND wake_at IS NOT NULL AND NOT is_due AND workflow = asked.workflow
                    AND (token > 0) = begun.has_token AND wake_at <= $2::bigint
                ORDER BY wake_at, run LIMIT {_MOVED_MAX} FOR NO KEY UPDATE SKIP LOCKED
            ) AS later
    ))
    RETURNING workflow, version, refused, {LINE}, priority, wake_at, run
"""
# One seek for each group.
GROUPS: Final = f"""
    SELECT asked.workflow, found.version, found.refused
    FROM unnest($1::text[]) AS asked (workflow), LATERAL (
        WITH RECURSIVE groups (version, refused) AS (
            (
                SELECT version, refused FROM runs WHERE {_IN_LINE} AND workflow = asked.workflow
                ORDER BY version, refused LIMIT 1
            )
            UNION ALL
            SELECT next.version, next.refused FROM groups, LATERAL (
                SELECT version, refused FROM runs
                WHERE {_IN_LINE} AND workflow = asked.workflow
                    AND (runs.version, runs.refused) > (groups.version, groups.refused)
                ORDER BY version, refused LIMIT 1
            ) AS next
        )
        SELECT version, refused FROM groups
    ) AS found
"""
HEADS: Final = f"""
    SELECT stretch.place, stretch.line, head.priority, head.wake_at, head.run
    FROM json_to_recordset($1::json) AS stretch (
        place bigint, workflow text, version bigint, refused text, line integer,
        high bigint, low bigint, wake_at bigint, run bigint
    ), LATERAL (
        SELECT priority, wake_at, run FROM runs
        WHERE {_IN_LINE} AND workflow = stretch.workflow AND version = stretch.version
            AND refused = stretch.refused AND {LINE} = stretch.line
            AND priority <= stretch.high AND priority >= stretch.low
            AND (runs.wake_at, runs.run) >= (stretch.wake_at, stretch.run)
        ORDER BY priority DESC, wake_at, run LIMIT $2::bigint
    ) AS head
"""
# One by one, in this order, until there are enough.
LOCK: Final = f"""
    SELECT locked.run FROM (
        SELECT run, version, refused
        FROM json_to_recordset($1::json) AS x (place bigint, run bigint, version bigint, refused text) ORDER BY place
    ) AS wanted, LATERAL (
        SELECT runs.run FROM runs
        WHERE runs.run = wanted.run AND {_IS_IN_LINE} AND runs.version = wanted.version
            AND runs.refused = wanted.refused
        FOR NO KEY UPDATE SKIP LOCKED
    ) AS locked
    LIMIT $2::bigint
"""
MOVE_OUT_OF_LINE: Final = f"""
    UPDATE runs SET is_due = false WHERE run = ANY (ARRAY(
        SELECT run FROM runs WHERE run = ANY ($1::bigint[]) AND {_IS_IN_LINE} AND wake_at > $2::bigint
        ORDER BY run FOR NO KEY UPDATE SKIP LOCKED
    ))
"""
_IS_CHANGED: Final = is_one_of(changed_by(RunEvent.CLAIM))
CLAIM: Final = f"""
    UPDATE runs SET
        owner = $1::bigint,
        token = token + 1,
        wake_at = NULL,
        is_due = false,
        waits_for = NULL,
        problem = NULL,
        version = taken.version,
        refused = taken.refused,
        changed = CASE WHEN {_IS_CHANGED} THEN greatest(changed + 1, {NOW}) ELSE changed END,
        stamp = CASE WHEN {_IS_CHANGED} THEN pg_current_xact_id() ELSE stamp END,
        started_at = CASE WHEN status = {word(RunStatus.PENDING)} THEN coalesce(started_at, $2::bigint)
            ELSE started_at END,
        status = CASE WHEN error IS NULL THEN {status_after(RunEvent.CLAIM)}
            ELSE {status_after(RunEvent.CLAIM_UNDOING)} END,
        claimed_seq = coalesce((SELECT max(seq) FROM history WHERE history.run = runs.run), -1)
    FROM json_to_recordset($3::json) AS taken (run bigint, version bigint, refused text)
    WHERE runs.run = taken.run
    RETURNING {OWNED_COLUMNS}
"""
FORGET_OTHERS: Final = """
    DELETE FROM refusals USING json_to_recordset($1::json) AS taken (run bigint, refused text)
    WHERE refusals.run = taken.run AND position(',' || refusals.code || ',' IN taken.refused) = 0
"""
FIND_CLAIMABLE: Final = """
    SELECT run, status, workflow, version, refused, owner, problem FROM runs WHERE id = $1::text FOR NO KEY UPDATE
"""
CLEAR_PROBLEM: Final = "UPDATE runs SET problem = NULL WHERE run = $1::bigint"


def claim_due(transaction: Transaction, operation: ClaimDue) -> tuple[RunRow, ...] | OwnershipLost:
    """Claim runs that are due (see ``ClaimDue``)."""
    if not transaction.is_executor_alive(operation.owner):
        return executor_ended(operation.owner)
    limit, now, fitting = operation.limit, operation.now, Fitting(operation.codes)
    if limit <= 0 or not fitting.workflows:
        return ()
    suspects_max = limit if operation.suspects_max is None else min(limit, operation.suspects_max)
    search = _Search(transaction, now, limit, suspects_max)
    search.begin(fitting)
    for depth in _DEPTHS:
        if not search.groups or not search.go_on(depth * limit):
            break
    return _claim(transaction, operation.owner, now, fitting, search.held)


@attrs.define(eq=False)
class _Search:
    """A search for runs to claim, that are locked as they are found."""

    transaction: Transaction
    now: int
    limit: int
    suspects_max: int
    #: What fits the executor.
    groups: Sequence[Group] = ()
    #: What is to be claimed, in order.
    held: list[Due] = attrs.Factory(list)
    #: What somebody else has, or is not due.
    _passed: set[int] = attrs.Factory(set)
    #: Looks at lines from their beginnings, whatever was claimed before.
    _is_whole: bool = True

    def begin(self, fitting: Fitting) -> None:
        """Have those in line whose time has come, and find out which groups there are."""
        fronts, workflows = self.transaction.fronts, fitting.workflows
        known = fronts.groups(workflows)
        look = [_TIME, (GROUPS, (texts(workflows),)), _TIME]
        moved, *found = self.transaction.exchange(
            (MOVE_INTO_LINE, (texts(workflows), self.now)), *(look if known is None else [])
        )
        if known is None:
            began, looked, ended = found
            known = fronts.looked_for_groups(workflows, [Group(*each) for each in looked.rows])
            fronts.note_microseconds(ended.rows[0][0] - began.rows[0][0])
        else:
            self._is_whole = False
        for workflow, version, refused, line, priority, wake_at, run in moved.rows:
            group = Group(workflow, version, refused)
            fronts.put((group, line), Due(-priority, wake_at, run, group))
        self.groups = [each for each in known if fitting.fits(each.workflow, each.version, codes_in(each.refused))]

    def go_on(self, depth: int) -> bool:
        """Look so deep into each line, and lock what is wanted; return whether there may be more to find."""
        lines = self._heads(depth)
        suspects = [due for (_, line), found in lines.items() if line == SUSPECT for due in found]
        may_enter = {due.run for due in self._left(suspects)[: self.suspects_max]}
        fresh = self._in_order(lines, may_enter, [each for each in self.groups if not each.refused])
        again = self._in_order(lines, may_enter, [each for each in self.groups if each.refused])
        limit = self.limit - len(self.held)
        taken = again[: places_for_refused(fresh, again, limit)]
        wanted = taken + fresh
        held = self._lock(wanted, limit)
        self.held += held
        lines_of = {due.run: line for line, found in lines.items() for due in found}
        for due in held:
            self.transaction.fronts.took(lines_of[due.run], due)
        self._passed.update(due.run for due in wanted)
        self.suspects_max -= sum(due.run in may_enter for due in held)
        is_deeper = any(len(found) >= depth for found in lines.values())
        return len(held) < limit and (is_deeper or len(taken) < len(again))

    def _heads(self, depth: int) -> dict[Line, list[Due]]:
        """Return the first of each line, those that were passed over included."""
        fronts = self.transaction.fronts
        wanted = [
            {"place": place, **group._asdict(), "line": line, **stretch._asdict()}
            for place, group in enumerate(self.groups)
            for line in (SUSPECT, BEGUN, NEW)
            for stretch in ((Stretch(),) if self._is_whole else fronts.stretches((group, line)))
        ]
        began, looked, ended = self.transaction.exchange(_TIME, (HEADS, (rows(wanted), depth)), _TIME)
        if self._is_whole:
            fronts.note_microseconds(ended.rows[0][0] - began.rows[0][0])
        lines: dict[Line, list[Due]] = {}
        for place, line, priority, wake_at, run in looked.rows:
            group = self.groups[place]
            due = Due(-priority, wake_at, run, group)
            lines.setdefault((group, line), []).append(due)
            if self._is_whole:
                fronts.put((group, line), due)
        # In line although it is not due: the clock was set back. What has begun sees for itself what is due, and it may
        # have been woken by a message; what is new must neither begin early nor stand in the way.
        early = {
            due.run
            for (_, line), found in lines.items()
            for due in found
            if line == NEW and due.wake_at > self.now and due.run not in self._passed
        }
        if early:
            self._passed |= early
            self.transaction.execute(MOVE_OUT_OF_LINE, numbers(early), self.now)
        return lines

    def _in_order(
        self, lines: Mapping[Line, Sequence[Due]], may_enter: Collection[int], groups: Iterable[Group]
    ) -> list[Due]:
        """Return what of some groups is due and was not passed over, in order."""
        begun: list[Due] = []
        new: list[Due] = []
        for group in groups:
            begun += [due for due in lines.get((group, SUSPECT), ()) if due.run in may_enter]
            begun += lines.get((group, BEGUN), ())
            new += lines.get((group, NEW), ())
        return self._left(begun) + self._left(new)

    def _left(self, found: Iterable[Due]) -> list[Due]:
        """Return what was not passed over, in order."""
        return sorted(due for due in found if due.run not in self._passed)

    def _lock(self, wanted: Sequence[Due], limit: int) -> list[Due]:
        """Lock the first of those that nobody else has locked, and that are as they were found."""
        if not wanted:
            return []
        places = [
            {"place": place, "run": due.run, "version": due.group.version, "refused": due.group.refused}
            for place, due in enumerate(wanted)
        ]
        locked = {run for (run,) in self.transaction.execute(LOCK, rows(places), limit).rows}
        return [due for due in wanted if due.run in locked]


def _claim(transaction: Transaction, owner: int, now: int, fitting: Fitting, held: Sequence[Due]) -> tuple[RunRow, ...]:
    """Claim runs that are locked, and return them in that order. One that is damaged is parked."""
    if not held:
        return ()
    living = {
        each: living_codes(transaction, each) for each in {due.group.workflow for due in held if due.group.refused}
    }
    taken = []
    for due in held:
        workflow, version, refused = due.group
        if refused:
            refused = refused_text(codes_in(refused) & living[workflow])
        taken.append({"run": due.run, "version": fitting.version(workflow, version), "refused": refused})
    statements: list[tuple[str, tuple[Any, ...]]] = [(CLAIM, (owner, now, rows(taken)))]
    if living:
        runs = {due.run for due in held if due.group.refused}
        statements.append((FORGET_OTHERS, (rows([each for each in taken if each["run"] in runs]),)))
    claimed = {row.run: row for row in map(run_from, transaction.exchange(*statements)[0].rows)}
    in_order = [claimed[due.run] for due in held]
    return tuple(
        park_damaged(transaction, row.run) if row.damage is not None or row.status in FINAL else row for row in in_order
    )


def claim_run(
    transaction: Transaction, operation: ClaimRun
) -> RunRow | RunNotFound | RunFinished | RunConflict | OwnershipLost:
    """Claim one run by its id (see ``ClaimRun``)."""
    if not transaction.is_executor_alive(operation.owner):
        return executor_ended(operation.owner)
    found = transaction.execute(FIND_CLAIMABLE, operation.run_id).rows
    if not found:
        return run_not_found(operation.run_id)
    run, status, workflow, version, refused, owner, problem = found[0]
    run_id, fitting = operation.run_id, Fitting(operation.codes)
    known = STATUS_OF.get(status, RunStatus.SUSPENDED)  # one that cannot be read is parked
    error = why_not_claimed(run_id, fitting.workflows, workflow, known, status, owner)
    if error is not None:
        return error
    if operation.is_asked_for:
        if refused or problem is not None:
            transaction.exchange((CLEAR_PROBLEM, (run,)), (FORGET_REFUSALS, (run,)))
        refused = ""
    elif problem is not None:
        return parked_as_damaged(run_id)
    if not fitting.fits(workflow, version, codes_in(refused)):
        return of_other_code(run_id, workflow)
    due = Due(0, 0, run, Group(workflow, version, refused))
    (row,) = _claim(transaction, operation.owner, operation.now, fitting, [due])
    return row if row.damage is None else is_damaged(run_id, row.damage)
