"""The example of the README prints what the README says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import supervisors


def test_the_example_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    readme = (Path(supervisors.__file__).parent / "README.md").read_text()
    code, expected = re.findall(r"```(?:python|text)\n(.*?)```", readme, flags=re.DOTALL)[:2]
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
    # How long it has been up depends on the machine.
    printed, said = (re.sub(r"up [\d.]+ s", "up", text) for text in (capsys.readouterr().out, expected))
    assert printed == said
