"""What the processes of a crash test do: serve and ask (worker), ask only (client), check the file (checker).

A process gets a spec, a mapping of plain values, and a control socket: what it sends there tells the driver how far it
is, and the end of the stream tells that it is dead.
"""

from __future__ import annotations

import ctypes
import functools
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread
import attrs
import trio

from durable_trio import Engine, RunStatus, StoreAway
from durable_trio.stores.contract import Store
from durable_trio.stores.kinds import make_store
from durable_trio.testing.checker import check, read_lines
from durable_trio.testing.probes import ProbedStore
from tests.crash import planted, workflows
from tests.crash.hosts import HOSTS, AnyEngine, Host
from tests.crash.logs import Logs
from tests.crash.plans import LONG_AGO, Asker, Planned, wave

Spec = Mapping[str, Any]

_UNFINISHED: Final = (RunStatus.PENDING, RunStatus.RUNNING, RunStatus.SUSPENDED, RunStatus.COMPENSATING)


class Control:
    """The worker's end of the control socket: messages of one JSON object each."""

    def __init__(self, control: socket.socket) -> None:
        self.socket = control

    def send(self, **message: Any) -> None:
        """Tell the driver something."""
        self.socket.send(json.dumps(message).encode())

    async def receive(self) -> bytes:
        """Return the next message of the driver's, of a socket that does not block; nothing once it hangs up."""
        await anyio.wait_readable(self.socket)
        return self.socket.recv(4096)


def main(spec: Spec, control: socket.socket) -> int:
    """Be what the spec says, and return the exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(process)d %(message)s")
    _seed_schedule(spec.get("seed"))
    role: Callable[[Spec, Control], int] = {"worker": _work, "client": _ask, "checker": _check}[spec["role"]]
    return role(spec, Control(control))


def _seed_schedule(seed: int | None) -> None:
    # trio shuffles its run queue by a generator of its own; with the same seed the same shuffles.
    generator = getattr(getattr(trio._core, "_run", None), "_r", None)
    if seed is not None and generator is not None:
        generator.seed(seed)


def _address(spec: Spec) -> str:
    return spec.get("url") or str(Path(spec["directory"]) / "app.db")


def _host(spec: Spec) -> Host:
    return HOSTS[spec.get("host", "trio")]


def _store(spec: Spec) -> Store:
    inner = make_store(_address(spec), durability=spec.get("durability", "full"))
    if spec.get("planted"):
        return planted.plant(spec["planted"], inner, kill_at=spec.get("kill_at"), count=spec.get("count", 1))
    return ProbedStore(inner, kill_at=spec.get("kill_at"), count=spec.get("count", 1))


# ---- the worker ------------------------------------------------------------------------------------------------------


def _work(spec: Spec, control: Control) -> int:
    logs = Logs(spec["directory"], kill_in_effect=spec.get("kill_in_effect"))
    host = _host(spec)
    workflows.use(logs, in_asyncio=host.is_asyncio)
    workflows.HOLDS[:] = [spec.get("holds", False)]
    store = _store(spec)
    options = {
        "workflows": workflows.ALL,
        "lease_seconds": spec.get("lease_seconds", 0.9),
        "concurrency": spec.get("concurrency", 256),
        "grace_seconds": spec.get("grace_seconds", 5.0),
    }
    began = time.monotonic()
    if spec.get("bulk"):
        trio.run(_serve_many, Engine(store, **options), spec["bulk"])
    elif spec.get("plain") and not host.is_asyncio:
        trio.run(_serve_plainly, Engine(store, **options), control, began)
    elif spec.get("plain"):
        host.run(_serve_in_block, host.open_engine(store, **options), control, began)
    else:
        host.run(_serve_and_ask, spec, host.open_engine(store, **options), store, logs, control)
    return 0


async def _serve_plainly(engine: Engine, control: Control, began: float) -> None:
    """Serve as a program would, until a signal of the operating system says stop."""

    class Status:
        def started(self, value: Any = None) -> None:
            control.send(ready=time.monotonic() - began)

    control.send(serving=time.time_ns() // 1000)
    await engine.serve(signals=True, task_status=Status())
    control.send(served=True)


async def _serve_in_block(opening: AbstractAsyncContextManager[AnyEngine], control: Control, began: float) -> None:
    """The same where no signal is listened to: until it is killed."""
    control.send(serving=time.time_ns() // 1000)
    async with opening:
        control.send(ready=time.monotonic() - began)
        await anyio.sleep_forever()


async def _serve_many(engine: Engine, bulk: Mapping[str, Any]) -> None:
    """Serve many runs of one workflow, all started at once."""
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.serve)
        for number in range(bulk["count"]):
            run_id = f"bulk-{number}"
            nursery.start_soon(functools.partial(engine.start, bulk["workflow"], *bulk["args"], id=run_id))


async def _serve_and_ask(
    spec: Spec, opening: AbstractAsyncContextManager[AnyEngine], store: Store, logs: Logs, control: Control
) -> None:
    async with opening as engine:
        control.send(ready=True)
        async with anyio.create_task_group() as work:
            work.start_soon(_move_log, store)
            asker = Asker(engine, logs, role="worker", has_client=spec["has_client"])
            async with anyio.create_task_group() as asking:
                asking.start_soon(engine.prune, LONG_AGO)
                for planned in _still_to_do(spec):
                    asking.start_soon(asker.carry_out, planned)
            if not spec.get("settle"):
                await _keep_asking(spec, asker)
            await _wait_all_ended(engine)
            work.cancel_scope.cancel()
        control.send(settled=True)


async def _wait_all_ended(engine: AnyEngine) -> None:
    for record in (await engine.list_runs(status=_UNFINISHED, limit=1000)).runs:
        async with engine.watch(run_id=record.id) as changes:
            async for _ in changes:
                pass


async def _keep_asking(spec: Spec, asker: Asker) -> None:
    """All is done and the kill has not come: ask for more of the same."""
    number = (spec["wave"] + 1) * 1000
    while True:
        number += 1
        _note_wave(spec, number)
        async with anyio.create_task_group() as asking:
            for planned in wave(number, only=tuple(spec.get("only", ()))):
                asking.start_soon(asker.carry_out, _by_worker(planned))


def _note_wave(spec: Spec, number: int) -> None:
    with open(extra_waves_path(spec["directory"]), "a", encoding="ascii") as file:
        file.write(f"{number}\n")


def extra_waves_path(directory: str | Path) -> Path:
    """Return where workers note the waves that they have begun of their own accord."""
    return Path(directory) / "extra-waves.txt"


def _by_worker(planned: Planned) -> Planned:
    return attrs.evolve(planned, sends=tuple((name, payload, "worker") for name, payload, _ in planned.sends))


def _still_to_do(spec: Spec) -> list[Planned]:
    done = set(spec.get("done", ()))
    only = tuple(spec.get("only", ()))
    extra = [_by_worker(item) for number in spec.get("extra_waves", ()) for item in wave(number, only=only)]
    planned = [item for number in range(spec["wave"] + 1) for item in wave(number, only=only)]
    return [item for item in planned + extra if item.id not in done]


async def _move_log(store: Store) -> None:
    while True:
        await anyio.sleep(0.05)
        with suppress(StoreAway):  # as the engine does
            await anyio.to_thread.run_sync(store.tidy)


# ---- the client ------------------------------------------------------------------------------------------------------


def _ask(spec: Spec, control: Control) -> int:
    host = _host(spec)
    opening = host.open_client(_address(spec), workflows=workflows.ALL, durability=spec.get("durability", "full"))
    host.run(_ask_as_told, spec, opening, Logs(spec["directory"]), control)
    return 0


async def _ask_as_told(
    spec: Spec, opening: AbstractAsyncContextManager[AnyEngine], logs: Logs, control: Control
) -> None:
    """Carry out the client's part of each wave that the driver names; the end of the stream is the end."""
    control.socket.setblocking(False)
    only = tuple(spec.get("only", ()))
    async with opening as client:
        asker = Asker(client, logs, role="client", has_client=True)
        control.send(ready=True)
        async with anyio.create_task_group() as nursery:
            while message := await control.receive():
                command = json.loads(message)
                if "wave" in command:
                    for planned in wave(command["wave"], only=only):
                        nursery.start_soon(asker.carry_out, planned)
                elif "start" in command:
                    nursery.start_soon(functools.partial(_start_and_wait, asker, control, **command["start"]))
                elif "send" in command:
                    nursery.start_soon(functools.partial(_send_timed, client, logs, control, **command["send"]))
            nursery.cancel_scope.cancel()


async def _start_and_wait(asker: Asker, control: Control, id: str, workflow: str, args: list[Any]) -> None:
    planned = Planned(id, workflow, tuple(args))
    await asker.start(planned)
    control.send(started=id)
    await asker.result(id)
    control.send(ended=id)


async def _send_timed(
    client: AnyEngine, logs: Logs, control: Control, run: str, name: str, id: str, payload: Any
) -> None:
    await client.send_signal(run, name, payload, id=id)
    logs.ack("send", run, name=name, id=id, payload=payload, sender="client")
    control.send(sent=id, at=time.time_ns() // 1000)


# ---- the checker -----------------------------------------------------------------------------------------------------


def _check(spec: Spec, control: Control) -> int:
    directory = Path(spec["directory"])
    report = check(
        _address(spec),
        acks=read_lines(directory / "acks.jsonl"),
        ledger=read_lines(directory / "ledger.jsonl"),
        reference=spec.get("reference"),
        effects_table="effects",
        all_ended=spec.get("all_ended", False),
        stopped=spec.get("stopped", False),
    )
    found = [[violation.point, violation.text] for violation in report.violations]
    text = json.dumps({"violations": found, "counters": dict(report.counters)})
    (directory / "report.json").write_text(text)
    return 0


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
