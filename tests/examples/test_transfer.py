"""The transfers: every cent is posted once, and what is refused is given back, through any kill."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.examples.kit import Example

RESULTS = [
    "transfer-1: done",
    "transfer-2: Ada does not have 10000.00",
    "transfer-3: it looks like fraud",
    "Ada has 379.95",
    "Grace has 620.05",
    "on hold has 0.00",
    "the bank has -1000.00",
]
POSTINGS = [
    ("Ada", "on hold", 12005),
    ("Grace", "on hold", 8000),
    ("on hold", "Grace", 8000),  # given back
    ("on hold", "Grace", 12005),
    ("the bank", "Ada", 50000),
    ("the bank", "Grace", 50000),
]
SPEED = 120


def assert_every_cent_is_posted_once(example: Example) -> None:
    rows = example.rows("app.db", "SELECT payer, payee, cents FROM postings ORDER BY payer, payee, cents")
    assert [(row["payer"], row["payee"], row["cents"]) for row in rows] == POSTINGS
    fees = example.rows("bureau.db", "SELECT text FROM fees ORDER BY text")
    assert [row["text"] for row in fees] == ["buy gift cards, quick", "rent"]


def test_money_moves_or_stays(tmp_path: Path) -> None:
    example = Example("transfer", tmp_path, speed=SPEED)
    lines = example.run()
    assert lines[-7:] == RESULTS
    assert len([line for line in lines if "the bureau is busy at attempt 1" in line]) == 1
    assert lines.index("Ada -> on hold: 120.05") < lines.index("on hold -> Grace: 120.05")
    assert lines.index("Grace -> on hold: 80.00") < lines.index("on hold -> Grace: 80.00")
    assert_every_cent_is_posted_once(example)
    assert example.run() == RESULTS  # run again it has nothing to do
    assert_every_cent_is_posted_once(example)


@pytest.mark.parametrize(
    "line",
    [
        "the bank -> Ada: 500.00",  # before anything was started
        "Grace -> on hold: 80.00",  # inside the transaction
        "the bureau is busy at attempt 1",
        "the bureau has looked at 'buy gift cards, quick'",  # it has taken its fee, and nobody here knows
        "on hold -> Grace: 80.00",  # while it is given back
    ],
)
def test_a_kill_loses_and_doubles_no_cent(line: str, tmp_path: Path) -> None:
    example = Example("transfer", tmp_path, speed=SPEED)
    example.kill_at(line)
    assert example.run()[-7:] == RESULTS
    assert_every_cent_is_posted_once(example)


def test_ctrl_c_stops_it_until_it_is_run_again(tmp_path: Path) -> None:
    example = Example("transfer", tmp_path, speed=SPEED)
    assert "Stopped. The same command goes on from here." in example.interrupt_at("the bureau is busy")
    assert example.run()[-7:] == RESULTS
    assert_every_cent_is_posted_once(example)
