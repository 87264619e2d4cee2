"""A store that hands everything to another one is taken for that one."""

from __future__ import annotations

from pathlib import Path

from durable_trio.stores.contract import Store
from durable_trio.stores.sqlite import SqliteStore
from durable_trio.testing.wrapping import WrappedStore


def test_a_wrapped_store_says_of_itself_what_the_inner_one_says(tmp_path: Path) -> None:
    said = {name for name, value in vars(Store).items() if isinstance(value, bool | int | str) and name[0] != "_"}
    assert {"path", "is_shared", "transact_concurrency"} <= said
    inner = SqliteStore(tmp_path / "runs.db")
    for name in said:  # each is another one than that of any store
        setattr(inner, name, f"of the inner one: {name}")
    wrapped = WrappedStore(inner)
    assert {name: getattr(wrapped, name) for name in said} == {name: getattr(inner, name) for name in said}


def test_a_wrapped_store_hands_on_each_verb() -> None:
    verbs = {
        name
        for name, value in vars(Store).items()
        if name[0] != "_" and (callable(value) or isinstance(value, property))
    }
    assert verbs <= vars(WrappedStore).keys()
