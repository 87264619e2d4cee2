"""The example of the README prints what the README says."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest
import trio
import trio.testing

import supervisors


def test_the_example_prints_what_it_says(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its waits are over when nothing else is left to do, however long that takes."""
    readme = (Path(supervisors.__file__).parent / "README.md").read_text()
    code, expected = re.findall(r"```(?:python|text)\n(.*?)```", readme, flags=re.DOTALL)[:2]
    clock = trio.testing.MockClock(autojump_threshold=0)
    monkeypatch.setattr(trio, "run", functools.partial(trio.run, clock=clock))
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
    # How long it has been up depends on the machine.
    printed, said = (re.sub(r"up [\d.]+ s", "up", text) for text in (capsys.readouterr().out, expected))
    assert printed == said
