"""The application that a command is given: ``module:engine`` or ``FILE.py:engine``, and the engine that it has there.

A command that only reads or writes the database needs none. With one it knows what the code says of workflows: the
types of arguments and signals, tags, times to live.
"""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from difflib import get_close_matches
from shlex import quote
from typing import Any

import click

from durable_trio.cli.faults import Failed
from durable_trio.engine.engine import Engine
from durable_trio.engine.os_signals import ended_by_second_ctrl_c
from durable_trio.errors import WorkerFailed
from durable_trio.serving.app import load_engine
from durable_trio.workflows import Workflow

__all__ = ["App", "importable", "load"]


class App:
    """An application, as a client of its own database."""

    def __init__(self, app: str) -> None:
        with redirect_stdout(sys.stderr):  # what a command prints is its answer alone
            self.engine = load(importable(app))
        self._name = app
        store = self.engine._client.store
        if not store.is_shared:
            raise Failed(f"the engine {app!r} keeps its runs in memory: they are gone with its process")
        #: The path of its file; empty if it is kept in another kind of store.
        self.database = store.path

    def workflow(self, name: str) -> Workflow[..., Any]:
        """Return a workflow of the application.

        Raises:
            Failed: it has none of that name.
        """
        registry = self.engine._client.registry
        known = registry.get(name)
        if known is None:
            near = get_close_matches(name, registry.names, n=1)
            hint = f"did you mean {quote(near[0])}?" if near else f"it has {', '.join(registry.names) or 'none'}"
            raise Failed(f"{self._name!r} has no workflow {name!r}; {hint}")
        return known

    def arguments(self, workflow: Workflow[..., Any], args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return JSON values as the arguments that a workflow takes.

        Raises:
            CodecError: one of them is of another type.
            Failed: too few or too many.
        """
        try:
            return self.engine._client.arguments_from_json(workflow, args)
        except TypeError as error:
            raise Failed(str(error)) from error

    async def doubt_of_signal(self, run_id: str) -> str | None:
        """Return why the payload of a signal to a run was not checked, if the application does not know the run."""
        if await self.engine._client.workflow_of(run_id) is not None:
            return None
        record = await self.engine.get(run_id).record()
        which = repr(record.workflow) if not record.version else f"{record.workflow!r} of version {record.version}"
        return f"{self._name!r} does not know the run's workflow {which}: name and payload were not checked"


def importable(app: str) -> str:
    """Put the application's folder where modules are looked for, as ``python -m`` and ``python FILE`` do."""
    path, colon, name = app.rpartition(":")
    if not colon:
        what = "a file" if app.endswith(".py") else "a module"
        raise click.UsageError(f"{app!r} names {what} only; add the name that its engine has there, as {app}:engine")
    if colon and path.endswith(".py"):
        folder, file = os.path.split(os.path.abspath(path))
        if not os.path.isfile(path):
            raise click.UsageError(f"there is no file {path!r}")
        sys.path.insert(0, folder)
        return f"{file.removesuffix('.py')}:{name}"
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return app


def load(app: str, *, verbose: bool = False) -> Engine:
    """Import the application and return its engine.

    Raises:
        click.UsageError: ``app`` has no such form.
        Failed: it cannot be imported, or there is no engine.
    """
    try:
        with ended_by_second_ctrl_c():  # an import may hang where no exception of Ctrl-C is raised
            engine = load_engine(app)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    except WorkerFailed as error:
        if verbose and error.__cause__ is not None:
            sys.excepthook(type(error.__cause__), error.__cause__, error.__cause__.__traceback__)
        raise Failed(f"{error}{_place(error.__cause__)}") from error
    if not isinstance(engine, Engine):
        raise Failed(
            f"{app!r} is of type {type(engine).__qualname__}; it must be an Engine, or a function that returns one"
        )
    return engine


def _place(error: BaseException | None) -> str:
    """Return where in the application an import has failed; a syntax error tells it by itself."""
    if error is None or isinstance(error, SyntaxError):
        return ""
    place = ""
    trace = error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith("<frozen ") and "importlib" not in file and "durable_trio/serving/app" not in file:
            place = f" (at {os.path.relpath(file)}:{trace.tb_lineno})"
        trace = trace.tb_next
    return place
