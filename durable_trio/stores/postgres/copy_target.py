"""A server's database that runs are copied to (``stores.copying``).

Drafts are rows of tables that refer to a number of a run that is not there yet, and the run itself in ``copied_runs``.
Only one process copies at a time: a lock of its session, which is waited for, so that what a killed one has had under
way is over. Numbers of runs are taken in the order of the source's: of runs that stand in line the same come first.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Final

from durable_trio.errors import StoreError, StoreInUse
from durable_trio.rows import Key
from durable_trio.rules.refused import refused_text
from durable_trio.stores.copying import OF_RUN, RUN_COLUMNS, Finished, Known, Row, RowsOfRun, SourceRun, UnfitError
from durable_trio.stores.postgres.faults import ConnectionLost, ServerError, translate
from durable_trio.stores.postgres.rows import key_hash
from durable_trio.stores.postgres.schema import migrate, schema_version
from durable_trio.stores.postgres.texts import numbers, rows, texts
from durable_trio.stores.postgres.transaction import NOW
from durable_trio.stores.postgres.url import parse_url
from durable_trio.stores.postgres.wire import Answer, Request

__all__ = ["ServerTarget"]

_LOCK_SECONDS: Final = 15.0
_LOOK_SECONDS: Final = 0.1

_NUMBERS: Final = {
    "number",
    "run",
    "parent",
    "place",
    "token",
    "claimed_seq",
    "recoveries",
    "priority",
    "created_at",
    "started_at",
    "finished_at",
    "wake_at",
    "ttl_at",
    "generation",
    "version",
    "seq",
    "n",
    "attempt",
    "due_at",
    "code",
    "refused_at",
    "left_out",
}
_TYPES: Final = {
    **dict.fromkeys(_NUMBERS, "bigint"),
    **dict.fromkeys(("is_due", "is_whole", "is_there", "compensates"), "boolean"),
    "keys": "integer",
    "waits_for": "text[]",
}
_BYTES: Final = ("seed", "args_digest")
_HASHED: Final = ("history", "waits", "earlier_history")
# Of what is stored in a draft besides what is copied.
_DRAFT: Final = ("copy", "number", "is_whole", "is_there", "run", "parent", "is_due", "refused")


def _insert(table: str, columns: Iterable[str], *, kept: str = "", order: str = "") -> str:
    """Return a statement that stores rows which come as JSON."""
    names = tuple(columns)
    is_hash = table in _HASHED

    def type_of(name: str) -> str:
        return "uuid" if name == "key" and is_hash else _TYPES.get(name, "text")

    given = ", ".join(f"{name} {type_of(name)}" for name in (*names, *(["place"] if order else [])))
    values = ", ".join(f"decode({name}, 'hex')" if name in _BYTES else name for name in names)
    more = ", changed, stamp" if table == "copied_runs" else ""
    its = ", 0, '0'::xid8" if table == "copied_runs" else ""
    return f"""
        INSERT INTO {table} ({", ".join(names)}{more})
        SELECT {values}{its} FROM json_to_recordset($1::json) AS x ({given}) {order} {kept}
    """


_STORED_AS: Final = {
    table: (
        ("run", *columns)
        if table not in ("refusals", *_HASHED)
        else ("run", "key", *columns)
        if table in _HASHED
        else ("run", "code", "refused_at", "problem")
    )
    for table, (columns, _) in OF_RUN.items()
}
# Numbers of messages are given in their order.
INSERTS: Final = {
    table: _insert(table, columns, order="ORDER BY place" if table == "mailbox" else "")
    for table, columns in _STORED_AS.items()
}
DRAFT: Final = _insert(
    "copied_runs",
    (*_DRAFT, *RUN_COLUMNS),
    kept="ON CONFLICT (copy, number) DO UPDATE SET is_whole = EXCLUDED.is_whole",
)
TAKE_LOCK: Final = "SELECT pg_try_advisory_lock(hashtextextended('durable_trio copy ' || $1::text, 0))"
FIND_NONCE: Final = "SELECT nonce FROM meta"
BEGIN_COPY: Final = f"INSERT INTO copies (copy, began_at) VALUES ($1::text, {NOW}) ON CONFLICT DO NOTHING"
FIND_FINISHED: Final = "SELECT finished_at, runs FROM copies WHERE copy = $1::text AND finished_at IS NOT NULL"
FIND_DRAFTS: Final = """
    SELECT number, run, is_whole, is_there FROM copied_runs WHERE copy = $1::text AND number = ANY ($2::bigint[])
"""
FIND_STORED: Final = "SELECT id, run FROM runs WHERE id = ANY ($1::text[])"
TAKE_NUMBERS: Final = """
    SELECT nextval(pg_get_serial_sequence('runs', 'run')) FROM generate_series(1, $1::integer)
"""
ADD_CODE: Final = """
    INSERT INTO codes (workflow, version, fingerprint, first_seen_at)
    VALUES ($1::text, $2::bigint, $3::text, $4::bigint) ON CONFLICT DO NOTHING
"""
FIND_CODE: Final = (
    "SELECT code FROM codes WHERE workflow = $1::text AND version = $2::bigint AND fingerprint = $3::text"
)
FIND_RUN: Final = f"SELECT {', '.join(RUN_COLUMNS)} FROM runs WHERE run = $1::bigint"
_FROM: Final = {"refusals": "refusals JOIN codes USING (code)"}
ROWS: Final = {
    table: f"SELECT {', '.join(columns)} FROM {_FROM.get(table, table)} WHERE run = $1::bigint ORDER BY {order}"
    for table, (columns, order) in OF_RUN.items()
}
_OF_DRAFTS: Final = "SELECT run FROM copied_runs WHERE copy = $1::text AND NOT is_there"
_DISCARDED: Final = (*(f"DELETE FROM {table} WHERE run IN ({{which}})" for table in OF_RUN),)
DISCARD_ROWS: Final = [text.format(which=f"{_OF_DRAFTS} AND number = $2::bigint") for text in _DISCARDED]
DISCARD: Final = "DELETE FROM copied_runs WHERE copy = $1::text AND number = $2::bigint"
DISCARD_ALL_ROWS: Final = [text.format(which=_OF_DRAFTS) for text in _DISCARDED]
FORGET_DRAFTS: Final = "DELETE FROM copied_runs WHERE copy = $1::text"
FORGET: Final = "DELETE FROM copies WHERE copy = $1::text"
_SHOWN: Final = ("run", "is_due", "refused", *RUN_COLUMNS)
SHOW: Final = f"""
    INSERT INTO runs ({", ".join(_SHOWN)}, parent, changed) OVERRIDING SYSTEM VALUE
    SELECT {", ".join(f"draft.{name}" for name in _SHOWN)}, parent.run, {NOW}
    FROM copied_runs AS draft
    LEFT JOIN copied_runs AS parent ON parent.copy = draft.copy AND parent.number = draft.parent
    WHERE draft.copy = $1::text AND NOT draft.is_there ORDER BY draft.run
"""
FINISH: Final = f"""
    UPDATE copies SET finished_at = {NOW}, runs = (SELECT count(*) FROM copied_runs WHERE copy = $1::text)
    WHERE copy = $1::text AND finished_at IS NULL
"""
FIND_TAKEN: Final = """
    SELECT id FROM runs WHERE id IN (SELECT id FROM copied_runs WHERE copy = $1::text AND NOT is_there) LIMIT 10
"""


class ServerTarget:
    """The tables at a URL. ``name``: of the place, without a password; ``nonce``: which store it is.

    Args:
        url: where they are.
        is_read_only: they are not made, if there are none, nor changed.

    Raises:
        StoreError: they cannot be reached (``StoreAway``), made or used.
        ValueError: it is no such URL.
    """

    def __init__(self, url: str, *, is_read_only: bool = False) -> None:
        place = parse_url(url)
        self.name = place.name
        self.nonce = ""
        self._copy = ""
        self._codes: dict[tuple[str, int, str], int] = {}
        self._drafts: dict[int, int] = {}  # of those that were looked at last
        self._wire = place.connect()
        try:
            if not is_read_only:
                migrate(self._wire, place.schema, place.name)
            self._is_there = schema_version(self._wire, place.schema, place.name) > 0
            if self._is_there:
                self.nonce = str(self._wire.execute(FIND_NONCE).rows[0][0])
        except (ConnectionLost, ServerError) as error:
            raise translate(error, place.name) from error

    def close(self) -> None:
        """Let go of the connection."""
        self._wire.close()

    def begin(self, copy: str) -> None:
        """Be the one that makes a copy, which has that name; not before another process has let go of it.

        Raises:
            StoreInUse: it does not.
        """
        self.go_on(copy)
        until = time.monotonic() + _LOCK_SECONDS
        while not self._execute(TAKE_LOCK, copy).rows[0][0]:
            if time.monotonic() > until:
                raise StoreInUse(f"another process makes the same copy to {self.name}; wait for it, or stop it")
            time.sleep(_LOOK_SECONDS)
        self._execute(BEGIN_COPY, copy)

    def go_on(self, copy: str) -> None:
        """Look at a copy that has that name, without a change to it."""
        self._copy = copy

    def finished(self) -> Finished | None:
        """Return whether this copy was finished before."""
        found = self._execute(FIND_FINISHED, self._copy).rows if self._is_there else []
        return Finished(*found[0]) if found else None

    def look(self, runs: Iterable[SourceRun]) -> dict[int, Known]:
        """Return what is known of runs (see ``CopyTarget``)."""
        page = list(runs)
        if not self._is_there:
            return {}
        drafts = {
            number: of
            for number, *of in self._execute(FIND_DRAFTS, self._copy, numbers(run.number for run in page)).rows
        }
        # What is no text here is the id of no run.
        ids = {run.id: run.number for run in page if "\0" not in run.id}
        stored = {ids[run_id]: run for run_id, run in self._execute(FIND_STORED, texts(ids)).rows}
        self._drafts = {number: of[0] for number, of in drafts.items() if not of[2]}
        return {
            run.number: Known(
                draft=self._drafts.get(run.number),
                is_whole=run.number in self._drafts and drafts[run.number][1],
                stored=stored.get(run.number),
            )
            for run in page
            if run.number in drafts or run.number in stored
        }

    def rows(self, number: int) -> tuple[Row, RowsOfRun]:
        """Return what is stored of a run (see ``CopyTarget``)."""
        found = self._execute(FIND_RUN, number).rows
        if not found:
            raise UnfitError("it was removed there just now; repeat the copy")
        return dict(zip(RUN_COLUMNS, found[0], strict=True)), self._rows(number)

    def _rows(self, number: int) -> RowsOfRun:
        for table, (columns, _) in OF_RUN.items():
            for values in self._execute(ROWS[table], number).rows:
                yield table, dict(zip(columns, values, strict=True))

    def draft(self, runs: Iterable[tuple[SourceRun, Iterable[tuple[str, Row]]]], *, is_whole: bool) -> None:
        """Keep rows of runs which nobody sees yet (see ``CopyTarget``)."""
        given = list(runs)
        new = [run.number for run, _ in given if run.number not in self._drafts]
        if new:
            taken = self._execute(TAKE_NUMBERS, len(new)).rows
            self._drafts.update(zip(new, (number for (number,) in taken), strict=True))
        by_table: dict[str, list[Row]] = {}
        for run, of in given:
            for table, row in of:
                by_table.setdefault(table, []).append(self._stored(self._drafts[run.number], table, row))
        drafted = [self._row(run, self._drafts[run.number], is_whole=is_whole, is_there=False) for run, _ in given]
        for place, row in enumerate(by_table.get("mailbox", ())):
            row["place"] = place
        inserts = [(INSERTS[table], (rows(of),)) for table, of in by_table.items()]
        self._write((DRAFT, (rows(drafted),)), *inserts)

    def pass_over(self, run: SourceRun, stored: int) -> None:
        """Note that a run is there already (see ``CopyTarget``)."""
        self._write(
            *((text, (self._copy, run.number)) for text in (*DISCARD_ROWS, DISCARD)),
            (DRAFT, (rows([self._row(run, stored, is_whole=True, is_there=True)]),)),
        )

    def discard(self, run: SourceRun) -> None:
        """Remove what was drafted of a run."""
        self._write(*((text, (self._copy, run.number)) for text in (*DISCARD_ROWS, DISCARD)))
        self._drafts.pop(run.number, None)

    def discard_all(self) -> None:
        """Forget the copy, with all that was drafted. What was finished is not undone."""
        self._write(*((text, (self._copy,)) for text in (*DISCARD_ALL_ROWS, FORGET_DRAFTS, FORGET)))

    def finish(self) -> None:
        """Make all that was drafted runs that are seen (see ``CopyTarget``)."""
        of = (self._copy,)
        try:
            self._exchange((SHOW, of), (FINISH, of), (FORGET_DRAFTS, of))
        except ServerError as error:
            if error.constraint != "runs_id":
                raise translate(error, self.name) from error
            taken = ", ".join(repr(run_id) for (run_id,) in self._execute(FIND_TAKEN, *of).rows)
            raise StoreError(
                f"runs with ids that were to be copied were started at {self.name} meanwhile: {taken}; "
                "nothing of the copy is seen there yet. Remove them there, and repeat"
            ) from error

    # ---- inside --------------------------------------------------------------------------------------------------

    def _row(self, run: SourceRun, number: int, *, is_whole: bool, is_there: bool) -> Row:
        codes = {self._code(*code) for code in run.codes}
        return run.values | {
            "copy": self._copy,
            "number": run.number,
            "is_whole": is_whole,
            "is_there": is_there,
            "run": number,
            "parent": run.parent,
            "is_due": run.is_due,
            "refused": refused_text(codes),
            **{name: run.values[name].hex() for name in _BYTES},
        }

    def _stored(self, run: int, table: str, row: Row) -> Row:
        if table == "refusals":
            code = self._code(row["workflow"], row["version"], row["fingerprint"], row["first_seen_at"])
            return {"run": run, "code": code, "refused_at": row["refused_at"], "problem": row["problem"]}
        if table in _HASHED:
            return row | {"run": run, "key": key_hash(Key(row["branch"], row["name"], row["n"]))}
        return row | {"run": run}

    def _code(self, workflow: str, version: int, fingerprint: str, first_seen_at: int) -> int:
        """Return the number of a code here; it gets one."""
        of = workflow, version, fingerprint
        if of not in self._codes:
            self._write((ADD_CODE, (*of, first_seen_at)))
            self._codes[of] = int(self._execute(FIND_CODE, *of).rows[0][0])
        return self._codes[of]

    def _write(self, *requests: tuple[str, tuple[Any, ...]]) -> None:
        """Have statements done in one transaction.

        Raises:
            UnfitError: a value of theirs cannot be stored.
        """
        try:
            self._exchange(*requests)
        except ServerError as error:
            if error.is_of_operation:
                raise UnfitError(str(error)) from error
            raise translate(error, self.name) from error

    def _exchange(self, *requests: tuple[str, tuple[Any, ...]]) -> None:
        statements = [Request(*each) for each in requests]
        try:
            self._wire.exchange([Request("BEGIN"), *statements, Request("COMMIT")])
        except ConnectionLost as error:
            raise translate(error, self.name) from error
        finally:
            if not self._wire.is_lost and self._wire.is_in_transaction:
                self._wire.roll_back()

    def _execute(self, text: str, *values: Any) -> Answer:
        try:
            return self._wire.execute(text, *values)
        except (ConnectionLost, ServerError) as error:
            raise translate(error, self.name) from error
