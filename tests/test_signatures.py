"""Annotations are seen through whatever is wrapped around a function; a method without its object is no workflow."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, NewType, Optional, TypeVar

import pytest
import trio

from durable_trio import Context, Workflow, open_engine, workflow
from durable_trio.codec import UNANNOTATED
from durable_trio.signatures import return_annotation

T = TypeVar("T")


def early(value: int = 3) -> list["Rate"]:  # noqa: UP037  # a name within a name
    return [Rate(value)]


def early_and_quoted(value: int = 3) -> "list[Rate]":  # noqa: UP037
    return [Rate(value)]


def early_optional(value: int = 3) -> Optional["Rate"]:  # noqa: UP037, UP045
    return Rate(value)


def early_with_another(value: "NowhereToBeFound" = 3) -> list["Rate"]:  # type: ignore[name-defined]  # noqa: F821, UP037
    return [Rate(value)]


@dataclass(frozen=True)
class Rate:
    value: int


RateId = NewType("RateId", int)


@dataclass
class Box(Generic[T]):
    inside: T


def plain(value: int = 3) -> Rate:
    return Rate(value)


@functools.wraps(plain)
def wrapped(*args: Any, **kwargs: Any) -> Any:
    return plain(*args, **kwargs)


def bare_wrapper(*args, **kwargs):  # type: ignore[no-untyped-def]
    return plain(*args, **kwargs)


bare_wrapper.__wrapped__ = plain  # type: ignore[attr-defined]


async def asynchronous(value: int = 3) -> Rate:
    return Rate(value)


def awaitable(value: int = 3) -> Awaitable[Rate]:
    return asynchronous(value)


def coroutine(value: int = 3) -> Coroutine[Any, Any, Rate]:
    return asynchronous(value)


class Rates:
    def get(self, value: int = 3) -> Rate:
        return Rate(value)

    @functools.lru_cache  # noqa: B019
    def cached(self, value: int = 3) -> Rate:
        return Rate(value)

    three = functools.partialmethod(get, 3)

    @classmethod
    def of_class(cls, value: int = 3) -> Rate:
        return Rate(value)

    @staticmethod
    def of_nobody(value: int = 3) -> Rate:
        return Rate(value)


class Called:
    def __call__(self, value: int = 3) -> Rate:
        return Rate(value)


class CalledByCache:
    @functools.lru_cache  # noqa: B019
    def __call__(self, value: int = 3) -> Rate:
        return Rate(value)


class CalledByPartial:
    def _get(self, value: int) -> Rate:
        return Rate(value)

    __call__ = functools.partialmethod(_get, 3)


class Proxy:
    """As wrapt makes them."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.__wrapped__ = fn

    def __call__(self, *args: Any) -> Any:
        return self.__wrapped__(*args)


CALLABLES: dict[str, Callable[..., Any]] = {
    "function": plain,
    "cache": functools.cache(plain),
    "lru_cache": functools.lru_cache(maxsize=3)(plain),
    "wraps": wrapped,
    "a wrapper that copies nothing": bare_wrapper,
    "partial": functools.partial(plain, 3),
    "partial of a cache of a partial": functools.partial(functools.cache(functools.partial(plain, 3))),
    "cache of wraps": functools.cache(wrapped),
    "method": Rates().get,
    "cached method": Rates().cached,
    "partialmethod": Rates().three,
    "classmethod": Rates.of_class,
    "staticmethod": Rates.of_nobody,
    "staticmethod as it stands in the class": Rates.__dict__["of_nobody"],
    "object": Called(),
    "object with a cache": CalledByCache(),
    "object with a partialmethod": CalledByPartial(),
    "singledispatch": functools.singledispatch(plain),
    "proxy": Proxy(plain),
    "async function": asynchronous,
    "awaitable": awaitable,
    "coroutine": coroutine,
    "partial of a coroutine": functools.partial(coroutine, 3),
}


@pytest.mark.parametrize("kind", CALLABLES)
async def test_a_result_has_the_annotated_type_whatever_is_around_the_function(kind: str) -> None:
    fn = CALLABLES[kind]

    given = () if "partial" in kind else (3,)

    @workflow
    async def stepping(ctx: Context) -> list[str]:
        one = await ctx.step("rate", fn, *given)
        return [repr(rate) for rate in (one, *await ctx.map("rates", functools.partial(fn), given))]

    assert return_annotation(fn) in (Rate, "Rate")
    async with open_engine(":memory:", workflows=[stepping]) as engine:
        assert await engine.run(stepping) == ["Rate(value=3)"] * (1 + len(given))


def test_a_class_gives_its_instances() -> None:
    assert return_annotation(Rate) is Rate
    assert return_annotation(functools.partial(Rate, 3)) is Rate
    assert return_annotation(Box[int]) == Box[int]
    assert return_annotation(RateId) is RateId
    assert return_annotation(list[Rate]) == list[Rate]


@pytest.mark.parametrize("fn", [int, str, dict, object, len, "x".upper, lambda: 1, functools.partial(len, ""), print])
def test_what_says_nothing_is_not_annotated(fn: Callable[..., Any]) -> None:
    assert return_annotation(fn) is UNANNOTATED


def test_a_wrapper_that_wraps_itself_is_not_looked_through_for_ever() -> None:
    def around() -> None: ...

    del around.__annotations__["return"]
    around.__wrapped__ = around  # type: ignore[attr-defined]
    assert return_annotation(around) is UNANNOTATED


# ---- workflows -------------------------------------------------------------------------------------------------------


class Unfit(Exception):
    """Of this module, so it comes as itself."""


async def pack(ctx: Context, item: Rate, size: int = 1) -> Rate:
    if size < 0:
        raise Unfit(size)
    return Rate(item.value * size)


async def pack_for(who: str, ctx: Context, item: Rate) -> Rate:
    return item


class Packer:
    async def pack(self, ctx: Context, item: Rate) -> Rate:
        return item

    async def of_another_name(this, ctx: Context, item: Rate) -> Rate:  # noqa: N805
        return item

    @staticmethod
    async def of_nobody(ctx: Context, item: Rate) -> Rate:
        return item

    @staticmethod
    @workflow
    async def inside(ctx: Context, item: Rate) -> Rate:
        return item

    @workflow
    @staticmethod
    async def outside(ctx: Context, item: Rate) -> Rate:
        return item

    @workflow(name="without staticmethod")  # it is never bound
    async def bare(context, item: Rate) -> Rate:  # noqa: N805
        return item


WORKFLOWS: dict[str, Workflow[..., Any]] = {
    "function": workflow(pack),
    "partial": workflow(functools.partial(pack, size=1)),
    "partial by place": workflow(functools.partial(pack_for, "me")),
    "bound method": workflow(Packer().pack),
    "staticmethod": workflow(Packer.of_nobody),
    "staticmethod inside": Packer.inside,
    "staticmethod outside": Packer.outside,
    "in a class": Packer.bare,
}


@pytest.mark.parametrize("kind", WORKFLOWS)
async def test_arguments_and_result_of_a_workflow_have_the_annotated_types(kind: str) -> None:
    flow = WORKFLOWS[kind]
    async with open_engine(":memory:", workflows=[flow]) as engine:
        assert await engine.run(flow, Rate(2)) == Rate(2)


async def test_an_error_of_a_partial_comes_from_the_module_of_its_function() -> None:
    @workflow
    async def parent(ctx: Context) -> str:
        try:
            await ctx.step("unfit", fail)
        except Unfit:
            return "as itself"
        return ""

    def fail() -> None:
        raise Unfit(1)

    flow = workflow(name="partial parent")(functools.partial(parent.fn))
    async with open_engine(":memory:", workflows=[flow]) as engine:
        assert await engine.run(flow) == "as itself"


def test_a_method_without_its_object_is_refused_where_it_is_decorated() -> None:
    for method in (Packer.pack, Packer.of_another_name, functools.partial(Packer.pack)):
        with pytest.raises(TypeError, match="is a method"):
            workflow(method)
    with pytest.raises(TypeError, match="is a method"):

        class Mistaken:
            @workflow
            async def order(self, ctx: Context) -> None: ...

    with pytest.raises(TypeError, match="is a method"):

        class MistakenToo:
            @classmethod
            @workflow
            async def order(cls, ctx: Context) -> None: ...

    with pytest.raises(TypeError, match="async def"):

        class MistakenThrice:
            @workflow
            @classmethod
            async def order(cls, ctx: Context) -> None: ...


async def test_a_function_inside_a_method_is_no_method() -> None:
    class Service:
        def make(self) -> Workflow[[], int]:
            @workflow
            async def order(ctx: Context) -> int:
                await trio.lowlevel.checkpoint()
                return 1

            return order

    flow = Service().make()
    async with open_engine(":memory:", workflows=[flow]) as engine:
        assert await engine.run(flow) == 1


@pytest.mark.parametrize("fn", [early, early_and_quoted, early_with_another])
def test_names_within_annotations_are_resolved(fn: Callable[..., Any]) -> None:
    assert return_annotation(fn) == list[Rate]
    assert return_annotation(early_optional) == (Rate | None)


async def test_arguments_may_be_annotated_with_names_of_later() -> None:
    @workflow
    async def early_arguments(ctx: Context, rates: list["Rate"], one: "Rate | None" = None) -> dict[str, "Rate"]:  # noqa: UP037
        return {"first": rates[0]}

    async with open_engine(":memory:", workflows=[early_arguments]) as engine:
        assert await engine.run(early_arguments, [Rate(1)], Rate(2)) == {"first": Rate(1)}
