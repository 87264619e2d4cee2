"""The agent: it goes on in the middle of its plan, and pays for and with nothing twice, wherever it is killed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.examples.kit import Example

OUTCOMES = (
    "paid: Acme 120.00, paid: Globex 4800.00, paid: Hooli 75.50, paid: Initech 310.00, not allowed: Umbrella 9999.00"
)
RESULT = f"agent: Done. {OUTCOMES}. (107 tokens)"
PAID = ["Acme 120.00", "Globex 4800.00", "Hooli 75.50", "Initech 310.00"]
ANSWERS = [
    "I read Acme, Globex, Hooli.",
    "I read Initech, Umbrella.",
    "I pay what is due.",
    f"Done. {OUTCOMES}.",
]
SPEED = 240


def what_was_paid(example: Example) -> list[str]:
    rows = example.rows("world.db", "SELECT what FROM done WHERE key IS NOT NULL ORDER BY what")
    return [row["what"].removeprefix("bank: ").removesuffix(" is paid") for row in rows]


def what_the_model_billed(example: Example) -> list[str]:
    rows = example.rows("world.db", "SELECT what FROM done WHERE key IS NULL ORDER BY rowid")
    return [row["what"].removeprefix("model: ") for row in rows]


def test_invoices_are_paid_within_the_budget(tmp_path: Path) -> None:
    example = Example("agent", tmp_path, speed=SPEED)
    lines = example.run()
    assert lines[-1] == RESULT
    assert [line.removeprefix("model: ") for line in lines if line.startswith("model: ")] == ANSWERS
    assert sorted(line for line in lines if line.startswith("person: ")) == [
        "person: 50 more tokens? yes",
        "person: pay Globex 4800.00? yes",
        "person: pay Umbrella 9999.00? no",
    ]
    assert lines.index("bank: Globex 4800.00 is paid") > lines.index("person: pay Globex 4800.00? yes")
    assert what_was_paid(example) == PAID
    assert what_the_model_billed(example) == ANSWERS
    assert example.run() == [RESULT]  # run again it has nothing to do
    assert what_the_model_billed(example) == ANSWERS


@pytest.mark.parametrize(
    "places",
    [
        ["model: I read Acme", "model: I pay", "person: pay Globex", "person: 50 more tokens", "model: Done"],
        ["model: I read Initech", "bank: Acme", "bank: Globex", "person: 50 more tokens", "agent: Done"],
    ],
    ids=["first", "second"],
)
def test_killed_at_many_places_it_goes_on_in_the_plan(places: list[str], tmp_path: Path) -> None:
    example = Example("agent", tmp_path, speed=SPEED)
    for place in places:
        example.kill_at(place)
    assert example.run()[-1] == RESULT
    assert what_was_paid(example) == PAID
    billed = Counter(what_the_model_billed(example))
    assert list(billed) == ANSWERS, "it came to other answers than undisturbed"
    # The model knows no keys: an answer that a kill cut off is billed again, others are not.
    assert billed.total() <= len(ANSWERS) + len(places)
    assert example.steps("think") == ["completed"] * len(ANSWERS)


def test_ctrl_c_stops_it_until_it_is_run_again(tmp_path: Path) -> None:
    example = Example("agent", tmp_path, speed=SPEED)
    assert "Stopped. The same command goes on from here." in example.interrupt_at("model: I read Initech")
    assert example.run()[-1] == RESULT
    assert what_was_paid(example) == PAID
