"""The machines of the demonstration, and the cables between them and the centre, where the server and the services are.

Where it is allowed each machine is a network namespace of its own, and each cable another one between it and the
centre: it forwards, until it is cut. Then packets of both sides go nowhere, and nobody is told. To drop them on the
machine's own interface would not do: a sender learns of that. The centre is a namespace too, that of this very process
(``enter_namespace``). None has a name, so the kernel removes each with the last process in it, however that ends.

Elsewhere a machine reaches the centre through proxies. A cut one passes nothing on and ends nothing; but the kernels
of both sides still answer for it, so that only a lease, or a question without an answer, tells that it is cut.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Final, Protocol

import attrs
import trio

from demo_parts.children import open_process, read_line

#: Machines at most: a number has one place in their addresses.
MACHINES_MAX: Final = 9
#: All machines, as the server sees them.
NETWORK: Final = "10.77.0.0/16"
_INSIDE: Final = "DEMO_IS_IN_NAMESPACE"
_PROGRAMS: Final = ("unshare", "nsenter", "ip")
# All that is done later, once.
_TRIAL: Final = """
    ip link set lo up && ip link add one type veth peer name other &&
    echo 1 > /proc/sys/net/ipv4/ip_forward && unshare --net true
"""
# It is there as long as somebody holds the other end of its standard input.
_HOLD: Final = "echo 1; while read -r word; do echo $word > /proc/sys/net/ipv4/ip_forward; echo $word; done"
_BYTES_AT_ONCE: Final = 65536


class Machine(Protocol):
    """One machine, as those who have made it see it. ``prefix`` goes before a command that is to run there."""

    @property
    def prefix(self) -> tuple[str, ...]: ...

    async def reach(self, port: int) -> tuple[str, int]:
        """Return where the machine finds what listens on a port of the centre."""

    async def cut(self) -> None:
        """Pull its cable."""

    async def mend(self) -> None:
        """Plug it in again."""


def enter_namespace() -> bool:
    """Return whether this process is the centre of a network of its own; where it can, it begins anew as that.

    To be called before anything else is done: the program is executed again, under the same process id.
    """
    if _INSIDE in os.environ:
        return True
    if any(shutil.which(program) is None for program in _PROGRAMS):
        return False
    command = ["unshare", "--net"]
    if os.getuid() != 0:
        command += ["--user", "--map-current-user", "--keep-caps"]
    if subprocess.run([*command, "sh", "-ec", _TRIAL], capture_output=True, check=False).returncode != 0:
        return False
    command += ["sh", "-ec", 'ip link set lo up; exec "$@"', "sh", sys.executable, *sys.orig_argv[1:]]
    os.execvpe(command[0], command, {**os.environ, _INSIDE: "1"})
    return False  # never: the program begins anew


@asynccontextmanager
async def open_machines(count: int, *, has_namespaces: bool) -> AsyncIterator[list[Machine]]:
    """Have so many machines for the length of a block. Nothing of them is left behind it."""
    async with AsyncExitStack() as stack:
        if has_namespaces:
            yield [await stack.enter_async_context(_open_namespaces(number)) for number in range(1, count + 1)]
        else:
            nursery = await stack.enter_async_context(trio.open_nursery())
            stack.callback(nursery.cancel_scope.cancel)
            yield [_BehindProxies(nursery) for _ in range(count)]


# ---- namespaces --------------------------------------------------------------------------------------------------


@attrs.frozen
class _Namespace:
    """A network namespace: that of a shell which does nothing but have it, and forward in it or not."""

    holder: trio.Process

    @property
    def prefix(self) -> tuple[str, ...]:
        return ("nsenter", f"--net=/proc/{self.holder.pid}/ns/net")

    async def forward(self, word: str) -> None:
        """Forward (1), or not (0)."""
        assert self.holder.stdin is not None
        await self.holder.stdin.send_all(word.encode() + b"\n")
        await self.answer()

    async def answer(self) -> None:
        """Wait until the shell has done what it was told; first of all to be there."""
        assert self.holder.stdout is not None
        if not await read_line(self.holder.stdout):
            raise RuntimeError("a network namespace has ended by itself")


@attrs.frozen
class _InNamespace:
    """A machine that has a namespace of its own, and a cable that is one too."""

    number: int
    prefix: tuple[str, ...]
    cable: _Namespace

    async def reach(self, port: int) -> tuple[str, int]:
        await trio.lowlevel.checkpoint()
        return f"10.77.{self.number}.1", port

    async def cut(self) -> None:
        await self.cable.forward("0")

    async def mend(self) -> None:
        await self.cable.forward("1")


@asynccontextmanager
async def _open_namespace() -> AsyncIterator[_Namespace]:
    async with open_process(["unshare", "--net", "sh", "-c", _HOLD], stdout=subprocess.PIPE) as holder:
        namespace = _Namespace(holder)
        await namespace.answer()
        yield namespace


@asynccontextmanager
async def _open_namespaces(number: int) -> AsyncIterator[Machine]:
    """The centre ``.1`` – ``.2`` the cable ``.5`` – ``.6`` the machine."""
    net = f"10.77.{number}"
    async with _open_namespace() as cable, _open_namespace() as inside:
        await _configure(
            (),
            f"link add to{number} type veth peer name centre netns {cable.holder.pid}",
            f"addr add {net}.1/30 dev to{number}",
            f"link set to{number} up",
            f"route add {net}.4/30 via {net}.2",
        )
        await _configure(
            cable.prefix,
            f"link add machine type veth peer name cable netns {inside.holder.pid}",
            f"addr add {net}.2/30 dev centre",
            "link set centre up",
            f"addr add {net}.5/30 dev machine",
            "link set machine up",
        )
        await _configure(
            inside.prefix,
            "link set lo up",
            f"addr add {net}.6/30 dev cable",
            "link set cable up",
            f"route add default via {net}.5",
        )
        await cable.forward("1")
        yield _InNamespace(number, inside.prefix, cable)


async def _configure(prefix: tuple[str, ...], *lines: str) -> None:
    text = "\n".join(lines).encode() + b"\n"
    done = await trio.run_process([*prefix, "ip", "-batch", "-"], stdin=text, capture_stderr=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the network could not be made: {done.stderr.decode(errors='replace').strip()}")


# ---- proxies -----------------------------------------------------------------------------------------------------


class _BehindProxies:
    """A machine that is told other ports than the true ones."""

    prefix: tuple[str, ...] = ()

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._is_whole = trio.Event()
        self._is_whole.set()

    async def reach(self, port: int) -> tuple[str, int]:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self._nursery.start_soon(trio.serve_listeners, partial(self._pass_on, port), listeners)
        return "127.0.0.1", int(listeners[0].socket.getsockname()[1])

    async def cut(self) -> None:
        self._is_whole = trio.Event()
        await trio.lowlevel.checkpoint()

    async def mend(self) -> None:
        self._is_whole.set()
        await trio.lowlevel.checkpoint()

    async def _pass_on(self, port: int, machine: trio.SocketStream) -> None:
        await self._is_whole.wait()
        try:
            centre = await trio.open_tcp_stream("127.0.0.1", port)
        except OSError:
            await trio.aclose_forcefully(machine)
            return
        async with machine, centre, trio.open_nursery() as nursery:
            nursery.start_soon(self._pump, machine, centre, nursery.cancel_scope)
            nursery.start_soon(self._pump, centre, machine, nursery.cancel_scope)

    async def _pump(self, source: trio.SocketStream, target: trio.SocketStream, scope: trio.CancelScope) -> None:
        """Pass on what comes, and the end of it: who hears of it ends both ways, as here nobody ends only one."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await source.receive_some(_BYTES_AT_ONCE):
                await self._is_whole.wait()
                await target.send_all(data)
        await self._is_whole.wait()
        scope.cancel()
