"""A workflow that says which signals it takes has them checked when they are sent; what is refused is not stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest

from durable_trio import CodecError, Context, Engine, Run, RunNotFound, RunStatus, workflow
from tests.engine.harness import serving, wait_status

pytestmark = pytest.mark.usefixtures("no_leaks")


@attrs.frozen
class Payment:
    amount: int
    note: str = ""


@attrs.frozen
class Refund:
    amount: int
    note: str = ""


@workflow(signals={"paid": Payment | Refund, "count": int, "stop": None})
async def takes(ctx: Context) -> tuple[Payment | Refund, int, None]:
    return (await ctx.wait_signal("paid"), await ctx.wait_signal("count", int), await ctx.wait_signal("stop"))


@workflow
async def takes_anything(ctx: Context) -> Any:
    return await ctx.wait_signal("any")


WRONG: list[tuple[str, Any, type[Exception], str]] = [
    ("paid", "junk", CodecError, "payload of signal 'paid' of workflow 'takes': str is no Payment | Refund"),
    ("paid", None, CodecError, "NoneType is no Payment"),
    ("paid", {"amount": "3"}, CodecError, "amount: an integer was expected"),
    ("count", 1.5, CodecError, "float is no int"),
    ("count", True, CodecError, "bool is no int"),
    ("stop", 1, CodecError, "int is no None"),
    ("piad", Payment(1), ValueError, "workflow 'takes' takes no signal 'piad', .*did you mean 'paid'"),
]


async def by_handle(engine: Engine, run: Run[Any], name: str, payload: Any) -> None:
    await run.signal(name, payload)


async def by_id(engine: Engine, run: Run[Any], name: str, payload: Any) -> None:
    await engine.send_signal(run.id, name, payload)


async def by_a_handle_of_an_id(engine: Engine, run: Run[Any], name: str, payload: Any) -> None:
    await engine.get(run.id).signal(name, payload)


async def with_a_start(engine: Engine, run: Run[Any], name: str, payload: Any) -> None:
    await engine.signal_with_start(takes, signal=name, payload=payload, id=run.id)


WAYS: list[Callable[[Engine, Run[Any], str, Any], Any]] = [by_handle, by_id, by_a_handle_of_an_id, with_a_start]


@pytest.mark.parametrize("send", WAYS)
async def test_a_signal_of_another_type_or_name_is_refused_and_not_stored(send: Any, store_path: str) -> None:
    async with serving(store_path, takes, takes_anything) as engine:
        run = await engine.start(takes)
        await wait_status(run, RunStatus.SUSPENDED)
        for name, payload, error, text in WRONG:
            with pytest.raises(error, match=text):
                await send(engine, run, name, payload)
        assert await run.unread() == ()
        assert await run.steps() == ()


@pytest.mark.parametrize("send", WAYS)
async def test_what_fits_is_taken_as_its_type(send: Any) -> None:
    """A member of a union as well, which without the declaration nobody could tell from the other."""
    async with serving(":memory:", takes) as engine:
        run = await engine.start(takes)
        await send(engine, run, "paid", Refund(3))
        await send(engine, run, "count", 4)
        await send(engine, run, "stop", None)
        assert await run.result() == (Refund(3), 4, None)


async def test_the_json_of_a_value_fits_too() -> None:
    @workflow(signals={"paid": Payment})
    async def pays(ctx: Context) -> Payment:
        payment: Payment = await ctx.wait_signal("paid")
        return payment

    async with serving(":memory:", pays) as engine:
        run = await engine.start(pays)
        with pytest.raises(CodecError, match=r"\.amount: an int|amount"):
            await run.signal("paid", {"amount": "3"})
        await run.signal("paid", {"amount": 3})
        assert await run.result() == Payment(3)


async def test_a_client_that_knows_the_workflow_checks_as_who_executes_it(file_path: str) -> None:
    async with serving(file_path, takes) as engine:
        run = await engine.start(takes)
        async with Engine(file_path, workflows=[takes]) as client:
            with pytest.raises(CodecError, match="str is no Payment"):
                await client.send_signal(run.id, "paid", "junk")
            with pytest.raises(RunNotFound):
                await client.send_signal("nobody", "paid", "junk")
        async with Engine(file_path) as stranger:
            await stranger.send_signal(run.id, "count", 7)
        assert [entry.payload for entry in await run.unread()] == [7]


async def test_signals_of_a_workflow_that_does_not_say_are_checked_when_they_are_taken() -> None:
    async with serving(":memory:", takes, takes_anything) as engine:
        run = await engine.start(takes_anything)
        await engine.send_signal(run.id, "any", "thing")
        assert await run.result() == "thing"


@pytest.mark.parametrize(
    ("signals", "error", "text"),
    [
        (["paid"], TypeError, "a dict of names to types"),
        ({"paid": "Payment"}, TypeError, "must be a type, not the text"),
        ({" paid": Payment}, ValueError, "signal name"),
    ],
)
def test_the_declaration_is_checked_when_it_is_made(signals: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        workflow(signals=signals)(takes_anything.fn)
