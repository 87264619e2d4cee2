"""Find the engine that ``"module:name"`` stands for. It knows nothing of engines but that they can serve."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
from collections.abc import Awaitable
from typing import Any, Final, Protocol

from durable_trio.errors import WorkerFailed
from durable_trio.serving.reasons import error_line
from durable_trio.workflows import Workflow

__all__ = ["Servable", "check_app", "check_not_loading", "environment_of_child", "find_as_parent", "load_engine"]

# What a parent imports from, for a process that is to import the same.
_PATH_VARIABLE: Final = "DURABLE_TRIO_PATH"

# A list of workflows takes thousands; this tells what it is.
_SHOWN_CHARACTERS_MAX: Final = 80
# What is being loaded: a state of the process, as an import is. Whoever is called by a module's own code can ask here.
_loading: Final[list[str]] = []


class Servable(Protocol):
    """What is found: an ``Engine``."""

    def serve(self, **options: Any) -> Awaitable[None]:
        """Serve until cancelled or told to stop."""


def check_app(app: object) -> str:
    """Return ``app`` if it has the form ``"module:name"``.

    Raises:
        TypeError: it is no ``str``.
        ValueError: it has another form.
    """
    if not isinstance(app, str):
        raise TypeError(f"app must be a str like 'module:engine', not {app!r}")
    module, _, name = app.partition(":")
    parts = [*module.split("."), *name.split(".")]
    if module.endswith(".py") or not all(part.isidentifier() for part in parts):
        raise ValueError(f"app must look like 'module:engine' (what you would import, a colon, a name), not {app!r}")
    return app


def environment_of_child() -> dict[str, str]:
    """Return the environment of a process that is to find the same modules, also those beside this one's script."""
    return {**os.environ, _PATH_VARIABLE: os.pathsep.join(sys.path)}


def find_as_parent() -> None:
    """Have this process find modules as its parent does, and leave the environment as it was there."""
    path = os.environ.pop(_PATH_VARIABLE, None)
    if path is not None:
        sys.path[:] = path.split(os.pathsep)


def check_not_loading() -> None:
    """Refuse to start workers from the import that a worker begins with: theirs would start others, without end.

    Raises:
        WorkerFailed: a module is being imported for its engine.
    """
    if _loading:
        raise WorkerFailed(
            f"importing {_loading[-1].partition(':')[0]!r} serves with workers, which import it too; "
            'put what serves under `if __name__ == "__main__":`'
        )


def load_engine(app: str) -> Servable:
    """Import a module and return the engine that it has under a name; a function is called for one.

    Raises:
        ValueError: ``app`` has no such form.
        WorkerFailed: the module cannot be imported, has no such name, or something else has the name.
    """
    check_app(app)
    _loading.append(app)
    try:
        return _load(app)
    finally:
        _loading.pop()


def _load(app: str) -> Servable:
    module_name, _, name = app.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            where = ", ".join(dict.fromkeys(path or "." for path in sys.path[:2]))
            raise WorkerFailed(
                f"{app!r}: there is no module {error.name!r}; looked in {where}, …. "
                "Start from the folder that has it, or set PYTHONPATH"
            ) from None
        raise WorkerFailed(f"{app!r}: importing {module_name!r} failed: {error}") from error
    except (Exception, SystemExit) as error:
        raise WorkerFailed(f"{app!r}: importing {module_name!r} failed: {error_line(error)}") from error
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            close = difflib.get_close_matches(part, [item for item in vars(found) if not item.startswith("_")], n=1)
            hint = f"; did you mean {module_name}:{close[0]}?" if close else ""
            raise WorkerFailed(f"{app!r}: module {module_name!r} has no {name!r}{hint}")
        found = getattr(found, part)
    return _made(app, found)


def _made(app: str, found: Any) -> Servable:
    if _can_serve(found):
        engine: Servable = found
        return engine
    if callable(found) and not isinstance(found, (type, Workflow)):
        try:
            engine = found()
        except (Exception, SystemExit) as error:
            raise WorkerFailed(f"{app!r}: calling it for an engine failed: {error_line(error)}") from error
        if inspect.iscoroutine(engine):
            engine.close()
            raise WorkerFailed(f"{app!r} is async; it must be an ordinary function that returns an Engine")
        if _can_serve(engine):
            return engine
        raise WorkerFailed(f"{app!r}: it returned {_short_repr(engine)}, which is no Engine")
    raise WorkerFailed(f"{app!r} is {_short_repr(found)}; it must be an Engine, or a function that returns one")


def _short_repr(value: object) -> str:
    """Return a value's ``repr`` for an error message: one line, its end cut off if it is long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= _SHOWN_CHARACTERS_MAX else f"{text[: _SHOWN_CHARACTERS_MAX - 1]}…"


def _can_serve(found: object) -> bool:
    return not isinstance(found, type) and callable(getattr(found, "serve", None)) and hasattr(found, "start")
