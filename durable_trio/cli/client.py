"""Asks an engine's client in a database, once: the way from a command to the public API.

A database is opened only where there is one: no command but ``start`` makes a file, or tables at a server.
Ctrl-C cancels what is going on, which undoes nothing and loses nothing; should it not end soon (another process holds
the file and is stopped), the program ends all the same.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from difflib import get_close_matches
from shlex import quote
from typing import Final, TypeVar

import trio

from durable_trio.cli.faults import Failed, Interrupted, ReaderGone
from durable_trio.cli.output import has_reader, say_interrupted
from durable_trio.engine.engine import Engine
from durable_trio.errors import RunNotFound
from durable_trio.limits import PAGE_RUNS_MAX
from durable_trio.stores.address import is_meant_as_url, is_url
from durable_trio.stores.kinds import make_store
from supervisors.groups import sole

__all__ = ["ask", "check_database", "while_read"]

Answer = TypeVar("Answer")

# What a cancelled command may still take. Whatever it writes is a transaction, so nothing is half done.
_END_SECONDS: Final = 2.0
# So soon it is noticed that nobody reads what is written now and then.
_READER_SECONDS: Final = 0.1
_INTERRUPTED: Final = 130
_NEAR_COUNT: Final = 3


def ask(
    database: str,
    question: Callable[[Engine], Awaitable[Answer]],
    *,
    engine: Engine | None = None,
    creates: bool = False,
    so_far: Callable[[], str] = str,
) -> Answer:
    """Open a client, put a question to it, close it, and return the answer.

    Args:
        engine: that of an application, which is opened on its own store; then ``database`` is the path of that.
        creates: whether to make a database where there is none.
        so_far: gives the words for what is done already when Ctrl-C comes; default none.

    Raises:
        Failed: there is no database; unless ``creates``.
        Interrupted: Ctrl-C; with the words of ``so_far``.
        DurableError, ValueError: as the question does.
    """
    if engine is None or database:  # else it is no file
        check_database(database, creates=creates)
    return trio.run(_interruptible, lambda: _ask(engine or database, question, creates), so_far)


async def _ask(engine: Engine | str, question: Callable[[Engine], Awaitable[Answer]], creates: bool) -> Answer:
    try:
        if isinstance(engine, str):
            engine = Engine(make_store(engine, creates=creates))
        async with engine as client:
            try:
                return await question(client)
            except RunNotFound as error:
                raise await _with_near_ids(client, error) from error
    except (ValueError, TypeError) as error:
        raise Failed(str(error)) from error


async def _interruptible(call: Callable[[], Awaitable[Answer]], so_far: Callable[[], str]) -> Answer:
    answers: list[Answer] = []
    failure: BaseException | None = None
    with trio.open_signal_receiver(signal.SIGINT) as received:
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()
            nursery.start_soon(_cancel_on_interrupt, received, scope, so_far)
            with scope:
                try:
                    answers.append(await call())
                except Exception as error:
                    failure = sole(error)  # the engine's own may come in the groups of its tree
            nursery.cancel_scope.cancel()
    if answers:
        return answers[0]
    raise failure or Interrupted(so_far())


async def _cancel_on_interrupt(
    received: AsyncIterator[int], scope: trio.CancelScope, so_far: Callable[[], str]
) -> None:
    async for _ in received:
        scope.cancel()
        break
    await trio.sleep(_END_SECONDS)
    say_interrupted(so_far())
    os._exit(_INTERRUPTED)


async def while_read(call: Callable[[], Awaitable[Answer]]) -> Answer:
    """Make a call that writes now and then, and break it off when nobody reads standard output any more (``| head``).

    Raises:
        ReaderGone: that is so.
        Exception: as the call does.
    """
    answers: list[Answer] = []
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:

        async def listen() -> None:
            while has_reader():  # noqa: ASYNC110  # nobody else tells
                await trio.sleep(_READER_SECONDS)
            nursery.cancel_scope.cancel()

        nursery.start_soon(listen)
        try:
            answers.append(await call())
        except Exception as error:
            failure = error
        nursery.cancel_scope.cancel()
    if answers:
        return answers[0]
    raise failure or ReaderGone


# ---- what may be opened, and what was meant ------------------------------------------------------------------------


def check_database(database: str, *, creates: bool = False) -> None:
    """Refuse a path where nothing is to be read, before anything is created there.

    Raises:
        Failed: there is no file, or nothing in it.
    """
    if database == ":memory:":
        raise Failed("':memory:' is gone with its process; give --db the path of a file")
    if is_url(database) or is_meant_as_url(database) or creates:  # others are the engine's to refuse
        return
    try:
        is_empty = os.stat(database).st_size == 0
    except FileNotFoundError:
        folder, name = os.path.split(os.path.abspath(database))
        near = get_close_matches(name, _databases_in(folder), n=1)
        hint = (
            f"did you mean {quote(os.path.join(os.path.dirname(database), near[0]))}?" if near else "give --db its path"
        )
        raise Failed(f"there is no database {database!r}; {hint}") from None
    except OSError as error:
        raise Failed(f"{database!r} cannot be read: {error.strerror}; check the path and its permissions") from error
    if is_empty:
        raise Failed(f"{database!r} is empty: nothing was ever stored there; give --db the path of the database")


def _databases_in(folder: str) -> list[str]:
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    return [name for name in names if not name.endswith(("-wal", "-shm", "-turn", "-turn-queue", "-owners", "-steps"))]


async def _with_near_ids(client: Engine, error: RunNotFound) -> Failed:
    """Return the error with the ids that were perhaps meant, among the newest runs."""
    wanted = error.run_id or ""
    ids = [record.id for record in (await client.list_runs(limit=PAGE_RUNS_MAX)).runs]
    near = [id for id in ids if wanted and id.startswith(wanted)]
    near += [id for id in get_close_matches(wanted, ids, n=_NEAR_COUNT) if id not in near]
    if not near:
        return Failed(f"{error}; 'durable-trio list' shows those there are")
    return Failed(f"{error}; did you mean {' or '.join(map(quote, near[:_NEAR_COUNT]))}?")
