"""Which exception classes may be rebuilt, by their names in stored data. Nothing is ever imported for it.

A name is looked up in this order, and the first class found is it:

1. what ``aliases`` says of it, once;
2. the classes in modules that are allowed, and those that are given;
3. of a name in ``__main__``, as it was stored once, the class in the module that is the program now, or was it then:
   the workflow's own, unless another class of that name is given, which may be meant as well.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any, Final

from durable_trio.aliases import NO_ALIASES, alias_line, is_stored_name
from durable_trio.code.project import installed_folders
from durable_trio.failures.errors import CannotRebuild
from durable_trio.looks import PROGRAM, class_name, is_a, look, module_name, program_name, qualified_name

__all__ = ["Allowed"]

_TRUSTED: Final = ("builtins", "trio", "durable_trio")
_OLD_PROGRAM: Final = f"{PROGRAM[0]}."


class Allowed:
    """The classes that are loaded, and in a module that is allowed or given themselves.

    Args:
        modules: by their names in this process.
        classes: those that are given.
        aliases: which classes stored names stand for; such an exception class counts as given, too.
    """

    def __init__(
        self,
        modules: Iterable[str],
        classes: Iterable[type[Exception]],
        aliases: Mapping[str, type] = NO_ALIASES,
    ) -> None:
        self._modules = frozenset(modules)
        self._aliases = aliases
        named = (cls for cls in aliases.values() if _is_exception(cls))
        self._classes: dict[str, Any] = {qualified_name(cls): cls for cls in (*named, *classes)}

    def is_found(self, cls: type[Exception]) -> bool:
        """Whether ``find`` gives back this very class for its name."""
        return self._look_up(qualified_name(cls)) is cls

    def find(self, name: str) -> type[Exception]:
        """Return the exception class of this name; never import it.

        Raises:
            CannotRebuild: it is not loaded, not allowed, or no class of exceptions; it says what to do.
        """
        found: type[Exception] | None = self._look_up(name)
        if found is None:
            raise CannotRebuild(self._advice(name), type=name)
        return found

    def _look_up(self, name: str) -> Any:
        if name in self._aliases:
            found: Any = self._aliases[name]
            return found if _is_exception(found) else None
        # A file that is run and imported too has each class twice: the workflow's own module has the first word.
        found = next((cls for module, cls in _loaded(name) if self._is_allowed(module)), None)
        if found is None:
            found = self._classes.get(name)
        if found is None and name.startswith(_OLD_PROGRAM):
            found = self._of_old_program(name.removeprefix(_OLD_PROGRAM))
        return found

    def _is_allowed(self, module: str) -> bool:
        return module.partition(".")[0] in _TRUSTED or module in self._modules

    def _of_old_program(self, name: str) -> Any:
        now = f"{program_name()}.{name}"
        if now != _OLD_PROGRAM + name:
            found = self._classes.get(now)
            if found is not None and module_name(found) in PROGRAM:
                return found
            for module, cls in _loaded(now):
                if module in PROGRAM and module in self._modules:
                    return cls
        given = [cls for cls in self._classes.values() if class_name(cls) == name]
        within = [_within(sys.modules.get(module), name) for module in self._modules]
        known = {id(cls): cls for cls in (*given, *within) if cls is not None}
        if len(known) != 1:
            return None
        (found,) = known.values()
        return found if module_name(found) in self._modules else None

    def _advice(self, name: str) -> str:
        """Return why there is no class of this name, and the line that helps."""
        if name in self._aliases:
            return f"aliases say that {name} is {qualified_name(self._aliases[name])}, which is no class of exceptions"
        last = name.rpartition(".")[2]
        if next(_loaded(name), None) is not None:
            return f"the exception {name} is not allowed here: name it in Engine(errors=[{last}])"
        if not is_stored_name(name):  # cut, or made up
            return f"the exception {name} is not loaded here"
        line = alias_line(name, last)
        return f"there is no exception {name} here; name the class that it is now: {line}{_elsewhere(last)}"


def _is_exception(cls: object) -> bool:
    return is_a(cls, type) and type.__subclasscheck__(Exception, cls)  # type: ignore[arg-type]


def _loaded(name: str) -> Iterator[tuple[str, Any]]:
    """Yield the exception classes of this name that are loaded, each with its module as it is named here.

    The program's own module may be loaded a second time, under the name that it has for who imports it.
    """
    parts = name.split(".")
    for count in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:count])
        names = [module, *(PROGRAM if module == program_name() else ())]
        loaded = [(each, sys.modules[each]) for each in dict.fromkeys(names) if each in sys.modules]
        for each, found in loaded:
            cls = _within(found, ".".join(parts[count:]))
            if cls is not None and qualified_name(cls) == name:
                yield each, cls
        if loaded:
            return


def _within(module: object, name: str) -> Any:
    """Return the exception class at this place in a module, or ``None``."""
    found: Any = module
    for part in name.split("."):
        is_looked_into = found is module or isinstance(found, type)
        found = look(vars, found, instead=lambda _: {}).get(part) if is_looked_into else None
    return found if _is_exception(found) and class_name(found) == name else None


def _elsewhere(name: str) -> str:
    """Say where there is a class of exceptions with this bare name, if the program has exactly one of its own."""
    found = look(_homes_of, name, instead=lambda _: [])
    return f" (from {found[0]} import {name})" if len(found) == 1 else ""


def _homes_of(name: str) -> list[str]:
    modules = [(key, module) for key, module in list(sys.modules.items()) if type(module) is ModuleType]
    return [
        key
        for key, module in modules
        if (cls := _within(module, name)) is not None
        and module_name(cls) == key
        and not str(vars(module).get("__file__") or "<frozen ").startswith(installed_folders())
        and key not in PROGRAM
    ]
