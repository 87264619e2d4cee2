"""What the server says, in five characters (postgresql.org/docs/current/errcodes-appendix.html), as far as it matters.

The first two are a class of errors. ``faults`` says what most of them mean for a store.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "CLASSES_OF_TRIGGERS",
    "CLASSES_OF_VALUES",
    "CLASS_OF_CONNECTION",
    "CLASS_OF_RESOURCES",
    "COMMITTED_HERE_ONLY",
    "CONFLICTS",
    "CORRUPT",
    "DEADLOCK",
    "DISK_FULL",
    "GOING_DOWN",
    "IDLE_TOO_LONG",
    "IS_NULL",
    "IS_THERE",
    "NO_PERMISSION",
    "NO_TEXT",
    "READ_ONLY",
    "SERIALIZATION_FAILURE",
    "STATEMENT_CANCELLED",
    "TOO_LARGE",
    "TOO_MANY_CONNECTIONS",
]

#: A warning: the wait for a standby was cut short, so that another server may not have what is committed on this one.
COMMITTED_HERE_ONLY: Final = "01000"
CLASS_OF_CONNECTION: Final = "08"
#: A character that no text has in the database.
NO_TEXT: Final = "22021"
#: No value where there must be one.
IS_NULL: Final = "23502"
#: A unique constraint does not hold.
IS_THERE: Final = "23505"
#: Classes: a value that cannot be stored, a constraint.
CLASSES_OF_VALUES: Final = ("22", "23")
#: Of a standby, or of a transaction that is to be so.
READ_ONLY: Final = "25006"
#: A transaction has rested for longer than it may; the connection is ended with it.
IDLE_TOO_LONG: Final = "25P03"
#: Classes: what triggers and functions bring about.
CLASSES_OF_TRIGGERS: Final = ("09", "27", "P0")
SERIALIZATION_FAILURE: Final = "40001"
DEADLOCK: Final = "40P01"
#: Two transactions have come together, and this one is the one that is to be done again.
CONFLICTS: Final = (SERIALIZATION_FAILURE, DEADLOCK)
NO_PERMISSION: Final = "42501"
#: Memory, room for locks, connections, the disk.
CLASS_OF_RESOURCES: Final = "53"
DISK_FULL: Final = "53100"
TOO_MANY_CONNECTIONS: Final = "53300"
#: More than the server takes: for an index, or in one statement.
TOO_LARGE: Final = "54000"
#: Somebody has cancelled the statement, or it took too long.
STATEMENT_CANCELLED: Final = "57014"
#: Of a server that shuts down, has crashed, or starts.
GOING_DOWN: Final = frozenset({"57P01", "57P02", "57P03"})
CORRUPT: Final = frozenset({"XX001", "XX002"})
