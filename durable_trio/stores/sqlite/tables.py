"""The tables, how they came to be, and whether a file's schema is the one that was written here.

Payloads come last in a row, so that a look at a run's owner does not walk through its arguments. Times are integer
microseconds since 1970 UTC. Runs that have ended are in none of the indexes that the hot path uses.

Statements say ``LIMIT ? + 0``: the plan may depend on a bare parameter there, so that SQLite would compile the
statement anew for each value, which costs three times what it does.
"""

from __future__ import annotations

from functools import cache
from shlex import quote
from typing import Final

from durable_trio.errors import NotADatabase, SchemaTooNew, StoreError
from durable_trio.stores.sqlite.library import sqlite3

__all__ = [
    "APPLICATION_ID",
    "SCHEMA_VERSION",
    "SEALED",
    "TABLES",
    "VERSIONS",
    "check_schema",
    "schema_version",
    "sealed_version",
]

# "DTrn" in ASCII: tells our files from those of other programs.
APPLICATION_ID: Final = 0x4454726E
SCHEMA_VERSION: Final = 3
# Of a file that is sealed (``sealing``) this is added to its version: too new for all that were ever released.
SEALED: Final = 0x5EA1ED00
_VERSIONS_MAX: Final = 0xFF

TABLES: Final = frozenset(
    {
        "runs",
        "history",
        "waits",
        "mailbox",
        "executors",
        "deaths",
        "published",
        "change_counter",
        "reports",
        "tags",
        "unread_counts",
        "earlier_generations",
        "earlier_history",
        "store_identity",
        "codes",
        "executor_codes",
        "refusals",
        "_sqlite_migrations",
    }
)

_VERSION_1: Final[tuple[str, ...]] = (
    """
    CREATE TABLE runs (
        run INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        workflow TEXT NOT NULL,
        status TEXT NOT NULL
            CHECK (status IN ('pending', 'running', 'suspended', 'compensating', 'completed', 'failed', 'cancelled')),
        owner INTEGER,
        token INTEGER NOT NULL DEFAULT 0,
        claimed_seq INTEGER NOT NULL DEFAULT -1,
        recoveries INTEGER NOT NULL DEFAULT 0,
        changed INTEGER NOT NULL,
        priority INTEGER NOT NULL DEFAULT 0,
        queue TEXT,
        created_at INTEGER NOT NULL,
        started_at INTEGER,
        finished_at INTEGER,
        wake_at INTEGER,
        ttl_at INTEGER,
        parent INTEGER REFERENCES runs (run) ON DELETE SET NULL,
        parent_id TEXT,
        generation INTEGER NOT NULL DEFAULT 0,
        seed BLOB NOT NULL,
        args_digest BLOB NOT NULL,
        waits_for TEXT,
        fingerprint TEXT,
        problem TEXT,
        tags TEXT NOT NULL DEFAULT '{}',
        compensation_errors TEXT NOT NULL DEFAULT '[]',
        error TEXT,
        result TEXT,
        args TEXT NOT NULL
    ) STRICT
    """,
    # Claims: one seek per workflow and distinct priority, whatever the size of the backlog.
    """
    CREATE INDEX runs_due ON runs (workflow, priority, wake_at) WHERE owner IS NULL AND wake_at IS NOT NULL
    """,
    "CREATE INDEX runs_owned ON runs (owner) WHERE owner IS NOT NULL",
    "CREATE INDEX runs_changed ON runs (changed)",
    "CREATE INDEX runs_created ON runs (created_at)",
    "CREATE INDEX runs_of_parent ON runs (parent) WHERE parent IS NOT NULL",
    "CREATE INDEX runs_of_parent_id ON runs (parent_id) WHERE parent_id IS NOT NULL",
    "CREATE INDEX runs_parked ON runs (workflow) WHERE problem IS NOT NULL",
    "CREATE INDEX runs_unfinished ON runs (workflow) WHERE finished_at IS NULL",
    "CREATE INDEX runs_finished ON runs (finished_at, status) WHERE finished_at IS NOT NULL",
    """
    CREATE TABLE history (
        id INTEGER PRIMARY KEY,
        run INTEGER NOT NULL REFERENCES runs (run) ON DELETE CASCADE,
        seq INTEGER NOT NULL,
        branch TEXT NOT NULL,
        name TEXT NOT NULL,
        n INTEGER NOT NULL,
        kind TEXT NOT NULL,
        status TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        compensates INTEGER NOT NULL,
        started_at INTEGER NOT NULL,
        finished_at INTEGER NOT NULL,
        error TEXT,
        result TEXT,
        UNIQUE (run, branch, name, n)
    ) STRICT
    """,
    """
    CREATE TABLE waits (
        run INTEGER NOT NULL REFERENCES runs (run) ON DELETE CASCADE,
        branch TEXT NOT NULL,
        name TEXT NOT NULL,
        n INTEGER NOT NULL,
        kind TEXT NOT NULL,
        due_at INTEGER,
        attempt INTEGER NOT NULL,
        started_at INTEGER NOT NULL,
        error TEXT,
        PRIMARY KEY (run, branch, name, n)
    ) STRICT, WITHOUT ROWID
    """,
    # seq: that of the history row that has consumed the entry; NULL while it is unread.
    """
    CREATE TABLE mailbox (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        run INTEGER NOT NULL REFERENCES runs (run) ON DELETE CASCADE,
        seq INTEGER,
        kind TEXT NOT NULL CHECK (kind IN ('signal', 'cancel', 'child')),
        name TEXT NOT NULL,
        signal_id TEXT,
        created_at INTEGER NOT NULL,
        payload TEXT
    ) STRICT
    """,
    # Unread entries are one seek (seq IS NULL), and deleting a run finds all of its entries.
    "CREATE INDEX mailbox_of_run ON mailbox (run, seq)",
    "CREATE UNIQUE INDEX mailbox_signal_id ON mailbox (run, signal_id) WHERE signal_id IS NOT NULL",
    "CREATE UNIQUE INDEX mailbox_cancel ON mailbox (run) WHERE kind = 'cancel'",
    """
    CREATE TABLE executors (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        pid INTEGER NOT NULL,
        host TEXT NOT NULL,
        boot_id TEXT NOT NULL,
        started_at INTEGER NOT NULL,
        lease_until INTEGER NOT NULL,
        ended_at INTEGER
    ) STRICT
    """,
    """
    CREATE TABLE published (
        run INTEGER NOT NULL REFERENCES runs (run) ON DELETE CASCADE,
        key TEXT NOT NULL,
        value TEXT NOT NULL,
        PRIMARY KEY (run, key)
    ) STRICT, WITHOUT ROWID
    """,
    # One row: the number that the last transaction with a visible change has taken.
    "CREATE TABLE change_counter (id INTEGER PRIMARY KEY CHECK (id = 1), changed INTEGER NOT NULL) STRICT",
    "INSERT INTO change_counter (id, changed) VALUES (1, 0)",
)

_VERSION_2: Final[tuple[str, ...]] = (
    # What processes say of themselves, and an index of those that execute.
    "CREATE TABLE reports (process TEXT PRIMARY KEY, updated_at INTEGER NOT NULL, report TEXT NOT NULL) STRICT",
    "CREATE INDEX executors_living ON executors (id) WHERE ended_at IS NULL",
)

# Where a run that is due stands in line. What has begun goes before all first claims; of the suspects, whose processes
# have died again and again (``SUSPECT_RECOVERIES``), few are let in at once, so they stand apart. The number is written
# out: it is part of an index that is stored, and cannot change with the limit.
LINE: Final = "CASE WHEN recoveries >= 2 THEN 2 WHEN token > 0 THEN 1 ELSE 0 END"
# Unowned runs that stand in line.
IN_LINE: Final = "runs INDEXED BY runs_line WHERE owner IS NULL AND wake_at IS NOT NULL AND is_due = 1"
# Of a run that some code has refused, and that nobody executes.
REFUSED: Final = "refused <> '' AND owner IS NULL AND finished_at IS NULL"
# Of a run that has not ended and whose workflow has versions, or that has none yet; most workflows have only version 0.
OF_A_VERSION: Final = "finished_at IS NULL AND version <> 0"
# Of a run that has ended, though nobody knows when: none that this library has written.
WITHOUT_END: Final = "finished_at IS NULL AND status IN ('completed', 'failed', 'cancelled')"

_VERSION_3: Final[tuple[str, ...]] = (
    # One row: tells this store from others, whatever file it is in.
    "CREATE TABLE store_identity (id INTEGER PRIMARY KEY CHECK (id = 1), nonce TEXT NOT NULL) STRICT",
    "INSERT INTO store_identity (id, nonce) VALUES (1, lower(hex(randomblob(16))))",
    # Which file had the executor's kernel lock: in another one, nothing tells whether it is alive but its lease.
    "ALTER TABLE executors ADD COLUMN lock TEXT",
    # How often the executor has said that it lives, and for how long it may be seen not to: others compare numbers, not
    # clocks. When it did so last, by the clock of the boot, is shown to people.
    "ALTER TABLE executors ADD COLUMN renewals INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE executors ADD COLUMN lease INTEGER NOT NULL DEFAULT 30000000",
    "ALTER TABLE executors RENAME COLUMN lease_until TO renewed_at",
    # Deaths of executors that are to be told of. Who has found one is its teller, and may die before it has told it.
    """
    CREATE TABLE deaths (
        executor INTEGER PRIMARY KEY,
        pid INTEGER NOT NULL,
        host TEXT NOT NULL,
        stage TEXT NOT NULL,
        runs INTEGER NOT NULL,
        untold TEXT NOT NULL,
        teller TEXT NOT NULL
    ) STRICT
    """,
    # Where in the run's life a value was published: after the row seq, as the n-th since. -1 is before every other.
    "ALTER TABLE published ADD COLUMN seq INTEGER NOT NULL DEFAULT -1",
    "ALTER TABLE published ADD COLUMN n INTEGER NOT NULL DEFAULT 0",
    # Unowned runs with a wake_at stand in line (is_due) or come later. Whoever sets wake_at to the present puts the run
    # in line; claims move those whose time has come. So a claim looks at the heads of lines only: it walks neither
    # through priorities nor through runs of a high priority that are not due.
    "DROP INDEX runs_due",
    "ALTER TABLE runs ADD COLUMN is_due INTEGER NOT NULL DEFAULT 0",
    # Which code of a workflow may execute a run. A run has the version of the code that began it, -1 until that is
    # known; those from before workflows had versions are of version 0. ``refused`` are the codes that it does not fit,
    # as ',3,17,': such runs stand in line by themselves, so that a claim passes over those that its own code has
    # refused. The numbers of codes are never given out twice.
    """
    CREATE TABLE codes (
        code INTEGER PRIMARY KEY AUTOINCREMENT,
        workflow TEXT NOT NULL,
        version INTEGER NOT NULL,
        fingerprint TEXT NOT NULL,
        first_seen_at INTEGER NOT NULL,
        UNIQUE (workflow, version, fingerprint)
    ) STRICT
    """,
    """
    CREATE TABLE executor_codes (
        executor INTEGER NOT NULL,
        code INTEGER NOT NULL,
        PRIMARY KEY (code, executor)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE refusals (
        run INTEGER NOT NULL REFERENCES runs (run) ON DELETE CASCADE,
        code INTEGER NOT NULL,
        refused_at INTEGER NOT NULL,
        problem TEXT NOT NULL,
        PRIMARY KEY (run, code)
    ) STRICT, WITHOUT ROWID
    """,
    "ALTER TABLE runs ADD COLUMN version INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE runs ADD COLUMN refused TEXT NOT NULL DEFAULT ''",
    f"""
    CREATE INDEX runs_line ON runs (workflow, version, refused, {LINE}, priority DESC, wake_at)
        WHERE owner IS NULL AND wake_at IS NOT NULL AND is_due = 1
    """,
    f"CREATE INDEX runs_of_version ON runs (workflow, version) WHERE {OF_A_VERSION}",
    f"CREATE INDEX runs_refused ON runs (workflow, version, refused) WHERE {REFUSED}",
    # What was parked until its code is another: all code is another now.
    """
    UPDATE runs SET problem = NULL, fingerprint = NULL, wake_at = created_at
    WHERE problem IS NOT NULL AND fingerprint IS NOT 'damaged' AND finished_at IS NULL
    """,
    """
    CREATE INDEX runs_later ON runs (workflow, token > 0, wake_at)
        WHERE owner IS NULL AND wake_at IS NOT NULL AND is_due IS NOT 1
    """,
    # Runs that are being copied or removed, piece by piece: nobody sees them, and their id is no longer, or not yet,
    # the one that people know. The instant is that of the last piece.
    "ALTER TABLE runs ADD COLUMN hidden_at INTEGER",
    "CREATE INDEX runs_hidden ON runs (hidden_at) WHERE hidden_at IS NOT NULL",
    # Lists, newest first, and counts.
    "DROP INDEX runs_unfinished",
    "CREATE INDEX runs_by_status ON runs (workflow, status, created_at)",
    "CREATE INDEX runs_of_queue ON runs (queue, created_at) WHERE queue IS NOT NULL",
    "DROP INDEX runs_of_parent_id",
    "CREATE INDEX runs_of_parent_id ON runs (parent_id, created_at) WHERE parent_id IS NOT NULL",
    """
    CREATE TABLE tags (
        key TEXT NOT NULL,
        value TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        run INTEGER NOT NULL,
        PRIMARY KEY (key, value, created_at, run)
    ) STRICT, WITHOUT ROWID
    """,
    """
    INSERT INTO tags (key, value, created_at, run)
    SELECT DISTINCT tag.key, tag.value, runs.created_at, runs.run
    FROM runs, json_each(CASE WHEN json_valid(runs.tags) THEN runs.tags ELSE '{}' END) AS tag WHERE tag.type = 'text'
    """,
    # Triggers, so that the table is right whoever writes the runs.
    """
    CREATE TRIGGER tags_of_new_run AFTER INSERT ON runs WHEN new.tags <> '{}' AND json_valid(new.tags) BEGIN
        INSERT OR IGNORE INTO tags (key, value, created_at, run)
        SELECT key, value, new.created_at, new.run FROM json_each(new.tags) WHERE type = 'text';
    END
    """,
    """
    CREATE TRIGGER tags_of_removed_run AFTER DELETE ON runs WHEN old.tags <> '{}' AND json_valid(old.tags) BEGIN
        DELETE FROM tags WHERE (key, value, created_at, run) IN (
            SELECT key, value, old.created_at, old.run FROM json_each(old.tags) WHERE type = 'text'
        );
    END
    """,
    # Pruning: the oldest of each status, and whether a parent's history has the start of a child.
    "DROP INDEX runs_finished",
    "CREATE INDEX runs_finished ON runs (status, finished_at) WHERE finished_at IS NOT NULL",
    f"CREATE INDEX runs_without_end ON runs (status, created_at) WHERE {WITHOUT_END}",
    "CREATE INDEX history_children ON history (run, result) WHERE kind = 'child'",
    # How earlier attempts of a step have failed.
    "ALTER TABLE history ADD COLUMN earlier TEXT",
    "ALTER TABLE waits ADD COLUMN earlier TEXT",
    # How markers of changes are numbered (``RunRow.keys``): together with calls of the same name only where that makes
    # a difference, for it was so when the run recorded them. An answer that the old way goes on has left no marker, but
    # a gap in the numbers. Elsewhere markers get a name that no call can have.
    "ALTER TABLE runs ADD COLUMN keys INTEGER NOT NULL DEFAULT 2",
    """
    UPDATE runs SET keys = 1 WHERE run IN (
        SELECT run FROM history AS marker WHERE kind = 'patch' AND (
            EXISTS (SELECT 1 FROM history AS call WHERE call.run = marker.run AND call.branch = marker.branch
                AND call.name = marker.name AND call.kind <> 'patch')
            OR EXISTS (SELECT 1 FROM waits AS call WHERE call.run = marker.run AND call.branch = marker.branch
                AND call.name = marker.name)
        )
        UNION ALL
        SELECT run FROM (SELECT run, branch, name, n FROM history UNION SELECT run, branch, name, n FROM waits)
        GROUP BY run, branch, name HAVING count(*) <= max(n)
    )
    """,
    """
    UPDATE history SET name = ' ' || name
    WHERE kind = 'patch' AND name NOT IN ('(payload)', '(late)') AND run IN (SELECT run FROM runs WHERE keys = 2)
    """,
    # Runs with a step that is tried again.
    "CREATE INDEX waits_retrying ON waits (run) WHERE kind = 'retry'",
    # What a run waits for is one seek, however much else is unread; and how much that is need not be counted.
    "CREATE INDEX mailbox_unread ON mailbox (run, kind, name) WHERE seq IS NULL",
    """
    CREATE TABLE unread_counts (
        run INTEGER PRIMARY KEY REFERENCES runs (run) ON DELETE CASCADE,
        signals INTEGER NOT NULL
    ) STRICT
    """,
    """
    INSERT INTO unread_counts (run, signals)
    SELECT run, count(*) FROM mailbox WHERE seq IS NULL AND kind = 'signal' GROUP BY run
    """,
    # Histories that a run has ended to begin anew. They stand apart, so that a run's history is found as before.
    """
    CREATE TABLE earlier_generations (
        run INTEGER NOT NULL REFERENCES runs (run) ON DELETE CASCADE,
        generation INTEGER NOT NULL,
        started_at INTEGER,
        finished_at INTEGER NOT NULL,
        left_out INTEGER NOT NULL,
        version INTEGER NOT NULL,
        args TEXT NOT NULL,
        PRIMARY KEY (run, generation)
    ) STRICT
    """,
    """
    CREATE TABLE earlier_history (
        id INTEGER PRIMARY KEY,
        run INTEGER NOT NULL REFERENCES runs (run) ON DELETE CASCADE,
        generation INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        branch TEXT NOT NULL,
        name TEXT NOT NULL,
        n INTEGER NOT NULL,
        kind TEXT NOT NULL,
        status TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        compensates INTEGER NOT NULL,
        started_at INTEGER NOT NULL,
        finished_at INTEGER NOT NULL,
        error TEXT,
        result TEXT,
        earlier TEXT
    ) STRICT
    """,
    "CREATE INDEX earlier_history_of_run ON earlier_history (run, generation)",
    # Of which run one is a copy, and before which row of it.
    "ALTER TABLE runs ADD COLUMN forked_from TEXT",
    "ALTER TABLE runs ADD COLUMN forked_before TEXT",
)


#: What makes each version of the schema of the one before. What was released is never changed.
VERSIONS: Final[tuple[tuple[str, ...], ...]] = (_VERSION_1, _VERSION_2, _VERSION_3)


def schema_version(connection: sqlite3.Connection, path: str) -> int:
    """Return the version of a file's schema; 0 for an empty database.

    Raises:
        StoreError: it is sealed: its runs are, or will be, in another database.
        SchemaTooNew: a newer version of this library has written it.
        NotADatabase: the number makes no sense.
    """
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if sealed_version(version) is not None:
        raise _sealed(connection, path)
    if version > SCHEMA_VERSION:
        raise SchemaTooNew(
            f"{path!r} has schema version {version}, written by a newer version of this library; "
            f"this one knows version {SCHEMA_VERSION}: upgrade it. The file was not changed"
        )
    if version < 0:
        raise NotADatabase(f"{path!r} has the impossible schema version {version}; restore a copy of the file")
    return version


def sealed_version(version: int) -> int | None:
    """Return which version the schema of a sealed file has; ``None`` if the number is that of a file that is not."""
    return version - SEALED if SEALED < version <= SEALED + _VERSIONS_MAX else None


def _sealed(connection: sqlite3.Connection, path: str) -> StoreError:
    target, is_copied = connection.execute("SELECT target, is_copied FROM store_seal").fetchone()
    command = f"durable-trio copy {quote(path)}"
    if is_copied:
        how = f"were copied to {target}, and go on there: use that in place of the file"
    else:
        how = f"are being copied to {target}: `{command} URL` goes on with that"
    return StoreError(f"{path!r} is sealed: its runs {how}; `{command} --unseal` takes that back")


def check_schema(connection: sqlite3.Connection, path: str, *, is_current: bool) -> None:
    """Refuse a file whose schema was tampered with: it would run statements of somebody else inside ours.

    Args:
        is_current: also compare the text of every table and index with what the migrations make.

    Raises:
        NotADatabase: triggers on our tables, or something else in their place.
    """
    found: dict[str, tuple[str, str]] = {}
    for kind, name, table, sql in connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema").fetchall():
        is_ours = table.lower() in TABLES or name.lower() in TABLES
        if not is_ours:
            continue
        is_virtual = kind == "table" and sql is not None and sql.lstrip().upper().startswith("CREATE VIRTUAL")
        is_own_trigger = kind == "trigger" and _expected_schema().get(name) == (kind, sql)
        if (kind not in ("table", "index") and not is_own_trigger) or is_virtual:
            what = "virtual table" if is_virtual else kind
            raise NotADatabase(
                f"{path!r} has a {what} {name!r} on or in place of a table of this library; "
                "remove it, or restore a copy"
            )
        if sql is not None:
            found[name] = (kind, sql)
    if not is_current:
        return
    for name, expected in _expected_schema().items():
        if found.get(name) != expected:
            raise NotADatabase(
                f"{path!r}: the {expected[0]} {name!r} is missing or was changed; restore a copy of the file"
            )


@cache
def _expected_schema() -> dict[str, tuple[str, str]]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        for statements in VERSIONS:
            for statement in statements:
                connection.execute(statement)
        rows = connection.execute(
            "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE '%sqlite_%'"
        ).fetchall()
    finally:
        connection.close()
    return {name: (kind, sql) for kind, name, sql in rows}
