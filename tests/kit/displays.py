"""A display for tests with windows: an X server in memory, one for each process that runs tests.

Never the developer's own: windows would come and go there, and take what is typed. Where ``Xvfb`` is not installed,
tests that need it are skipped by name; in CI they fail instead. Qt needs none: its platform ``offscreen`` draws into
memory by itself.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
from functools import cache

import pytest

__all__ = ["display"]


@cache
def display() -> str:
    """Return the name of a display, as ``DISPLAY`` has it; its server ends with this process."""
    binary = shutil.which("Xvfb")
    if binary is None:
        assert not os.environ.get("CI"), "Xvfb is not installed (Debian's package xvfb)"
        pytest.skip("Xvfb is not installed (Debian's package xvfb)")
    read, written = os.pipe()
    # It takes the first number that is free, and writes it down once it can be connected to.
    command = [binary, "-displayfd", str(written), "-screen", "0", "800x600x24", "-nolisten", "tcp", "-noreset"]
    process = subprocess.Popen(
        command, pass_fds=[written], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(written)
    atexit.register(_end, process)
    with os.fdopen(read) as number:
        said = number.readline().strip()
    assert said, "Xvfb has ended at once"
    return f":{said}"


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait()
