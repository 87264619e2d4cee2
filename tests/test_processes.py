"""What can be told of other processes: which one it is, whether it runs, and in words."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from durable_trio.processes import ProcessIdentity, describe_process


def test_a_process_is_told_from_a_later_one_with_its_number() -> None:
    own = ProcessIdentity.own()
    assert ProcessIdentity.parse(str(own)) == own
    assert own.is_alive()
    assert not attrs.evolve(own, started="1").is_alive()
    assert not attrs.evolve(own, boot_id="another boot").is_alive()
    child = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    assert not attrs.evolve(own, pid=int(child.stdout)).is_alive()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to tell a dead process from a live one")
def test_a_process_that_has_ended_and_is_not_waited_for_is_not_alive() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        started = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19]
        identity = attrs.evolve(ProcessIdentity.own(), pid=child.pid, started=started)
        assert identity.is_alive()
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays a zombie
        assert not identity.is_alive()


def test_processes_are_described_as_well_as_the_system_tells() -> None:
    assert describe_process(0) == "another process"
    assert "this process" in describe_process(os.getpid())
    assert describe_process(2**22 + 1).startswith("process ")
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert "has ended" in describe_process(child)
    os.waitpid(child, 0)
