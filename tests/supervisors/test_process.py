"""Process children, with real processes: how they start, end, hang, and die with their parent."""

# ruff: noqa: PT012  (what leaves the block of a supervisor is what is tested)

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

import supervisors
from supervisors import (
    Backoff,
    ChildExited,
    ChildStarted,
    Event,
    EventStream,
    ExitKind,
    Intensity,
    Process,
    ProcessFailed,
    ProcessNotReady,
    ProcessUnresponsive,
    Restart,
    RestartIntensityExceeded,
    RestartScheduled,
    open_dynamic_supervisor,
    open_supervisor,
)
from supervisors.process import read_oom_count

PATIENCE_SECONDS = 60.0  # far above anything that a busy machine needs
ROOT = str(Path(supervisors.__file__).parent.parent)
ENVIRONMENT = {**os.environ, "PYTHONPATH": ROOT}

READY = """
import trio
from supervisors import child_process
async def main():
    async with child_process() as process:
        process.ready({"answer": 42})
        await trio.sleep_forever()
trio.run(main)
"""


def python(name: str, code: str, *arguments: str, **options: Any) -> Process:
    options.setdefault("is_stderr_forwarded", False)
    options.setdefault("env", ENVIRONMENT)
    return Process(name, [sys.executable, "-c", code, *arguments], **options)


def shell(name: str, script: str, **options: Any) -> Process:
    options.setdefault("is_stderr_forwarded", False)
    return Process(name, ["sh", "-c", script], **options)


async def wait_for(events: EventStream, kind: type[Event]) -> Any:
    with trio.fail_after(PATIENCE_SECONDS):
        async for event in events:
            if isinstance(event, kind):
                return event
    pytest.fail(f"no {kind.__name__}")


def is_alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


def only_child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())


async def wait_gone(pid: int) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        while is_alive(pid):  # noqa: ASYNC110  (nothing tells when a process that is not our child is gone)
            await trio.sleep(0.01)


def open_descriptors() -> set[str]:
    """The descriptors of this process, with what they refer to."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
        except FileNotFoundError:
            continue
    return found


def child_pids() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """Every test leaves no process (not even a zombie) and no descriptor behind."""
    descriptors, pids = open_descriptors(), child_pids()
    yield
    assert child_pids() <= pids
    assert open_descriptors() <= descriptors


# Starting


async def test_a_first_child_that_somebody_has_killed_on_its_way_is_started_again(tmp_path: Path) -> None:
    """That says nothing about the program; one that ends by its own doing still ends the opening."""
    once = f"""
import os, pathlib, signal
killed = pathlib.Path({str(tmp_path / "killed")!r})
if not killed.exists():
    killed.touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    with trio.fail_after(PATIENCE_SECONDS):
        async with open_dynamic_supervisor(
            children=[python("worker", once + READY, ready_within=PATIENCE_SECONDS)]
        ) as supervisor:
            assert supervisor.child("worker").value == {"answer": 42}
            assert (tmp_path / "killed").exists()
    with pytest.raises(ExceptionGroup) as caught:
        async with open_dynamic_supervisor(
            children=[python("worker", "import os; os.abort()", ready_within=PATIENCE_SECONDS)]
        ):
            pytest.fail("it was opened")
    assert caught.group_contains(ProcessFailed, match="SIGABRT")


async def test_a_process_is_ready_when_it_says_so_and_start_child_gives_its_value() -> None:
    async with open_supervisor() as supervisor:
        value = await supervisor.start_child(
            python("worker", READY, ready_within=PATIENCE_SECONDS, heartbeat_within=10)
        )
        assert value == {"answer": 42}
        pid = supervisor.child("worker").pid
        assert pid is not None
        assert is_alive(pid)
    assert not is_alive(pid)


async def test_without_ready_within_a_process_is_ready_when_it_is_spawned() -> None:
    async with open_supervisor() as supervisor:
        with trio.fail_after(PATIENCE_SECONDS):
            assert await supervisor.start_child(shell("sleeper", "exec sleep 60")) is None


async def test_a_process_that_is_not_ready_in_time_is_killed_and_start_child_raises() -> None:
    async with open_supervisor() as supervisor:
        with pytest.raises(ProcessNotReady, match=r"not ready within 0\.2 s") as caught:
            await supervisor.start_child(shell("slow", "exec sleep 60", ready_within=0.2))
        assert supervisor.children() == ()
    assert (caught.value.exit.os_signal, caught.value.exit.is_killed_by_supervisor) == ("SIGKILL", True)


async def test_a_process_that_ends_before_it_is_ready_did_not_start() -> None:
    async with open_supervisor() as supervisor:
        with pytest.raises(ProcessFailed, match="before it was ready: code 0"):
            await supervisor.start_child(shell("quick", "exit 0", ready_within=PATIENCE_SECONDS))


async def test_of_a_long_standard_error_the_last_whole_lines_are_kept() -> None:
    async with open_supervisor() as supervisor:
        events = supervisor.events()
        for bytes_max, kept in ((12, "two\nthree\n"), (10, "two\nthree\n"), (9, "three\n"), (3, "ee\n"), (0, "")):
            script = "printf 'one\\ntwo\\nthree\\n' >&2; exit 3"
            name = f"max-{bytes_max}"
            await supervisor.start_child(shell(name, script, restart=Restart.TEMPORARY, stderr_bytes_max=bytes_max))
            assert (await wait_for(events, ChildExited)).exit.process.stderr_tail == kept


async def test_a_signal_without_a_name_is_told_by_its_number() -> None:
    async with open_supervisor() as supervisor:
        events = supervisor.events()
        await supervisor.start_child(shell("x", "kill -40 $$", restart=Restart.TEMPORARY))
        exit = (await wait_for(events, ChildExited)).exit
    assert (exit.kind, exit.process.os_signal) == (ExitKind.CRASHED, "SIG40")
    assert isinstance(exit.error, ProcessFailed)


async def test_a_program_may_be_a_path(tmp_path: Path) -> None:
    program = tmp_path / "program.sh"
    program.write_text("exit 3")
    async with open_supervisor() as supervisor:
        with pytest.raises(ProcessFailed, match="code 3"):
            await supervisor.start_child(Process("x", ["sh", program], cwd=tmp_path, ready_within=PATIENCE_SECONDS))


async def test_a_program_that_cannot_be_executed_is_an_error_at_once(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("exit 0")
    async with open_supervisor() as supervisor:
        with pytest.raises(PermissionError, match="cannot be executed"):
            await supervisor.start_child(Process("x", [program]))


async def test_an_unknown_program_is_an_error_at_once() -> None:
    async with open_supervisor() as supervisor:
        with pytest.raises(FileNotFoundError) as caught:
            await supervisor.start_child(Process("x", ["no-such-program-here"]))
    assert caught.value.errno == errno.ENOENT


async def test_a_program_that_cannot_be_executed_fails_with_the_reason(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("no program")
    program.chmod(0o755)
    async with open_supervisor() as supervisor:
        with pytest.raises(ProcessFailed, match="Exec format error"):
            await supervisor.start_child(
                Process("x", ["./program"], cwd=str(tmp_path), ready_within=PATIENCE_SECONDS, is_stderr_forwarded=False)
            )
        with pytest.raises(FileNotFoundError):
            await supervisor.start_child(Process("x", ["sh"], cwd=str(tmp_path / "nowhere")))


LOOK = """
import json, os, sys
environment = open("/proc/self/environ").read().split("\\0")
report = {
    "names": sorted(line.partition("=")[0] for line in environment if line),
    "descriptors": [int(name) for name in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + name)],
    "stdin": sys.stdin.read(),
    "directory": os.getcwd(),
}
os.write(int(sys.argv[1]), json.dumps(report).encode())
"""


async def test_a_process_gets_its_environment_directory_and_descriptors_and_no_others(tmp_path: Path) -> None:
    """The descriptors are the standard ones, those given, and the link to the supervisor."""
    other_read, other_write = os.pipe()
    os.set_inheritable(other_write, True)
    os.write(other_write, b"not for the process")
    given_read, given_write = os.pipe()
    standard_input = os.dup(0)
    os.dup2(other_read, 0)
    options: dict[str, Any] = {"env": {"A": "1"}, "cwd": str(tmp_path), "pass_fds": [given_write]}
    async with open_supervisor() as supervisor:
        events = supervisor.events()
        child = python("x", LOOK, str(given_write), restart=Restart.TRANSIENT, **options)
        await supervisor.start_child(child)
        exited = await wait_for(events, ChildExited)
    assert exited.exit.kind is ExitKind.RETURNED, exited
    report = json.loads(os.read(given_read, 10_000))
    assert report["names"] == ["A", "SUPERVISORS_LINK"]
    assert (report["stdin"], report["directory"]) == ("", str(tmp_path))
    assert {0, 1, 2, given_write} < set(report["descriptors"])
    assert len(report["descriptors"]) == 5
    os.dup2(standard_input, 0)
    for descriptor in (other_read, other_write, given_read, given_write, standard_input):
        os.close(descriptor)


async def test_a_process_has_python_s_own_ignored_signals_back() -> None:
    """The shim is a Python program, and Python ignores SIGPIPE; what it becomes must not."""
    async with open_supervisor() as supervisor:
        events = supervisor.events()
        await supervisor.start_child(shell("x", "kill -PIPE $$; exit 0", restart=Restart.TEMPORARY))
        exited = await wait_for(events, ChildExited)
    assert exited.exit.process.os_signal == "SIGPIPE"


async def test_the_link_is_not_handed_on_to_what_the_process_starts() -> None:
    code = """
import subprocess
from supervisors import child_process
process = child_process()
seen = subprocess.run(["sh", "-c", "env; ls /proc/$$/fd"], close_fds=False, capture_output=True, text=True)
process.ready([seen.stdout.count("SUPERVISORS_LINK"), max(map(int, seen.stdout.split()[-3:]))])
process.beat()
"""
    async with open_supervisor() as supervisor:
        value = await supervisor.start_child(
            python("x", code, ready_within=PATIENCE_SECONDS, restart=Restart.TRANSIENT)
        )
    assert value == [0, 2]


# Ending by itself


async def test_a_crash_is_in_the_event_with_the_tail_of_standard_error() -> None:
    script = "echo first >&2; echo the reason >&2; exit 3"
    async with open_supervisor() as supervisor:
        events = supervisor.events()
        await supervisor.start_child(shell("x", script, restart=Restart.TEMPORARY, stderr_bytes_max=11))
        exited = await wait_for(events, ChildExited)
    assert exited.exit.kind is ExitKind.CRASHED
    assert exited.exit.process.code == 3
    assert exited.exit.process.stderr_tail == "the reason\n"
    assert isinstance(exited.exit.error, ProcessFailed)
    assert str(exited.exit.error) == "process 'x' ended: code 3\nthe reason"


async def test_standard_error_is_forwarded(capfd: pytest.CaptureFixture[str]) -> None:
    async with open_supervisor() as supervisor:
        events = supervisor.events()
        child = shell("x", "echo hello >&2", restart=Restart.TEMPORARY, is_stderr_forwarded=True)
        await supervisor.start_child(child)
        await wait_for(events, ChildExited)
    assert capfd.readouterr().err == "hello\n"


async def test_a_signal_is_named_in_the_event_and_no_memory_was_short() -> None:
    async with open_supervisor() as supervisor:
        events = supervisor.events()
        await supervisor.start_child(shell("x", "kill -KILL $$", restart=Restart.TEMPORARY))
        process = (await wait_for(events, ChildExited)).exit.process
    assert (process.code, process.os_signal, process.is_killed_by_supervisor) == (None, "SIGKILL", False)
    assert process.is_out_of_memory is False


async def test_a_kill_beside_a_rise_of_the_kernel_s_counter_is_out_of_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts: Iterator[int | None] = iter([4, 5])
    monkeypatch.setattr("supervisors.process.read_oom_count", lambda: next(counts))
    async with open_supervisor() as supervisor:
        events = supervisor.events()
        await supervisor.start_child(shell("x", "kill -KILL $$", restart=Restart.TEMPORARY))
        process = (await wait_for(events, ChildExited)).exit.process
    assert process.is_out_of_memory is True
    assert "probably out of memory" in str(process)


def test_the_counter_is_read_from_the_first_file_that_has_it(tmp_path: Path) -> None:
    (tmp_path / "events").write_text("low 0\noom 2\noom_kill 7\n")
    assert read_oom_count((str(tmp_path / "missing"), str(tmp_path / "events"))) == 7
    assert read_oom_count((str(tmp_path / "missing"),)) is None


async def test_exit_code_zero_is_a_normal_end() -> None:
    async with open_supervisor() as supervisor:
        events = supervisor.events()
        await supervisor.start_child(shell("x", "exit 0", restart=Restart.TRANSIENT))
        exited = await wait_for(events, ChildExited)
    assert exited.exit.kind is ExitKind.RETURNED
    assert str(exited.exit) == "returned (code 0)"


async def test_an_exit_code_may_have_a_backoff_of_its_own() -> None:
    slow = Backoff(first=5, factor=3, longest=100, jitter=0)
    backoff = Backoff(first=0, longest=0, jitter=0)
    process = shell("p", "exit 9", backoff=backoff, backoffs={9: slow, 8: slow}, is_stderr_forwarded=False)
    other = shell("other", "exit 7", backoff=backoff, backoffs={9: slow})
    async with open_dynamic_supervisor(intensity=Intensity(100)) as supervisor:
        events = supervisor.events()
        await supervisor.start_child(process)
        assert (await wait_for(events, RestartScheduled)).delay_seconds == 5
        await supervisor.start_child(other)
        assert (await wait_for(events, RestartScheduled)).delay_seconds == 0
    assert process.backoff_after(8) == slow
    assert process.backoff_after(None) == process.backoff_after(1) == backoff


async def test_a_crashed_process_is_replaced_until_the_intensity_is_exceeded() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with open_supervisor(intensity=Intensity(2, per=30)) as supervisor:
            events = supervisor.events()
            await supervisor.start_child(shell("x", "exit 1"))
            await trio.sleep_forever()
    [error] = caught.value.exceptions
    assert isinstance(error, RestartIntensityExceeded)
    assert isinstance(error.__cause__, ProcessFailed)
    pids = [event.pid async for event in events if isinstance(event, ChildStarted)]
    assert len(set(pids)) == 3


async def test_what_a_process_leaves_of_its_group_is_killed(tmp_path: Path) -> None:
    async with open_supervisor() as supervisor:
        events = supervisor.events()
        script = f"sleep 60 & echo $! > {tmp_path}/pid; exit 1"
        await supervisor.start_child(shell("x", script, restart=Restart.TEMPORARY))
        await wait_for(events, ChildExited)
    await wait_gone(int((tmp_path / "pid").read_text()))


# Hanging


async def test_a_stopped_process_is_found_by_its_heartbeat_and_replaced() -> None:
    async with open_supervisor() as supervisor:
        await supervisor.start_child(python("worker", READY, ready_within=PATIENCE_SECONDS, heartbeat_within=1.5))
        events = supervisor.events()
        pid = supervisor.child("worker").pid
        assert pid is not None
        await trio.sleep(1.8)
        assert supervisor.child("worker").pid == pid, "a healthy process was replaced"
        os.kill(pid, signal.SIGSTOP)
        exited = await wait_for(events, ChildExited)
        assert isinstance(exited.exit.error, ProcessUnresponsive)
        assert exited.exit.process.is_killed_by_supervisor
        await wait_for(events, ChildStarted)
        assert supervisor.child("worker").pid != pid


async def test_a_spinning_process_is_found_by_its_heartbeat() -> None:
    spinning = READY.replace("await trio.sleep_forever()", "await trio.sleep(0.1)\n        while True: pass")
    child = python("worker", spinning, ready_within=PATIENCE_SECONDS, heartbeat_within=0.5, restart=Restart.TEMPORARY)
    async with open_supervisor() as supervisor:
        events = supervisor.events()
        await supervisor.start_child(child)
        exited = await wait_for(events, ChildExited)
    assert isinstance(exited.exit.error, ProcessUnresponsive)
    assert "no heartbeat for 0.5 s" in str(exited.exit.error)


async def test_what_a_hanging_process_is_at_is_in_the_report_of_its_end_and_not_forwarded(
    capfd: pytest.CaptureFixture[str],
) -> None:
    code = READY.replace(
        "await trio.sleep_forever()",
        """print("before", file=sys.stderr, flush=True)
        faulthandler.register(signal.SIGUSR2, file=2, all_threads=True)
        time.sleep(1000)""",
    )
    code = f"import faulthandler, signal, sys, time\n{code}"
    spec = python(
        "x",
        code,
        ready_within=PATIENCE_SECONDS,
        heartbeat_within=0.5,
        stack_signal=signal.SIGUSR2,
        restart=Restart.TEMPORARY,
        is_stderr_forwarded=True,
    )
    async with open_supervisor() as supervisor:
        events = supervisor.events()
        await supervisor.start_child(spec)
        exited = await wait_for(events, ChildExited)
    assert "in main" in exited.exit.process.stderr_tail
    assert capfd.readouterr().err == "before\n"


async def test_a_process_that_closes_its_link_sends_no_heartbeat() -> None:
    code = "import os, time; os.close(int(os.environ['SUPERVISORS_LINK'].split(':')[0])); time.sleep(60)"
    child = python("x", code, heartbeat_within=0.5, restart=Restart.TEMPORARY)
    async with open_supervisor() as supervisor:
        events = supervisor.events()
        await supervisor.start_child(child)
        exited = await wait_for(events, ChildExited)
    assert isinstance(exited.exit.error, ProcessUnresponsive)


# Being stopped


async def test_a_process_is_terminated_first() -> None:
    """SIGTERM cancels the block of `child_process()`, and what comes after it still runs."""
    code = READY + "import sys; print('cleaned up', file=sys.stderr)"
    async with open_supervisor() as supervisor:
        events = supervisor.events()
        await supervisor.start_child(python("worker", code, ready_within=PATIENCE_SECONDS, shutdown=PATIENCE_SECONDS))
        await supervisor.terminate_child("worker")
        exit = (await wait_for(events, ChildExited)).exit
    assert exit.kind is ExitKind.STOPPED
    assert (exit.process.code, exit.process.stderr_tail) == (0, "cleaned up\n")


async def test_a_process_that_ignores_sigterm_is_killed_after_its_deadline(tmp_path: Path) -> None:
    armed = tmp_path / "armed"
    script = f"trap '' TERM; touch {armed}; while :; do sleep 60; done"
    async with open_supervisor() as supervisor:
        events = supervisor.events()
        await supervisor.start_child(shell("x", script, shutdown=0.3))
        with trio.fail_after(PATIENCE_SECONDS):
            while not armed.exists():  # noqa: ASYNC110
                await trio.sleep(0.01)
        began_at = trio.current_time()
        await supervisor.terminate_child("x")
        assert trio.current_time() - began_at >= 0.3
        exit = (await wait_for(events, ChildExited)).exit
    assert exit.process.os_signal == "SIGKILL", exit
    assert exit.process.is_killed_by_supervisor


async def test_one_that_is_killed_for_it_does_not_end_says_before_what_it_is_at(
    capfd: pytest.CaptureFixture[str],
) -> None:
    code = READY.replace(
        "await trio.sleep_forever()",
        """signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True: time.sleep(1)""",
    )
    code = (
        "import faulthandler, signal, sys, time\n"
        f"faulthandler.register(signal.SIGUSR2, file=2, all_threads=True)\n{code}"
    )
    spec = python("x", code, ready_within=PATIENCE_SECONDS, stack_signal=signal.SIGUSR2, shutdown=0.3)
    async with open_supervisor() as supervisor:
        events = supervisor.events()
        await supervisor.start_child(spec)
        await supervisor.terminate_child("x")
        exit = (await wait_for(events, ChildExited)).exit
    assert (exit.kind, exit.process.is_killed_by_supervisor) == (ExitKind.STOPPED, True)
    assert "in main" in exit.process.stderr_tail
    assert capfd.readouterr().err == ""


async def test_no_heartbeat_is_expected_of_a_process_that_is_being_stopped() -> None:
    code = READY + "import time; time.sleep(1.6)"
    async with open_supervisor() as supervisor:
        events = supervisor.events()
        await supervisor.start_child(
            python("worker", code, ready_within=PATIENCE_SECONDS, heartbeat_within=1, shutdown=PATIENCE_SECONDS)
        )
        await supervisor.terminate_child("worker")
        exit = (await wait_for(events, ChildExited)).exit
    assert (exit.error, exit.process.code) == (None, 0)


async def test_a_stopped_process_can_be_terminated() -> None:
    async with open_supervisor() as supervisor:
        events = supervisor.events()
        await supervisor.start_child(python("worker", READY, ready_within=PATIENCE_SECONDS, shutdown=PATIENCE_SECONDS))
        pid = supervisor.child("worker").pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        with trio.fail_after(PATIENCE_SECONDS):
            await supervisor.terminate_child("worker")
        exit = (await wait_for(events, ChildExited)).exit
    assert exit.process.code == 0


async def test_a_process_may_write_much_while_it_is_being_stopped() -> None:
    """More than a pipe holds: its standard error is read to the end."""
    code = READY + "import sys; sys.stderr.write('x' * 300_000 + 'end')"
    async with open_supervisor() as supervisor:
        events = supervisor.events()
        await supervisor.start_child(python("worker", code, ready_within=PATIENCE_SECONDS, shutdown=PATIENCE_SECONDS))
        with trio.fail_after(PATIENCE_SECONDS):
            await supervisor.terminate_child("worker")
        exit = (await wait_for(events, ChildExited)).exit
    assert exit.process.code == 0
    assert exit.process.stderr_tail.endswith("xend")
    assert len(exit.process.stderr_tail) == 16 * 1024


async def test_a_descendant_that_holds_standard_error_open_is_not_waited_for(tmp_path: Path) -> None:
    """Nor is its silence in that time taken for a missing heartbeat."""
    file = tmp_path / "pid"
    script = f"setsid sh -c 'echo $$ > {file}; exec sleep 60' & while [ ! -s {file} ]; do :; done; exit 1"
    async with open_supervisor() as supervisor:
        events = supervisor.events()
        await supervisor.start_child(shell("x", script, restart=Restart.TEMPORARY, heartbeat_within=0.8))
        exited = await wait_for(events, ChildExited)
    assert isinstance(exited.exit.error, ProcessFailed), exited
    assert is_alive(int(file.read_text()))
    os.kill(int(file.read_text()), signal.SIGKILL)


@pytest.mark.parametrize("missing", ["no pidfd_open", "pidfd_open is forbidden"])
async def test_where_there_is_no_process_descriptor_a_thread_waits(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    def forbidden(pid: int) -> int:
        raise OSError(errno.EPERM, "forbidden")

    if missing == "no pidfd_open":
        monkeypatch.delattr(os, "pidfd_open")
    else:
        monkeypatch.setattr(os, "pidfd_open", forbidden)
    async with open_supervisor() as supervisor:
        events = supervisor.events()
        await supervisor.start_child(shell("x", "exit 7", restart=Restart.TEMPORARY))
        assert (await wait_for(events, ChildExited)).exit.process.code == 7
        await supervisor.start_child(shell("y", "exec sleep 60"))


# Dying with the parent


PARENT = """
import sys, trio
from supervisors import Process, open_supervisor
READY = sys.argv[1]
async def main():
    async with open_supervisor() as supervisor:
        await supervisor.start_child(Process("plain", ["sleep", "60"]))
        await supervisor.start_child(Process("python", [sys.executable, "-c", READY], ready_within=60))
        # A shell that stays, and the program below it: it dies by its link.
        argv = ["sh", "-c", '"$0" -c "$1"; :', sys.executable, READY]
        await supervisor.start_child(Process("below", argv, ready_within=60))
        print(*(child.pid for child in supervisor.children()), flush=True)
        await trio.sleep_forever()
trio.run(main)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no PR_SET_PDEATHSIG")
async def test_processes_are_killed_with_a_killed_parent() -> None:
    parent = await trio.lowlevel.open_process(
        [sys.executable, "-c", PARENT, READY], stdout=-1, env={**ENVIRONMENT, "PYTHONWARNINGS": "error"}
    )
    assert parent.stdout is not None
    async with parent.stdout:
        with trio.fail_after(PATIENCE_SECONDS):
            line = b""
            while not line.endswith(b"\n"):
                line += await parent.stdout.receive_some()
        pids = [int(pid) for pid in line.split()]
        below = only_child(pids[2])
        assert all(is_alive(pid) for pid in (*pids, below))
        parent.kill()
        await parent.wait()
    for pid in (*pids, below):
        await wait_gone(pid)


async def test_processes_are_started_by_the_thread_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's parent-death signal is bound to that thread, and a worker thread would not last."""
    import subprocess
    import threading

    threads = []
    original = subprocess.Popen.__init__

    def note(self: Any, *arguments: Any, **options: Any) -> None:
        threads.append(threading.current_thread())
        original(self, *arguments, **options)

    monkeypatch.setattr(subprocess.Popen, "__init__", note)
    async with open_supervisor() as supervisor:
        await supervisor.start_child(shell("x", "exec sleep 60"))
    assert threads == [threading.current_thread()]
