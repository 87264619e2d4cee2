"""What a store reads and writes: small integer keys, instants in microseconds, payloads as JSON text.

Nobody changes a row. Rows are not frozen, since each step makes a few and setting a frozen field costs three times as
much; the same goes for what is asked of a store.

``damage`` of a row: what of it cannot be read, because the store was damaged or changed by another program, as a text
for people that names table, row and column. The fields concerned hold stand-ins then; such a row is never executed.

The fields are the columns that a store reads, in their order; ``key`` stands for the three of a key, ``damage`` for
none.
"""

from __future__ import annotations

import enum
from typing import Literal, NamedTuple, Self, TypeAlias

import attrs

from durable_trio.records import RunStatus, StepKind, StepStatus

__all__ = [
    "NO_VERSION",
    "CodeRow",
    "DeathRow",
    "DeathStage",
    "ExecutorRow",
    "HistoryRow",
    "Key",
    "MailboxEntry",
    "OpenStepRow",
    "ReportRow",
    "RunRow",
    "ServedCode",
    "UntoldRow",
    "WaitKind",
    "WaitRow",
    "escape",
    "unescape",
]

#: ``RunRow.keys``: how markers of changes are numbered. In runs of earlier versions together with the calls that have
#: the same name; since then by themselves.
SHARED_KEYS, OWN_KEYS = 1, 2

#: ``RunRow.version`` until it is known which version of its workflow a run is of.
NO_VERSION = -1

# Of the count in a key: nobody has as many, and it is a number that every store can look for.
_DIGITS_MAX = 18


class Key(NamedTuple):
    """The place of a durable call in its program: branch, name, and how often that name came before in it."""

    branch: str
    name: str
    n: int

    def __str__(self) -> str:
        name = escape(self.name)
        return f"{self.branch}/{name}#{self.n}" if self.branch else f"{name}#{self.n}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the key that ``str`` has written.

        Raises:
            ValueError: it is no such text.
        """
        branch, _, last = text.rpartition("/")
        name, mark, n = last.rpartition("#")
        is_number = n.isascii() and n.isdigit() and len(n) <= _DIGITS_MAX
        if not mark or not is_number or not _is_unicode(text):
            raise ValueError(f"{text!r} is no key of a history row; keys look like 'branch#0/name#0' or 'name#0'")
        return cls(branch, unescape(name), int(n))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate: nothing that is stored has one
        return False
    return True


def escape(name: str) -> str:
    """Percent-escape the marks that separate the parts of a key."""
    if "%" in name or "/" in name or "#" in name:
        return name.replace("%", "%25").replace("/", "%2F").replace("#", "%23")
    return name


def unescape(name: str) -> str:
    """Undo ``escape``."""
    return name.replace("%23", "#").replace("%2F", "/").replace("%25", "%")


@attrs.define(kw_only=True, unsafe_hash=True)
class HistoryRow:
    """One recorded outcome. Written once, never changed."""

    seq: int
    key: Key
    kind: StepKind
    status: StepStatus = StepStatus.COMPLETED
    attempt: int = 1
    result: str | None = None  # JSON
    error: str | None = None  # JSON of a failure
    compensates: bool = False  # a compensation was registered with it
    started_at: int
    finished_at: int
    earlier: str | None = None  # JSON: how earlier attempts have failed
    damage: str | None = None


#: What an open call waits for, as it is stored. Words, not an enum's members: each wait that is written is bound to a
#: statement, and one of a subclass of ``str`` costs a search for how it is to be bound.
WaitKind: TypeAlias = Literal[
    "sleep",
    "signal",
    "retry",  # an attempt has failed: until the next one
    "intent",  # a step that may begin only once has begun
    "deadline",
    "child",
    "map",  # waits for nothing itself: how many items it has
    "unreadable",  # never stored: stands for a word that the store should not hold
]


@attrs.define(kw_only=True, unsafe_hash=True)
class WaitRow:
    """What an open durable call must remember over a crash: its due time, its attempts, or that it has begun."""

    key: Key
    kind: WaitKind
    due_at: int | None = None
    attempt: int = 0  # of a map, how many items it has
    error: str | None = None  # of the last attempt
    started_at: int
    earlier: str | None = None  # JSON: how all attempts so far have failed
    damage: str | None = None


@attrs.define(unsafe_hash=True)
class MailboxEntry:
    """A message to a run: a signal, a request to cancel, or the end of a child."""

    id: int
    run: int
    kind: str  # signal | cancel | child
    name: str
    payload: str | None
    created_at: int
    damage: str | None = None
    #: Stored by this process just now, of what was encoded here: nothing of it needs to be checked.
    is_new: bool = attrs.field(default=False, eq=False)


@attrs.define(unsafe_hash=True)
class RunRow:
    """A run as it is stored. ``run`` is the store's small key, ``id`` the user's.

    A watcher sees changes of the status, the error, the version, a problem, and what is published. Whose it is, when it
    is due, its history and its mailbox are none.
    """

    run: int
    id: str
    workflow: str
    status: RunStatus
    args: str
    result: str | None
    error: str | None
    problem: str | None
    queue: str | None
    priority: int
    tags: str
    parent: int | None
    parent_id: str | None
    seed: bytes
    generation: int
    created_at: int
    started_at: int | None
    finished_at: int | None
    wake_at: int | None
    ttl_at: int | None
    recoveries: int
    compensation_errors: str
    owner: int | None
    token: int
    changed: int  # rises with every change of this run that a watcher sees (``Order.CHANGED``)
    keys: int = OWN_KEYS
    version: int = NO_VERSION
    forked_from: str | None = None
    forked_before: str | None = None
    damage: str | None = None


@attrs.define(unsafe_hash=True)
class GenerationRow:
    """A history that a run has ended to begin anew. ``left_out``: how many of its first rows are not kept."""

    generation: int
    started_at: int | None
    finished_at: int
    left_out: int
    version: int
    args: str
    damage: str | None = None


@attrs.define(unsafe_hash=True)
class CodeRow:
    """What code of a workflow executors have, or once had."""

    code: int
    workflow: str
    version: int
    fingerprint: str
    first_seen_at: int
    damage: str | None = None


@attrs.frozen
class ServedCode:
    """What code of a workflow one executor has, by its number in the store; 0 is none that the store knows."""

    workflow: str
    version: int
    code: int


@attrs.frozen
class RunEnd:
    """How a run has ended, as it is stored. ``damage``: of its row; the result or the error may be a stand-in."""

    status: RunStatus
    result: str | None
    error: str | None
    damage: str | None = None


@attrs.define(unsafe_hash=True)
class ReportRow:
    """What a process has said of itself, as it is stored. A damaged one is left out: nothing depends on it.

    ``is_alive``: whether the process is still there, as far as the store can tell; ``None`` if no process is named so.
    """

    process: str
    updated_at: int
    report: str  # JSON
    is_alive: bool | None


@attrs.define(unsafe_hash=True)
class ExecutorRow:
    """One incarnation of an executor: a process that runs runs.

    ``renewals`` rises whenever it says that it lives; ``lease`` (microseconds) is for how long it may be seen not to,
    by an observer's own clock. ``is_locked`` is judged by the store as it answers: ``True``, its process is there;
    ``False``, it has certainly ended; ``None``, that cannot be told. ``silent``: since when it has not renewed
    (microseconds), as far as the store can tell: for people only, nothing is decided by it.
    """

    id: int
    pid: int
    host: str
    started_at: int
    renewals: int
    is_locked: bool | None
    lease: int
    silent: int | None
    ended_at: int | None
    damage: str | None = None

    @property
    def may_live(self) -> bool:
        """Whether its process has not certainly ended."""
        return self.is_locked is not False

    @property
    def is_silent(self) -> bool:
        """Whether it has not renewed for longer than its lease, as people are told."""
        return self.silent is not None and self.silent > self.lease


@attrs.frozen(kw_only=True)
class OpenStepRow:
    """A step that is executing, as its executor has noted it outside of all tables; ``token`` is that of its claim.

    ``is_alive``: whether that executor is; if not, the step was under way when its process died. ``is_reported``: it is
    known only from what the executor says now and then.
    """

    run: int
    token: int
    key: Key
    kind: StepKind
    attempt: int
    started_at: int
    executor: int
    pid: int
    thread: int
    is_alive: bool
    is_reported: bool = False


@attrs.frozen(kw_only=True)
class UntoldRow:
    """What an executor has noted, outside of all tables, to tell of a run once it is committed.

    ``event`` is in the record of the log, and may have a number after it: which of several in the run. ``token`` is
    that of the claim.
    """

    event: str
    run_id: str
    token: int


class DeathStage(enum.StrEnum):
    """What is to be told of an executor that was declared dead."""

    DIED = "died"  # that it has died, and what it has noted
    SILENT = "silent"  # that it gives no sign of life; its process is there
    WATCHED = "watched"  # that was told: what it has noted is to be told when its process ends, for it may do it itself


@attrs.frozen(kw_only=True)
class DeathRow:
    """That an executor was declared dead, for as long as that is not told: stored, for its teller may die before.

    ``teller`` is whoever is to tell it, ``runs`` how many were set free, ``untold`` what it has noted. A teller's name
    is one that it has in its process, ``/``, and that of its process, as in a report. Judged by the store as it
    answers: ``is_locked``, whether the process of the executor is still there, as in ``ExecutorRow``; and
    ``is_teller_alive``.
    """

    executor: int
    pid: int
    host: str = ""
    stage: DeathStage
    runs: int = 0
    untold: tuple[UntoldRow, ...] = ()
    teller: str
    is_locked: bool | None = None
    is_teller_alive: bool = True
