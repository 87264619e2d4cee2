"""Types: what mypy --strict says about a user's file, and what the options of a wrong name say at run time."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from durable_trio import Context, Engine, Retry, open_engine, workflow
from tests.engine.harness import serving

pytestmark = pytest.mark.usefixtures("no_leaks")

# What stands behind `# R:` must be the revealed type, what stands behind `# E:` must be in an error of that line.
USERS_FILE = """
from datetime import timedelta
from decimal import Decimal

import attrs
import trio

from durable_trio import Context, Engine, Retry, Run, open_engine, workflow


@attrs.frozen
class Cart:
    owner: str


@attrs.frozen
class Receipt:
    total: Decimal


async def charge(cart: Cart, amount: Decimal) -> Receipt:
    return Receipt(amount)


def price(cart: Cart) -> Decimal:
    return Decimal(1)


def insert(connection: object, cart: Cart) -> int:
    return 1


@workflow
async def order(ctx: Context, cart: Cart) -> Receipt:
    amount = await ctx.step("price", price, cart, timeout=timedelta(seconds=1))
    reveal_type(amount)  # R: decimal.Decimal
    receipt = await ctx.step("charge", charge, cart, amount, retry=Retry.fixed(3, 1), at_most_once=False)
    reveal_type(receipt)  # R: Receipt
    row = await ctx.transaction("row", insert, cart)
    reveal_type(row)  # R: int
    reveal_type(await ctx.wait_signal("paid", Cart))  # R: Cart
    reveal_type(await ctx.wait_signal("any"))  # R: Any
    reveal_type(ctx.random())  # R: float
    await ctx.step("price", price, cart, timout=1)  # E: timout
    await ctx.step("price", price, cart, retry=3)  # E: int
    await ctx.sleep("1")  # E: arg-type
    wrong: str = await ctx.step("price", price, cart)  # E: Decimal
    return receipt


@workflow(name="tidy", ttl=5)
async def tidy(ctx: Context, days: int, deep: bool = False) -> None: ...


@workflow  # E: arg-type
def not_async(ctx: Context) -> None: ...


@workflow(nmae="typo")  # E: nmae
async def typo(ctx: Context) -> None: ...


async def main(cart: Cart) -> None:
    async with open_engine("app.db", workflows=[order, tidy]) as engine:
        reveal_type(engine)  # R: Engine
        reveal_type(await engine.run(order, cart))  # R: Receipt
        run = await engine.start(order, cart, id="r", delay=1.5)
        reveal_type(run)  # R: Run[
        reveal_type(await run.result())  # R: Receipt
        reveal_type(await engine.start("order", cart))  # R: Run[Any]
        reveal_type(await engine.get("r", order).result())  # R: Receipt
        reveal_type(await engine.get("r").result())  # R: Any
        reveal_type((await run.record()).args)  # R: tuple[Any, ...]
        await engine.start(order, "no cart")  # E: start
        await engine.start(order)  # E: start
        await engine.start(order, cart, cart)  # E: start
        await engine.start(order, cart, dely=1)  # E: dely
        await engine.start(order, cart, delay="1")  # E: delay
        await engine.start(print, cart)  # E: start
        await engine.run(order, "no cart")  # E: run
        await engine.run(order, cart, dely=1)  # E: dely
        missing: int = await engine.run(order, cart)  # E: Receipt
        await engine.start(tidy, 3, True)
    async with Engine("app.db", lease_seconds=3) as client:
        reveal_type(client)  # R: Engine


trio.run(Engine("app.db", workflows=[order]).serve)
"""


def _expectations(source: str) -> tuple[dict[int, str], dict[int, str]]:
    revealed: dict[int, str] = {}
    errors: dict[int, str] = {}
    for number, line in enumerate(source.splitlines(), start=1):
        match = re.search(r"# ([RE]): (.+)$", line)
        if match:
            (revealed if match[1] == "R" else errors)[number] = match[2]
    return revealed, errors


def test_mypy_strict_understands_a_users_file(tmp_path: Path) -> None:
    file = tmp_path / "users_file.py"
    file.write_text(USERS_FILE)
    package = Path(sys.modules["durable_trio"].__file__ or "").parent.parent
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={tmp_path / 'cache'}", str(file)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"MYPYPATH": str(package), "PATH": ""},
        check=False,
    )
    found: dict[int, str] = {}
    strangers: list[str] = []
    for line in done.stdout.splitlines():
        match = re.match(r"users_file\.py:(\d+): (.*)", line)
        if match:
            found[int(match[1])] = f"{found.get(int(match[1]), '')}\n{match[2]}"
        elif not line.startswith(("Found ", "Success")):
            strangers.append(line)
    revealed, errors = _expectations(USERS_FILE)
    wrong = [
        f"{number}: {USERS_FILE.splitlines()[number - 1].strip()}\n  mypy: {found.get(number, '(nothing)').strip()}"
        for number in sorted({*revealed, *errors, *found})
        if not _is_expected(found.get(number, ""), revealed.get(number), errors.get(number))
    ]
    assert not wrong, "\n".join(wrong)
    assert not strangers, "\n".join(strangers)
    assert done.stderr == ""


def _is_expected(text: str, revealed: str | None, error: str | None) -> bool:
    if error is not None:
        return "error:" in text and error in text
    return "error:" not in text and (revealed is None or (revealed in text and "Revealed type" in text))


@workflow
async def nothing(ctx: Context) -> None:
    await ctx.step("a", lambda: None)


WRONG_OPTIONS: dict[str, tuple[Callable[[], Any], str]] = {
    "engine": (lambda: Engine(":memory:", lease_second=3), "lease_seconds"),  # type: ignore[call-arg]
    "engine, no hint": (lambda: Engine(":memory:", zzz=3), "no option 'zzz'"),  # type: ignore[call-arg]
    "workflow": (lambda: workflow(nmae="typo"), "nmae"),  # type: ignore[call-overload]
    "retry": (lambda: Retry.fixed(3, 1, give_up=OSError), "give_up"),  # type: ignore[call-arg]
}


@pytest.mark.parametrize(("make", "text"), WRONG_OPTIONS.values(), ids=WRONG_OPTIONS.keys())
def test_an_option_of_another_name_is_refused_at_construction(make: Callable[[], Any], text: str) -> None:
    with pytest.raises(TypeError, match=text):
        make()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"lease_seconds": 0}, "lease_seconds"),
        ({"lease_seconds": True}, "lease_seconds"),
        ({"grace_seconds": -1}, "grace_seconds"),
        ({"payload_bytes_max": 1.5}, "payload_bytes_max"),
        ({"concurrency": 0}, "concurrency"),
        ({"replay_stall_seconds": float("nan")}, "replay_stall_seconds"),
        ({"durability": "off"}, "durability"),
    ],
)
def test_an_option_out_of_range_is_refused_at_construction(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Engine(":memory:", **options)


async def test_a_block_refuses_an_option_of_another_name() -> None:
    with pytest.raises(TypeError, match="did you mean 'workflows'"):
        async with open_engine(":memory:", workflow=[nothing]):  # type: ignore[call-arg]
            pass


async def test_a_start_refuses_an_option_of_another_name_and_writes_nothing() -> None:
    options: Any = {"priorty": 1}
    async with serving(":memory:", nothing) as engine:
        for call in (engine.start, engine.run):
            with pytest.raises(TypeError, match="priorty"):
                await call(nothing, **options)
        assert (await engine.list_runs()).runs == ()


def test_two_workflows_of_one_name_are_refused() -> None:
    @workflow(name="nothing")
    async def other(ctx: Context) -> None: ...

    with pytest.raises(ValueError, match="two workflows are named 'nothing'"):
        Engine(":memory:", workflows=[nothing, other])


def test_what_is_no_workflow_is_refused() -> None:
    with pytest.raises(TypeError, match="@workflow"):
        Engine(":memory:", workflows=[lambda ctx: None])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="async def"):
        workflow(print)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="errors"):
        Engine(":memory:", errors=[KeyboardInterrupt])  # type: ignore[list-item]


async def test_an_int_where_a_float_is_annotated_is_kept_as_what_it_is(store_path: str) -> None:
    """As type checkers allow it; for arguments, results of steps, signals and results of runs."""

    async def measure() -> float:
        return 3

    @workflow
    async def measuring(ctx: Context, first: float, rest: list[float]) -> list[float]:
        return [first, *rest, await ctx.step("measure", measure), await ctx.wait_signal("last", float)]

    async with serving(store_path, measuring) as engine:
        run = await engine.start(measuring, 1, [2, 2.5])
        await run.signal("last", 4)
        assert [repr(number) for number in await run.result()] == ["1", "2", "2.5", "3", "4"]
        assert (await run.record()).args == (1, [2, 2.5])
