"""Which boot of the machine this is: what a kernel lock or a monotonic clock says holds within one."""

from __future__ import annotations

import socket
import time
from functools import cache
from pathlib import Path

__all__ = ["boot_id"]


@cache
def boot_id() -> str:
    """Return a text that is another one after each boot of the machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"{socket.gethostname()}-{int(time.time() - time.monotonic()) // 60}"
