"""Every bound of the library, with its unit and its reason; and the rule for names.

A bound that a user may change is an option of ``Engine`` whose default stands here.
"""

from __future__ import annotations

import unicodedata
from typing import Final, cast

from durable_trio.looks import class_name, exact_text, is_a

# One payload is one row: a store copies it several times and a loop pass encodes it in one go.
PAYLOAD_BYTES_MAX: Final = 4 * 1024 * 1024
# What every store takes in one value: the bound of what is not the user's, or was accepted before under a larger limit.
STORED_BYTES_MAX: Final = 1_000_000_000
# Names are keys, shown in tables and paths: long enough for any URL-like id, short enough to index.
NAME_CHARACTERS_MAX: Final = 256
# Runs that are in memory at once in one process; others wait in the store. More cost more garbage collection than
# they gain where steps are short; raise it where they wait for the network.
CONCURRENCY: Final = 128
# Runs beyond those, in one process, because so many others wait for a run in a step: these keep their memory as well.
LENT_RUNS_MAX: Final = 1000
# Histories of a run that are kept once it has continued as new: enough to see how it came to where it is.
GENERATIONS_KEPT: Final = 10
# Rows of each, the last ones: they are copied in the transaction that begins the next, some tens of milliseconds.
GENERATION_ROWS_MAX: Final = 5000
# The number of a workflow's version: every store holds it.
VERSION_MAX: Final = 2**62
# How long what could not be written waits for room, or for somebody who holds the store.
STORE_RETRY_SECONDS: Final = 0.5
# The first and the longest pause between two tries to reach a store that is away; each is twice the one before.
AWAY_RETRY_SECONDS: Final = (0.02, 1.0)
# How long whoever calls waits for a store that is away before it is told. What runs have done waits longer.
AWAY_SECONDS_MAX: Final = 30.0
# How often the clock of a database is read that has one: two clocks of machines drift apart by milliseconds meanwhile.
CLOCK_READ_SECONDS: Final = 60.0
# An executor that did not renew for so long is taken for hung. Longer than any commit, shorter than patience.
LEASE_SECONDS: Final = 30.0
# An executor whose event loop is blocked for so many leases counts as hung: others take over its runs.
LEASES_OF_A_STALL: Final = 4
# What steps in flight get to finish when the engine drains.
GRACE_SECONDS: Final = 10.0
# A worker process whose event loop shows no sign of life for so long is killed: it may hold the store.
HEARTBEAT_SECONDS: Final = 10.0
# What a worker process gets to import the application and to open the store.
WORKER_READY_SECONDS: Final = 60.0
# Worker processes of one engine: they take turns in writing, and more than cores only wait for each other.
WORKERS_MAX: Final = 256
# Crashes without progress after which a run is set aside: it probably kills its process.
MAX_RECOVERIES: Final = 10
# From this count on, such runs resume one at a time, so that one poisoner takes no others along.
SUSPECT_RECOVERIES: Final = 2
# One that lives longer without progress does not kill its process by its beginning: the next one may begin too.
SUSPECT_SECONDS: Final = 10.0
# A body blocked in a wait that is not durable gets so long at replay before the run is parked.
REPLAY_STALL_SECONDS: Final = 10.0
# Runs in memory, some of which only wait (tens of kilobytes each): beyond, those that have waited longest leave first.
RESIDENT_RUNS_MAX: Final = 256
# Items of one ``ctx.map`` that run at once unless it says otherwise.
MAP_CONCURRENCY: Final = 100
# Items of one ``ctx.map``: all are in memory, and each is a row. An iterable without end is refused, not gone through.
MAP_ITEMS_MAX: Final = 1_000_000
# Operations in one transaction: past a few hundred the sync is paid for and only the latency grows.
BATCH_OPERATIONS_MAX: Final = 512
# Starts and pieces of upkeep in one transaction beside all else that waits: new work comes as fast as callers like, so
# what runs already have to say, and other processes, wait for no more of it than some milliseconds.
BATCH_STARTS_MAX: Final = 128
# Payloads in one transaction: a burst of large ones is cut into several, each some hundredths of a second.
BATCH_BYTES_MAX: Final = 16 * 1024 * 1024
# Operations that wait for the writer. Callers wait for their own commit, so tasks bound it; this is the alarm.
WRITER_QUEUE_MAX: Final = 100_000
# A commit on the event loop blocks every task: only while the measured commits stay shorter than this.
INLINE_COMMIT_MS_MAX: Final = 2.0
# How long one pass of a busy event loop waits for the writer thread's commit (with the GIL released).
LINGER_MS: Final = 1.0
# Commits of other processes are noticed by a look at this interval; 50 ms is promised.
FEED_INTERVAL_SECONDS: Final = 0.02
# The same after a second in which others have committed nothing: half the cost while idle, and still within the 50 ms.
FEED_IDLE_INTERVAL_SECONDS: Final = 0.04
# The same while nobody else can have committed anything, and a bell rings when somebody comes.
FEED_ALONE_INTERVAL_SECONDS: Final = 5.0
# Runs taken by one claim: more than one pass can start only lengthens the transaction.
CLAIM_RUNS_MAX: Final = 64
# Unread notices to one resident run, and nudges to one service: level-triggered, so few are enough.
INBOX_CAPACITY: Final = 64
# Characters of a traceback that are stored: the last frames tell the most.
TRACEBACK_CHARACTERS_MAX: Final = 16_000
# Of the attempts of a step that have failed, the first and the last ones are kept, with so much of what each says: what
# it began with, and what it came to, in a few kilobytes however often it is tried.
EARLIER_ERRORS_FIRST: Final = 2
EARLIER_ERRORS_LAST: Final = 6
EARLIER_ERROR_CHARACTERS_MAX: Final = 500
# A run that is due is taken within milliseconds, or as soon as there is room for it: one that nobody has taken for so
# long is overdue.
OVERDUE_SECONDS: Final = 30
# Unread signals of one run: far more than one that keeps up ever has, and some megabytes. Who sends more than a run
# takes is told, instead of the store growing for as long as the run does not look.
UNREAD_SIGNALS_MAX: Final = 10_000
# Entries of a run's mailbox that are read at once, and with the run when it is claimed.
MAILBOX_ENTRIES_READ: Final = 256
# Unread signals that a resident run keeps in memory; the others are asked for by name when a call waits for them.
SIGNALS_IN_MEMORY_MAX: Final = 1000
# Rows that one transaction of upkeep (prune, delete, fork, resume) removes or copies: a matter of milliseconds.
UPKEEP_ROWS_MAX: Final = 500
# A copy of a run that nobody has gone on with for so long is removed: its caller has died.
DRAFT_SECONDS_MAX: Final = 60.0
# Rows of one page of ``list_runs``.
PAGE_RUNS_MAX: Final = 1000
# Failed compensations of one run that its record, and what ``result()`` raises, have: each costs some 40 µs.
COMPENSATION_ERRORS_MAX: Final = 1000
# Failed runs that are read to find what they have in common.
FAILURES_READ_MAX: Final = 10_000
# How deep a payload may nest: far below the interpreter's recursion limit on every platform.
PAYLOAD_DEPTH_MAX: Final = 100
# How deep nurseries of durable branches may nest, through branches as well. A failure inside comes out as one group in
# another, which trio and Python write by recursion, and trio does not survive it if that fails.
NURSERY_DEPTH_MAX: Final = 100
# Codes that live at once and have refused the same run, all of which are in its entry of an index: some index has room
# for 2,704 bytes, of which the name of its workflow takes up to 1,024. More than any roll-out has.
REFUSALS_MAX: Final = 128
# A transaction step may hold the whole store (a file has one writer at a time): others wait for it.
TRANSACTION_SECONDS_MAX: Final = 30.0


def check_name(what: str, name: object) -> str:
    """Return ``name`` if it may be stored as the name or id of ``what``.

    Raises:
        TypeError: it is no ``str``.
        ValueError: it is empty, longer than 256 characters, has a control character or lone surrogate,
            or a blank at either end.
    """
    if type(name) is not str:
        if not is_a(name, str):
            raise TypeError(f"{what} must be a str, not {class_name(type(name))}")
        name = exact_text(cast(str, name))  # also of an enum of strings, whose own str() may say something else
    if not name:
        raise ValueError(f"{what} is empty; give it 1 to {NAME_CHARACTERS_MAX} characters")
    if len(name) > NAME_CHARACTERS_MAX:
        raise ValueError(f"{what} has {len(name)} characters; at most {NAME_CHARACTERS_MAX} are allowed")
    if name[0].isspace() or name[-1].isspace():
        raise ValueError(f"{what} {name!r} begins or ends with a blank")
    if not name.isprintable():
        for character in name:
            if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
                raise ValueError(f"{what} {name!r} has the control character {character!r}")
    return name
