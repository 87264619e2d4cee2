"""The engine and the run of the asyncio side have the methods of the native ones, with the same arguments."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import durable_trio
import durable_trio.asyncio
from durable_trio.engine.bulk import Bulk
from durable_trio.engine.watching import Changes

# What the native one has and this one has not, and why.
LEFT_OUT = {
    "serve": "opened by functions: there is no main task of trio's",
    "inline": "its block is a body, which is trio code",
}
# What is there besides.
BESIDE = {"wait_closed"}
# What can only be looked at where the engine is, and is awaited.
AWAITED = {"tree", "events", "format_tree"}

PAIRS = [
    (durable_trio.Engine, durable_trio.asyncio.Engine),
    (durable_trio.Run, durable_trio.asyncio.Run),
    (Bulk, durable_trio.asyncio.Bulk),
    (Changes, durable_trio.asyncio.Changes),
]
INTERNAL = {"read_on", "begin"}


def public(cls: type) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(cls).items()
        if (not name.startswith("_") or name in ("__anext__", "__aiter__")) and name not in INTERNAL
    }


@pytest.mark.parametrize(("native", "ours"), PAIRS, ids=lambda cls: f"{cls.__module__}.{cls.__name__}")
def test_it_has_the_same_methods(native: type, ours: type) -> None:
    theirs, found = public(native), public(ours)
    assert set(theirs) - set(LEFT_OUT) <= set(found)
    assert set(found) - set(theirs) <= BESIDE | {"done_count", "left_count"}
    for name in set(theirs) & set(found):
        if isinstance(theirs[name], property):
            assert isinstance(found[name], property)
            continue
        if name == "aclose":
            continue
        assert inspect.signature(found[name]).parameters == inspect.signature(theirs[name]).parameters, name
        is_awaited = inspect.iscoroutinefunction(theirs[name]) or name in AWAITED
        assert inspect.iscoroutinefunction(found[name]) == is_awaited, name
        assert inspect.getdoc(found[name]) or name == "__aiter__", name
