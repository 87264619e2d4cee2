"""From a SQLite file to a PostgreSQL database: all that ``durable-trio copy`` does (``copying`` has its theory)."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from importlib import import_module
from shlex import quote
from typing import Any

import attrs

from durable_trio.errors import StoreError
from durable_trio.stores.address import is_url, without_password
from durable_trio.stores.copying import Copied, Seal, copy_runs
from durable_trio.stores.kinds import make_store
from durable_trio.stores.sqlite.copy_source import FileSource
from durable_trio.stores.sqlite.reading import readable
from durable_trio.stores.sqlite.sealing import note_copied, read_seal, seal, unseal

__all__ = ["Sealed", "count_copy", "move", "sealed", "take_back"]

Progress = Callable[[int, int], None]


@attrs.frozen
class Sealed:
    """A file is sealed: where its runs go, and whether they are there already."""

    target: str
    is_copied: bool


def sealed(path: str) -> Sealed | None:
    """Return what the seal of a file says, if it has one.

    Raises:
        StoreError: a subclass that says why it cannot be read.
    """
    found = read_seal(path)
    return None if found is None else Sealed(found.target, found.is_copied)


def move(path: str, url: str, progress: Progress) -> Copied:
    """Seal a file and copy its runs to a server, or go on with that.

    Args:
        progress: is told how many runs are done, of how many.

    Raises:
        StoreError: it could not be done, or not yet; the message says what to do. No run lives in both.
        ValueError, ImportError: the addresses are none that this can be done with.
    """
    with closing(_target_at(url)) as target:
        found = seal(path, target.name, target.nonce, now=_now)
        _check_same(path, found, target)
        target.begin(found.copy)
        if read_seal(path) != found:  # somebody has taken it back, or was quicker, while this one waited
            raise StoreError(f"the seal of {path!r} was changed by another process meanwhile; repeat")
        with closing(FileSource(path)) as source:
            copied = copy_runs(source, target, progress)
    note_copied(path)
    return copied


def count_copy(path: str, url: str, progress: Progress) -> Copied:
    """Return what ``move`` would do. Nothing is changed, here or there.

    Raises:
        StoreError, ValueError, ImportError: as ``move``; some runs could not be copied.
    """
    with closing(_target_at(url, is_read_only=True)) as target:
        found = read_seal(path)
        if found is not None:
            _check_same(path, found, target)
            target.go_on(found.copy)
            with closing(FileSource(path)) as source:
                return copy_runs(source, target, progress, is_dry_run=True)
        with readable(path) as copy, closing(FileSource(copy)) as source:
            return copy_runs(source, target, progress, is_dry_run=True)


def take_back(path: str, url: str | None, *, is_sure: bool = False) -> bool:
    """Take the seal of a file back, and remove at the target what was copied so far. Returns whether it had one.

    Args:
        url: the target; ``None``: what was copied so far stays there, and nobody sees it.
        is_sure: also if all was copied, so that each run lives in both; or if that cannot be told without ``url``.

    Raises:
        StoreError: that is so.
    """
    found = read_seal(path)
    if found is None:
        return False
    is_copied = found.is_copied
    if url is not None:
        with closing(_target_at(url)) as target:
            _check_same(path, found, target)
            target.begin(found.copy)
            is_copied = is_copied or target.finished() is not None
            if is_sure or not is_copied:
                target.discard_all()
    if not is_sure and (is_copied or url is None):
        what = "its runs were copied" if is_copied else "it cannot be told whether its runs were copied"
        raise StoreError(
            f"{path!r} stays sealed: {what} to {found.target}, and each would live in both; "
            + ("confirm by --yes" if is_copied else "name the URL as well, or confirm by --yes")
        )
    unseal(path)
    return True


def _check_same(path: str, found: Seal, target: Any) -> None:
    if found.nonce != target.nonce:
        raise StoreError(
            f"{path!r} is being copied to {found.target}, which is another database than {target.name}; go on with "
            f"that one, or take it back by `durable-trio copy {quote(path)} URL --unseal`"
        )


def _target_at(url: str, **options: Any) -> Any:
    if not is_url(url):
        raise ValueError(f"{without_password(url)!r} is no postgresql:// URL: runs are copied from a file to a server")
    make_store(url)  # which says what is wrong with the address, or is not installed
    return import_module("durable_trio.stores.postgres.copy_target").ServerTarget(url, **options)


def _now() -> int:
    return time.time_ns() // 1000
