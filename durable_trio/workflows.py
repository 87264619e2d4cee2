"""``@workflow``: an ordinary ``async def`` with a name, converters for its arguments, and policies.

There is no global registry: an engine knows the workflows that it is given, in a ``Registry`` of its own.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any, Concatenate, Final, Generic, NamedTuple, ParamSpec, TypeAlias, TypeVar, TypeVarTuple, overload

import attrs

from durable_trio.clock import seconds_of
from durable_trio.codec import UNANNOTATED
from durable_trio.limits import MAX_RECOVERIES, VERSION_MAX, check_name
from durable_trio.looks import class_name, exact_text, is_a, short
from durable_trio.rows import NO_VERSION
from durable_trio.signatures import function_behind, is_method_of_a_class, resolved_annotations

P = ParamSpec("P")
R = TypeVar("R")
Ts = TypeVarTuple("Ts")
ContextT = TypeVar("ContextT", contravariant=True)

__all__ = ["INLINE_NAME", "Registry", "Startable", "Workflow", "version_text", "workflow"]

#: The workflow's name of scripts' runs (``engine.inline``); no user's function is behind it.
INLINE_NAME: Final = "(inline)"

#: What ``engine.start`` takes: a ``Workflow``, seen as its arguments and its result. As a plain callable, type checkers
#: let out what has a default; that it is no plain function is seen when it is called.
Startable: TypeAlias = Callable[[Any, *Ts], Awaitable[R]]


@attrs.frozen(kw_only=True)
class Workflow(Generic[P, R]):
    """A registered function. Made by ``@workflow``.

    Calling it calls the function itself with whatever context it is given, as a test of the bare body would.
    """

    fn: Callable[Concatenate[Any, P], Awaitable[R]] = attrs.field(repr=False)
    name: str
    version: int = 0
    ttl: float | None = None
    max_recoveries: int = MAX_RECOVERIES
    tags: Mapping[str, str] = attrs.field(factory=dict)
    strict: bool | None = None
    #: The types of its signals by their names, if it says which it takes.
    signals: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    #: Changes that its code does not ask about any more.
    retired: frozenset[str] = attrs.field(default=frozenset(), repr=False)
    argument_types: tuple[Any, ...] = attrs.field(repr=False)
    argument_names: tuple[str, ...] = attrs.field(repr=False)
    required_count: int = attrs.field(repr=False)
    takes_any_count: bool = attrs.field(repr=False)
    defaults: tuple[Any, ...] = attrs.field(repr=False, eq=False)  # of the last parameters that may be left out
    result_type: Any = attrs.field(repr=False)

    @property
    def module(self) -> str:
        """The name of the module whose exceptions its runs may raise."""
        return str(function_behind(self.fn).__module__)

    def __call__(self, ctx: Any, /, *args: P.args, **kwargs: P.kwargs) -> Awaitable[R]:
        return self.fn(ctx, *args, **kwargs)

    def annotations_for(self, count: int) -> tuple[Any, ...]:
        """Return the annotations of so many arguments.

        Raises:
            TypeError: too few or too many.
        """
        most = len(self.argument_types)
        if count < self.required_count or (count > most and not self.takes_any_count):
            expected = str(most) if self.required_count == most else f"{self.required_count} to {most}"
            noun = "argument" if expected == "1" else "arguments"
            lacking = ", ".join(map(repr, self.argument_names[count : self.required_count]))
            hint = f": {lacking} is missing" if lacking else ""
            raise TypeError(f"workflow {self.name!r} takes {expected} {noun} after the context, got {count}{hint}")
        if count > most:
            return self.argument_types[:-1] + (self.argument_types[-1],) * (count - most + 1)
        return self.argument_types[:count]

    def signal_type(self, name: str) -> Any:
        """Return the type of what a signal carries; ``UNANNOTATED`` if the workflow does not say.

        Raises:
            ValueError: it says which signals it takes, and this is none of them.
        """
        if not self.signals:
            return UNANNOTATED
        if name not in self.signals:
            known = ", ".join(map(repr, self.signals))
            near = difflib.get_close_matches(name, self.signals, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"workflow {self.name!r} takes no signal {name!r}, only {known}{hint}")
        return self.signals[name]

    def completed(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return arguments with the defaults of those that are left out.

        Raises:
            TypeError: too few or too many.
        """
        count = len(args)
        if count != len(self.argument_types):
            self.annotations_for(count)  # raises
        return (*args, *self.defaults[max(0, count - self.required_count) :])


@overload
def workflow(fn: Callable[Concatenate[Any, P], Awaitable[R]], /) -> Workflow[P, R]: ...
@overload
def workflow(
    *,
    name: str | None = None,
    version: int = 0,
    ttl: float | timedelta | None = None,
    max_recoveries: int = MAX_RECOVERIES,
    tags: Mapping[str, str] | None = None,
    strict: bool | None = None,
    signals: Mapping[str, Any] | None = None,
    retired: Iterable[str] = (),
) -> Callable[[Callable[Concatenate[Any, P], Awaitable[R]]], Workflow[P, R]]: ...
def workflow(
    fn: Callable[Concatenate[Any, P], Awaitable[R]] | None = None,
    /,
    *,
    name: str | None = None,
    version: int = 0,
    ttl: float | timedelta | None = None,
    max_recoveries: int = MAX_RECOVERIES,
    tags: Mapping[str, str] | None = None,
    strict: bool | None = None,
    signals: Mapping[str, Any] | None = None,
    retired: Iterable[str] = (),
) -> Any:
    """Make a workflow of an ``async def`` whose first parameter is the ``Context``.

    Args:
        name: how runs refer to it, 1 to 256 characters; default the function's name.
        version: a whole number of at least 0. A run keeps the one that it was started with. Keep the old function,
            without a number, beside the new one until ``durable-trio versions`` shows no unfinished run of it.
        ttl: seconds from ``start`` after which a run fails with ``RunExpired``; default never.
        max_recoveries: crashes in a row without progress that a run is recovered from; at the next one it is set aside
            as failed.
        tags: given to every run of it.
        strict: refuse a run where the engine would only warn; default the engine's setting.
        signals: the types of all signals that it takes, by their names: ``signals={"paid": Payment, "stop": None}``.
            Who sends one to a run of it, through an engine that knows the workflow, or a handle made with it, has it
            checked there: of another name or type it is refused, and nothing is stored. It is also the type that
            ``ctx.wait_signal(name)`` gives where it names none. Default: signals are checked only when they are taken.
        retired: ids of changes that its code does not ask about any more (``ctx.patched``), because all its runs take
            the new way. Runs that have recorded so go on; without it they are not executed by code that does not ask.

    Raises:
        TypeError: not an ``async def``, a method without its object, no context parameter, or keyword-only parameters
            without default.
        ValueError: an empty or too long name, or one with control characters or outer blanks; a version that is none.
    """

    def wrap(function: Callable[Concatenate[Any, P], Awaitable[R]]) -> Workflow[P, R]:
        if isinstance(function, staticmethod):
            function = function.__func__
        if not inspect.iscoroutinefunction(function):
            raise TypeError(f"a workflow must be an `async def`, {function!r} is not")
        if is_method_of_a_class(function):
            raise TypeError(
                f"{function_behind(function).__qualname__!r} is a method: a run would have no object to call it on. "
                "Make the workflow of a function or a staticmethod, whose first parameter is the Context, or of a "
                "bound method: workflow(object.method)"
            )
        if isinstance(max_recoveries, bool) or not isinstance(max_recoveries, int) or max_recoveries < 1:
            raise ValueError(f"max_recoveries must be an int of at least 1, not {max_recoveries!r}")
        signature = _signature(function)
        return Workflow(
            fn=function,
            name=check_name("workflow name", function_behind(function).__name__ if name is None else name),
            version=check_version(version),
            ttl=None if ttl is None else seconds_of(ttl, what="ttl"),
            max_recoveries=max_recoveries,
            tags=check_tags(tags),
            strict=strict,
            signals=_check_signals(signals),
            retired=_check_retired(retired),
            argument_types=signature.types,
            argument_names=signature.names,
            required_count=signature.required_count,
            takes_any_count=signature.takes_any_count,
            defaults=signature.defaults,
            result_type=signature.result,
        )

    return wrap if fn is None else wrap(fn)


def check_version(version: object) -> int:
    """Return the number of a version, exact.

    Raises:
        ValueError: it is none.
    """
    if isinstance(version, bool) or not isinstance(version, int) or not 0 <= version <= VERSION_MAX:
        raise ValueError(
            f"version must be a whole number of at least 0, and at most {VERSION_MAX}, not {short(version)}"
        )
    return int(version)


def check_tags(tags: Mapping[str, str] | None) -> dict[str, str]:
    """Return tags as a new dict if every key and value may be stored.

    Raises:
        TypeError: not all are ``str``.
        ValueError: a key is no valid name.
    """
    checked: dict[str, str] = {}
    if tags is not None and not isinstance(tags, Mapping):
        raise TypeError(f"tags must be a dict of str to str, not {tags!r}")
    for key, value in (tags or {}).items():
        key = check_name("tag", key)
        if not is_a(value, str):
            raise TypeError(f"the value of tag {key!r} must be a str, not {class_name(type(value))}")
        checked[key] = exact_text(value)
        checked[key].encode()  # a lone surrogate cannot be stored
    return checked


def _check_signals(signals: Mapping[str, Any] | None) -> dict[str, Any]:
    if signals is not None and not isinstance(signals, Mapping):
        raise TypeError(f"signals must be a dict of names to types, as {{'paid': Payment}}, not {short(signals)}")
    checked = {check_name("signal name", name): annotation for name, annotation in (signals or {}).items()}
    for name, annotation in checked.items():
        if isinstance(annotation, str):
            raise TypeError(f"the type of signal {name!r} must be a type, not the text {annotation!r}")
    return checked


def _check_retired(retired: Iterable[str]) -> frozenset[str]:
    if is_a(retired, str) or not isinstance(retired, Iterable):
        raise TypeError(f"retired must be ids of changes, as ('check fraud',), not {short(retired)}")
    return frozenset(check_name("change id", change_id) for change_id in retired)


class _Signature(NamedTuple):
    """What a function takes after the context, and gives."""

    types: tuple[Any, ...]
    names: tuple[str, ...]
    required_count: int
    takes_any_count: bool
    defaults: tuple[Any, ...]
    result: Any


def _signature(function: Callable[..., object]) -> _Signature:
    behind = function_behind(function)
    annotations = resolved_annotations(behind)
    parameters = list(inspect.signature(function).parameters.values())
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if not parameters or parameters[0].kind not in positional:
        raise TypeError(f"workflow {behind.__name__!r} takes no context; its first parameter must be the Context")
    found: dict[str, Any] = {}
    required = 0
    variadic = False
    defaults: list[Any] = []
    for parameter in parameters[1:]:
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            variadic = True
        elif parameter.kind not in positional:
            if parameter.default is inspect.Parameter.empty and parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                raise TypeError(
                    f"workflow {behind.__name__!r}: parameter {parameter.name!r} is keyword-only;"
                    " arguments of runs are positional"
                )
            continue
        elif parameter.default is inspect.Parameter.empty:
            required += 1
        else:
            defaults.append(parameter.default)
        found[parameter.name] = annotations.get(parameter.name, UNANNOTATED)
    result = annotations.get("return", UNANNOTATED)
    return _Signature(tuple(found.values()), tuple(found), required, variadic, tuple(defaults), result)


class Registry:
    """The workflows that one engine knows, by name and version.

    Raises:
        ValueError: two of them have the same name and version.
    """

    def __init__(self, workflows: Iterable[Workflow[Any, Any]]) -> None:
        self._by_version: dict[tuple[str, int], Workflow[Any, Any]] = {}
        self._newest: dict[str, Workflow[Any, Any]] = {}
        self._missed: set[tuple[str, int]] = set()
        #: Whether any of them says which signals it takes.
        self.has_signals = False
        if isinstance(workflows, Workflow):
            raise TypeError("workflows takes a list, also of one: workflows=[order]")
        for item in workflows:
            if not isinstance(item, Workflow):
                raise TypeError(f"workflows must be made by @workflow, {item!r} is not")
            if self._by_version.setdefault((item.name, item.version), item) is not item:
                which = f"{item.name!r}, both of version {item.version}"
                raise ValueError(f"two workflows are named {which}; give one another name, or another version=")
            if item.version >= self._newest.setdefault(item.name, item).version:
                self._newest[item.name] = item
            self.has_signals = self.has_signals or bool(item.signals)
        #: Gives the newest workflow of a name, or ``None`` if none is known.
        self.get: Callable[[str], Workflow[Any, Any] | None] = self._newest.get
        without_version = {(name, NO_VERSION): newest for name, newest in self._newest.items()}
        #: Gives the workflow of a name and a version, if it is known; of ``NO_VERSION`` the newest.
        self.at: Callable[[tuple[str, int]], Workflow[Any, Any] | None] = {**self._by_version, **without_version}.get

    def is_missed(self, workflow: Workflow[Any, Any]) -> bool:
        """Return whether a workflow is not among those that were given, the first time that this is asked of it.

        Where none were given, as to most clients, none is missed.
        """
        version = (workflow.name, workflow.version)
        if not self._by_version or version in self._by_version or version in self._missed:
            return False
        self._missed.add(version)
        return True

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all workflows."""
        return tuple(self._newest)

    def __iter__(self) -> Iterator[Workflow[Any, Any]]:
        return iter(self._by_version.values())


def version_text(workflow: str, version: int | None) -> str:
    """Return how people are told of one version of a workflow: without it where that is 0, or not known."""
    return workflow if version in (0, None, NO_VERSION) else f"{workflow} version {version}"
