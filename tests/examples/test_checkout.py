"""The checkout: each order ends as it should, and no partner does anything twice, wherever the process is killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.examples.kit import Example

RESULTS = [
    "order-1: a chair sent as order-1/ship, 149.00 EUR settled",
    "order-2: the card is stolen; all is undone",
    "order-3: no courier goes to Atlantis; all is undone",
]
# All that warehouse, bank and courier do, each once.
DONE = [
    ("charge", "order-1"),
    ("charge", "order-3"),
    ("refund", "order-3/charge"),
    ("release", "order-2/reserve"),
    ("release", "order-3/reserve"),
    ("reserve", "order-1"),
    ("reserve", "order-2"),
    ("reserve", "order-3"),
    ("settle", "order-1/charge"),
    ("ship", "order-1"),
]
SPEED = 200_000


def what_partners_did(example: Example) -> list[tuple[str, str]]:
    rows = example.rows("partners.db", "SELECT action, subject FROM done ORDER BY action, subject")
    return [(row["action"], row["subject"]) for row in rows]


def test_orders_are_settled_or_undone(tmp_path: Path) -> None:
    example = Example("checkout", tmp_path, speed=SPEED)
    lines = example.run()
    assert lines[-3:] == RESULTS
    assert what_partners_did(example) == DONE
    assert sorted(lines[:-3]) == sorted(
        [f"{subject}/{action} is done" for action, subject in DONE]
        + [f"order-{number}: the bank has charged, and its answer is lost" for number in (1, 3)]
    )
    assert lines.index("order-3/charge/refund is done") < lines.index("order-3/reserve/release is done")
    assert example.run()[-3:] == RESULTS  # run again it has nothing to do
    assert what_partners_did(example) == DONE


@pytest.mark.parametrize(
    "line",
    [
        "order-1/reserve is done",
        "order-1: the bank has charged, and its answer is lost",  # charged, and nobody here knows
        "order-1/ship is done",
        "order-3/charge/refund is done",  # in the middle of undoing
        "order-1/charge/settle is done",
    ],
)
def test_a_kill_repeats_no_effect(line: str, tmp_path: Path) -> None:
    example = Example("checkout", tmp_path, speed=SPEED)
    example.kill_at(line)
    assert example.run()[-3:] == RESULTS
    assert what_partners_did(example) == DONE


def test_two_kills_and_ctrl_c_repeat_no_effect(tmp_path: Path) -> None:
    example = Example("checkout", tmp_path, speed=SPEED)
    example.kill_at("order-2/reserve is done")
    example.kill_at("is known from before")
    assert example.interrupt_at("is known from before")[-1] == "Stopped. The same command goes on from here."
    assert example.run()[-3:] == RESULTS
    assert what_partners_did(example) == DONE
