"""Tools of platforms that are not here: each records how it was called, and answers what a test has put down for it."""

from __future__ import annotations

import os
from pathlib import Path

import attrs
import pytest

# Arguments, one a line, and an empty line; then what it was to read. It answers and fails as the files say.
_SCRIPT = """#!/bin/sh
name=$(basename "$0")
for argument in "$@"; do printf '%s\\n' "$argument"; done >> "{folder}/$name.calls"
echo >> "{folder}/$name.calls"
case "$1" in -) cat > "{folder}/$name.read" ;; esac
cat "{folder}/$name.says" 2>/dev/null
if [ -e "{folder}/$name.fails" ]; then cat "{folder}/$name.fails" >&2; exit 1; fi
exit 0
"""


@attrs.frozen
class Tools:
    """The folder that stands on ``PATH``."""

    folder: Path

    def add(self, *names: str) -> None:
        """Have these tools."""
        for name in names:
            path = self.folder / name
            path.write_text(_SCRIPT.format(folder=self.folder))
            path.chmod(0o755)

    def says(self, name: str, text: str) -> None:
        """Have a tool print this from now on."""
        (self.folder / f"{name}.says").write_text(text)

    def fails(self, name: str, text: str | None) -> None:
        """Have a tool fail with this, or with nothing any more."""
        path = self.folder / f"{name}.fails"
        if text is None:
            path.unlink()
        else:
            path.write_text(text)

    def calls(self, name: str) -> list[list[str]]:
        """Return how a tool was called, each time, and forget it."""
        path = self.folder / f"{name}.calls"
        text = path.read_text() if path.exists() else ""
        path.unlink(missing_ok=True)
        return [call.splitlines() for call in text.split("\n\n") if call]

    def read(self, name: str) -> str:
        """Return what a tool has read the last time."""
        return (self.folder / f"{name}.read").read_text()


def tools_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    """Return tools in a folder that comes first on ``PATH``."""
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return Tools(folder)
