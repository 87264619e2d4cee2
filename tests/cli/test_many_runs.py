"""What is asked of many runs: ``list`` by states and in orders, ``stats``, ``errors``, ``watch --since``."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import trio

from durable_trio import Context, Engine, Retry, workflow
from durable_trio.cli.commands.list_runs import ORDERS, OVERDUE_SECONDS
from durable_trio.cli.program import COMMANDS
from durable_trio.limits import OVERDUE_SECONDS as OVERDUE_SECONDS_OF_ENGINE
from durable_trio.stores.questions import Order
from tests.cli.desk import call, command_line, process_of
from tests.cli.test_json import validate
from tests.engine.harness import serving, wait_passivated


async def charge(amount: int) -> int:
    if amount < 0:
        raise ValueError(f"order {1000 - amount} of 3f2504e0-4f89-11d3-9a0c-0305e82c3301: {amount} is below 0\nmore")
    if amount > 100:
        raise OverflowError("too much")
    return amount


async def never() -> None:
    raise ConnectionError("no answer")


@workflow
async def pay(ctx: Context, amount: int) -> int:
    return await ctx.step("charge", charge, amount)


@workflow
async def trip(ctx: Context, *failures: list[str]) -> None:
    async def leg(branch: Context, name: str) -> None:
        raise (ConnectionError if name == "bank" else LookupError)(f"{name} of leg {len(failures)}")

    async def half(branch: Context, names: list[str]) -> None:
        async with branch.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(leg, name)

    async with ctx.open_nursery() as nursery:
        for names in failures:
            nursery.start_soon(half, names)


@workflow
async def poll(ctx: Context) -> None:
    await ctx.step("ask", never, retry=Retry.fixed(9, 3600))


async def _fill(path: str) -> None:
    async with serving(path, pay, poll, durability="normal") as engine:
        for number, amount in enumerate([1, 2, 3, -1, -2, 500, -3]):
            run = await engine.start(pay, amount, id=f"pay-{number}")
            async with run.watch() as changes:
                async for _ in changes:
                    pass
        await engine.start(poll, id="poll-0")
        await wait_passivated(engine)
    async with Engine(path) as client:
        await client.start("nobody", id="unknown-0")
        await client.start("nobody", id="unknown-1")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE runs SET wake_at = wake_at - 40000000 WHERE id = 'unknown-0'")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("many") / "runs.db")
    trio.run(_fill, path)
    return path


def ids(*args: str) -> list[str]:
    document = call(*args, "--json").json
    validate(document, "list")
    return [run["id"] for run in document["runs"]]


def test_what_the_command_says_without_the_engine_is_what_the_engine_does() -> None:
    assert tuple(Order) == ORDERS
    assert OVERDUE_SECONDS == OVERDUE_SECONDS_OF_ENGINE


def test_list_finds_states_that_no_status_tells(shop: str) -> None:
    assert ids("--db", shop, "list", "--retrying") == ["poll-0"]
    assert ids("--db", shop, "list", "--overdue") == ["unknown-0"]
    assert ids("--db", shop, "list", "--parked") == []
    assert ids("--db", shop, "list", "--retrying", "--overdue") == []
    assert ids("--db", shop, "list", "--retrying", "--status", "failed") == []
    nothing = call("--db", shop, "list", "--parked")
    assert (nothing.out, nothing.err) == ("", "no run matches\n")


def test_list_finds_parked_runs_in_both_ways(db: str) -> None:
    for words in (["--parked"], ["--status", "parked"], ["--parked", "--status", "suspended"]):
        assert ids("--db", db, "list", *words) == ["payroll-12"]
    said = call("--db", db, "list", "--status", "parked", "--status", "failed")
    assert said.code == 2


@pytest.mark.parametrize("sort", ORDERS)
def test_list_goes_on_in_each_order(shop: str, sort: str) -> None:
    everything = ids("--db", shop, "list", "--sort", sort)
    assert len(everything) == (7 if sort == "ended" else 10)
    first = call("--db", shop, "list", "--sort", sort, "--limit", "3", "--json").json
    found = [run["id"] for run in first["runs"]]
    rest = ids("--db", shop, "list", "--sort", sort, "--cursor", first["next_cursor"])
    assert found + rest == everything
    if sort != "newest":
        said = call("--db", shop, "list", "--cursor", first["next_cursor"])
        assert said.code == 1
        assert "another order" in said.error
    if sort == "ended":
        assert everything == [f"pay-{number}" for number in reversed(range(7))]
    if sort == "oldest":
        assert everything == list(reversed(ids("--db", shop, "list")))


def test_list_takes_times(shop: str) -> None:
    everything = ids("--db", shop, "list", "--created-after", "1h")
    assert len(everything) == 10
    assert ids("--db", shop, "list", "--created-before", "1h") == []
    created = call("--db", shop, "show", "pay-3", "--json").json["run"]["created_at"]
    assert ids("--db", shop, "list", "--created-before", created) == ["pay-2", "pay-1", "pay-0"]
    assert call("--db", shop, "list", "--created-after", "yesterday").code == 2


def test_stats_count_each_workflow(shop: str) -> None:
    document = call("--db", shop, "stats", "--json").json
    validate(document, "stats")
    nobody, paid, polled = document["workflows"]
    assert (nobody["workflow"], nobody["runs_by_status"]) == ("nobody", {"pending": 2})
    assert (nobody["failure_rate"], nobody["seconds_p50"], nobody["measured_count"]) == (None, None, 0)
    assert nobody["oldest_unfinished"] == "unknown-0"
    assert (paid["runs_by_status"], paid["oldest_unfinished"]) == ({"completed": 3, "failed": 4}, None)
    assert paid["failure_rate"] == pytest.approx(4 / 7)
    assert paid["measured_count"] == 3
    assert 0 < paid["seconds_p50"] <= paid["seconds_p95"] < 60
    assert polled["oldest_unfinished"] == "poll-0"
    one = call("--db", shop, "stats", "--workflow", "pay", "--since", "1h", "--json").json
    assert one["workflows"] == [paid]
    lines = call("--db", shop, "stats").out.splitlines()
    assert lines[0].split()[:4] == ["WORKFLOW", "COMPLETED", "FAILED", "OPEN"]
    assert lines[2].split()[:4] == ["pay", "3", "4", "57.1"]


def test_stats_since_leave_out_what_is_older(shop: str) -> None:
    with closing(sqlite3.connect(shop)) as connection:
        ((created,),) = connection.execute("SELECT created_at FROM runs WHERE id = 'pay-5'").fetchall()
    since = call("--db", shop, "show", "pay-5", "--json").json["run"]["created_at"]
    assert created
    workflows = {
        item["workflow"]: item for item in call("--db", shop, "stats", "--since", since, "--json").json["workflows"]
    }
    assert workflows["pay"]["runs_by_status"] == {"failed": 1}
    assert workflows["pay"]["measured_count"] == 0


def test_errors_are_told_once_with_their_numbers_left_out(shop: str) -> None:
    document = call("--db", shop, "errors", "--json").json
    validate(document, "errors")
    negative, much = document["errors"]
    assert negative["message"] == "order <n> of <id>: -<n> is below <n>"
    assert (negative["type"], negative["count"], negative["workflows"]) == ("builtins.ValueError", 3, ["pay"])
    assert (negative["example"], negative["example_message"].splitlines()[0][:10]) == ("pay-6", "order 1003")
    assert negative["first_at"] < negative["last_at"]
    assert (much["type"], much["message"], much["count"]) == ("builtins.OverflowError", "too much", 1)
    assert (document["runs_read"], document["is_complete"]) == (4, True)
    lines = call("--db", shop, "errors").out.splitlines()
    assert lines[1].split()[0] == "3"
    assert "ValueError: order <n> of <id>" in lines[1]


def test_what_fails_together_in_a_nursery_is_told_by_what_it_is(file_path: str) -> None:
    """How many branches have failed before they were cancelled, and how deep they stood, is chance."""

    async def fail() -> None:
        async with serving(file_path, trip) as engine:
            for number, failures in enumerate([[["bank"]], [["bank", "bank"], ["bank"]], [["bank", "hotel"]]]):
                run = await engine.start(trip, *failures, id=f"trip-{number}")
                async with run.watch() as changes:
                    async for _ in changes:
                        pass

    trio.run(fail)
    document = call("--db", file_path, "errors", "--json").json
    validate(document, "errors")
    assert [(each["type"], each["message"], each["count"], each["example"]) for each in document["errors"]] == [
        ("builtins.ConnectionError", "bank of leg <n>", 3, "trip-2"),
        ("builtins.LookupError", "hotel of leg <n>", 1, "trip-2"),
    ]
    assert document["runs_read"] == 3  # though there are four failures of them
    notes = {line.split()[0]: line for line in call("--db", file_path, "list", env={"COLUMNS": "200"}).out.splitlines()}
    assert notes["trip-0"].endswith("ConnectionError: bank of leg 1 (in an ExceptionGroup)")
    assert notes["trip-1"].endswith("ConnectionError: bank of leg 2 (in an ExceptionGroup)")
    assert "ConnectionError: bank of leg 1 + LookupError: hotel of leg 1 (in an ExceptionGroup)" in notes["trip-2"]
    shown = call("--db", file_path, "show", "trip-2").out
    assert "ConnectionError: bank of leg 1 + LookupError: hotel of leg 1" in shown


def test_errors_are_bounded_and_say_so(shop: str) -> None:
    said = call("--db", shop, "errors", "--runs", "2")
    assert said.error == "these are the last 2 runs that failed; --runs reads more"
    document = call("--db", shop, "errors", "--runs", "2", "--json").json
    assert (document["runs_read"], document["is_complete"]) == (2, False)
    said = call("--db", shop, "errors", "--runs", "4")  # there are no more
    assert (said.code, said.err) == (0, "")
    assert call("--db", shop, "errors", "--workflow", "poll").err == "no failed run matches\n"
    since = call("--db", shop, "show", "pay-5", "--json").json["run"]["finished_at"]
    assert call("--db", shop, "errors", "--since", since, "--json").json["runs_read"] == 1


def test_watch_carries_cursors_and_refuses_what_is_none(db: str) -> None:
    for line in call("--db", db, "watch", "order-8", "--json").out.splitlines():
        assert json.loads(line)["cursor"]
    assert call("--db", db, "watch", "--since", "x").code == 1
    said = call("--db", db, "watch", "--since", "99999999-1")
    assert said.code == 1
    assert "restored from a copy" in said.error
    assert call("--db", db, "watch", "order-8", "--since", "1-1").code == 2


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("nowish", "did you mean 'now'?"),
        ("NOW", "did you mean 'now'?"),
        ("begin", "did you mean 'beginning'?"),
        ("1h", "take one that a watch gave, 'beginning' or 'now'"),
    ],
)
def test_watch_since_what_is_no_cursor_says_what_is_one(text: str, hint: str, db: str) -> None:
    said = call("--db", db, "watch", "--since", text)
    assert said.code == 1
    assert f"{text!r} is no cursor of a watch; {hint}" in said.error


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        (["--retrying"], ["poll-0"]),
        (["--created-after", "1h", "--queue", "slow"], ["slow-0"]),
        (["--created-before", "1h"], ["old-0"]),
    ],
)
def test_watch_chooses_as_list_does(words: list[str], ids: list[str], shop: str, tmp_path: Path) -> None:
    path = str(tmp_path / "copy.db")
    with closing(sqlite3.connect(shop)) as source, closing(sqlite3.connect(path)) as copy:
        source.backup(copy)
    call("--db", path, "start", "nobody", "--id", "slow-0", "--queue", "slow")
    call("--db", path, "start", "nobody", "--id", "old-0", "--queue", "slow")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE runs SET created_at = 0 WHERE id = 'old-0'")
    listed = call("--db", path, "list", "--json", *words).json["runs"]
    assert [run["id"] for run in listed] == ids
    with process_of(*command_line("--db", path, "watch", "--json", *words)) as process:
        assert process.stdout is not None
        assert [json.loads(process.stdout.readline())["id"]] == ids


@pytest.mark.parametrize(
    "command", ["list", "show", "watch", "stats", "errors", "cancel", "resume", "abandon", "delete"]
)
def test_each_command_that_looks_has_examples_that_are_right(command: str) -> None:
    """The words of each example are a command and options that there are."""
    text = call(command, "--help").out
    examples = [line.split("|")[0].split() for line in text.splitlines() if line.strip().startswith("durable-trio ")]
    assert len(examples) >= 2, text
    for _, name, *words in examples:
        assert name in COMMANDS
        options = call(name, "--help").out
        for word in words:
            if word.startswith("--"):
                assert f"{word} " in options or f"{word}\n" in options, word


def test_an_unreadable_error_is_counted_as_that(shop: str, tmp_path: Path) -> None:
    path = tmp_path / "copy.db"
    with closing(sqlite3.connect(shop)) as source, closing(sqlite3.connect(path)) as copy:
        source.backup(copy)
        values = enumerate(["no JSON", "[]", '{"type": 5}', None], start=3)
        copy.executemany("UPDATE runs SET error = ? WHERE id = 'pay-' || ?", [(error, n) for n, error in values])
        copy.commit()
    document = call("--db", str(path), "errors", "--json").json
    validate(document, "errors")
    assert {item["type"] for item in document["errors"]} == {"unreadable"}
    assert document["runs_read"] == 4
