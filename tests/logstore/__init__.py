"""A second store, as different from SQLite as the contract allows: an append-only file with all data in memory.

Each commit is one entry of the file. Whoever has the file open reads on, and applies to a state of its own what others
have appended and what it has appended itself: the same operations in the same order have the same outcomes everywhere.
So an operation is a function on plain Python data (``state``), which looks first and writes then: what is refused has
written nothing. They are at the same time the shortest text that says what each operation means.

It is there to show that the contract is one, and to run the engine on. It keeps everything in memory, looks at all
that waits for each claim, and its file never shrinks.
"""

from tests.logstore.store import LogStore

__all__ = ["LogStore"]
