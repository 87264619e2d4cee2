"""Disks of a test, and what is run on them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from durable_trio import Context, Engine, workflow


@workflow
async def quick(ctx: Context, value: int = 0) -> int:
    return value


async def open_client(path: str) -> None:
    async with Engine(path):
        raise AssertionError("not reached")


def mount(*args: str) -> None:
    """Call mount, or skip the test where that is not allowed."""
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("needs root and mount")
    done = subprocess.run(["mount", *args], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mount is not possible here: {done.stderr.strip()}")


def unmount(folder: Path) -> None:
    subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True)
