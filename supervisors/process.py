"""The parent's side of a ``Process``: start it, follow it, end it. For the supervisor it is one more task.

The process is started on the thread of the event loop, not by ``trio.lowlevel.open_process``: PR_SET_PDEATHSIG fires
when the *thread* that started the child ends, and trio's worker threads end after some seconds of idleness, while the
loop's own thread lives as long as the supervisor. Starting blocks the loop for about a millisecond.

Order at the end: the leader is waited for without being reaped (its pid, and so its group's id, cannot be reused until
then), the rest of its group is killed, and only then is it reaped.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import attrs
import trio

from supervisors import exec_shim
from supervisors.children import Incarnation
from supervisors.errors import ProcessFailed, ProcessNotReady, ProcessUnresponsive
from supervisors.exits import ProcessExit
from supervisors.frames import BEATS_PER_WINDOW, END, LINK_VARIABLE, Ask, FrameReader, Link, Ready, encode_answer
from supervisors.patience import Patience
from supervisors.specs import Process
from supervisors.stacks import without_stack

# How long standard error is read after the end: a descendant that left the group may hold it open for ever.
STDERR_DRAIN_SECONDS = 1.0
# How long a process that is about to be killed gets to say what it is at.
STACK_SECONDS = 0.5

# Where Linux counts what its out-of-memory killer did: in this control group (as a container sees it), or at all.
OOM_COUNTERS = ("/sys/fs/cgroup/memory.events", "/proc/vmstat")


@attrs.define(eq=False, kw_only=True)
class RunningProcess:
    """A spawned process and the descriptors that belong to it."""

    popen: subprocess.Popen[bytes]
    link: socket.socket
    stderr: trio.lowlevel.FdStream
    pid_descriptor: int | None
    oom_count: int | None
    # It is being ended: no deadline but that of its end counts any more.
    is_ending: bool = False
    is_killed: bool = False
    # Which deadline it missed: "ready" or "heartbeat".
    missed: str | None = None
    # From when on it may say what it is at: that is for whoever reports its end, and not forwarded.
    is_asked_for_stack: bool = False
    said_late: bytearray = attrs.field(factory=bytearray)
    # What it may still be silent for; ``None`` before it was heard.
    silence: Patience | None = None
    wait_scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    # One byte more than is wanted, if there was more: it tells whether the rest begins with a whole line.
    stderr_tail: bytearray = attrs.field(factory=bytearray)
    stderr_ended: trio.Event = attrs.field(factory=trio.Event)

    @property
    def pid(self) -> int:
        return self.popen.pid

    def has_exited(self) -> bool:
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    async def wait_exited(self) -> None:
        """Wait until the process has exited, without reaping it."""
        if self.pid_descriptor is not None:
            await trio.lowlevel.wait_readable(self.pid_descriptor)
        else:
            wait = partial(os.waitid, os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            # Its own limiter: these waits are long, and must not use up the threads others need.
            await trio.to_thread.run_sync(wait, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1))

    def signal_group(self, os_signal: int) -> None:
        # PermissionError: macOS, if only zombies are left.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, os_signal)

    def miss(self, deadline: str) -> None:
        """Note that a deadline was missed, and end the wait for the exit."""
        if not self.is_ending:
            self.missed = deadline
            self.wait_scope.cancel()

    def reap(self, stderr_bytes_max: int) -> ProcessExit:
        """Collect the exited process and close everything that belongs to it."""
        status = self.popen.wait()
        self.link.close()
        if self.pid_descriptor is not None:
            os.close(self.pid_descriptor)
        is_dead_by_kill = status == -signal.SIGKILL
        return ProcessExit(
            code=status if status >= 0 else None,
            os_signal=signal_name(-status) if status < 0 else None,
            is_killed_by_supervisor=is_dead_by_kill and self.is_killed,
            is_out_of_memory=self._is_out_of_memory() if is_dead_by_kill and not self.is_killed else None,
            stderr_tail=self._stderr_text(stderr_bytes_max),
        )

    def _stderr_text(self, bytes_max: int) -> str:
        """Return the tail of standard error; if what came before is cut off, from the first whole line."""
        tail = self.stderr_tail
        if len(tail) > bytes_max:
            tail = tail.partition(b"\n")[2] or tail[1:]
        return tail.decode(errors="replace")

    def _is_out_of_memory(self) -> bool | None:
        """The counters do not say whom it killed; a rise beside a SIGKILL that nobody here sent is a good guess."""
        now_count = read_oom_count()
        return None if self.oom_count is None or now_count is None else now_count > self.oom_count


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most real-time signals have no name
        return f"SIG{number}"


def read_oom_count(paths: tuple[str, ...] = OOM_COUNTERS) -> int | None:
    """Return how many processes the out-of-memory killer has killed, or ``None`` where that is not told."""
    for path in paths:
        try:
            lines = Path(path).read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            word, _, number = line.partition(" ")
            if word == "oom_kill":
                return int(number)
    return None


def spawn(spec: Process) -> RunningProcess:
    """Start the process in its own group, with its link.

    Raises:
        OSError: it cannot be started: there is no such program, for one.
    """
    environment = dict(os.environ if spec.env is None else spec.env)
    program = shutil.which(spec.argv[0], path=environment.get("PATH", os.defpath))
    if program is None and not (spec.cwd and os.sep in spec.argv[0]):
        if os.sep in spec.argv[0] and os.path.exists(spec.argv[0]):
            raise PermissionError(errno.EACCES, f"process {spec.name!r}: cannot be executed", spec.argv[0])
        raise FileNotFoundError(errno.ENOENT, f"process {spec.name!r}: no such program", spec.argv[0])
    argv = list(spec.argv)
    if sys.platform.startswith("linux"):
        has_locale = "1" if "LC_CTYPE" in environment else "0"
        shim = [sys.executable, "-I", "-S", exec_shim.__file__, str(os.getpid()), has_locale]
        argv = [*shim, program or spec.argv[0], *argv]
    oom_count = read_oom_count()
    parent_link, child_link = socket.socketpair()
    stderr_read, stderr_write = os.pipe()
    beat_seconds = 0.0 if spec.heartbeat_within is None else spec.heartbeat_within / BEATS_PER_WINDOW
    link = Link(descriptor=child_link.fileno(), parent_pid=os.getpid(), beat_seconds=beat_seconds)
    environment[LINK_VARIABLE] = link.to_text()
    try:
        popen = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stderr=stderr_write,
            env=environment,
            cwd=spec.cwd,
            pass_fds=(child_link.fileno(), *spec.pass_fds),
            process_group=0,
        )
    except BaseException:
        parent_link.close()
        os.close(stderr_read)
        raise
    finally:
        child_link.close()
        os.close(stderr_write)
    return RunningProcess(
        popen=popen,
        link=parent_link,
        stderr=trio.lowlevel.FdStream(stderr_read),
        pid_descriptor=open_pid(popen.pid),
        oom_count=oom_count,
    )


def open_pid(pid: int) -> int | None:
    """Return a descriptor that is readable when the process has exited, or ``None`` where there is none (not Linux)."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:  # an old kernel, or a sandbox that forbids it
        return None


async def run_process(spec: Process, incarnation: Incarnation) -> None:
    """Run one incarnation of a process child: return when it exited with code 0, raise ``ProcessError`` else.

    *Cancellation:* SIGTERM, SIGKILL after ``spec.shutdown`` seconds, and the process is reaped.
    """
    running = spawn(spec)
    incarnation.pid = running.pid
    if spec.ready_within is None:
        incarnation.set_ready()
    async with trio.open_nursery() as nursery:
        # Shielded: while the process is being ended, it may still write, and must not block on a full pipe.
        followers = trio.CancelScope(shield=True)
        nursery.start_soon(follow, followers, running, spec, incarnation)
        try:
            with running.wait_scope:
                await running.wait_exited()
        finally:
            with trio.CancelScope(shield=True):
                await end_process(running, spec)
                await Patience(STDERR_DRAIN_SECONDS).lasts_until(running.stderr_ended.wait)
            followers.cancel()
            if spec.is_stderr_forwarded:
                forward(
                    without_stack(running.said_late.decode(errors="surrogateescape")).encode(errors="surrogateescape")
                )
            exit = incarnation.process_exit = running.reap(spec.stderr_bytes_max)
    if running.missed == "ready":
        raise ProcessNotReady(spec.name, exit, spec.ready_within or 0.0)
    if running.missed == "heartbeat":
        raise ProcessUnresponsive(spec.name, exit, spec.heartbeat_within or 0.0)
    if exit.code != 0 or incarnation.ready_at is None:
        raise ProcessFailed(spec.name, exit, is_ready=incarnation.ready_at is not None)


async def ask_for_stack(running: RunningProcess, spec: Process) -> None:
    """Have a process that is to be killed say what it is at, if it was told how, and is far enough to know."""
    if running.silence is not None and spec.stack_signal is not None and not running.has_exited():
        running.is_asked_for_stack = True
        os.kill(running.pid, spec.stack_signal)
        await Patience(STACK_SECONDS).lasts_until(running.wait_exited)


def tell_to_end(running: RunningProcess, spec: Process) -> None:
    if spec.is_told_by_link and running.silence is not None:
        with contextlib.suppress(OSError):  # its own end of the link is closed
            running.link.send(END, socket.MSG_DONTWAIT)
            return
    os.kill(running.pid, signal.SIGTERM)


async def end_process(running: RunningProcess, spec: Process) -> None:
    """End the process, if it has not ended, and what is left of its group; return when it has exited.

    One that missed a deadline is killed at once: it is not in a state to end in an orderly way.
    """
    running.is_ending = True
    if not running.has_exited() and running.missed is None:
        tell_to_end(running, spec)
        os.kill(running.pid, signal.SIGCONT)  # a stopped process takes no other signal
        await Patience(spec.shutdown - spec.closing).lasts_until(running.wait_exited)
        if not running.has_exited() and is_silent(running):
            running.missed = "heartbeat"
        elif not running.has_exited():
            await Patience(spec.closing).lasts_until(running.wait_exited)
    await ask_for_stack(running, spec)
    if not running.has_exited():
        running.is_killed = True
        running.signal_group(signal.SIGKILL)
        await running.wait_exited()
    running.signal_group(signal.SIGKILL)


def is_silent(running: RunningProcess) -> bool:
    """Tell whether a process that is to end has shown no sign of life lately, so that it cannot be about to."""
    silence = running.silence
    return silence is not None and silence.left <= silence.seconds / 2 and not has_said_something(running.link)


async def follow(scope: trio.CancelScope, running: RunningProcess, spec: Process, incarnation: Incarnation) -> None:
    with scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow_stderr, running, spec)
            nursery.start_soon(follow_link, running, spec, incarnation)


async def follow_stderr(running: RunningProcess, spec: Process) -> None:
    tail = running.stderr_tail
    async with running.stderr:
        async for data in running.stderr:
            if running.is_asked_for_stack:
                running.said_late += data
                del running.said_late[: max(0, len(running.said_late) - spec.stderr_bytes_max)]
            elif spec.is_stderr_forwarded:
                forward(data)
            tail += data
            del tail[: max(0, len(tail) - spec.stderr_bytes_max - 1)]
    running.stderr_ended.set()


def forward(data: bytes | bytearray) -> None:
    """Write to our own standard error, as the process itself would have done; it may be closed."""
    try:
        while data:
            data = data[os.write(2, data) :]
    except OSError:
        pass


async def follow_link(running: RunningProcess, spec: Process, incarnation: Incarnation) -> None:
    """Read what the process says, and hold it to its deadlines."""
    # A duplicate, so that cancelling this task does not close the link: that would end the process.
    with trio.socket.from_stdlib_socket(running.link.dup()) as link:
        reader = FrameReader()
        heard = partial(wait_heard, link, running)
        silence_seconds = float("inf") if spec.heartbeat_within is None else spec.heartbeat_within
        silence = Patience(silence_seconds)
        if spec.ready_within is not None:
            start, ready = Patience(spec.ready_within), None
            while ready is None:
                if not await start.lasts_until(heard):
                    running.miss("ready")
                    return
                frames = await receive(link, reader, running, spec)
                ready = next((frame for frame in frames if isinstance(frame, Ready)), None)
            incarnation.set_ready(ready.value)
            silence = running.silence = Patience(silence_seconds)
        while await silence.lasts_until(heard):
            await receive(link, reader, running, spec)
            silence = running.silence = Patience(silence_seconds)
        running.miss("heartbeat")


async def wait_heard(link: trio.socket.SocketType, running: RunningProcess) -> None:
    """Wait until there is something to read; for ever if the process has closed its end: its exit says the rest."""
    await trio.lowlevel.wait_readable(link)
    if not has_said_something(running.link):
        await trio.sleep_forever()


def has_said_something(link: socket.socket) -> bool:
    """Tell whether there is something of a process that this one has not read yet."""
    try:
        return bool(link.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except OSError:
        return False


async def receive(
    link: trio.socket.SocketType, reader: FrameReader, running: RunningProcess, spec: Process
) -> list[object]:
    """Receive what has come, and answer what is asked."""
    frames: list[object] = [*reader.feed(await link.recv(4096))]
    for frame in frames:
        if isinstance(frame, Ask):
            answer = None if spec.answer is None else spec.answer(running.pid, frame.value)
            with contextlib.suppress(OSError):  # it has ended meanwhile
                await link.send(encode_answer(answer))  # it waits for this one, so there is room for it
    return frames
