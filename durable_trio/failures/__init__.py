"""Exceptions to JSON text and back, without pickle: what a step or a run failed with.

An exception is stored with a *recipe*, the first that rebuilt an equal one when it was encoded:

``fields``   an attrs class or dataclass, from its fields
``new``      ``cls.__new__(cls, *args)``, then its attributes
``init``     ``cls(*args)``, then its attributes
``group``    an ``ExceptionGroup``, from its message and exceptions, each by its own recipe
``failed``   none rebuilds it, or its class is not to be rebuilt: ``StepFailed`` stands for it

Equal means: the same type, args, text, notes and attributes, also those kept in C. Left out are what belongs to the
raise and not to the error (traceback, context) and ``AttributeError.obj``. An error that is among its own attributes
is so again. ``encode`` returns what ``decode`` will, so the first execution gets what each replay gets: a new object
whose cause is the text of the original's traceback.

The name of a class in stored data is looked up among loaded modules and only where the engine allows it. Nothing is
imported, and nothing called but the constructors of exception classes.
"""

from durable_trio.failures.carrying import CARRYING, carried, exits_of, is_cancelled, logged, without_strays
from durable_trio.failures.earlier import earlier_errors, remember
from durable_trio.failures.errors import CannotRebuild, StepTraceback, cause_of
from durable_trio.failures.failures import Failures
from durable_trio.failures.nurseries import close_left_open, guard_nurseries, is_left_open
from durable_trio.failures.one_line import Told, tell_of
from durable_trio.failures.stored import causes_of, describe
from durable_trio.failures.tracebacks import trace

__all__ = [
    "CARRYING",
    "CannotRebuild",
    "Failures",
    "StepTraceback",
    "Told",
    "carried",
    "cause_of",
    "causes_of",
    "close_left_open",
    "describe",
    "earlier_errors",
    "exits_of",
    "guard_nurseries",
    "is_cancelled",
    "is_left_open",
    "logged",
    "remember",
    "tell_of",
    "trace",
    "without_strays",
]
