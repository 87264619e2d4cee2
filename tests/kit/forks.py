"""Starts Python programs quickly: a process that has imported everything forks for each of them.

A new interpreter takes half a second of a processor until it has imported this project, and tests start hundreds. What
is forked here is as good as new: the server has no threads, loops or connections, and runs no code of tests. It goes
through the same end as any other program, by whatever signal or exit code; only the clearing of modules is left out
(``run_to_end``), and what the server has is no matter of a fork's garbage collector: both would copy all that it
shares, which takes thirty times as long as to fork. What matters in a few tests alone, such as the start of an
interpreter itself, is for ``subprocess.Popen``.

So it is with the workers that such a program starts, each of which would import everything again. They must be its own
children, and by then it has threads. So it forks a *nest* before anything else, which forks a worker whose parent ends
at once; for what loses its parent the program is the next one (``prctl(2)``, PR_SET_CHILD_SUBREAPER).

    with Forked([sys.executable, "-m", "durable_trio", "list"], stdout=subprocess.PIPE, text=True) as process:
        output, _ = process.communicate(timeout=PATIENCE_SECONDS)
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import functools
import gc
import importlib
import json
import os
import pkgutil
import random
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, AnyStr, ClassVar, Final

_REQUEST_BYTES_MAX: Final = 1 << 20
# Imported once for all programs: an import of these leaves nothing that a program of its own would have otherwise.
_PRELOADED: Final = ("argparse", "http.server", "urllib.request", "hashlib", "logging.config", "durable_trio")
_OURS: Final = ("durable_trio", "supervisors")
#: The name of a process that is a nest: no child of the program's own.
NEST: Final = "nest-of-workers"
_WORKERS: Final = "durable_trio.engine.workers"
_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 1, 15, 36


# ---- who asks ------------------------------------------------------------------------------------------------------


class _Server:
    """The process that forks, as those who ask see it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            command = [sys.executable, "-I", __file__, str(other.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[other.fileno()], stdin=subprocess.DEVNULL)
        self.pid = self._process.pid
        atexit.register(self.close)

    def fork(self, request: dict[str, Any], descriptors: list[int]) -> int:
        """Return the pid of a program; of the descriptors the first three are its own, and the last tells its end."""
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(request).encode()], descriptors)
            return int(self._socket.recv(100))

    def close(self) -> None:
        """End it; programs that it has started live on."""
        self._socket.close()
        self._process.wait()


@functools.cache
def server() -> _Server:
    """Return the server of this process, started when it is first asked for."""
    return _Server()


class Forked(subprocess.Popen[AnyStr]):
    """A Python program, as ``subprocess.Popen`` has it, without a new interpreter.

    Its command begins with ``sys.executable``, followed by ``-W error`` or not, and ``-m MODULE``, ``-c CODE`` or the
    path of a script. It is no child of this process, which matters to nobody but ``os.waitpid``.
    """

    _ended: int
    _end_lock: threading.Lock
    _has_workers: ClassVar[bool] = False

    def _execute_child(self, args: list[Any], *rest: Any) -> None:
        """Take the place of fork and exec in ``Popen``, from Python 3.11 to 3.13 at least."""
        _, preexec_fn, _, pass_fds, cwd, env, _, _, shell, *pipes, _, _, _, _, _, start_new_session, _ = rest
        assert (preexec_fn, tuple(pass_fds), shell) == (None, (), False)
        _, *argv = map(os.fspath, args)
        ours: list[int] = [pipes[0], pipes[3], pipes[5]]
        theirs: list[int] = [number if pipe == -1 else pipe for number, pipe in enumerate(ours)]  # -1: as it is here
        self._ended, ended = os.pipe()
        self._end_lock = threading.Lock()
        request = {
            "argv": argv,
            "cwd": os.getcwd() if cwd is None else os.fspath(cwd),
            "env": dict(os.environ if env is None else env),
            "is_session": bool(start_new_session),
            "has_workers": self._has_workers or any("workers" in each for each in argv),
        }
        try:
            self.pid = server().fork(request, [*theirs, ended])
            self._child_created = True
        finally:
            os.close(ended)
            self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; ``None`` while it runs."""
        with self._end_lock:
            if self.returncode is None and select.select([self._ended], [], [], 0)[0]:
                self._take_end()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code once it has ended."""
        if self.returncode is None:
            seconds = None if timeout is None else max(0.0, timeout)
            if not select.select([self._ended], [], [], seconds)[0]:
                raise subprocess.TimeoutExpired(self.args, seconds or 0.0)
        with self._end_lock:
            if self.returncode is None:
                self._take_end()
        return self.returncode

    def _take_end(self) -> None:
        status = os.read(self._ended, 100)
        os.close(self._ended)
        assert status, "the server of forks has died"
        self.returncode = os.waitstatus_to_exitcode(int(status))


class ForkedParent(Forked[AnyStr]):
    """One that starts workers, of which its command line says nothing."""

    _has_workers = True


def run(
    args: Sequence[Any],
    *,
    capture_output: bool = False,
    check: bool = False,
    timeout: float,
    popen: type[Forked[Any]] = Forked,
    **options: Any,
) -> subprocess.CompletedProcess[Any]:
    """Run a program to its end, as ``subprocess.run`` does."""
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process: Forked[Any] = popen(args, **options)
    with process:
        try:
            output, errors = process.communicate(timeout=timeout)
        finally:
            process.kill()  # nothing, if it has ended
    done = subprocess.CompletedProcess(args, process.returncode, output, errors)
    if check:
        done.check_returncode()
    return done


def wait_for(process: Forked[Any], line: str) -> None:
    """Return once it has printed a line."""
    assert process.stdout is not None
    for said in process.stdout:
        if said.strip() == line:
            return
    raise AssertionError(f"it has ended: {process.communicate()[1]}")


def is_nest(pid: int) -> bool:
    """Return whether a child of a program is its nest, and none of its own."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip() == NEST
    return False


# ---- the server ----------------------------------------------------------------------------------------------------


def preload() -> None:
    """Import what programs of these tests import."""
    for name in _PRELOADED:
        importlib.import_module(name)
    import durable_trio

    for module in pkgutil.walk_packages(durable_trio.__path__, "durable_trio."):
        if not module.name.endswith("__main__"):
            with suppress(ImportError):
                importlib.import_module(module.name)


def serve(connection: socket.socket) -> Callable[[], object]:
    """Fork what is asked for until the asker hangs up; return only in a child, with what it is to do."""
    ends: dict[int, int] = {}
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        watched: list[Any] = [connection, reader]
        ready = select.select(watched, [], [])[0]
        if reader in ready:
            os.read(reader, 1000)
            _tell_ends(ends)
        if connection not in ready:
            continue
        data, descriptors, _, _ = socket.recv_fds(connection, _REQUEST_BYTES_MAX, 4)
        if not data:
            sys.exit()
        pid = os.fork()
        if pid == 0:
            for descriptor in (reader, writer, *ends.values(), descriptors.pop()):
                os.close(descriptor)
            connection.close()
            return _begin(json.loads(data), descriptors)
        *own, ends[pid] = descriptors
        for descriptor in own:
            os.close(descriptor)
        connection.send(str(pid).encode())


def _tell_ends(ends: dict[int, int]) -> None:
    while ends:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        descriptor = ends.pop(pid)
        with suppress(BrokenPipeError):
            os.write(descriptor, str(status).encode())
        os.close(descriptor)


def _begin(request: dict[str, Any], descriptors: list[int]) -> Callable[[], object]:
    """Make this process as good as new, and return what it is to run."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if request["is_session"]:
        os.setsid()
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    if sys.platform.startswith("linux") and request["has_workers"]:
        worker = _build_nest()
        if worker is not None:
            return worker
    return _become(request)


def _become(request: dict[str, Any]) -> Callable[[], object]:
    os.chdir(request["cwd"])
    environment: dict[str, str] = request["env"]
    os.environ.clear()
    os.environ.update(environment)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stdout.reconfigure(write_through=bool(environment.get("PYTHONUNBUFFERED")))
    sys.stderr.reconfigure(line_buffering=True)
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]
    import trio._core._run

    trio._core._run._r = random.Random()  # or all would have the same schedules
    return _program(request["argv"], environment)


def _program(argv: list[str], environment: dict[str, str]) -> Callable[[], object]:
    """Return a program by its command line."""
    if argv[0] == "-W":
        warnings.simplefilter(argv[1])  # type: ignore[arg-type]
        sys.warnoptions.append(argv[1])
        argv = argv[2:]
    paths = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    is_module, is_code = argv[0] == "-m", argv[0] == "-c"
    first = os.getcwd() if is_module else "" if is_code else os.path.dirname(os.path.realpath(argv[0]))
    sys.path[:0] = [first, *paths]
    sys.argv = argv[1:] if is_module else ["-c", *argv[2:]] if is_code else argv
    if is_module:
        sys.modules.pop(argv[1], None)  # it would be executed a second time, which is warned of
        return lambda: runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
    if is_code:
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        return lambda: exec(compile(argv[1], "<string>", "exec", dont_inherit=True), main.__dict__)
    return lambda: runpy.run_path(argv[0], run_name="__main__")


# ---- nests of workers ----------------------------------------------------------------------------------------------


def _build_nest() -> Callable[[], object] | None:
    """Fork the nest of this program, and have it fork workers; return only here, and in a worker what it is to run."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    program = os.getpid()
    pid = os.fork()
    if pid == 0:
        ours.close()
        os.setpgid(0, 0)  # signals are for the program's group
        _prctl(_PR_SET_NAME, ctypes.c_char_p(NEST.encode()))
        return _hatch(theirs, program)
    theirs.close()
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)

    import supervisors.process

    class Popen(subprocess.Popen[bytes]):
        """Forks workers from the nest; starts all else."""

        def _execute_child(self, args: list[Any], *rest: Any) -> None:
            _, _, _, pass_fds, cwd, env, _, _, _, *pipes, _, _, _, _, _, _, group = rest
            if not _is_worker(args, env):
                super()._execute_child(args, *rest)  # type: ignore[misc]
                return
            assert group == 0
            given: list[int] = [pipes[0], pipes[3], pipes[5]]
            streams = [number if pipe == -1 else pipe for number, pipe in enumerate(given)]
            request = {
                "argv": args[-3:],
                "cwd": os.getcwd() if cwd is None else os.fspath(cwd),
                "env": dict(os.environ if env is None else env),
                "numbers": [0, 1, 2, *pass_fds],
            }
            socket.send_fds(ours, [json.dumps(request).encode()], [*streams, *pass_fds])
            self.pid = int(ours.recv(100))
            self._child_created = True
            self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]

    vars(supervisors.process)["subprocess"] = types.SimpleNamespace(**vars(subprocess) | {"Popen": Popen})
    return None


def _is_worker(args: list[Any], env: dict[str, str] | None) -> bool:
    """Return whether a command starts a worker, in an interpreter as this one."""
    if args[-3:-1] != ["-m", _WORKERS]:
        return False
    usual = {"PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "PYTHONIOENCODING"}
    return not any(name.startswith("PYTHON") for name in set(os.environ if env is None else env) - usual)


def _hatch(connection: socket.socket, program: int) -> Callable[[], object]:
    """Fork workers until the program has gone; return only in a worker, with what it is to run."""
    for os_signal in (signal.SIGINT, signal.SIGTERM):
        signal.signal(os_signal, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):  # who reads what the program says waits for its end, not for this one's
        os.dup2(null, number)
    while True:
        try:
            data, descriptors, _, _ = socket.recv_fds(connection, _REQUEST_BYTES_MAX, 16)
        except ConnectionResetError:
            data = b""
        if not data:
            os._exit(0)
        parent = os.fork()
        if parent == 0:
            parent = os.getpid()
            if os.fork() != 0:
                os._exit(0)
            break
        os.waitpid(parent, 0)
        for descriptor in descriptors:
            os.close(descriptor)
    os.setpgid(0, 0)
    for os_signal in (signal.SIGINT, signal.SIGTERM):
        signal.signal(os_signal, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _prctl(_PR_SET_NAME, ctypes.c_char_p(b"python"))
    request = json.loads(data)
    high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 500) for descriptor in descriptors]
    while os.getppid() == parent:
        time.sleep(0.0002)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # as the shim does
    if os.getppid() != program:
        os._exit(1)
    connection.send(str(os.getpid()).encode())
    os.closerange(3, 500)
    connection.detach()
    for descriptor, number in zip(high, request["numbers"], strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
    return _become(request)


def _prctl(option: int, argument: Any) -> None:
    ctypes.CDLL(None).prctl(option, argument, 0, 0, 0)


# ---- the end of a program --------------------------------------------------------------------------------------------


def run_to_end(program: Callable[[], object]) -> None:
    """Run a program, and do what the interpreter does at its end, but for clearing all modules.

    That touches every page which is shared with the server, and takes longer than most programs of tests. Where all
    warnings are errors, which is to be told of what was left open, this project's are cleared, and those that the
    program has brought along.
    """
    before = set(sys.modules) - {"__main__"}
    code = 0
    try:
        program()
    except SystemExit as error:
        if error.code is not None and not isinstance(error.code, int):
            raise  # it is to be printed
        code = error.code or 0
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    if "error" in sys.warnoptions:
        _clear([name for name in sys.modules if name not in before or name.partition(".")[0] in _OURS])
    try:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except (AttributeError, OSError, ValueError):
        sys.exit(code)  # which says it
    os._exit(code & 0xFF)


def _clear(names: list[str]) -> None:
    """Let go of what modules hold, as the interpreter does, so that what was left open warns of itself."""
    for held in [vars(sys.modules[name]) for name in names]:
        if held is not globals():
            held.clear()
    gc.collect()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    preload()
    gc.collect()
    gc.freeze()  # what is collected in a fork alone is its own: else each would have all pages of this one copied
    run_to_end(serve(socket.socket(fileno=int(sys.argv[1]))))
