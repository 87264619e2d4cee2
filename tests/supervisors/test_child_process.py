"""The child's side: the frames, and a program with or without a supervisor."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

import supervisors
from supervisors import ChildExited, ChildStarted, Process, Restart, child_process, open_supervisor
from supervisors.child_process import ChildProcess
from supervisors.exec_shim import die_with_parent
from supervisors.frames import (
    END,
    FRAME_BYTES_MAX,
    Answer,
    Ask,
    Beat,
    End,
    FrameReader,
    Link,
    Ready,
    encode_answer,
    encode_ask,
    encode_ready,
)

SHIM = Path(supervisors.__file__).parent / "exec_shim.py"
PATIENCE_SECONDS = 60.0  # far above anything that a busy machine needs


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The parent's and the child's end of a link."""
    parent, child = socket.socketpair()
    with parent, child:
        yield parent, child


# Frames


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5), st.integers(1, 9))
def test_frames_survive_being_cut_anywhere(value: object, piece_bytes: int) -> None:
    data = (
        b"beat\nno frame\nready {\n" + encode_ready(value) + b"beat\n" + encode_ask(value) + encode_answer(value) + END
    )
    reader = FrameReader()
    pieces = [data[start : start + piece_bytes] for start in range(0, len(data), piece_bytes)]
    frames = [frame for piece in pieces for frame in reader.feed(piece)]
    assert frames == [Beat(), Ready(value), Beat(), Ask(value), Answer(value), End()]


def test_a_line_without_end_is_dropped() -> None:
    reader = FrameReader()
    assert reader.feed(b"x" * (FRAME_BYTES_MAX + 1)) == []
    assert reader.feed(b"\nbeat\n") == [Beat()]


def test_a_value_must_be_json_and_small() -> None:
    with pytest.raises(TypeError):
        encode_ready(object())
    with pytest.raises(ValueError, match="over 65536"):
        encode_ready("x" * FRAME_BYTES_MAX)
    with pytest.raises(ValueError, match=r"given to ask\(\) takes .* over 65536"):
        encode_ask("x" * FRAME_BYTES_MAX)


def test_the_link_goes_through_the_environment() -> None:
    link = Link(descriptor=5, parent_pid=77, beat_seconds=0.1)
    assert Link.from_text(link.to_text()) == link


# The program


async def test_without_a_supervisor_everything_is_allowed_and_nothing_happens() -> None:
    async with child_process() as process:
        assert not process.is_supervised
        assert process.ask("anybody there?") is None
        process.ready("value")
        process.beat()


def test_ready_is_said_once(ends: tuple[socket.socket, socket.socket]) -> None:
    process = ChildProcess(ends[1], 0, False)
    with pytest.raises(TypeError):
        process.ready(object())
    process.ready(7)
    with pytest.raises(RuntimeError, match="twice"):
        process.ready(8)
    assert ends[0].recv(100) == b"ready 7\n"


async def test_the_block_sends_heartbeats(autojump_clock: MockClock, ends: tuple[socket.socket, socket.socket]) -> None:
    async with ChildProcess(ends[1], 2.0, False) as process:
        assert process.is_supervised
        await trio.sleep(5)
    assert ends[0].recv(100) == b"beat\n" * 3


def test_a_heartbeat_never_waits_and_survives_the_parent(ends: tuple[socket.socket, socket.socket]) -> None:
    process = ChildProcess(ends[1], 0, False)
    ends[1].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    for _ in range(5_000):
        process.beat()
    ends[0].close()
    process.beat()


async def test_sigterm_cancels_the_block_quietly() -> None:
    before = signal.getsignal(signal.SIGTERM)
    async with child_process():
        os.kill(os.getpid(), signal.SIGTERM)
        with trio.fail_after(60):
            await trio.sleep_forever()
    assert signal.getsignal(signal.SIGTERM) is before


async def test_an_error_of_the_block_comes_in_a_group() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with child_process():
            raise ValueError
    assert caught.group_contains(ValueError, depth=1)


def test_a_process_whose_parent_has_died_already_ends_itself() -> None:
    """The race of PR_SET_PDEATHSIG: the parent named is not the parent there is."""
    argv = [sys.executable, "-I", "-S", str(SHIM), "1", "1", "/bin/echo", "echo"]
    done = subprocess.run(argv, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, b"")


def test_elsewhere_there_is_no_parent_death_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    die_with_parent(-1)


def test_the_shim_becomes_the_program() -> None:
    argv = [sys.executable, "-I", "-S", str(SHIM), str(os.getpid()), "0", "/bin/sh", "sh", "-c", "echo $0 $LC_CTYPE"]
    done = subprocess.run(argv, capture_output=True, env={"PATH": os.environ["PATH"]}, check=True)
    assert done.stdout == b"sh\n"


# Questions


def program(code: str, **options: Any) -> Process:
    """Return a process that is this program."""
    environment = {**os.environ, "PYTHONPATH": str(SHIM.parent.parent)}
    options |= {"env": environment, "restart": Restart.TEMPORARY, "is_stderr_forwarded": False}
    return Process("p", [sys.executable, "-c", code], ready_within=PATIENCE_SECONDS, **options)


async def test_a_process_asks_its_parent_before_it_is_ready_and_whenever_it_likes() -> None:
    asked: list[tuple[int, object]] = []

    def answer(pid: int, value: object) -> object:
        asked.append((pid, value))
        return [value, len(asked)]

    code = """
from supervisors import child_process
process = child_process()
first = process.ask({"may I": True})
process.ready(first)
second = process.ask("x" * 60_000)
raise SystemExit(f"{second[1]} {len(second[0])}")
"""
    async with open_supervisor() as supervisor:
        events = supervisor.events()
        assert await supervisor.start_child(program(code, answer=answer)) == [{"may I": True}, 1]
        with trio.fail_after(PATIENCE_SECONDS):
            (started, exited) = [await events.receive() for _ in range(2)]
    assert isinstance(started, ChildStarted)
    assert isinstance(exited, ChildExited)
    assert exited.exit.process is not None
    assert exited.exit.process.stderr_tail == "2 60000\n"
    assert asked == [(started.pid, {"may I": True}), (started.pid, "x" * 60_000)]


async def test_without_an_answer_there_is_none() -> None:
    code = """
from supervisors import child_process
process = child_process()
process.ready([process.ask("who am I?")])
"""
    async with open_supervisor() as supervisor:
        assert await supervisor.start_child(program(code)) == [None]
