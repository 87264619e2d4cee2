"""Runs outlive the names and types of the code that began them."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio

from durable_trio import Context, Engine, RunFailed, RunStatus, Workflow, workflow
from tests.engine.harness import PATIENCE_SECONDS, serving, wait_parked, wait_passivated, wait_status
from tests.kit import forks

pytestmark = pytest.mark.usefixtures("no_leaks")

APP = """
import sys, trio
from durable_trio import Context, Engine, RunStatus, workflow

class Declined(Exception): pass

async def pay() -> int: raise Declined("no funds")

@workflow
async def order(ctx: Context) -> str:
    try: await ctx.step("pay", pay)
    except Declined as error: caught = type(error).__name__ + ": " + str(error)
    await ctx.wait_signal("go")
    return caught

async def main(path, *ids):
    async with trio.open_nursery() as nursery:
        engine = await nursery.start(Engine(path, workflows=[order]).serve)
        for run_id in ids:
            run = await engine.start(order, id=run_id)
            async with run.watch() as changes:
                async for record in changes:
                    if record.status is RunStatus.SUSPENDED: break
            if run_id == "module":
                await run.signal("go")
                print(await run.result())
        nursery.cancel_scope.cancel()

if __name__ == "__main__": trio.run(main, *sys.argv[1:])
"""


async def run_app(*args: str) -> str:
    run = partial(forks.run, check=True, timeout=PATIENCE_SECONDS, stdout=subprocess.PIPE, text=True)
    return str((await trio.to_thread.run_sync(run, [sys.executable, *args])).stdout)


@contextmanager
def imported(path: Path) -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        yield module
    finally:
        del sys.modules[path.stem]


def rename(engine: Engine, run_id: str, old: str, new: str) -> None:
    """Have what is stored say another name, as an earlier release has written it."""
    connection = engine.connect()
    sql = "UPDATE history SET error = replace(error, ?, ?) WHERE run = (SELECT run FROM runs WHERE id = ?)"
    assert connection.execute(sql, (old, new, run_id)).rowcount
    connection.commit()
    connection.close()


@pytest.mark.on_sqlite("its rows as an earlier version has stored them")
async def test_what_a_script_began_its_module_ends_and_the_other_way_round(tmp_path: Path) -> None:
    path, app = str(tmp_path / "runs.db"), tmp_path / "app.py"
    app.write_text(APP)
    await run_app(str(app), path, "script", "old")

    with imported(app) as module:
        async with Engine(path) as client:
            rename(client, "old", '"app.Declined"', '"__main__.Declined"')
        async with serving(path, module.order) as engine:
            for run_id in ("script", "old"):
                run = engine.get(run_id)
                await run.signal("go")
                with trio.fail_after(PATIENCE_SECONDS):
                    assert await run.result() == "Declined: no funds"
            await wait_status(await engine.start(module.order, id="module"), RunStatus.SUSPENDED)

    assert await run_app(str(app), path, "module") == "Declined: no funds\n"


class DeclinedError(Exception):
    """What a step raises."""


def _fails(error: type[Exception], caught: type[Exception], *, signal: str = "go") -> Workflow[[], str]:
    async def pay() -> None:
        raise error("no funds")

    @workflow(name="pays")
    async def pays(ctx: Context) -> str:
        try:
            await ctx.step("pay", pay)
        except caught as found:
            await ctx.wait_signal(signal)
            return f"{type(found).__name__}: {found}"
        return "paid"

    return pays


@pytest.mark.on_sqlite("its rows as an earlier version has stored them")
@pytest.mark.parametrize("old", ["gone.errors.DeclinedError", "__main__.Declined", f"{__name__}.NoFundsError"])
async def test_following_the_message_of_a_parked_run_literally_lets_it_go_on(tmp_path: Path, old: str) -> None:
    """Moved, of a program that is another one now, renamed."""
    path, flow = str(tmp_path / "runs.db"), _fails(DeclinedError, DeclinedError)
    async with serving(path, flow) as engine:
        await wait_status(await engine.start(flow, id="r"), RunStatus.SUSPENDED)
    async with Engine(path) as client:
        rename(client, "r", f'"{__name__}.DeclinedError"', f'"{old}"')

    async with serving(path, flow) as engine:
        await engine.send_signal("r", "go")
        problem = (await wait_parked(engine.get("r"))).problem
    assert problem is not None
    assert problem.kind == "exception"
    found = re.search(r"Engine\((aliases=\{.*?\})\)", problem.text)
    assert found is not None
    name = old.rpartition(".")[2]
    options = eval(f"dict({found[1]})", {name: DeclinedError})

    async with serving(path, flow, **options) as engine:
        run = await engine.resume("r")
        with trio.fail_after(PATIENCE_SECONDS):
            assert await run.result() == "DeclinedError: no funds"


@pytest.mark.on_sqlite("its rows as an earlier version has stored them")
async def test_a_client_with_the_alias_gets_the_error_of_a_run_as_itself(tmp_path: Path) -> None:
    path = str(tmp_path / "runs.db")

    @workflow
    async def fails(ctx: Context) -> None:
        raise DeclinedError("late")

    async with serving(path, fails) as engine:
        with pytest.raises(RunFailed):
            await engine.run(fails, id="r")
        connection = engine.connect()
        connection.execute("UPDATE runs SET error = replace(error, 'DeclinedError\"', 'GoneError\"')")
        connection.commit()
        connection.close()

    async with Engine(path, aliases={f"{__name__}.GoneError": DeclinedError}) as client:
        error = (await client.get("r", fails).record()).error
        assert type(error) is DeclinedError
        with pytest.raises(RunFailed) as caught:
            await client.get("r", fails).result()
        assert type(caught.value.error) is DeclinedError


@dataclass
class Card:
    number: str


@dataclass
class Cash:
    amount: int


@dataclass
class CreditCard:
    number: str
    limit: int = 5


def _values(kind: Any) -> Workflow[[Any], Any]:
    """Return a workflow whose values are of a type, everywhere where values are stored."""

    async def body(ctx: Context, given: Any) -> Any:
        made = await ctx.step("make", lambda: given, returns=kind)
        mapped = await ctx.map("each", lambda _: given, [1], returns=kind)
        sent = await ctx.wait_signal("sent", kind)
        await ctx.publish("shown", sent)
        await ctx.wait_signal("go")
        assert made == mapped[0] == sent == given
        return sent

    body.__annotations__ |= {"given": kind, "return": kind}
    return workflow(name="values")(body)


@pytest.mark.parametrize(
    ("before", "now", "aliases", "value"),
    [
        (Card, Card | Cash, {}, Card("1")),
        (Card | Cash, Card, {}, Card("1")),
        (Card | Cash | None, Card | None, {}, Card("1")),
        (Card | Cash, CreditCard | Cash, {"Card": CreditCard}, CreditCard("1")),
        (Card | Cash, CreditCard, {"Card": CreditCard}, CreditCard("1")),
        (Card, CreditCard, {}, CreditCard("1")),
    ],
    ids=str,
)
async def test_values_of_a_run_are_read_by_a_wider_or_narrower_type(
    file_path: str, before: Any, now: Any, aliases: dict[str, type], value: Any
) -> None:
    path, old, new = file_path, _values(before), _values(now)
    async with serving(path, old) as engine:
        run = await engine.start(old, Card("1"), id="r")
        await engine.start(old, Card("1"), id="new", delay=3600)
        await run.signal("sent", Card("1") if before is Card else {"$type": "Card", "number": "1"})
        await wait_passivated(engine)

    async with serving(path, new, aliases=aliases) as engine:
        await engine.send_signal("r", "go")
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.get("r", new).result() == value
        assert (await engine.get("r", new).record()).args == (value,)
        assert (await engine.get("new", new).record()).args == (value,)
        # The same start is the same run, whatever it is called now.
        assert (await engine.start(new, value, id="new")).id == "new"


async def test_a_value_of_a_class_that_is_gone_names_the_line_and_following_it_lets_the_run_go_on(
    file_path: str,
) -> None:
    path, old, new = file_path, _values(Card | Cash), _values(CreditCard | Cash)
    async with serving(path, old) as engine:
        run = await engine.start(old, Card("1"), id="r")
        await run.signal("sent", {"$type": "Card", "number": "1"})
        await wait_passivated(engine)

    async with serving(path, new) as engine:
        await engine.send_signal("r", "go")
        problem = (await wait_parked(engine.get("r"))).problem
    assert problem is not None
    found = re.search(r"Engine\((aliases=\{.*?\})\)", problem.text)
    assert found is not None, problem.text
    options = eval(f"dict({found[1]})", {"CreditCard": CreditCard})

    async with serving(path, new, **options) as engine:
        run = await engine.resume("r")
        with trio.fail_after(PATIENCE_SECONDS):
            assert await run.result() == CreditCard("1")
