"""What a stored class is called now, where code has moved or renamed it: ``Engine(aliases={…})``.

Exceptions are stored with module and name, members of unions with their bare name. An alias says of such a name which
class it is, once: the name of that class is not looked up again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from durable_trio.looks import is_a, qualified_name, short

__all__ = ["NO_ALIASES", "alias_line", "check_aliases", "is_stored_name"]

# A class's name with its module and what it is in; more than that is none, and messages must not repeat it.
_CHARACTERS_MAX: Final = 500
NO_ALIASES: Final[Mapping[str, type]] = MappingProxyType({})


def check_aliases(aliases: Any) -> dict[str, type]:
    """Return aliases as a new dict.

    Raises:
        TypeError: no dict, a key that is no ``str``, or a value that is no class.
        ValueError: a key that is no name of a class, as messages print it.
    """
    if not isinstance(aliases, Mapping):
        raise TypeError(
            f'aliases must be a dict of stored names to classes, as {{"shop.Old": New}}, not {short(aliases)}'
        )
    for name, cls in aliases.items():
        if type(name) is not str:
            hint = f'; write "{qualified_name(name)}"' if is_a(name, type) else ""
            raise TypeError(f"a key of aliases must be a str, the name as it is stored, not {short(name)}{hint}")
        if not is_stored_name(name):
            raise ValueError(
                f"a key of aliases must be the name of a class as messages print it, "
                f'"old.module.Declined" or, of a member of a union, "Card", not {name!r}'
            )
        if not is_a(cls, type):
            raise TypeError(f"aliases: {name!r} must stand for a class, not {short(cls)}")
    return dict(aliases)


def is_stored_name(name: str) -> bool:
    """Whether a class may be stored under this name, whatever module or function it is in."""
    *outer, last = name.split(".")
    if len(name) > _CHARACTERS_MAX:
        return False
    return last.isidentifier() and all(part and part == part.strip() and part.isprintable() for part in outer)


def alias_line(name: str, now: str) -> str:
    """Return the line that says which class a stored name is; ``now``: how the code calls that class."""
    return f"Engine(aliases={{{json.dumps(name, ensure_ascii=False)}: {now}}})"
