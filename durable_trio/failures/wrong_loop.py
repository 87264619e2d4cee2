"""What code of asyncio's fails with where trio runs: it says what is missing, and nothing of what to write."""

from __future__ import annotations

from types import TracebackType
from typing import Final

from durable_trio.looks import text_of

__all__ = ["named"]

# How those texts begin of which each is asyncio's, or trio's about asyncio.
_TEXTS: Final[dict[type[BaseException], tuple[str, ...]]] = {
    RuntimeError: ("no running event loop", "There is no current event loop"),
    TypeError: ("trio.run received unrecognized yield message",),
}


def named(exc: Exception) -> Exception:
    """Return an error that says what to write, if this one came of awaiting asyncio where trio runs; else this one."""
    kind = type(exc)  # exactly: other classes speak for themselves
    if kind is AttributeError:
        is_of_asyncio = _raised_in(exc.__traceback__).partition(".")[0] == "asyncio"
    else:
        is_of_asyncio = kind in _TEXTS and text_of(exc).startswith(_TEXTS[kind])
    if not is_of_asyncio:
        return exc
    return RuntimeError(
        "this needs a loop of asyncio's, and bodies and steps run in trio: write "
        "await ctx.step('name', from_asyncio(fn), …), with an engine that durable_trio.asyncio has opened, or what "
        f"trio has for it; to wait, await ctx.sleep(seconds) [{kind.__name__}: {text_of(exc)}]"
    ).with_traceback(exc.__traceback__)


def _raised_in(traceback: TracebackType | None) -> str:
    """Return the name of the module whose line has raised."""
    name: object = ""
    while traceback is not None:
        name, traceback = traceback.tb_frame.f_globals.get("__name__"), traceback.tb_next
    return name if type(name) is str else ""
