"""Types: what mypy --strict and pyright say of a user's file, and what options of a wrong name say at run time."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from durable_trio import Context, Engine, Retry, open_engine, workflow
from tests.engine.harness import serving

pytestmark = pytest.mark.usefixtures("no_leaks")

# What stands behind `# R:` must be the revealed type, what stands behind `# E:` must be in an error of that line.
USERS_FILE = """
import abc
import json
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from functools import partial
from typing import Any, Protocol, TypedDict

import attrs
import trio

from durable_trio import ChildRun, Context, Engine, Retry, Run, TypeHook, open_engine, workflow


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


async def take_back(receipt: Receipt) -> None: ...


async def refund(order: str) -> None: ...


async def fetch(url: str, tries: int = 1, *, quick: bool = False) -> bytes:
    return b""


async def branch(ctx: Context, number: int) -> None: ...


class Money:
    def __init__(self, text: str) -> None: ...


Engine("app.db", types=[TypeHook(Money, str, Money)])
TypeHook(Money, Money, Money)  # E: TypeHook
TypeHook("Money", str, Money)  # E: TypeHook
Engine("app.db", types=[Money])  # E: TypeHook
workflow(signals=["paid"])  # E: signals
Retry.fixed(3, 1, when=lambda error: isinstance(error, OSError))
Retry.fixed(3, 1, when="OSError")  # E: when


class Base: ...


class Derived(Base): ...


class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self) -> float: ...


class Named(Protocol):
    name: str


class Options(TypedDict):
    gift: bool


class Shop:
    async def sell(self, count: int) -> str:
        return ""


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
    await ctx.step("charge", charge, cart)  # E: Decimal
    await ctx.step("charge", charge, cart, 5)  # E: Decimal
    await ctx.step("charge", charge, cart, amount, amount)  # E: step
    await ctx.step("price", price, "no cart")  # E: Cart
    await ctx.step("price", price(cart))  # E: Decimal
    await ctx.step("price", price, cart=cart)  # E: cart
    await ctx.step("charge", charge, cart, amount, compensate=take_back)
    await ctx.step("charge", charge, cart, amount, compensate=refund)  # E: step
    await ctx.step("charge", charge, cart, amount, compensate=refund("x"))  # E: None
    await ctx.step("price", price, cart, compensate=lambda amount: amount.is_zero())
    await ctx.transaction("row", insert)  # E: Cart
    await ctx.transaction("row", insert, 5)  # E: Cart
    await ctx.transaction("row", insert, cart, at_most_once=True)  # E: at_most_once
    await ctx.transaction("row", insert, cart, compensate=refund)  # E: transaction
    reveal_type(await ctx.map("prices", price, [cart]))  # R: list[decimal.Decimal]
    reveal_type(await ctx.map("prices", price, [cart], return_exceptions=True))  # R: list[Any]
    await ctx.map("prices", price, ["no cart"])  # E: Cart
    await ctx.map("prices", charge, [cart])  # E: Decimal
    await ctx.map("prices", price, [cart], limits=3)  # E: limits
    reveal_type(await ctx.step("fetch", fetch, "url"))  # R: bytes
    reveal_type(await ctx.step("fetch", fetch, "url", 3, timeout=5))  # R: bytes
    await ctx.step("fetch", fetch, "url", "3")  # E: step
    reveal_type(await ctx.step("whole", partial(charge, cart), amount))  # R: Receipt
    reveal_type(await ctx.step("nap", trio.sleep, 0.1))  # R: None
    reveal_type(await ctx.step("made", lambda: 5))  # R: int
    reveal_type(await ctx.step("made", lambda a, b: b, 5, "x"))  # R: str
    reveal_type(await ctx.step("method", Shop().sell, 5))  # R: str
    await ctx.step("method", Shop().sell, "5")  # E: str
    reveal_type(await ctx.step("parsed", json.loads, "[]", returns=list[int]))  # R: Any
    async with ctx.open_nursery() as nursery:
        nursery.start_soon(branch, 5)
        nursery.start_soon(branch, 5, name="five")
        nursery.start_soon(branch, "5")  # E: int
        nursery.start_soon(branch)  # E: start_soon
        nursery.start_soon(branch, 5, 6)  # E: start_soon
        nursery.start_soon(branch, 5, nam="five")  # E: nam
    return receipt


@workflow(name="tidy", ttl=5)
async def tidy(ctx: Context, days: int, deep: bool = False) -> None:
    if days < 3:
        await ctx.continue_as_new(days + 1, workflow=tidy)
    if days < 5:
        await ctx.continue_as_new(days + 1, True, workflow=tidy)
    if days < 7:
        await ctx.continue_as_new(days + 1)
    if days < 9:
        await ctx.continue_as_new("soon", workflow=tidy)  # E: continue_as_new
    if days < 10:
        await ctx.continue_as_new(workflow=tidy)  # E: continue_as_new
    if days < 11:
        await ctx.continue_as_new(days, "deep", workflow=tidy)  # E: continue_as_new
    if days < 12:
        await ctx.continue_as_new(days, True, 5, workflow=tidy)  # E: continue_as_new
    if days < 13:
        await ctx.continue_as_new(days=5)  # E: continue_as_new
    if days < 14:
        await ctx.continue_as_new(days, workflow="tidy")  # E: continue_as_new
    reveal_type(await ctx.wait_signal("paid", Receipt | None))  # R: Any
    reveal_type(await ctx.wait_signal("paid", int, timeout=5))  # R: int
    (await ctx.wait_signal("paid", int)).upper()  # E: upper
    await ctx.wait_signal("paid", int, timeout="5")  # E: wait_signal
    await ctx.wait_signal(5)  # E: wait_signal


@workflow
async def wrongly_annotated(ctx: Context) -> None:
    a: str = await ctx.wait_signal("n", int)  # E: str
    b: list[str] = await ctx.wait_signal("n", list[int])  # E: list[str]
    c: Derived = await ctx.wait_signal("n", Base, timeout=3)  # E: Derived
    d: str = await ctx.wait_signal("n", Options)  # E: str
    e: int = await ctx.wait_signal("n", type=Cart)  # E: int
    f: tuple[str, int] = (await ctx.wait_signal("n", int), 1)  # E: str
    await refund(await ctx.wait_signal("n", int))  # E: refund
    g: str = await ctx.step("price", price, Cart("a"))  # E: Decimal
    h: str = await ctx.transaction("row", insert, Cart("a"))  # E: int
    i: list[str] = await ctx.map("prices", price, [Cart("a")])  # E: Decimal
    j: str = await ctx.run_child(order, Cart("a"))  # E: Receipt
    k: ChildRun[str] = await ctx.start_child(order, Cart("a"))  # E: Receipt
    m: str = await (await ctx.start_child(order, Cart("a"))).result()  # E: Receipt
    n: str = ctx.now()  # E: datetime
    o: str = await ctx.wait_signal("n", Shape)  # E: str


@workflow
async def rightly_annotated(ctx: Context) -> int:
    a: float = await ctx.wait_signal("n", int)
    b: int | None = await ctx.wait_signal("n", int)
    c: object = await ctx.wait_signal("n", int)
    d: Any = await ctx.wait_signal("n", int)
    e: Base = await ctx.wait_signal("n", Derived)
    f: Sequence[int] = await ctx.wait_signal("n", list[int])
    g: int | None = await ctx.wait_signal("n", int | None)
    h: Shape = await ctx.wait_signal("n", Shape)
    i: Named = await ctx.wait_signal("n", Named)
    j: Options = await ctx.wait_signal("n", Options)
    k: str = await ctx.wait_signal("n")
    reveal_type(await ctx.wait_signal("n", Shape))  # R: Shape
    return await ctx.wait_signal("n", int, timeout=3)


@workflow
async def opens(ctx: Context, door: str = "front", *, wide: bool = False) -> bool:
    return wide


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
        reveal_type(await run.value("shown", Receipt))  # R: Receipt | None
        reveal_type(await run.value("shown"))  # R: Any
        reveal_type(await engine.get("r").result())  # R: Any
        a: str | None = await run.value("shown", int)  # E: str
        b: list[str] | None = await run.value("shown", list[int])  # E: list[str]
        c: str = await run.value("shown", str)  # E: None
        d: str = await engine.run(order, cart)  # E: Receipt
        e: Run[str] = await engine.start(order, cart)  # E: Receipt
        f: Run[str] = engine.get("r", order)  # E: Receipt
        g: str = await run.result()  # E: Receipt
        h: int | None = await run.value("shown", int)
        i: str = await run.value("shown")
        j: Shape | None = await run.value("shown", Shape)
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
        await engine.start(tidy, 3)
        await engine.start(tidy)  # E: start
        await engine.start(tidy, "3")  # E: start
        await engine.start(tidy, 3, "deep")  # E: start
        reveal_type(await engine.run(opens))  # R: bool
        reveal_type(await engine.run(opens, "back", id="b"))  # R: bool
        await engine.start(opens, 5)  # E: start
        await engine.start(opens, "back", True)  # E: start
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


_PACKAGE = Path(sys.modules["durable_trio"].__file__ or "").parent.parent

Said = dict[int, str]  # by line of the file


def _mypy(folder: Path) -> Said:
    said: Said = {}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--config-file=",
            f"--cache-dir={folder / 'cache'}",
            "users_file.py",
        ],
        capture_output=True,
        text=True,
        cwd=folder,
        env={"MYPYPATH": str(_PACKAGE), "PATH": ""},
        check=False,
    )
    for line in done.stdout.splitlines():
        match = re.match(r"users_file\.py:(\d+): (.*)", line)
        if match:
            said[int(match[1])] = f"{said.get(int(match[1]), '')}\n{match[2]}"
        else:
            assert line.startswith(("Found ", "Success")), line
    assert done.stderr == ""
    return said


def _pyright(folder: Path) -> Said:
    (folder / "pyrightconfig.json").write_text(
        json.dumps({"typeCheckingMode": "standard", "extraPaths": [str(_PACKAGE)], "pythonVersion": "3.11"})
    )
    said: Said = {}
    done = subprocess.run(
        [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable, "users_file.py"],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
    )
    for found in json.loads(done.stdout)["generalDiagnostics"]:
        number = found["range"]["start"]["line"] + 1
        text = re.sub(r"^Type of .* is ", "Revealed type is ", found["message"])
        severity = "error: " if found["severity"] == "error" else ""
        said[number] = f"{said.get(number, '')}\n{severity}{text}"
    return said


@pytest.mark.parametrize("checker", [_mypy, _pyright])
def test_type_checkers_understand_a_users_file(checker: Callable[[Path], Said], tmp_path: Path) -> None:
    if checker is _pyright and importlib.util.find_spec("basedpyright") is None:
        pytest.skip("basedpyright is not installed (the group pyright)")
    (tmp_path / "users_file.py").write_text(USERS_FILE)
    said = checker(tmp_path)
    revealed, errors = _expectations(USERS_FILE)
    assert len(errors) >= 20
    if checker is _pyright:  # it names no modules, and words errors in its own way
        revealed = {number: text.replace("decimal.", "") for number, text in revealed.items()}
        errors = dict.fromkeys(errors, "")
    wrong = [
        f"{number}: {USERS_FILE.splitlines()[number - 1].strip()}\n  said: {said.get(number, '(nothing)').strip()}"
        for number in sorted({*revealed, *errors, *said})
        if not _is_expected(said.get(number, ""), revealed.get(number), errors.get(number))
    ]
    assert not wrong, "\n".join(wrong)


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
    "retry, when": (lambda: Retry.fixed(3, 1, when="OSError"), "when must be a plain function"),  # type: ignore[arg-type]
    "retry, async when": (lambda: Retry.none(when=trio.sleep), "when must be a plain function"),  # type: ignore[arg-type]
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
        ({"aliases": {"shop:Declined": LookupError}}, "as messages print it"),
        ({"aliases": {"Box[int]": LookupError}}, "as messages print it"),
        ({"aliases": {"shop..Declined": LookupError}}, "as messages print it"),
        ({"aliases": {"shop.Declined()": LookupError}}, "as messages print it"),
        ({"aliases": {"": LookupError}}, "as messages print it"),
    ],
)
def test_an_option_out_of_range_is_refused_at_construction(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Engine(":memory:", **options)


@pytest.mark.parametrize(
    ("aliases", "text"),
    [
        ({"shop.Declined": "LookupError"}, "must stand for a class"),
        ({"shop.Declined": LookupError()}, "must stand for a class"),
        ({"shop.Declined": ...}, "must stand for a class"),
        ({"shop.Cards": list[int]}, "must stand for a class"),
        ({LookupError: LookupError}, 'must be a str, .*; write "builtins.LookupError"'),
        ([("shop.Declined", LookupError)], "must be a dict"),
        (LookupError, "must be a dict"),
    ],
)
def test_an_alias_that_is_none_is_refused_at_construction(aliases: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        Engine(":memory:", aliases=aliases)


def test_each_name_that_a_message_may_print_can_be_an_alias() -> None:
    for name in (
        "Card",
        "shop.Declined",
        "my-app.v2.Declined",
        "my app.make.<locals>.Declined",
        "__main__.Bank.Closed",
    ):
        Engine(":memory:", aliases={name: LookupError})


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
    with pytest.raises(TypeError, match=r"a list, also of one: workflows=\[order\]"):
        Engine(":memory:", workflows=nothing)  # type: ignore[arg-type]
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


async def test_a_step_without_its_name_says_how_it_is_called() -> None:
    async def charge() -> int:
        return 1

    @workflow
    async def forgetful(ctx: Context) -> str:
        step: Any = ctx.step
        try:
            await step(charge)
        except TypeError as error:
            return str(error)
        return ""

    async with serving(":memory:", forgetful) as engine:
        assert "takes a name, a function, then its arguments, as ctx.step('charge'" in await engine.run(forgetful)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda ctx: ctx.transaction(print), "ctx.transaction takes a name, a function, then its arguments, as"),
        (lambda ctx: ctx.transaction(print, 1), "1 is no function"),
        (lambda ctx: ctx.map(print, [1]), "ctx.map takes a name, a function, then the items, as ctx.map('load', load"),
        (lambda ctx: ctx.map("load", [1], print), "[1] is no function"),
        (lambda ctx: ctx.map("load", print), "ctx.map takes a name, a function, then the items"),
    ],
)
async def test_other_calls_without_their_name_say_so_too(call: Any, text: str) -> None:
    @workflow
    async def forgetful(ctx: Context) -> str:
        try:
            await call(ctx)
        except TypeError as error:
            return str(error)
        return ""

    async with serving(":memory:", forgetful) as engine:
        assert text in await engine.run(forgetful)


def test_an_option_of_something_else_says_of_what() -> None:
    options: Any = {"max_recoveries": 0}
    with pytest.raises(TypeError, match="no option 'max_recoveries'; it is one of @workflow"):
        Engine(":memory:", **options)
