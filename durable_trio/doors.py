"""The doors between parts: where one part calls back code of another.

Whoever calls back has others to serve. Trio takes out an instrument that raises, so that no run goes on, and ends with
an abort function or a callback that does; a writer that falls in the middle of a batch still owes the others their
outcomes. So what is called back through a door never raises there: its fault is told to its owner, who deals with it
in its own place: the run is refused that has it, the service started again; that of a task is raised in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVarTuple, runtime_checkable

from durable_trio.logger import Logger

Ts = TypeVarTuple("Ts")

_LOGGER = Logger("durable_trio.processes")


@runtime_checkable
class Owner(Protocol):
    """Whose fault it is when something raises that was called back."""

    def failed(self, error: BaseException) -> None:
        """Take the fault. Must not raise."""


def guarded(callback: Callable[[*Ts], object], *args: *Ts) -> None:
    """Call ``callback(*args)``. Never raises: a fault is told to the callback, or to the object whose method it is."""
    try:
        callback(*args)
    except BaseException as error:  # also what stops the executor: its owner stops it, and nobody else suffers
        blame(callback, error)


def blame(callback: Callable[..., object], error: BaseException) -> None:
    """Tell whose fault it is that a callback has raised: its own, or that of the object whose method it is."""
    tell(callback if isinstance(callback, Owner) else getattr(callback, "__self__", None), error)


def tell(owner: object, error: BaseException) -> None:
    """Tell the owner of its fault; or the log, if there is no owner, or that fails as well. Never raises."""
    if isinstance(owner, Owner):
        try:
            owner.failed(error)
            return
        except BaseException as another:
            _LOGGER.critical("a %s cannot deal with its fault", type(owner).__name__, exc_info=another)
    _LOGGER.error("a fault of this library, please report it", exc_info=error)
