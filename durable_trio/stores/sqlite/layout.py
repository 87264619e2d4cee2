"""What each column of a table may hold, and what is wrong with a row that holds anything else.

The tables are STRICT and have constraints, so SQLite stores no such value for anybody. It gets there when a disk, or a
program that knows no better, changes the file. A damaged row is the problem of its run alone, so reading one never
raises: what cannot be read is replaced by a stand-in, and the record says what was found (``damage``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, get_args

import attrs

from durable_trio.clock import INSTANT_MAX, INSTANT_MIN
from durable_trio.records import RunStatus, StepKind, StepStatus
from durable_trio.rows import NO_VERSION, OWN_KEYS, SHARED_KEYS, WaitKind

__all__ = ["CODES_CHARACTERS", "COUNT_MAX", "LAYOUTS", "NO_INTEGER", "Column", "Layout", "NotText", "decode", "stored"]

# Numbers that rise one by one: no file has more, and what is beyond leaves no room to go on counting.
COUNT_MAX: Final = 2**62
# No column can mean it: it stands where a value had to be replaced in the file, and is still seen to be none.
NO_INTEGER: Final = -(2**63)
# What a list of codes is written with, as ',3,17,' (``rules.refused``).
CODES_CHARACTERS: Final = "0123456789,"
# What earlier versions may have stored beyond the last instant: days of the year 9999, and hours of other time zones.
_BEYOND: Final = 3 * 24 * 3600 * 10**6
# Characters of a value that people are shown, and faults of one row.
_SHOWN_MAX: Final = 60
_FAULTS_MAX: Final = 5

_Types = frozenset[type]
_TYPES: Final[dict[type, str]] = {int: "integer", str: "text", bytes: "blob"}
_STAND_INS: Final[dict[type, Any]] = {int: 0, str: "", bytes: b""}


class NotText(str):
    """Stands for a stored text that is not UTF-8; what is none is escaped. ``raw``: as it is stored."""

    raw: bytes = b""


def decode(raw: bytes) -> str:
    """Return a stored text: the ``text_factory`` of a connection that has met one that is not UTF-8."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        text = NotText(raw.decode("utf-8", "backslashreplace"))
        text.raw = raw
        return text


def stored(text: str) -> str | bytes:
    """Return a text as it stands in the file, which may be no UTF-8 there."""
    return text.raw if isinstance(text, NotText) else text


@attrs.frozen
class Column:
    """What a column may hold. With words, only one of these; with characters, a text of these.

    ``is_name``: people know the row by it, so a record has it as it was found, if it is any text. ``stand_in`` is what
    a record has in place of what cannot be read.
    """

    name: str
    type: type
    is_optional: bool = False
    low: int = NO_INTEGER
    high: int = -NO_INTEGER
    words: tuple[str, ...] = ()
    characters: str = ""
    is_name: bool = False
    stand_in: Any = None
    # What the above comes to, for a quick look.
    types: _Types = attrs.field(init=False)
    known: frozenset[str] = attrs.field(init=False)
    is_bounded: bool = attrs.field(init=False)

    @types.default
    def _types(self) -> _Types:
        return frozenset((self.type, type(None)) if self.is_optional else (self.type,))

    @known.default
    def _known(self) -> frozenset[str]:
        return frozenset(self.words)

    @is_bounded.default
    def _is_bounded(self) -> bool:
        return self.low > NO_INTEGER or self.high < -NO_INTEGER

    def fault(self, value: object) -> str | None:
        """Return what is wrong with a value."""
        if value is None:
            return None if self.is_optional else "is NULL"
        if isinstance(value, NotText):
            return f"holds {_short(value)}, which is not UTF-8"
        if type(value) is not self.type:
            return f"holds {_short(value)}, which is no {_TYPES[self.type]}"
        if isinstance(value, int) and not self.low <= value <= self.high:
            return f"holds {value}, which is out of range"
        if self.words and value not in self.words:
            return f"holds {_short(value)}, which is none of {', '.join(self.words)}"
        if self.characters and isinstance(value, str) and not set(self.characters).issuperset(value):
            return f"holds {_short(value)}, which has other characters than {self.characters}"
        return None

    def mended(self, value: Any) -> Any:
        """Return what a record has in place of a value that is wrong."""
        if type(value) is int and self.type is int:
            return min(max(value, self.low), self.high)
        if self.is_name and value is not None:
            return str(value) if isinstance(value, str) else _short(value)
        if self.stand_in is not None:
            return self.stand_in
        return None if self.is_optional else _STAND_INS[self.type]


def _short(value: object) -> str:
    text = repr(str(value) if isinstance(value, NotText) else value)
    return text if len(text) <= _SHOWN_MAX else text[:_SHOWN_MAX] + "…"


class Layout:
    """The columns of a table, in the order of a statement.

    Args:
        locator: those that tell people which row it is.
    """

    def __init__(self, table: str, columns: Iterable[Column], *, locator: tuple[str, ...]) -> None:
        self.table = table
        self.columns = tuple(columns)
        self._locator = locator
        # By the types of a row: the bounds of its integers. At most one for each choice of columns that are NULL.
        self._ranges: dict[tuple[type, ...], tuple[tuple[int, int, int], ...]] = {}
        self._words = tuple((index, column.known) for index, column in enumerate(self.columns) if column.words)

    @property
    def names(self) -> str:
        """The columns as a statement lists them."""
        return ", ".join(column.name for column in self.columns)

    def of(self, names: str) -> Layout:
        """Return the layout of a statement that lists these columns."""
        known = {column.name: column for column in self.columns}
        return Layout(self.table, [known[name] for name in names.split(", ")], locator=self._locator)

    def is_sound(self, row: tuple[Any, ...]) -> bool:
        """Return whether each value is one that this library writes. Asked of every row: about a microsecond."""
        ranges = self._ranges.get(tuple(map(type, row)))
        if ranges is None:
            return self._admit(row)
        for index, low, high in ranges:
            if not low <= row[index] <= high:
                return False
        for index, words in self._words:  # noqa: SIM110  # a generator would cost as much as all the rest
            if row[index] not in words:
                return False
        return True

    def are_sound(self, rows: Sequence[tuple[Any, ...]]) -> bool:
        """Return what ``is_sound`` does of many rows, column by column: half the cost."""
        for column, values in zip(self.columns, zip(*rows, strict=True), strict=False):  # without rows, no columns
            if not column.types.issuperset(map(type, values)):
                return False
            if column.is_bounded:
                numbers = [value for value in values if value is not None] if column.is_optional else values
                if numbers and not (column.low <= min(numbers) and max(numbers) <= column.high):
                    return False
            elif column.words and not column.known.issuperset(values):
                return False
            if column.characters and any(map(column.fault, values)):
                return False
        return True

    def _admit(self, row: tuple[Any, ...]) -> bool:
        """Look at a row of other types than those before: its columns may be NULL in another way."""
        if any(column.fault(value) is not None for column, value in zip(self.columns, row, strict=True)):
            return False
        if any(column.characters for column in self.columns):
            return True  # and the next row, too, is looked at whole
        self._ranges[tuple(map(type, row))] = tuple(
            (index, column.low, column.high)
            for index, column in enumerate(self.columns)
            if row[index] is not None and column.is_bounded
        )
        return True

    def mended(self, row: tuple[Any, ...]) -> tuple[tuple[Any, ...], str]:
        """Return a row with stand-ins for what cannot be read, and what that is, by table, row and column."""
        faults = [column.fault(value) for column, value in zip(self.columns, row, strict=True)]
        mended = tuple(
            value if fault is None else column.mended(value)
            for column, value, fault in zip(self.columns, row, faults, strict=True)
        )
        found = [f"{column.name} {fault}" for column, fault in zip(self.columns, faults, strict=True) if fault]
        return mended, self.place(row, "; ".join(found[:_FAULTS_MAX]))

    def place(self, row: tuple[Any, ...], what: str) -> str:
        """Return what is wrong with a row, with table and row before it."""
        values = dict(zip((column.name for column in self.columns), row, strict=True))
        which = ", ".join(f"{name} {_short(values[name])}" for name in self._locator if name in values)
        return f"in table {self.table}, the row with {which}: {what}"


def _count(name: str, low: int = 0, *, is_optional: bool = False) -> Column:
    return Column(name, int, is_optional, low=low, high=COUNT_MAX)


def _instant(name: str, *, is_optional: bool = False) -> Column:
    """A time that was. What is no integer sorts as the latest."""
    return Column(name, int, is_optional, INSTANT_MIN, INSTANT_MAX, stand_in=None if is_optional else INSTANT_MAX)


def _due(name: str) -> Column:
    """A time to come. Earlier versions have stored some that are in the year 9999 only west of Greenwich."""
    return Column(name, int, True, low=INSTANT_MIN, high=INSTANT_MAX + _BEYOND)


def _name(name: str, *, is_optional: bool = False) -> Column:
    return Column(name, str, is_optional, is_name=True)


def _payload(name: str) -> Column:
    return Column(name, str, True)


def _words(name: str, words: Iterable[str], *, stand_in: str) -> Column:
    known = tuple(map(str, words))
    return Column(name, str, words=known, stand_in=stand_in)


_KINDS: Final = [kind for kind in StepKind if kind is not StepKind.UNREADABLE]
_STATUSES: Final = [status for status in StepStatus if status is not StepStatus.UNREADABLE]

_UNREADABLE: Final = "unreadable"
_WAIT_KINDS: Final = [kind for kind in get_args(WaitKind) if kind != _UNREADABLE]

_OF_HISTORY: Final = (
    _count("seq"),
    _name("branch"),
    _name("name"),
    _count("n"),
    _words("kind", _KINDS, stand_in=StepKind.UNREADABLE),
    _words("status", _STATUSES, stand_in=StepStatus.UNREADABLE),
    _count("attempt"),
    Column("compensates", int, low=0, high=1),
    _instant("started_at"),
    _instant("finished_at"),
    _payload("error"),
    _payload("result"),
    _payload("earlier"),
)

LAYOUTS: Final = {
    layout.table: layout
    for layout in (
        Layout(
            "runs",
            (
                _count("run", NO_INTEGER),
                _name("id"),
                _name("workflow"),
                _words("status", RunStatus, stand_in=RunStatus.SUSPENDED.value),  # it is parked, or will be
                Column("owner", int, True),
                _count("token"),
                _count("claimed_seq", -1),
                _count("recoveries"),
                _count("changed"),
                Column("priority", int),
                _name("queue", is_optional=True),
                _instant("created_at"),
                _instant("started_at", is_optional=True),
                _instant("finished_at", is_optional=True),
                _due("wake_at"),
                Column("is_due", int, low=0, high=1),
                _due("ttl_at"),
                Column("parent", int, True),
                _name("parent_id", is_optional=True),
                _count("generation"),
                Column("seed", bytes),
                Column("args_digest", bytes),
                _payload("waits_for"),
                _payload("fingerprint"),
                _payload("problem"),
                Column("tags", str),
                Column("compensation_errors", str),
                _payload("error"),
                _payload("result"),
                Column("args", str),
                _instant("hidden_at", is_optional=True),
                Column("keys", int, low=SHARED_KEYS, high=OWN_KEYS, stand_in=OWN_KEYS),
                _name("forked_from", is_optional=True),
                _name("forked_before", is_optional=True),
                _count("version", NO_VERSION),
                Column("refused", str, characters=CODES_CHARACTERS),
            ),
            locator=("run", "id"),
        ),
        Layout(
            "history",
            (_count("id", NO_INTEGER), Column("run", int), *_OF_HISTORY),
            locator=("seq", "branch", "name", "n"),
        ),
        Layout(
            "earlier_history",
            (_count("id", NO_INTEGER), Column("run", int), _count("generation"), *_OF_HISTORY),
            locator=("seq", "branch", "name", "n"),
        ),
        Layout(
            "earlier_generations",
            (
                Column("run", int),
                _count("generation"),
                _instant("started_at", is_optional=True),
                _instant("finished_at"),
                _count("left_out"),
                _count("version", NO_VERSION),
                Column("args", str),
            ),
            locator=("generation",),
        ),
        Layout(
            "waits",
            (
                Column("run", int),
                _name("branch"),
                _name("name"),
                _count("n"),
                _words("kind", _WAIT_KINDS, stand_in=_UNREADABLE),
                _due("due_at"),
                _count("attempt"),
                _instant("started_at"),
                _payload("error"),
                _payload("earlier"),
            ),
            locator=("branch", "name", "n"),
        ),
        Layout(
            "mailbox",
            (
                _count("id", NO_INTEGER),
                Column("run", int),
                _count("seq", -1, is_optional=True),
                _words("kind", ("signal", "cancel", "child"), stand_in="unreadable"),
                _name("name"),
                _name("signal_id", is_optional=True),
                _instant("created_at"),
                _payload("payload"),
            ),
            locator=("id", "kind", "name"),
        ),
        Layout(
            "executors",
            (
                _count("id", NO_INTEGER),
                _count("pid"),
                _name("host"),
                _name("boot_id"),
                _instant("started_at"),
                Column("renewed_at", int),
                _instant("ended_at", is_optional=True),
                _count("renewals"),
                Column("lease", int, low=1),
            ),
            locator=("id", "pid"),
        ),
        Layout(
            "codes",
            (
                _count("code", NO_INTEGER),
                _name("workflow"),
                _count("version"),
                _name("fingerprint"),
                _instant("first_seen_at"),
            ),
            locator=("code", "workflow"),
        ),
        Layout("executor_codes", (Column("executor", int), Column("code", int)), locator=("executor", "code")),
        Layout(
            "refusals",
            (Column("run", int), Column("code", int), _instant("refused_at"), Column("problem", str)),
            locator=("run", "code"),
        ),
        Layout("unread_counts", (_count("run", NO_INTEGER), _count("signals")), locator=("run",)),
        Layout(
            "tags",
            (_name("key"), _name("value"), _instant("created_at"), Column("run", int)),
            locator=("key", "value", "run"),
        ),
        Layout(
            "published",
            (Column("run", int), _name("key"), Column("value", str), Column("seq", int), Column("n", int)),
            locator=("run", "key"),
        ),
        Layout("reports", (_name("process"), _instant("updated_at"), Column("report", str)), locator=("process",)),
    )
}
