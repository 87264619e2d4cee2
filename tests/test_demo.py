"""The demonstration: its services keep what they promise, its checker catches what is planted, and it all ends well."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))

import private_postgres
from demo_parts import checker, orders_check, store_check, trace
from demo_parts.__main__ import missing_for_postgres
from demo_parts.network import open_machines
from demo_parts.object_store import ObjectStore, chunk_file
from demo_parts.plan import Plan, Trouble, make_plan, python_files
from demo_parts.shop import Shop
from demo_parts.timeline import draw
from demo_parts.tiny_http import HttpClient, HttpError, Request, serve_http
from demo_parts.workflows import CHUNK_BYTES

from durable_trio import StepKind, StepRecord, StepStatus, sqlite3

SCRIPTS = Path(__file__).parent.parent / "scripts"
SECONDS_MAX = 60


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with one file of three chunks, an empty one, and what is not to be mirrored."""
    tree = tmp_path / "tree"
    for path, content in {
        "package/long.py": b"#" * (2 * CHUNK_BYTES + 1),
        "package/__init__.py": b"",
        "package/__pycache__/long.py": b"no",
        "site-packages/other.py": b"no",
        "package/data.txt": b"no",
    }.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_bytes(content)
    return tree


def put(path: str, number: int, body: bytes, *, digest: str | None = None) -> Request:
    return Request(
        method="PUT",
        path=f"/objects/{path}",
        query={"chunk": str(number)},
        headers={"x-chunk-sha256": digest or hashlib.sha256(body).hexdigest()},
        body=body,
    )


def kept_in(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder, but for the log."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "log")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


async def mirror_by_hand(tree: Path, plan: Plan, folder: Path) -> list[dict[str, Any]]:
    """Put all chunks of a plan into a store in ``folder / "objects"``; return its log."""
    with closing(ObjectStore(folder / "objects", folder / "store.log")) as store:
        for file in plan.files:
            content = (tree / file.path).read_bytes()
            for number in range(file.chunk_count):
                chunk = content[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]
                assert (await store.handle(put(file.path, number, chunk))).status == 201
    return checker.read_log(folder / "store.log")


# ---- the plan ----------------------------------------------------------------------------------------------------


def test_only_python_files_that_belong_to_the_tree_are_mirrored(tree: Path) -> None:
    assert [(file.path, file.chunk_count) for file in python_files(tree)] == [
        ("package/__init__.py", 1),
        ("package/long.py", 3),
    ]


def test_the_same_seed_makes_the_same_plan(tree: Path) -> None:
    one, again, other = (make_plan(tree, files=9, orders=5, kills=3, seed=seed) for seed in (1, 1, 2))
    assert one == again != other
    assert len(one.orders) == 5
    assert one.kills == tuple(sorted(one.kills))


# ---- the object store --------------------------------------------------------------------------------------------


async def test_a_chunk_is_kept_once_and_may_come_again(tmp_path: Path) -> None:
    with closing(ObjectStore(tmp_path / "objects", tmp_path / "log")) as store:
        assert (await store.handle(put("a/b.py", 0, b"one"))).status == 201
        assert (await store.handle(put("a/b.py", 0, b"one"))).status == 200
    assert chunk_file(tmp_path / "objects", "a/b.py", 0).read_bytes() == b"one"
    assert [entry["again"] for entry in checker.read_log(tmp_path / "log")] == [False, True]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (put("a.py", 0, b"two"), 409),  # another content for a chunk that is there
        (put("a.py", 1, b"two", digest="0" * 64), 400),  # damaged on its way
        (put("../a.py", 1, b"two"), 404),
        (put("/etc/a.py", 1, b"two"), 404),
        (put("", 1, b"two"), 404),
    ],
)
async def test_a_refused_chunk_changes_nothing(tmp_path: Path, request_: Request, status: int) -> None:
    with closing(ObjectStore(tmp_path / "objects", tmp_path / "log")) as store:
        await store.handle(put("a.py", 0, b"one"))
        assert (await store.handle(request_)).status == status
    assert kept_in(tmp_path) == {"objects/a.py/0": b"one"}
    assert len(checker.read_log(tmp_path / "log")) == 1


async def test_of_an_upload_that_breaks_off_nothing_is_kept(tmp_path: Path) -> None:
    with closing(ObjectStore(tmp_path / "objects", tmp_path / "log")) as store:
        async with trio.open_nursery() as nursery:
            port = await nursery.start(serve_http, store.handle)
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                digest = hashlib.sha256(b"one").hexdigest()
                head = f"PUT /objects/a.py?chunk=0 HTTP/1.1\r\ncontent-length: 3\r\nx-chunk-sha256: {digest}\r\n\r\n"
                await stream.send_all(head.encode() + b"on")
                await stream.send_eof()
                assert await stream.receive_some() == b""  # the store has hung up
            client = HttpClient(port)
            response = await client.request(
                "PUT", "/objects/a.py?chunk=0", headers={"x-chunk-sha256": digest}, body=b"one"
            )
            assert response.status == 201  # and goes on to serve
            await client.aclose()
            nursery.cancel_scope.cancel()


# ---- the shop ----------------------------------------------------------------------------------------------------


async def test_an_idempotency_key_has_one_effect_even_if_answers_are_lost(tmp_path: Path) -> None:
    """Each key is asked for until it is answered; the same client is asked until the shop has failed in both ways."""
    with closing(Shop(tmp_path / "log", seed=7)) as shop:
        async with trio.open_nursery() as nursery:
            client = HttpClient(await nursery.start(serve_http, shop.handle))

            async def charge(order: str) -> None:
                ask = partial(client.request, "POST", "/charges", headers={"idempotency-key": order})
                while True:
                    try:
                        response = await ask(body=json.dumps({"order": order, "cents": 5}).encode())
                    except HttpError:
                        continue
                    if response.status != 503:
                        return

            async with trio.open_nursery() as customers:
                for number in range(60):
                    customers.start_soon(charge, f"order {number}")
            await client.aclose()
            nursery.cancel_scope.cancel()
    log = checker.read_log(tmp_path / "log")
    figures = orders_check.shop_figures(log)
    assert figures.unavailable
    assert figures.lost
    assert figures.known == figures.lost  # whoever got no answer has asked again
    assert sum(entry["outcome"] == "done" for entry in log) == 60


# ---- the checker -------------------------------------------------------------------------------------------------


async def test_the_checker_finds_a_wrong_a_missing_and_a_strange_chunk(tree: Path, tmp_path: Path) -> None:
    plan = make_plan(tree, files=9, orders=0, kills=0, seed=1)
    log = await mirror_by_hand(tree, plan, tmp_path)
    objects = tmp_path / "objects"
    victim = chunk_file(objects, "package/long.py", 1)
    right = victim.read_bytes()

    def problems() -> tuple[str, ...]:
        return next(store_check.check_objects(tree, plan, objects)).problems

    assert problems() == ()
    assert all(item.is_good for item in store_check.check_log(plan, log))
    victim.write_bytes(right[:-1] + b"!")
    assert problems() == ("package/long.py has another SHA-256 in the store",)
    victim.unlink()
    assert "is missing" in problems()[0]
    victim.write_bytes(right)
    chunk_file(objects, "package/long.py", 99).write_bytes(b"")
    assert "belong there" in problems()[0]


def test_the_checker_finds_a_refund_that_is_missing_and_a_charge_too_many(tree: Path) -> None:
    plan = make_plan(tree, files=0, orders=40, kills=0, seed=3)
    log = []
    for planned in plan.orders:
        entry = {"outcome": "done", "order": planned.order.id, "cents": planned.order.cents}
        log.append({"path": "/charges", **entry})
        log.append({"path": "/refunds" if planned.is_declined else "/shipments", **entry})
    assert all(item.is_good for item in orders_check.check_shop(plan, log))
    declined = next(entry for entry in log if entry["path"] == "/refunds")
    without = [entry for entry in log if entry is not declined]
    assert [item.is_good for item in orders_check.check_shop(plan, without)] == [True, False, True]
    assert [item.is_good for item in orders_check.check_shop(plan, [*log, log[0]])] == [False, True, True]


def test_a_trace_tells_repeats_after_a_kill_from_attempts_and_replays() -> None:
    lines = [
        "1\tbegun\trun\ta#0\t1",
        "1\tgiven\trun\ta#0\t1",
        "1\tgiven\trun\ta#0\t1",  # the run had left memory
        "1\tbegun\trun\tb#0\t1",  # killed here
        "2\tgiven\trun\ta#0\t1",
        "2\tbegun\trun\tb#0\t1",
        "2\tbegun\trun\tb#0\t2",  # the first attempt had failed
        "2\tgiven\trun\tb#0\t2",
    ]
    counts = trace.count(lines)
    assert (counts.attempts_begun, counts.repeated_by_kill, counts.repeated_within) == (4, 1, 0)
    assert (counts.given_after_kill, counts.given_after_rest) == (1, 1)
    assert trace.count([*lines, lines[-2]]).repeated_within == 1


def test_a_trace_tells_repeats_of_what_was_given_up_from_those_that_must_not_be() -> None:
    lost = ["1\tbegun\trun\ta#0\t1", "1\tlost\trun\ta#0\t1", "1\tbegun\trun\ta#0\t1"]
    counts = trace.count(lost)
    assert (counts.repeated_by_kill, counts.repeated_within) == (1, 0)
    taken = [lost[0], "2\tbegun\trun\ta#0\t1", lost[1], "2\tbegun\trun\ta#0\t1"]  # it was another one's by then
    assert trace.count(taken).repeated_within == 1


# ---- the timeline ------------------------------------------------------------------------------------------------


def test_a_timeline_shows_steps_waits_and_kills_in_80_columns() -> None:
    start = datetime(2030, 1, 1, tzinfo=UTC)

    def at(seconds: float) -> datetime:
        return start + timedelta(seconds=seconds)

    def row(key: str, kind: StepKind, attempt: int, result: object, began: float, ended: float) -> StepRecord:
        return StepRecord(
            key=key,
            kind=kind,
            status=StepStatus.COMPLETED,
            attempt=attempt,
            result=result,
            error=None,
            started_at=at(began),
            finished_at=at(ended),
        )

    steps = [row("pay#0", StepKind.STEP, 3, "ch_1", 0, 2), row("answer#0", StepKind.SIGNAL, 1, "yes", 3.9, 4)]
    lines = draw(steps, [at(1), at(9)], start)
    assert all(len(line) <= 80 for line in lines)
    assert "3 tries" in lines[0]
    assert '"yes"' in lines[1]
    assert (lines[0].count("█"), lines[1].count("░")) == (21, 20)
    assert (lines[2].count("✗"), lines[2].index("✗") - lines[0].index("█")) == (1, 10)


# ---- several machines ---------------------------------------------------------------------------------------------


def test_each_trouble_of_machines_comes_in_the_middle_of_a_portion(tree: Path) -> None:
    plan = make_plan(tree, files=9, orders=5, kills=9, seed=2, has_machines=True)
    assert [int(part * 10) for part in plan.kills] == list(range(9))
    assert set(plan.troubles) == set(Trouble)
    assert len(plan.troubles) == 9


async def test_behind_a_cut_proxy_bytes_wait_and_nothing_is_ended() -> None:
    async def echo(stream: trio.SocketStream) -> None:
        async for data in stream:
            await stream.send_all(data)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, echo, 0, host="127.0.0.1"))
        async with open_machines(1, has_namespaces=False) as (machine,):
            host, port = await machine.reach(listeners[0].socket.getsockname()[1])
            before = await trio.open_tcp_stream(host, port)
            await before.send_all(b"whole")
            assert await before.receive_some() == b"whole"
            await machine.cut()
            during = await trio.open_tcp_stream(host, port)
            for stream in (before, during):
                await stream.send_all(b"cut")
            with trio.move_on_after(0.05) as waited:
                await before.receive_some()
            assert waited.cancelled_caught
            await machine.mend()
            for stream in (before, during):
                assert await stream.receive_some() == b"cut"
            await during.aclose()
            await before.aclose()
        nursery.cancel_scope.cancel()


def test_without_a_server_to_start_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_postgres, "find_binaries", lambda: None)
    missing = missing_for_postgres()
    assert missing is not None
    assert "apt-get install postgresql" in missing
    assert "\n" not in missing


# ---- all of it ---------------------------------------------------------------------------------------------------


def demo(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start the demonstration, with its temporary folder in ``folder``."""
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS), "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "demo_parts", *arguments],
        env=environment,
        cwd=folder.parent,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def processes_in(folder: Path) -> list[str]:
    """Return the command lines of processes that name a folder, there or in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes().decode(errors="replace")
            environment = (path / "environ").read_bytes().decode(errors="replace")
        except OSError:
            continue  # it has just ended, or is somebody else's
        if str(folder) in command or str(folder) in environment:
            found.append(command)
    return found


def test_a_small_demonstration_with_two_kills_is_proved_right_and_a_planted_fault_wrong(tmp_path: Path) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    with demo(folder, "--small", "--keep", "--seed", "5") as process:
        output, _ = process.communicate(timeout=SECONDS_MAX)
    assert process.returncode == 0, output
    assert output.count("SIGKILL no.") == 2
    assert "All of it holds" in output
    assert all(len(line) <= 80 or str(folder) in line for line in output.splitlines()), output
    (kept,) = folder.iterdir()
    planned = (30, 12, 2, 5)
    assert checker.main(kept, *planned)

    victim = next(path for path in (kept / "objects").rglob("*") if path.is_file())
    right = victim.read_bytes()
    victim.write_bytes(right + b"#")
    assert not checker.main(kept, *planned)
    victim.write_bytes(right)
    for statement in (
        "UPDATE history SET result = '\"0\"' WHERE id = (SELECT min(id) FROM history WHERE name = 'chunk')",
        "UPDATE runs SET status = 'failed' WHERE id = (SELECT min(id) FROM runs WHERE status = 'completed')",
        "UPDATE mailbox SET seq = NULL WHERE id = 1",
        "DELETE FROM history WHERE id = (SELECT max(id) FROM history WHERE name = 'pay')",
    ):
        copy = kept / "copy.db"
        with closing(sqlite3.connect(kept / "runs.db")) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
            target.execute(statement)
            target.commit()
        original = (kept / "runs.db").rename(kept / "original.db")
        copy.rename(kept / "runs.db")
        assert not checker.main(kept, *planned), statement
        original.rename(kept / "runs.db")
    assert checker.main(kept, *planned)


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks for processes in /proc")
def test_ctrl_c_ends_all_processes_and_removes_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    with demo(folder, "--kills", "40") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "SIGKILL no. 1" in line:
                break
        assert processes_in(folder)
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(SECONDS_MAX) == 130, rest
    assert "Stopped" in rest
    assert processes_in(folder) == []
    assert list(folder.iterdir()) == []


needs_postgres = pytest.mark.skipif(
    private_postgres.find_binaries() is None and "CI" not in os.environ, reason="no PostgreSQL is installed"
)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that a server can reach which runs as another user."""
    with tempfile.TemporaryDirectory(prefix="durable_trio-test-demo-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@needs_postgres
def test_two_machines_and_a_server_that_crashes_are_proved_right_and_a_planted_fault_wrong(open_folder: Path) -> None:
    arguments = ("--small", "--store", "postgres", "--machines", "2", "--proxies", "--keep", "--seed", "5")
    with demo(open_folder, *arguments) as process:
        output, _ = process.communicate(timeout=2 * SECONDS_MAX)
    assert process.returncode == 0, output
    for trouble in ("SIGQUIT to the server", "kill -9 to machine", "is cut off for 2 s"):
        assert output.count(trouble) == 1, output
    assert "All of it holds" in output
    assert all(len(line) <= 80 or str(open_folder) in line for line in output.splitlines()), output
    (kept,) = open_folder.iterdir()
    server = private_postgres.Server(folder=kept / "postgres")
    try:
        assert checker.main(kept, 30, 12, 3, 5, server.url)
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("UPDATE durable_trio.mailbox SET seq = NULL")
        assert not checker.main(kept, 30, 12, 3, 5, server.url)
    finally:
        server.close()


@needs_postgres
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks for processes in /proc")
def test_ctrl_c_takes_machines_and_their_server_away(open_folder: Path) -> None:
    """Namespaces too, where there are some: each is gone with the process that has it."""
    with demo(open_folder, "--store", "postgres", "--machines", "2") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "2 machines serve" in line:
                break
        assert len(processes_in(open_folder)) > 4
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(SECONDS_MAX) == 130, rest
    assert "Stopped" in rest
    assert processes_in(open_folder) == []
    assert list(open_folder.iterdir()) == []
