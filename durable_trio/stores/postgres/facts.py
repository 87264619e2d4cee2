"""The facts of a batch: its first round trip, which locks what will change and reads what is to be known.

Statements that look at more than a locked row come after that: a statement sees what was committed before it began, so
these see what a lock was waited for. Locks are taken in one order (``transaction``), the runs by one statement.

Runs that are to be started are inserted here: whether somebody else has stored the id is known by that alone. What an
operation that is refused would have started is removed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from durable_trio.records import RunStatus
from durable_trio.rows import Key, MailboxEntry
from durable_trio.rules.run_life import RunEvent
from durable_trio.stores.new_runs import first_wake_at
from durable_trio.stores.postgres.known import Added, Facts, Letter, Run
from durable_trio.stores.postgres.needs import Needs, Start
from durable_trio.stores.postgres.parked import REFUSAL
from durable_trio.stores.postgres.rows import RUN_COLUMNS, entry_from, key_hash, run_from
from durable_trio.stores.postgres.texts import numbers, rows, texts
from durable_trio.stores.postgres.transaction import NOW
from durable_trio.stores.postgres.wire import Answer, Request
from durable_trio.stores.row_columns import columns_of
from durable_trio.stores.statuses import STATUS_OF, word_after

__all__ = ["Read", "questions", "read"]

Row = tuple[Any, ...]
#: A statement, and what makes facts of its rows.
Read = tuple[Request, Callable[[Facts, list[Row]], None]]


# A statement is planned once, perhaps while its tables are small, and the server would walk through a small table or a
# small index. So it is left no choice: what is looked up stands in a subquery that needs the row before it, and that is
# not merged into the rest (OFFSET 0); and which entries are unread is left to the one index that finds them.
def _run(which: str) -> str:
    return f"CROSS JOIN LATERAL (SELECT run, owner FROM runs WHERE runs.id = {which} OFFSET 0) AS runs"


def _is_there(what: str) -> str:
    """Return the condition that there is a row, looked for each time: the server would read all for EXISTS."""
    return f"(SELECT count(*) FROM (SELECT 1 FROM {what} LIMIT 1) AS found) > 0"


# Nobody ends them before this transaction has: who declares one dead takes its row FOR UPDATE.
LIVING: Final = """
    SELECT id FROM executors WHERE id = ANY($1::bigint[]) AND ended_at IS NULL ORDER BY id FOR KEY SHARE
"""
LOCK: Final = f"""
    SELECT run, id, owner, token, status, wake_at, is_due, waits_for, problem, refused, parent, changed, {NOW}
    FROM runs WHERE run = ANY(ARRAY(
        SELECT unnest($1::bigint[])
        UNION ALL SELECT named.run FROM runs AS named WHERE named.id = ANY($2::text[])
        UNION ALL SELECT ending.parent FROM runs AS ending WHERE ending.run = ANY($3::bigint[])
        UNION ALL SELECT asked.parent FROM runs AS asked WHERE asked.id = ANY($4::text[])
    ))
    ORDER BY run FOR NO KEY UPDATE
"""
LOOK: Final = "SELECT run, id, owner, token FROM runs WHERE run = ANY($1::bigint[])"
KNOWN: Final = f"SELECT {RUN_COLUMNS}, refused, {REFUSAL}, args_digest FROM runs WHERE id = ANY($1::text[])"
_IS_IN_HISTORY: Final = _is_there("""
    history WHERE history.run = parents.run AND kind = 'child' AND md5(history.result) = md5(to_json(child.id)::text)
        AND history.result = to_json(child.id)::text
""")
# A run that this one has started since it began its present history, which has lost the row of that.
LOST_CHILDREN: Final = f"""
    SELECT child.id
    FROM json_to_recordset($1::json) AS x (id text, parent bigint)
        CROSS JOIN LATERAL (SELECT id, parent, created_at FROM runs WHERE runs.id = x.id OFFSET 0) AS child
        CROSS JOIN LATERAL (SELECT run, started_at FROM runs WHERE runs.run = x.parent OFFSET 0) AS parents
    WHERE child.parent = x.parent AND child.created_at >= parents.started_at AND NOT {_IS_IN_HISTORY}
"""
# Numbers are given in the order of the operations, and rows are inserted in that of their ids: two that store the same
# runs would otherwise wait for each other. A child is there only if its parent is still its owner's.
ADD: Final = f"""
    WITH given AS MATERIALIZED (
        SELECT nextval('runs_run_seq') AS run, x.* FROM json_to_recordset($1::json) AS x (
            id text, workflow text, args text, args_digest text, queue text, priority bigint, tags text, seed text,
            created_at bigint, wake_at bigint, ttl_at bigint, owner bigint, parent bigint, version bigint,
            parent_owner bigint, parent_token bigint
        )
    )
    INSERT INTO runs (run, id, workflow, status, owner, token, changed, priority, queue, created_at, started_at,
        wake_at, is_due, ttl_at, parent, parent_id, version, seed, args_digest, tags, args)
    OVERRIDING SYSTEM VALUE
    SELECT given.run, given.id, given.workflow,
        CASE WHEN executors.id IS NULL THEN {word_after(RunEvent.START)} ELSE {word_after(RunEvent.START_CLAIMED)} END,
        executors.id, CASE WHEN executors.id IS NULL THEN 0 ELSE 1 END, {NOW}, given.priority, given.queue,
        given.created_at, CASE WHEN executors.id IS NOT NULL THEN given.created_at END,
        CASE WHEN executors.id IS NULL THEN given.wake_at END,
        executors.id IS NULL AND given.wake_at <= given.created_at, given.ttl_at, parents.run, parents.id,
        given.version, decode(given.seed, 'hex'), decode(given.args_digest, 'hex'), given.tags, given.args
    FROM given
        LEFT JOIN LATERAL (
            SELECT id FROM executors WHERE executors.id = given.owner AND ended_at IS NULL OFFSET 0
        ) AS executors ON true
        LEFT JOIN LATERAL (
            SELECT run, id, owner, token FROM runs WHERE runs.run = given.parent OFFSET 0
        ) AS parents ON true
    WHERE given.parent IS NULL OR parents.run IS NOT NULL AND (
        given.parent_owner IS NULL OR parents.owner = given.parent_owner AND parents.token = given.parent_token
    )
    ORDER BY given.id
    ON CONFLICT (id) DO NOTHING
    RETURNING run, id, owner, parent, parent_id, changed
"""
NUMBERS: Final = "SELECT nextval('mailbox_id_seq') FROM generate_series(1, $1::integer)"

_LETTER: Final = "mailbox.run, mailbox.id, mailbox.kind, mailbox.name, mailbox.created_at"
TAKEN: Final = f"SELECT {_LETTER}, seq IS NULL FROM mailbox WHERE id = ANY($1::bigint[])"
CONTROLS: Final = f"""
    SELECT found.* FROM json_to_recordset($1::json) AS x (run bigint, kind text) CROSS JOIN LATERAL (
        SELECT {_LETTER} FROM mailbox WHERE mailbox.run = x.run AND seq IS NULL AND mailbox.kind = x.kind
        LIMIT $2::bigint
    ) AS found
"""
NAMED: Final = f"""
    SELECT found.* FROM json_to_recordset($1::json) AS x (run bigint, name text, at bigint, now bigint)
    CROSS JOIN LATERAL (
        SELECT {_LETTER} FROM mailbox
        WHERE mailbox.run = x.run AND seq IS NULL AND mailbox.kind = 'signal' AND mailbox.name = x.name
            AND (mailbox.created_at <= x.at OR mailbox.created_at > x.now)
        LIMIT $2::bigint
    ) AS found
"""
NAMED_BY_ID: Final = f"""
    SELECT found.* FROM json_to_recordset($1::json) AS x (id text, name text)
    {_run("x.id")} CROSS JOIN LATERAL (
        SELECT {_LETTER} FROM mailbox
        WHERE mailbox.run = runs.run AND seq IS NULL AND mailbox.kind = 'signal' AND mailbox.name = x.name
        LIMIT $2::bigint
    ) AS found
"""
# What an owner is told of the entry before (``Sent.follows``).
LAST: Final = f"""
    SELECT found.* FROM unnest($1::text[]) AS asked (id) {_run("asked.id")} CROSS JOIN LATERAL (
        SELECT {_LETTER} FROM mailbox WHERE mailbox.run = runs.run AND seq IS NULL ORDER BY id DESC LIMIT $2::bigint
    ) AS found
    WHERE runs.owner IS NOT NULL
"""
COUNT: Final = f"""
    SELECT runs.run, (
        SELECT count(*) FROM (
            SELECT 1 FROM mailbox WHERE mailbox.run = runs.run AND seq IS NULL AND kind = 'signal' LIMIT x.most
        ) AS found
    )
    FROM json_to_recordset($1::json) AS x (id text, most bigint) {_run("x.id")}
"""
_ENTRY: Final = ", ".join(f"mailbox.{name}" for name in columns_of(MailboxEntry))
SIGNALS: Final = f"""
    SELECT found.* FROM json_to_recordset($1::json) AS x (id text, signal_id text) {_run("x.id")} CROSS JOIN LATERAL (
        SELECT {_ENTRY}, mailbox.signal_id FROM mailbox
        WHERE mailbox.run = runs.run AND mailbox.signal_id = x.signal_id OFFSET 0
    ) AS found
"""
CANCELS: Final = f"""
    SELECT found.* FROM unnest($1::text[]) AS asked (id) {_run("asked.id")} CROSS JOIN LATERAL (
        SELECT {_ENTRY}, mailbox.seq IS NULL FROM mailbox
        WHERE mailbox.run = runs.run AND mailbox.kind = 'cancel' OFFSET 0
    ) AS found
"""
# Of what is held up: whether it has done anything that would have to be undone, or waited for.
BEGUN: Final = f"""
    SELECT run FROM runs WHERE id = ANY($1::text[]) AND (refused <> '' OR problem IS NOT NULL) AND (
        {_is_there("history WHERE history.run = runs.run")} OR {_is_there("waits WHERE waits.run = runs.run")}
    )
"""
OPEN_CHILDREN: Final = """
    SELECT runs.run, child.run FROM runs CROSS JOIN LATERAL (
        SELECT run FROM runs AS children WHERE children.parent = runs.run AND children.finished_at IS NULL
        LIMIT $2::bigint
    ) AS child
    WHERE runs.id = ANY($1::text[]) AND (refused <> '' OR problem IS NOT NULL)
"""
HISTORY: Final = """
    SELECT x.run, found.* FROM json_to_recordset($1::json) AS x (run bigint, key uuid) CROSS JOIN LATERAL (
        SELECT branch, name, n FROM history WHERE history.run = x.run AND history.key = x.key OFFSET 0
    ) AS found
"""


def questions(needs: Needs) -> Iterator[Read]:
    """Yield the statements that tell what is needed, in the order of locks."""
    if needs.executors:
        yield Request(LIVING, (numbers(needs.executors),)), _living
    if needs.locked or needs.locked_ids:
        sets = (needs.locked, needs.locked_ids, needs.ending, needs.cancelled_ids)
        runs, ids, ending, cancelled = sets
        yield Request(LOCK, (numbers(runs), texts(ids), numbers(ending), texts(cancelled))), _locked
    if needs.looked_at:
        yield Request(LOOK, (numbers(needs.looked_at),)), _looked_at
    if needs.starts:
        yield Request(KNOWN, (texts(needs.starts),)), _known
        if needs.children:
            children = rows({"id": run_id, "parent": parent} for run_id, parent in needs.children.items())
            yield Request(LOST_CHILDREN, (children,)), _lost_children
        yield Request(ADD, (rows(map(_new, needs.starts.values())),)), _added(needs)
    if needs.numbers:
        yield Request(NUMBERS, (needs.numbers,)), _numbers
    yield from _mail(needs)
    if needs.cancelled_ids:
        ids = needs.cancelled_ids
        yield Request(CANCELS, (texts(ids),)), _cancels
        yield Request(BEGUN, (texts(ids),)), _begun
        yield Request(OPEN_CHILDREN, (texts(ids), len(needs.ending) + len(ids) + 1)), _open_children
    if needs.history:
        keys = rows({"run": run, "key": key_hash(key)} for run, key in needs.history)
        yield Request(HISTORY, (keys,)), _history


def _mail(needs: Needs) -> Iterator[Read]:
    most = len(needs.taken) + 1  # so that one is left if there are others
    if needs.taken:
        yield Request(TAKEN, (numbers(needs.taken),)), _taken
    if needs.controls:
        yield Request(CONTROLS, (rows({"run": run, "kind": kind} for run, kind in needs.controls), most)), _letters
    if needs.named:
        names = ({"run": run, "name": each.name, "at": each.at, "now": each.now} for run, each in needs.named)
        yield Request(NAMED, (rows(names), most)), _letters
    if needs.receivers:
        yield Request(LAST, (texts(needs.receivers), most)), _letters
    if needs.limited:
        counts = ({"id": run_id, "most": unread_max + most} for run_id, unread_max in needs.limited.items())
        yield Request(COUNT, (rows(counts),)), _counts
        by_id = rows({"id": run_id, "name": name} for run_id, name in needs.named_ids)
        yield Request(NAMED_BY_ID, (by_id, most)), _letters
    if needs.signal_ids:
        ids = rows({"id": run_id, "signal_id": signal_id} for run_id, signal_id in needs.signal_ids)
        yield Request(SIGNALS, (ids,)), _signals


def _new(start: Start) -> dict[str, Any]:
    operation, fence = start.operation, start.fence
    return {
        "id": operation.id,
        "workflow": operation.workflow,
        "args": operation.args,
        "args_digest": operation.args_digest.hex(),
        "queue": operation.queue,
        "priority": operation.priority,
        "tags": operation.tags,
        "seed": operation.seed.hex(),
        "created_at": operation.created_at,
        "wake_at": first_wake_at(operation),
        "ttl_at": operation.ttl_at,
        "owner": start.owner,
        "parent": start.parent,
        "version": operation.version,
        "parent_owner": None if fence is None else fence.owner,
        "parent_token": None if fence is None else fence.token,
    }


# ---- what rows tell ----------------------------------------------------------------------------------------------


def read(facts: Facts, reads: Iterable[Read], answers: Iterable[Answer]) -> Facts:
    """Put what was answered among the facts, and return them."""
    for (_, tell), answer in zip(reads, answers, strict=True):
        tell(facts, answer.rows)
    return facts


def _living(facts: Facts, found: list[Row]) -> None:
    facts.living.update(row[0] for row in found)


def _locked(facts: Facts, found: list[Row]) -> None:
    for run, run_id, owner, token, status, wake_at, is_due, waits_for, problem, refused, parent, changed, now in found:
        facts.runs[run] = facts.by_id[run_id] = Run(
            run,
            run_id,
            owner,
            token,
            True,
            STATUS_OF.get(status, RunStatus.SUSPENDED),
            wake_at,
            is_due,
            waits_for or (),
            problem,
            refused,
            None,
            parent,
            changed,
            now,
        )


def _looked_at(facts: Facts, found: list[Row]) -> None:
    for row in found:
        if row[0] not in facts.runs:
            facts.runs[row[0]] = Run(*row)


def _known(facts: Facts, found: list[Row]) -> None:
    for *columns, refused, refusal, digest in found:
        row = run_from(tuple(columns))
        run = facts.by_id.get(row.id)
        if run is None:
            run = Run(row.run, row.id, row.owner, row.token, status=row.status, refused=refused)
            facts.by_id[row.id] = run
        run.refusal = refusal
        facts.rows[row.run] = row
        facts.digests[row.run] = digest


def _lost_children(facts: Facts, found: list[Row]) -> None:
    facts.lost_children.update(row[0] for row in found)


def _added(needs: Needs) -> Callable[[Facts, list[Row]], None]:
    def tell(facts: Facts, found: list[Row]) -> None:
        facts.starts = {run_id: start.operation for run_id, start in needs.starts.items()}
        for run, run_id, *columns in found:
            facts.added[run_id] = Added(run, *columns)
            facts.by_id.pop(run_id, None)  # one that was removed since it was looked for

    return tell


def _numbers(facts: Facts, found: list[Row]) -> None:
    facts.numbers = sorted((row[0] for row in found), reverse=True)


def _letters(facts: Facts, found: list[Row]) -> None:
    for run, entry, kind, name, created_at in found:
        facts.unread.setdefault(run, {})[entry] = Letter(kind, name, created_at)


def _taken(facts: Facts, found: list[Row]) -> None:
    _letters(facts, [tuple(row) for *row, is_unread in found if is_unread])


def _counts(facts: Facts, found: list[Row]) -> None:
    facts.unread_counts.update(found)


def _signals(facts: Facts, found: list[Row]) -> None:
    for *columns, signal_id in found:
        entry = entry_from(tuple(columns))
        facts.signals[entry.run, signal_id] = entry


def _cancels(facts: Facts, found: list[Row]) -> None:
    for *columns, is_unread in found:
        entry = entry_from(tuple(columns))
        facts.cancels[entry.run] = entry
        if is_unread:
            facts.unread.setdefault(entry.run, {})[entry.id] = Letter(entry.kind, entry.name, entry.created_at)


def _begun(facts: Facts, found: list[Row]) -> None:
    facts.begun.update(row[0] for row in found)


def _open_children(facts: Facts, found: list[Row]) -> None:
    for run, child in found:
        facts.open_children.setdefault(run, set()).add(child)


def _history(facts: Facts, found: list[Row]) -> None:
    facts.history.update((run, Key(branch, name, n)) for run, branch, name, n in found)
