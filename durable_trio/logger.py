"""The library's loggers: what a user's filters and handlers do costs a log line, and nothing else.

``logging`` guards what a handler does when it writes, and nothing before that: a filter that raises (it may find a
field missing that its own records have) raises out of the call that logs. That call is made in the middle of giving a
run back, of ending a service, of a body's turn; at replay, where ``ctx.log`` is silent, it is not made at all. So all
that the library logs passes here.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Final

import trio

from durable_trio.looks import look, said
from durable_trio.unseen import visible

__all__ = ["RUN_LOGGER_NAME", "Logger"]

#: Where users' own lines go: those of ``ctx.log`` and of ``current_step().log``.
RUN_LOGGER_NAME: Final = "durable_trio.run"


class Logger(logging.LoggerAdapter[logging.Logger]):
    """The logger of that name, from which nothing comes out."""

    def __init__(self, name: str, extra: Mapping[str, object] | None = None) -> None:
        super().__init__(logging.getLogger(name), extra)

    @trio.lowlevel.enable_ki_protection  # so that what is caught here is of the filters and handlers
    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Log it, if that works."""
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1  # the place is that of the caller
        try:
            super().log(level, msg, *args, **kwargs)
        except BaseException as error:
            look(_tell, self.logger.name, error, instead=lambda _: None)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Add the logger's ``extra`` to that of the line."""
        if self.extra:
            kwargs["extra"] = {**(kwargs.get("extra") or {}), **self.extra}
        return msg, kwargs


def _tell(name: str, error: BaseException) -> None:
    if logging.raiseExceptions and sys.stderr is not None:  # as ``logging`` does of handlers
        text = visible(f"a line of the logger {name!r} is lost, for a filter or handler has raised {said(error)}")
        print(text, file=sys.stderr, flush=True)
