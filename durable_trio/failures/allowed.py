"""Which exception classes may be rebuilt, by their names in stored data. Nothing is ever imported for it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, Final

from durable_trio.failures.errors import CannotRebuild
from durable_trio.looks import qualified_name

__all__ = ["Allowed"]

_TRUSTED: Final = ("builtins", "trio", "durable_trio")


class Allowed:
    """The classes that are loaded, and in a module that is allowed or given themselves."""

    def __init__(self, modules: Iterable[str], classes: Iterable[type[Exception]]) -> None:
        self._modules = frozenset(modules)
        self._classes = {qualified_name(cls): cls for cls in classes}

    def is_found(self, cls: type[Exception]) -> bool:
        """Whether ``find`` gives back this very class for its name."""
        try:
            return self.find(qualified_name(cls)) is cls
        except CannotRebuild:
            return False

    def find(self, name: str) -> type[Exception]:
        """Return the exception class of this name; never import it.

        Raises:
            CannotRebuild: it is not loaded, not allowed, or no class of exceptions.
        """
        if name in self._classes:
            return self._classes[name]
        parts = name.split(".")
        for count in range(len(parts) - 1, 0, -1):
            module = ".".join(parts[:count])
            loaded = sys.modules.get(module)
            if loaded is None:
                continue
            if module.partition(".")[0] not in _TRUSTED and module not in self._modules:
                break
            found: Any = loaded
            for part in parts[count:]:
                found = vars(found).get(part) if isinstance(found, type) or found is loaded else None
            if isinstance(found, type) and issubclass(found, Exception) and qualified_name(found) == name:
                return found
            break
        what_to_do = "import it, and name it in Engine(errors=...)"
        if parts[0] == "__main__":  # no import finds it
            what_to_do = "it is of the file that was run as the program; serve by running that file again"
        raise CannotRebuild(f"the exception {name} is not loaded or not allowed here: {what_to_do}", type=name)
