"""However large an exception is, it is written down within bounds, and what was left out is said.

What it costs is counted in what is asked of it: the event loop stands still meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import trio

from durable_trio import Context, StepFailed, open_engine, workflow
from durable_trio.codec import Codec
from durable_trio.failures import Failures
from durable_trio.limits import PAYLOAD_BYTES_MAX

FAILURES = Failures(Codec(payload_bytes_max=PAYLOAD_BYTES_MAX), modules=[__name__])
LARGE = "x" * (PAYLOAD_BYTES_MAX + 1000)
asked: Counter[str] = Counter()


class Counting(Exception):
    """Counts how often its text is asked for."""

    def __str__(self) -> str:
        asked["text"] += 1
        return str(self.args[0])


@pytest.fixture(autouse=True)
def nothing_asked() -> None:
    asked.clear()


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


def encoded(error: Exception) -> tuple[str, Exception]:
    text, found = FAILURES.encode(error, where="a test")
    assert repr(FAILURES.decode(text)) == repr(found)
    return text, found


@pytest.mark.parametrize("text", [LARGE, "é" * len(LARGE)])
def test_a_text_too_large_for_a_payload_is_asked_for_once_and_cut(text: str) -> None:
    stored, found = encoded(raised(Counting(text)))
    assert asked["text"] == 1
    assert type(found) is StepFailed
    assert found.type.endswith("Counting")
    assert str(found).startswith(text[:1000])
    assert str(found).endswith("... (cut)")
    assert "in raised" in found.traceback  # the frames are not lost for it
    assert len(stored) < PAYLOAD_BYTES_MAX // 10


@pytest.mark.parametrize("arg", [LARGE.encode(), [LARGE], {"body": LARGE}, [["x"] * 1000] * 2000])
def test_so_are_arguments_and_attributes(arg: Any) -> None:
    error = raised(Counting("short"))
    error.body = arg  # type: ignore[attr-defined]
    stored, found = encoded(error)
    assert asked["text"] <= 3
    assert (type(found), str(found)) == (StepFailed, "short")
    assert len(stored) < 2000
    assert len(encoded(raised(ValueError(arg)))[0]) < PAYLOAD_BYTES_MAX // 10


def test_of_a_group_a_thousand_are_kept_and_the_others_are_counted() -> None:
    error = raised(ExceptionGroup("many", [Counting(f"{number}") for number in range(20_000)]))
    stored, found = encoded(error)
    assert asked["text"] < 5000
    assert isinstance(found, ExceptionGroup)
    assert found.message == "many"
    assert [str(each) for each in found.exceptions[:-1]] == [f"{number}" for number in range(999)]
    assert all(type(each) is Counting for each in found.exceptions[:-1])
    assert str(found.exceptions[-1]) == "19001 more exceptions of this group are left out"
    assert len(stored) < 500_000


def test_so_it_is_of_groups_in_groups() -> None:
    error = raised(
        ExceptionGroup("all", [ExceptionGroup(f"{n}", [Counting(f"{n}") for _ in range(300)]) for n in range(60)])
    )
    _, found = encoded(error)
    assert asked["text"] < 10_000
    assert isinstance(found, ExceptionGroup)
    assert "more exceptions of this group are left out" in repr(found)
    assert [each.message for each in found.exceptions[:3] if isinstance(each, ExceptionGroup)] == ["0", "1", "2"]


def test_a_group_whose_texts_are_too_large_together_names_its_first_failures() -> None:
    error = raised(ExceptionGroup("large", [Counting(f"{number}" * 100_000) for number in range(100)]))
    _, found = encoded(error)
    assert asked["text"] < 300
    assert type(found) is StepFailed
    assert str(found).startswith("large (100 sub-exceptions): ")


@pytest.mark.parametrize(
    ("notes", "kept", "last"),
    [
        (["n"] * 100_000, 1001, "... (of 100000 notes the others are left out)"),
        ([LARGE] * 3, 2, "... (of 3 notes the others are left out)"),
        ([LARGE], 1, None),
        (["first", "second"], 2, "second"),
    ],
)
def test_notes_are_cut(notes: list[str], kept: int, last: str | None) -> None:
    error = raised(Counting("noted"))
    for note in notes:
        error.add_note(note)
    stored, found = encoded(error)
    assert type(found) is Counting
    assert len(found.__notes__) == kept
    assert last is None or found.__notes__[-1] == last
    assert found.__notes__[0] == notes[0] or found.__notes__[0].endswith("... (cut)")
    assert len(stored) < 300_000


def chained(count: int, make: Callable[[], Exception]) -> Exception:
    error = make()
    for _ in range(count):
        following = make()
        following.__cause__ = error
        error = following
    return error


def deep(frames: int) -> Exception:
    def fall(left: int) -> None:
        rise(left - 1) if left else raised_here()

    def rise(left: int) -> None:
        fall(left - 1) if left else raised_here()

    def raised_here() -> None:
        raise Counting("deep")

    try:
        fall(frames)
    except Counting as error:
        return error
    raise AssertionError


CHAINS: dict[str, Callable[[], Exception]] = {
    "long": lambda: chained(100_000, lambda: Counting("c")),
    "large": lambda: chained(30, lambda: Counting(LARGE[:100_000])),
    "deep": lambda: chained(30, lambda: deep(300)),
}


@pytest.mark.parametrize("kind", CHAINS)
def test_a_chain_of_causes_is_left_out_where_it_is_too_large(kind: str) -> None:
    stored, _ = encoded(CHAINS[kind]())
    assert asked["text"] < 2000
    assert "the exceptions in it and before it are left out" in stored


def test_of_one_traceback_the_last_frames_are_kept() -> None:
    stored, found = encoded(deep(900))
    assert type(found) is Counting
    assert "raise Counting" in stored
    assert len(stored) < 20_000


def test_what_is_of_an_ordinary_size_loses_nothing() -> None:
    error = raised(Counting("y" * 100_000))
    error.__cause__ = ValueError("why")
    error.body = b"z" * 100_000  # type: ignore[attr-defined]
    for number in range(100):
        error.add_note(f"{number}")
    stored, found = encoded(error)
    assert type(found) is Counting
    assert (str(found), vars(found)["body"]) == (str(error), b"z" * 100_000)
    assert found.__notes__ == error.__notes__
    assert "left out" not in stored.replace("earlier frames are left out", "")


async def test_a_step_that_fails_in_thousands_of_tasks_fails_as_a_group() -> None:
    async def crowd() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(2000):
                nursery.start_soon(fail, number)

    async def fail(number: int) -> None:
        raise Counting(number)

    @workflow
    async def crowded(ctx: Context) -> int:
        try:
            await ctx.step("crowd", crowd)
        except ExceptionGroup as group:
            return len(group.exceptions)
        return 0

    async with open_engine(":memory:", workflows=[crowded]) as engine:
        with trio.fail_after(60):
            assert await engine.run(crowded) == 1000
