"""Which files of the user's project a module goes by, and what is in them.

A module reaches those that its source imports, and those that its globals come from: modules, classes, functions, and
the classes of other objects. So what was imported by other means counts, and so does the module of a constant, which
does not tell where it comes from. What is only imported within functions, or for type checkers, does not.

A submodule is an attribute of its package as soon as anybody has imported it: that alone does not count, or else what
one process happens to have loaded would tell its code from another's.
"""

from __future__ import annotations

import hashlib
import re
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache, partial
from importlib.util import resolve_name
from os import path as os_path
from pathlib import Path
from sysconfig import get_path
from typing import Any, Final

from durable_trio.looks import look

__all__ = ["Project", "installed_folders", "is_of_project", "top_of"]

# An import, indented or not, whose parentheses may have several lines; or another line at the margin.
_IMPORT: Final = re.compile(
    rb"\n(?:([ \t]*)(?:from[ \t]+([\w.]+)[ \t]+import[ \t]+(\([^)]*\)|[^\n]*)|import[ \t]+([^\n]*))|([\w@][^\n]*))"
)
# Lines at the margin after which what is indented is executed with the module.
_BLOCK: Final = re.compile(rb"(?:try|except|else|finally|elif|with|for|if)\b(?!.*TYPE_CHECKING)")
_NAME: Final = re.compile(r"[\w.]+")
# This library's, which its version stands for.
_OWN: Final = frozenset({"durable_trio", "supervisors"})
_INSTALLED: Final = frozenset({"site-packages", "dist-packages"})


@cache
def installed_folders() -> tuple[str, ...]:
    """Return where Python's own modules are, and the packages that are installed, for ``str.startswith``."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = {get_path(name) for name in names} | {os_path.dirname(re.__file__).removesuffix(f"{os_path.sep}re")}
    return "<frozen ", *(os_path.join(folder, "") for folder in folders)


class Project:
    """The files of one project. Each is read once."""

    def __init__(self) -> None:
        self._sources: dict[str, bytes] = {}

    def digests(self, own: Mapping[str, Any], others: Iterable[Mapping[str, Any]]) -> frozenset[bytes]:
        """Return the digests of the files that modules go by, their own among them.

        Args:
            own: the globals of the module that is the project's, wherever it lies; so is all of its outermost package.
            others: those of others, which are the project's if they are not installed.
        """
        home = top_of(own)
        left = [own, *(each for each in others if is_of_project(each, home))]
        found: dict[int, bytes] = {}
        while left:
            each = left.pop()
            if id(each) in found:
                continue
            source = self._source(each)
            found[id(each)] = hashlib.sha256(source).digest()
            for module in {*_imported(each, source), *_sources_of(each)}:
                reached = _globals_of(module)
                if reached is not None and is_of_project(reached, home):
                    left.append(reached)
        return frozenset(found.values())

    def files(self) -> dict[str, str]:
        """Return the digest of each file that was read so far, by its path."""
        return {file: hashlib.sha256(source).hexdigest() for file, source in self._sources.items()}

    def _source(self, names: Mapping[str, Any]) -> bytes:
        """Return what a module's file holds; nothing of one without a file that can be read."""
        file = names.get("__file__")
        if type(file) is not str:
            return b""
        if file not in self._sources:
            self._sources[file] = _read(file, names.get("__loader__"))
        return self._sources[file]


def _read(file: str, loader: Any) -> bytes:
    with suppress(OSError, ValueError):
        return Path(file).read_bytes()
    with suppress(Exception):  # of whatever has imported it, from an archive say
        return bytes(loader.get_data(file))
    return b""


def top_of(names: Mapping[str, Any]) -> str:
    """Return the outermost package of a module, or the module if it is in none."""
    return str(names.get("__package__") or names.get("__name__")).partition(".")[0]


def is_of_project(names: Mapping[str, Any], home: str) -> bool:
    """Whether a module belongs to a package, or lies outside of what is installed, if it has a file at all."""
    top = top_of(names)
    if top == home or top in _OWN:
        return top not in _OWN
    file = names.get("__file__")
    if type(file) is not str:
        return "__path__" in names  # a package without a file of its own
    return not file.startswith(installed_folders()) and _INSTALLED.isdisjoint(Path(file).parts)


def _globals_of(name: str) -> dict[str, Any] | None:
    module = sys.modules.get(name)
    return vars(module) if isinstance(module, types.ModuleType) else None


def _imported(names: Mapping[str, Any], source: bytes) -> Iterator[str]:
    """Yield what a source may import outside of functions and classes, by its lines; not all of it need be a module."""
    package, is_executed = str(names.get("__package__") or ""), True
    for match in _IMPORT.finditer(b"\n" + source):
        indentation, _, _, _, margin = match.groups(b"")
        if margin or not indentation:
            is_executed = not margin or _BLOCK.match(margin) is not None
        if margin or not is_executed:
            continue
        base, items, plain = (each.decode(errors="replace") for each in match.groups(b"")[1:4])
        if plain:
            yield from _first_words(plain)
            continue
        with suppress(ImportError):  # it leaves its package
            base = resolve_name(base, package) if base.startswith(".") else base
            yield base
            yield from (f"{base}.{item}" for item in _first_words(items))


def _first_words(items: str) -> Iterator[str]:
    """Yield the names in a list of ``a, b as c``, which may have several lines."""
    found = map(_NAME.search, items.replace("\n", ",").split(","))
    yield from (item[0] for item in found if item is not None)


def _sources_of(names: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of the modules that a module's globals come from."""
    own = names.get("__name__")
    for name, value in list(names.items()):
        cls = type(value)
        if cls is types.ModuleType:
            home = vars(value).get("__name__")
            if home == f"{own}.{name}":
                continue  # a package's part
        elif cls is types.FunctionType or type.__subclasscheck__(type, cls):
            home = _home(value)
        else:
            home = _home(value.func) if cls is partial and type(value.func) is types.FunctionType else _home(cls)
        if type(home) is str and home != own:
            yield home


def _home(value: Any) -> Any:
    return look(lambda: value.__module__, instead=lambda _: None)  # a metaclass may do anything then
