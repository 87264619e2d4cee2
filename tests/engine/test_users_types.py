"""Users' own types come back as they were wherever values go, also in the next process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, Literal, NotRequired, TypedDict, TypeVar

import attrs
import pytest

from durable_trio import CodecError, Context, RunFailed, RunStatus, TypeHook, Workflow, workflow
from tests.codec.foreign_models import Cat, Circle, Disc, Dog, Item, Message, Page
from tests.engine.harness import serving, wait_status

pytestmark = pytest.mark.usefixtures("no_leaks")

T = TypeVar("T")


class Found(TypedDict, Generic[T]):
    items: list[T]
    next: NotRequired[str]


@attrs.frozen
class Envelope(Generic[T]):
    content: T
    copies: tuple[T, ...] = ()


@dataclass
class Pair(Generic[T]):
    first: T
    second: T | None = None


@attrs.frozen
class Paid:
    kind: Literal["paid"]
    amount: int


@attrs.frozen
class Refused:
    kind: Literal["refused"]
    amount: int


class Money:
    def __init__(self, text: str) -> None:
        self.text = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)


MONEY = TypeHook(Money, lambda money: money.text, Money)
MESSAGE = Message(role="tool", text="x", size=5)

VALUES: list[tuple[Any, Any]] = [
    (MESSAGE, Message),
    (Page[Message](items=[MESSAGE]), Page[Message]),
    (Dog(name="x"), Cat | Dog),
    (Item(unit_price=2.5), Item[float]),
    (Disc(1.0), Circle | Disc),
    ({"items": [MESSAGE]}, Found[Message]),
    (Envelope(Circle(1.0), (Circle(2.0),)), Envelope[Circle]),
    (Pair(MESSAGE), Pair[Message]),
    (Refused("refused", 3), Paid | Refused),
    (Money("3"), Money),
    (Envelope(Money("3")), Envelope[Money]),
]


def passing_on(annotation: Any) -> list[Workflow[..., Any]]:
    """Return a workflow that hands a value of that type on in all ways there are, and its child."""

    async def same(value: Any) -> Any:
        return value

    async def child(ctx: Context, value: Any) -> Any:
        return await ctx.step("same", same, value)

    async def parent(ctx: Context, value: Any) -> Any:
        found = [value, await ctx.step("same", same, value), *await ctx.map("items", same, [value])]
        found.append(await ctx.run_child(child_workflow, value))
        found.append(await ctx.wait_signal("sent"))
        return found

    same.__annotations__.update({"value": annotation, "return": annotation})
    child.__annotations__.update({"value": annotation, "return": annotation})
    parent.__annotations__.update({"value": annotation, "return": list[annotation]})
    child_workflow = workflow(child)
    return [workflow(signals={"sent": annotation})(parent), child_workflow]


@pytest.mark.parametrize(("value", "annotation"), VALUES, ids=[str(annotation) for _, annotation in VALUES])
async def test_a_value_comes_back_wherever_it_goes(value: Any, annotation: Any, store_path: str) -> None:
    workflows = passing_on(annotation)
    async with serving(store_path, *workflows, types=[MONEY]) as engine:
        await engine.start(workflows[0], value, id="r")
        await wait_status(engine.get("r"), RunStatus.SUSPENDED)
    async with serving(store_path, *workflows, types=[MONEY]) as engine:
        run = engine.get("r", workflows[0])
        await engine.start(workflows[0], value, id="r")  # the same arguments, for their digest is
        await run.signal("sent", value)
        found = await run.result()
        assert found == [value] * 5
        assert {type(each) for each in found} == {type(value)}
        assert (await run.record()).args == (value,)


@workflow
async def publishes(ctx: Context, which: str) -> None:
    await ctx.publish("shown", MESSAGE if which == "model" else Money("3") if which == "hook" else object())


async def test_what_is_published_is_read_as_json_or_as_its_type() -> None:
    async with serving(":memory:", publishes, types=[MONEY]) as engine:
        model = await engine.start(publishes, "model")
        await model.result()
        assert (await model.value("shown"))["text"] == "x"
        assert await model.value("shown", Message) == MESSAGE
        assert await model.value("missing", Message) is None
        with pytest.raises(CodecError, match="the published value 'shown' of run"):
            await model.value("shown", Cat)
        hooked = await engine.start(publishes, "hook")
        await hooked.result()
        assert await hooked.value("shown", Money) == Money("3")
        with pytest.raises(RunFailed, match="CodecError: published value 'shown'"):
            await engine.run(publishes, "object")


async def test_a_type_without_a_hook_is_refused_before_anything_is_stored() -> None:
    workflows = passing_on(Money)
    async with serving(":memory:", *workflows) as engine:
        with pytest.raises(CodecError, match=r"name it in Engine\(types=\[TypeHook\(Money, encode, decode\)\]\)"):
            await engine.start(workflows[0], Money("3"))
        assert (await engine.list_runs()).runs == ()
