"""What a process child runs first on Linux: arrange to die with the parent, then become the program.

Run as a script, without the package (``python -I -S exec_shim.py PARENT_PID HAS_LC_CTYPE PROGRAM ARGV…``), so it
imports the standard library only. It is an exec'd program rather than a ``preexec_fn``, because Python code between
fork and exec of a process with threads may deadlock.
"""

from __future__ import annotations

import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent(parent_pid: int) -> None:
    """Ask the kernel to send this process SIGKILL when the thread that started it ends (Linux; elsewhere nothing)."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    # The parent may have died before the call above; then no signal will come.
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signal.SIGKILL)


def main(arguments: list[str]) -> None:
    parent_pid, has_locale, program, *argv = arguments
    die_with_parent(int(parent_pid))
    if has_locale == "0":  # the interpreter sets it by itself in the C locale
        os.environ.pop("LC_CTYPE", None)
    for os_signal in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these, and exec would hand that on
        signal.signal(os_signal, signal.SIG_DFL)
    try:
        os.execve(program, argv, os.environ)
    except OSError as error:
        print(f"{program}: {error.strerror}", file=sys.stderr)
        sys.exit(126)


if __name__ == "__main__":
    main(sys.argv[1:])
