"""The tables, and how they came to be: the migrations, in their order. What was released is never changed.

The tables are those of the other store (``stores.sqlite.tables``), where the same words mean the same. What is
different: several write at once, so nothing has one order of commits. ``stamp`` is the transaction that has last
written a row for watchers, or that has sent a message: what was committed after a snapshot is found by it
(``cursors``). ``runs.changed`` rises with each change of one run, and is otherwise the time of it.

Times are microseconds since 1970 UTC. Payloads are ``text``: ``jsonb`` reorders keys and normalises numbers. Keys of
history and waits are hashes of (branch, name, n), for an entry of an index has at most 2,704 bytes (``rows.key_hash``).
``seq`` of the mailbox is that of the history row that has consumed an entry; NULL while it is unread.
"""

from __future__ import annotations

from typing import Final

__all__ = ["LINE", "MIGRATIONS", "READABLE_BY", "SCHEMA_VERSION"]

#: The lowest version of this library's schema that can work with tables of ``SCHEMA_VERSION``: until then migrations
#: only add, so that old and new processes run side by side while a new release is rolled out.
READABLE_BY: Final = 1

#: Where a run that is due stands in line. What has begun goes before all first claims; of the suspects, whose processes
#: have died again and again (``SUSPECT_RECOVERIES``), few are let in at once, so they stand apart.
LINE: Final = "(CASE WHEN recoveries >= 2 THEN 2 WHEN token > 0 THEN 1 ELSE 0 END)"

# Each change of a run moves it between partial indexes, so its row never stays where it is, and leaves a dead one.
_CHANGES_OFTEN: Final = """
    autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0.05
"""
_GROWS: Final = "autovacuum_vacuum_insert_scale_factor = 0.2"

_VERSION_1: Final[tuple[str, ...]] = (
    "CREATE TABLE meta (id integer PRIMARY KEY CHECK (id = 1), version integer NOT NULL, readable_by integer NOT NULL, "
    "nonce text NOT NULL)",
    "INSERT INTO meta (id, version, readable_by, nonce) VALUES (1, 1, 1, replace(gen_random_uuid()::text, '-', ''))",
    f"""
    CREATE TABLE runs (
        run bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        id text COLLATE "C" NOT NULL,
        workflow text COLLATE "C" NOT NULL,
        status text COLLATE "C" NOT NULL
            CHECK (status IN ('pending', 'running', 'suspended', 'compensating', 'completed', 'failed', 'cancelled')),
        owner bigint,
        token bigint NOT NULL DEFAULT 0,
        claimed_seq bigint NOT NULL DEFAULT -1,
        recoveries bigint NOT NULL DEFAULT 0,
        changed bigint NOT NULL,
        stamp xid8 NOT NULL DEFAULT pg_current_xact_id(),
        priority bigint NOT NULL DEFAULT 0,
        queue text COLLATE "C",
        created_at bigint NOT NULL,
        started_at bigint,
        finished_at bigint,
        wake_at bigint,
        is_due boolean NOT NULL DEFAULT false,
        ttl_at bigint,
        parent bigint,
        parent_id text COLLATE "C",
        generation bigint NOT NULL DEFAULT 0,
        version bigint NOT NULL DEFAULT -1,
        keys integer NOT NULL DEFAULT 2,
        refused text COLLATE "C" NOT NULL DEFAULT '',
        seed bytea NOT NULL,
        args_digest bytea NOT NULL,
        hidden_at bigint,
        forked_from text COLLATE "C",
        forked_before text COLLATE "C",
        waits_for text[],
        problem text,
        tags text NOT NULL DEFAULT '{{}}',
        compensation_errors text NOT NULL DEFAULT '[]',
        error text,
        result text,
        args text NOT NULL,
        CONSTRAINT runs_id UNIQUE (id)
    ) WITH ({_CHANGES_OFTEN})
    """,
    # Claims: lines, as ``stores.sqlite.tables`` tells, and what comes later.
    f"""
    CREATE INDEX runs_line ON runs (workflow, version, refused, {LINE}, priority DESC, wake_at, run)
        WHERE owner IS NULL AND wake_at IS NOT NULL AND is_due
    """,
    """
    CREATE INDEX runs_later ON runs (workflow, (token > 0), wake_at)
        WHERE owner IS NULL AND wake_at IS NOT NULL AND NOT is_due
    """,
    "CREATE INDEX runs_owned ON runs (owner) WHERE owner IS NOT NULL",
    "CREATE INDEX runs_stamp ON runs (stamp, run)",
    "CREATE INDEX runs_changed ON runs (changed, run)",
    "CREATE INDEX runs_created ON runs (created_at, run)",
    # In the order of an expression: where it is a column the server may read the index of all runs in that order, and
    # look at all of them for one (``answers.filters``).
    "CREATE INDEX runs_by_status ON runs (workflow, status, (created_at + 0), run)",
    "CREATE INDEX runs_finished ON runs (status, finished_at, run) WHERE finished_at IS NOT NULL",
    "CREATE INDEX runs_of_queue ON runs (queue, (created_at + 0), run) WHERE queue IS NOT NULL",
    "CREATE INDEX runs_of_parent ON runs (parent, run) WHERE parent IS NOT NULL",
    "CREATE INDEX runs_of_parent_id ON runs (parent_id, (created_at + 0), run) WHERE parent_id IS NOT NULL",
    "CREATE INDEX runs_of_version ON runs (workflow, version) WHERE finished_at IS NULL AND version <> 0",
    """
    CREATE INDEX runs_refused ON runs (workflow, version, refused)
        WHERE refused <> '' AND owner IS NULL AND finished_at IS NULL
    """,
    "CREATE INDEX runs_damaged ON runs (workflow) WHERE problem IS NOT NULL",
    "CREATE INDEX runs_hidden ON runs (hidden_at, run) WHERE hidden_at IS NOT NULL",
    f"""
    CREATE TABLE history (
        run bigint NOT NULL,
        key uuid NOT NULL,
        seq bigint NOT NULL,
        n bigint NOT NULL,
        attempt bigint NOT NULL,
        compensates boolean NOT NULL,
        started_at bigint NOT NULL,
        finished_at bigint NOT NULL,
        kind text COLLATE "C" NOT NULL,
        status text COLLATE "C" NOT NULL,
        branch text COLLATE "C" NOT NULL,
        name text COLLATE "C" NOT NULL,
        error text,
        result text,
        earlier text,
        CONSTRAINT history_key PRIMARY KEY (run, key)
    ) WITH ({_GROWS})
    """,
    # Whether a parent's history has the start of a child, by its id as JSON.
    "CREATE INDEX history_children ON history (run, md5(result)) WHERE kind = 'child'",
    f"""
    CREATE TABLE waits (
        run bigint NOT NULL,
        key uuid NOT NULL,
        n bigint NOT NULL,
        due_at bigint,
        attempt bigint NOT NULL,
        started_at bigint NOT NULL,
        kind text COLLATE "C" NOT NULL,
        branch text COLLATE "C" NOT NULL,
        name text COLLATE "C" NOT NULL,
        error text,
        earlier text,
        CONSTRAINT waits_key PRIMARY KEY (run, key)
    ) WITH ({_CHANGES_OFTEN})
    """,
    "CREATE INDEX waits_retrying ON waits (run) WHERE kind = 'retry'",
    f"""
    CREATE TABLE mailbox (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        run bigint NOT NULL,
        seq bigint,
        created_at bigint NOT NULL,
        stamp xid8 NOT NULL DEFAULT pg_current_xact_id(),
        kind text COLLATE "C" NOT NULL CHECK (kind IN ('signal', 'cancel', 'child')),
        name text COLLATE "C" NOT NULL,
        signal_id text COLLATE "C",
        payload text
    ) WITH ({_CHANGES_OFTEN})
    """,
    "CREATE INDEX mailbox_unread ON mailbox (run, id) WHERE seq IS NULL",
    "CREATE INDEX mailbox_unread_named ON mailbox (run, kind, name, id) WHERE seq IS NULL",
    "CREATE INDEX mailbox_of_run ON mailbox (run, seq)",
    "CREATE UNIQUE INDEX mailbox_signal_id ON mailbox (run, signal_id) WHERE signal_id IS NOT NULL",
    "CREATE UNIQUE INDEX mailbox_cancel ON mailbox (run) WHERE kind = 'cancel'",
    "CREATE INDEX mailbox_stamp ON mailbox (stamp, id)",
    """
    CREATE TABLE published (
        run bigint NOT NULL,
        key text COLLATE "C" NOT NULL,
        seq bigint NOT NULL DEFAULT -1,
        n bigint NOT NULL DEFAULT 0,
        value text NOT NULL,
        PRIMARY KEY (run, key)
    )
    """,
    # By a digest of the value, which may be of any length (``answers.filters``).
    """
    CREATE TABLE tags (
        key text COLLATE "C" NOT NULL,
        digest bytea NOT NULL,
        created_at bigint NOT NULL,
        run bigint NOT NULL,
        PRIMARY KEY (key, digest, created_at, run)
    )
    """,
    "CREATE INDEX tags_of_run ON tags (run)",
    # A NUL, which no text can have here, counts as a character that is none.
    r"""
    CREATE FUNCTION note_tags() RETURNS trigger LANGUAGE plpgsql AS $body$
    BEGIN
        INSERT INTO tags (key, digest, created_at, run)
        SELECT key, substring(sha256(convert_to(value #>> '{}', 'UTF8')), 1, 16), NEW.created_at, NEW.run
        FROM json_each(regexp_replace(NEW.tags, '(?<!\\)((?:\\\\)*)\\u0000', '\1\\uffff', 'g')::json)
        WHERE json_typeof(value) = 'string'
        ON CONFLICT DO NOTHING;
        RETURN NULL;
    END
    $body$
    """,
    """
    CREATE TRIGGER runs_note_tags AFTER INSERT ON runs
        FOR EACH ROW WHEN (NEW.tags <> '{}') EXECUTE FUNCTION note_tags()
    """,
    """
    CREATE FUNCTION forget_tags() RETURNS trigger LANGUAGE plpgsql AS $body$
    BEGIN
        DELETE FROM tags WHERE run = OLD.run;
        RETURN NULL;
    END
    $body$
    """,
    """
    CREATE TRIGGER runs_forget_tags AFTER DELETE ON runs
        FOR EACH ROW WHEN (OLD.tags <> '{}') EXECUTE FUNCTION forget_tags()
    """,
    # Open stores, of executors and of others: each holds the session lock of its number while it is there
    # (``session``). ``postmaster``: when the server that gave the lock had been started, as text. ``free_since``: since
    # when nobody was seen to hold the lock.
    """
    CREATE TABLE instances (
        instance bigint PRIMARY KEY,
        process text NOT NULL,
        postmaster text NOT NULL,
        opened_at bigint NOT NULL,
        free_since bigint
    )
    """,
    """
    CREATE TABLE executors (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        instance bigint NOT NULL,
        pid bigint NOT NULL,
        host text NOT NULL,
        started_at bigint NOT NULL,
        renewals bigint NOT NULL DEFAULT 0,
        renewed_at bigint NOT NULL,
        lease bigint NOT NULL,
        ended_at bigint
    )
    """,
    "CREATE INDEX executors_living ON executors (id) WHERE ended_at IS NULL",
    """
    CREATE TABLE deaths (
        executor bigint PRIMARY KEY,
        pid bigint NOT NULL,
        host text NOT NULL,
        stage text NOT NULL,
        runs bigint NOT NULL,
        untold text NOT NULL,
        teller text NOT NULL
    )
    """,
    """
    CREATE TABLE codes (
        code bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        workflow text COLLATE "C" NOT NULL,
        version bigint NOT NULL,
        fingerprint text COLLATE "C" NOT NULL,
        first_seen_at bigint NOT NULL,
        UNIQUE (workflow, version, fingerprint)
    )
    """,
    "CREATE TABLE executor_codes (executor bigint NOT NULL, code bigint NOT NULL, PRIMARY KEY (code, executor))",
    """
    CREATE TABLE refusals (
        run bigint NOT NULL,
        code bigint NOT NULL,
        refused_at bigint NOT NULL,
        problem text NOT NULL,
        PRIMARY KEY (run, code)
    )
    """,
    """
    CREATE TABLE earlier_generations (
        run bigint NOT NULL,
        generation bigint NOT NULL,
        started_at bigint,
        finished_at bigint NOT NULL,
        left_out bigint NOT NULL,
        version bigint NOT NULL,
        args text NOT NULL,
        PRIMARY KEY (run, generation)
    )
    """,
    """
    CREATE TABLE earlier_history (
        run bigint NOT NULL,
        generation bigint NOT NULL,
        key uuid NOT NULL,
        seq bigint NOT NULL,
        n bigint NOT NULL,
        attempt bigint NOT NULL,
        compensates boolean NOT NULL,
        started_at bigint NOT NULL,
        finished_at bigint NOT NULL,
        kind text COLLATE "C" NOT NULL,
        status text COLLATE "C" NOT NULL,
        branch text COLLATE "C" NOT NULL,
        name text COLLATE "C" NOT NULL,
        error text,
        result text,
        earlier text,
        PRIMARY KEY (run, generation, key)
    )
    """,
    """
    CREATE TABLE reports (
        process text COLLATE "C" PRIMARY KEY,
        instance bigint NOT NULL,
        updated_at bigint NOT NULL,
        report text NOT NULL
    )
    """,
    # What executors have said that they are executing, as JSON (``operations.reports``).
    """
    CREATE TABLE open_steps (
        executor bigint PRIMARY KEY,
        steps text NOT NULL,
        unlisted_count bigint NOT NULL
    )
    """,
    # Batches that an open store has committed, by the numbers that it gives them: what has become of one whose answer
    # was lost. ``outcomes`` are not kept: they are known before the commit is asked for.
    f"""
    CREATE TABLE commits (
        instance bigint NOT NULL,
        batch bigint NOT NULL,
        PRIMARY KEY (instance, batch)
    ) WITH ({_CHANGES_OFTEN})
    """,
    # Runs of another database that are being copied to this one (``stores.copying``). ``copied_runs`` are as they will
    # be, by the other's number of them, which ``parent`` is as well. Nobody knows of them yet, though their rows stand
    # in the other tables already. Those that were there before are noted under the number that they have.
    """
    CREATE TABLE copies (
        copy text COLLATE "C" PRIMARY KEY,
        began_at bigint NOT NULL,
        finished_at bigint,
        runs bigint
    )
    """,
    """
    CREATE TABLE copied_runs (
        copy text COLLATE "C" NOT NULL,
        number bigint NOT NULL,
        is_whole boolean NOT NULL,
        is_there boolean NOT NULL,
        LIKE runs INCLUDING CONSTRAINTS,
        PRIMARY KEY (copy, number)
    )
    """,
    # A user's transaction that is under way. No commit gets past the row: it must be removed first, by the one who has
    # put it there. Nothing of it needs to outlive the server. Who commits may see a table of that name elsewhere.
    "CREATE UNLOGGED TABLE guards (transaction xid8 PRIMARY KEY)",
    """
    CREATE FUNCTION refuse_guarded() RETURNS trigger LANGUAGE plpgsql AS $body$
    DECLARE is_guarded boolean;
    BEGIN
        EXECUTE format('SELECT EXISTS (SELECT 1 FROM %I.guards WHERE transaction = $1)', TG_TABLE_SCHEMA)
        INTO is_guarded USING NEW.transaction;
        IF is_guarded THEN
            RAISE EXCEPTION 'a transaction step is committed by the engine, not by its function'
                USING ERRCODE = 'DT001';
        END IF;
        RETURN NULL;
    END
    $body$
    """,
    """
    CREATE CONSTRAINT TRIGGER guards_hold AFTER INSERT ON guards DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION refuse_guarded()
    """,
)

#: What makes each version of the tables of the one before.
MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (_VERSION_1,)

SCHEMA_VERSION: Final = len(MIGRATIONS)
