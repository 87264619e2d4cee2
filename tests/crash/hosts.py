"""Where the engine of a crash test runs, by name: in ``trio.run``, or through the facade in a loop of asyncio's.

Who asks the engine is written with anyio, so that it is the same code in each of them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Final, Literal, TypeAlias

import anyio
import attrs

import durable_trio
import durable_trio.asyncio as of_asyncio

__all__ = ["HOSTS", "AnyEngine", "Host", "import_backends"]

AnyEngine: TypeAlias = durable_trio.Engine | of_asyncio.Engine
_Opening: TypeAlias = Callable[..., AbstractAsyncContextManager[AnyEngine]]


@attrs.frozen
class Host:
    """One of the places; the openings take what ``durable_trio.open_engine`` does."""

    backend: str
    backend_options: Mapping[str, Any]
    open_engine: _Opening
    open_client: _Opening

    @property
    def is_asyncio(self) -> bool:
        """Whether steps may be functions of asyncio's."""
        return self.backend == "asyncio"

    def run(self, main: Callable[..., Any], *args: Any) -> None:
        """Run a program to its end."""
        anyio.run(main, *args, backend=self.backend, backend_options=dict(self.backend_options))


def _facade(loop: str, host: Literal["guest", "thread"]) -> Host:
    return Host(
        "asyncio",
        {"use_uvloop": loop == "uvloop"},
        partial(of_asyncio.open_engine, host=host),
        partial(of_asyncio.open_client, host=host),
    )


#: Each of them by its name.
HOSTS: Final[Mapping[str, Host]] = {
    "trio": Host("trio", {}, durable_trio.open_engine, durable_trio.Engine),
    "guest-asyncio": _facade("asyncio", "guest"),
    "guest-uvloop": _facade("uvloop", "guest"),
    "thread-asyncio": _facade("asyncio", "thread"),
    "thread-uvloop": _facade("uvloop", "thread"),
}


def import_backends() -> None:
    """Import now what anyio imports when it is first used, and the other loop if it is installed."""
    for name in ("anyio._backends._trio", "anyio._backends._asyncio", "uvloop"):
        try:
            importlib.import_module(name)
        except ImportError:
            if name != "uvloop":
                raise
