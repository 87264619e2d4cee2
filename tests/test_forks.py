"""What is forked in place of a new interpreter is as good as one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.engine.workers.kit import children_of, is_alive
from tests.kit import forks

PATIENCE_SECONDS = 60

_SAYS = """
import os, sys
print(__name__, sys.argv[1:], os.getcwd(), os.environ["WORD"], len(os.environ), sys.stdin.read())
print("an error", file=sys.stderr)
"""


@pytest.mark.parametrize("how", ["-c", "-m", "script"])
def test_a_program_has_its_arguments_folder_environment_and_streams(tmp_path: Path, how: str) -> None:
    (tmp_path / "says.py").write_text(_SAYS)
    what = {"-c": ["-c", _SAYS], "-m": ["-m", "says"], "script": ["says.py"]}[how]
    process: forks.Forked[str] = forks.Forked(
        [sys.executable, *what, "one", "two"],
        cwd=tmp_path,
        env={"WORD": "said"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        output, errors = process.communicate("read", timeout=PATIENCE_SECONDS)
    assert output == f"__main__ ['one', 'two'] {tmp_path} said 1 read\n"
    assert (errors, process.returncode) == ("an error\n", 0)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import sys; sys.exit(3)", 3),
        ("raise KeyError('x')", 1),
        ("import os; os._exit(70)", 70),
        ("import os; os.abort()", -signal.SIGABRT),
        ("import os, signal; os.kill(os.getpid(), signal.SIGINT)", -signal.SIGINT),
    ],
)
def test_it_ends_as_any_other(code: str, expected: int) -> None:
    done = forks.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert done.returncode == expected


@pytest.mark.parametrize(
    ("options", "warns"), [((), False), (("-W", "error"), True)], ids=["as it is", "with warnings as errors"]
)
def test_what_is_left_open_is_warned_of_at_the_end_where_warnings_are_errors(
    options: tuple[str, ...], warns: bool
) -> None:
    code = "import os, sys; left = open(os.devnull)"
    done = forks.run([sys.executable, *options, "-c", code], capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert ("ResourceWarning" in done.stderr) == warns, done.stderr


def test_a_thread_is_waited_for_at_the_end() -> None:
    code = "import threading; timer = threading.Timer(0.05, print, ['late']); timer.start(); print('ended')"
    done = forks.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert (done.stdout, done.returncode) == ("ended\nlate\n", 0)


def test_what_it_leaves_to_the_end_of_the_interpreter_is_done() -> None:
    code = "import atexit; atexit.register(print, 'at exit'); print('buffered', end=' ')"
    done = forks.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert done.stdout == "buffered at exit\n"


_FAMILY = """
import os
from durable_trio import Context, Engine, workflow

@workflow
async def work(ctx: Context) -> None: ...

engine = Engine(os.environ["FILE"], workflows=[work])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="nests are built on Linux only")
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_workers_are_forked_as_children_of_their_program_and_end_with_it(tmp_path: Path, end: signal.Signals) -> None:
    (tmp_path / "family.py").write_text(_FAMILY)
    command = [sys.executable, "-m", "durable_trio", "serve", "family:engine", "--workers", "2"]
    surroundings = {**os.environ, "FILE": str(tmp_path / "app.db"), "PYTHONPATH": str(tmp_path)}
    with open(tmp_path / "out.txt", "wb") as out:
        process: forks.Forked[bytes] = forks.Forked(command, cwd=tmp_path, env=surroundings, stdout=out, stderr=out)
    with process:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(workers := list(children_of(process.pid))) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(workers) == 2, (tmp_path / "out.txt").read_text()
        for worker in workers:
            assert Path(f"/proc/{worker}/comm").read_text().strip() != forks.NEST
            # An interpreter of its own would have its own command line.
            assert Path(f"/proc/{worker}/cmdline").read_bytes() == Path(f"/proc/{process.pid}/cmdline").read_bytes()
            assert os.getpgid(worker) == worker
        process.send_signal(end)
        process.wait(PATIENCE_SECONDS)
    while any(map(is_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(is_alive, workers))


def test_it_can_be_waited_for_asked_and_killed() -> None:
    process: forks.Forked[bytes] = forks.Forked([sys.executable, "-c", "import time; time.sleep(1000)"])
    with process:
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(PATIENCE_SECONDS) == -signal.SIGKILL
        process.kill()  # nothing any more
    assert process.poll() == -signal.SIGKILL
