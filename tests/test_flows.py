"""The flows in ``docs/architecture.md`` are those of the code: each is walked, and each of its lines met in order."""

from __future__ import annotations

import importlib
import operator
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock

import durable_trio
from durable_trio import Context, open_engine, workflow
from durable_trio.stores.operations import Advance
from durable_trio.stores.sqlite import SqliteStore
from durable_trio.testing import VirtualClock

_ROOT: Final = os.path.dirname(os.path.abspath(durable_trio.__file__)) + os.sep
_PAGE: Final = Path(__file__).resolve().parent.parent / "docs" / "architecture.md"
_LINE: Final = re.compile(r"^\d+\. `([\w/]+\.py)` `([\w.]+)`", re.MULTILINE)
_ROW: Final = re.compile(r"^\| [^|]+ \| `([\w/]+)\.py` \| `([\w.]+)` \|$", re.MULTILINE)


def told(flow: str) -> list[str]:
    """Return the lines of a flow as the page tells it: ``file:function``."""
    _, _, rest = _PAGE.read_text().partition(f"\n### {flow}\n")
    found = [f"{file}:{function}" for file, function in _LINE.findall(re.split(r"\n##+ ", rest)[0])]
    assert len(found) > 5, flow
    return found


class Walk:
    """Notes which of our functions are called, one after the other."""

    def __init__(self) -> None:
        self.met: list[str] = []

    @contextmanager
    def noting(self) -> Iterator[None]:
        before = sys.getprofile()
        sys.setprofile(self._note)
        try:
            yield
        finally:
            sys.setprofile(before)

    def _note(self, frame: FrameType, event: str, _: Any) -> None:
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(_ROOT):
            self.met.append(f"{name[len(_ROOT) :]}:{frame.f_code.co_qualname}")

    def assert_passes(self, flow: str) -> None:
        """Assert that the lines of a flow come one after the other, whatever else comes between."""
        left = iter(self.met)
        for line in told(flow):
            assert any(met == line for met in left), f"{flow}: {line} is not met, or not in this order"


async def nothing() -> int:
    return 1


@workflow
async def steps_and_waits(ctx: Context) -> int:
    walk = Walk()
    with walk.noting():
        await ctx.step("charge", nothing)
    walk.assert_passes("A step")
    await ctx.wait_signal("go", timeout=0.9)
    return 1


async def test_a_step_a_start_and_a_signal_go_as_the_documentation_tells(autojump_clock: MockClock) -> None:
    async with open_engine(":memory:", workflows=[steps_and_waits], clock=VirtualClock()) as engine:
        walk = Walk()
        with walk.noting():
            run = await engine.start(steps_and_waits)
            await trio.sleep(0.1)
        walk.assert_passes("A start")
        walk = Walk()
        with walk.noting():
            await run.signal("go")
            await trio.sleep(0.1)
        walk.assert_passes("A signal")
        assert await run.result() == 1


@workflow
async def steps_once(ctx: Context) -> int:
    return await ctx.step("work", nothing)


async def test_a_crash_of_the_writer_goes_as_the_documentation_tells(
    file_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply = SqliteStore.apply
    has_failed = False

    def fail_once(self: SqliteStore, batch: Any, **options: Any) -> Any:
        nonlocal has_failed
        if not has_failed and any(isinstance(operation, Advance) for operation in batch):
            has_failed = True
            raise RuntimeError("planted")
        return apply(self, batch, **options)

    monkeypatch.setattr(SqliteStore, "apply", fail_once)
    walk = Walk()
    with walk.noting():
        async with open_engine(file_path, workflows=[steps_once]) as engine:
            run = await engine.start(steps_once, id="r")
            with trio.fail_after(60):
                assert await run.result() == 1
    assert has_failed
    walk.assert_passes("A crash of the writer")


def test_what_the_documentation_names_where_to_look_is_there() -> None:
    rows = _ROW.findall(_PAGE.read_text())
    assert len(rows) >= 15
    for module, name in rows:
        operator.attrgetter(name)(importlib.import_module(f"durable_trio.{module.replace('/', '.')}"))
