"""Log lines of processes that serve: for people, as fields, or as JSON. A parent tells its workers which.

It configures logging only where nobody has: an application with handlers of its own keeps them.
"""

from __future__ import annotations

import enum
import json
import logging
from datetime import UTC, datetime
from typing import Any, Final

from durable_trio.unseen import visible_lines

__all__ = ["LOG_VARIABLE", "LineFormatter", "LogStyle", "failure_line", "is_configured", "set_up_logging"]

#: In a worker's environment: the style of its log lines. Without it a worker configures nothing.
LOG_VARIABLE: Final = "DURABLE_TRIO_WORKER_LOG"

_LOGGER: Final = logging.getLogger("durable_trio")
# What each record has; whatever else it has was given along, as ``extra``.
_OF_ALL: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# What a value may consist of to stand without quotes.
_BARE: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.:/+@#")


class LogStyle(enum.StrEnum):
    """How a log line is written."""

    TEXT = "text"  # for people at a terminal
    FIELDS = "fields"  # key=value
    JSON = "json"


def is_configured() -> bool:
    """Return whether the application has handlers that get the records of this library."""
    return _LOGGER.hasHandlers()


def set_up_logging(style: LogStyle) -> None:
    """Write log records to standard error, unless the application has handlers: ours from INFO, others' as they say."""
    if is_configured():
        return
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter(style))
    logging.getLogger().addHandler(handler)
    if _LOGGER.level == logging.NOTSET:
        _LOGGER.setLevel(logging.INFO)


def failure_line(style: LogStyle, text: str, error: BaseException | None) -> str:
    """Return the last line of a process that has failed, in its style; a traceback if there is an error to show."""
    shown = None if error is None else (type(error), error, error.__traceback__)
    record = logging.LogRecord("durable_trio.serve", logging.CRITICAL, "", 0, text, None, shown)
    record.fields = {"event": "failed", "pid": record.process, "error": text}
    return LineFormatter(style).format(record)


class LineFormatter(logging.Formatter):
    """One line for each record. To programs its ``extra`` tells what its message tells to people.

    A record of the server's own has all of that in ``fields``, and needs no message.
    """

    def __init__(self, style: LogStyle) -> None:
        super().__init__()
        self._line_style = style

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end; a traceback for people has more lines."""
        trace = self.formatException(record.exc_info) if record.exc_info else ""
        if self._line_style is LogStyle.TEXT:
            return _text(record, trace)
        fields = _fields(record, trace)
        if self._line_style is LogStyle.JSON:
            return json.dumps(fields, default=str, separators=(",", ":"))
        return " ".join(f"{key}={_value(value)}" for key, value in fields.items())


def _text(record: logging.LogRecord, trace: str) -> str:
    time = datetime.fromtimestamp(record.created)
    is_event = hasattr(record, "fields")
    source = "" if is_event else f"[{record.process}] "
    level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
    text = f"{time:%H:%M:%S} {source}{level}{record.getMessage()}"
    return visible_lines(f"{text}\n{trace}" if trace else text)


def _fields(record: logging.LogRecord, trace: str) -> dict[str, Any]:
    at = datetime.fromtimestamp(record.created, UTC)
    fields: dict[str, Any] = {
        "time": at.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "level": record.levelname.lower(),
    }
    own = getattr(record, "fields", None)
    if own is not None:
        fields.update(own)
    else:
        # What people are told in more lines has a field of its own here.
        message = record.getMessage().removesuffix(f"\n{getattr(record, 'stack', '')}")
        fields.update(pid=record.process, logger=record.name, message=message)
        fields.update(
            (name, value) for name, value in vars(record).items() if name not in _OF_ALL and name not in fields
        )
    if trace:
        fields["traceback"] = trace
    return fields


def _value(value: Any) -> str:
    text = str(value)
    return text if text and _BARE.issuperset(text) else json.dumps(text)
