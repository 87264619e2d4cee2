"""The fingerprint of a workflow: a short text that is another one once its code may do something else.

It covers the versions of this library and of Python; the compiled body with the functions within it; what is in the
closures and defaults of all functions that it was made of; and the bytes of each file of the project that their modules
reach. It does not cover packages that are installed, data files, the environment, and what is only imported within
functions. Too much covered costs one replay of each run that does not fit; too little would leave a run waiting whose
code was mended: so it is rather too much, and a comment counts.

The same code has the same fingerprint in each process, whatever the seed of its hashes, wherever it lies, and whether
it is run or imported.
"""

from __future__ import annotations

import functools
import hashlib
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from durable_trio.code.project import Project
from durable_trio.code.values import Digests

__all__ = ["Fingerprints", "versions"]

# Characters of it that are kept: 64 bits.
_CHARACTERS: Final = 16
_WRAPPERS_MAX: Final = 50


@functools.cache
def versions() -> tuple[str, ...]:
    """Return the versions of what executes code: this library's, and Python's without its last number."""
    from importlib.metadata import PackageNotFoundError, version  # it takes as long as the rest

    try:
        own = version("durable_trio")
    except PackageNotFoundError:  # run from its sources
        own = ""
    return own, f"{sys.version_info.major}.{sys.version_info.minor}"


class Fingerprints:
    """Makes the fingerprints of the workflows of one engine, which share the files that they go by.

    They are read when the first workflow is asked for that reaches them, and not again. It blocks.

    Args:
        versions: of what executes the code.
    """

    def __init__(self, versions: Iterable[str]) -> None:
        self._versions = tuple(versions)
        self._project = Project()

    def of(self, function: Callable[..., Any]) -> str:
        """Return the fingerprint of what a workflow was made of: a function, or what is wrapped around one."""
        functions: dict[int, types.FunctionType] = {}
        left: list[types.FunctionType] = []

        def found(each: types.FunctionType) -> None:
            if id(each) not in functions:
                functions[id(each)] = each
                left.append(each)

        digests = Digests(found)
        whole = digests.of(function)
        parts = set[bytes]()
        while left:
            parts.add(digests.of_function(left.pop()))
        own = getattr(_innermost(function), "__globals__", {})
        files = self._project.digests(own, [each.__globals__ for each in functions.values()])
        digest = hashlib.sha256(repr((self._versions, whole, sorted(parts), sorted(files))).encode())
        return digest.hexdigest()[:_CHARACTERS]

    def read(self, module: Mapping[str, Any]) -> None:
        """Read the files that a module goes by, given by its globals."""
        self._project.digests(module, ())

    def files(self) -> dict[str, str]:
        """Return the digest of each file that was read so far, by its path."""
        return self._project.files()


def _innermost(function: Any) -> Any:
    """Return the function that was written, of what was made of it by ``partial``, as a method or by ``wraps``."""
    for _ in range(_WRAPPERS_MAX):
        if isinstance(function, functools.partial):
            function = function.func
        elif isinstance(function, types.MethodType):
            function = function.__func__
        elif "__wrapped__" in getattr(function, "__dict__", ()):
            function = function.__wrapped__
        else:
            break
    return function
