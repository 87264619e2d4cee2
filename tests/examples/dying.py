"""Runs a script that ends itself by a signal at the very instant when it has printed a certain line.

    python dying.py SIGNAL TEXT SCRIPT [ARGUMENT ...]

A test that reads the line and kills then is too late by a few instants, and under load by a few steps.
"""

from __future__ import annotations

import io
import os
import runpy
import sys

signal_number, text, *script = sys.argv[1:]


class Output(io.TextIOWrapper):
    """The standard output. Only the first line that contains the text counts."""

    is_armed = True

    def write(self, line: str, /) -> int:
        size = super().write(line)
        if self.is_armed and text in line:
            self.is_armed = False
            self.flush()
            os.kill(os.getpid(), int(signal_number))
        return size


sys.stdout = Output(sys.stdout.detach(), encoding="utf-8", write_through=True)  # type: ignore[union-attr]
sys.argv = script
runpy.run_path(script[0], run_name="__main__")
