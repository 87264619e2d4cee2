"""The accounts: people are let in or turned away, and nobody is screened or reviewed twice, through any kill."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.examples.kit import Example

RESULTS = [
    "Ada: Opened(risk=<Risk.LOW: 'low'>, reviewer=None)",
    "Grace: Opened(risk=<Risk.MEDIUM: 'medium'>, reviewer='Joan')",
    "Eve: Rejected(reasons=('bankrupt', 'sued'))",
    "Mallory: Rejected(reasons=('sanctions',))",
]
SPEED = 30_000


def assert_each_is_screened_and_reviewed_once(example: Example) -> None:
    fees = example.rows("provider.db", "SELECT name, born FROM fees ORDER BY born")
    assert [tuple(row.values()) for row in fees] == [
        ("Grace", "1976-12-09"),
        ("Ada", "1985-12-10"),
        ("Eve", "1990-01-01"),
        ("Mallory", "1991-02-03"),
    ]
    assert example.steps("screen") == ["completed"] * 4
    assert example.steps("decision") == ["completed"] * 2
    assert example.rows("app.db", "SELECT status FROM runs") == [{"status": "completed"}] * 4


def test_people_are_let_in_or_turned_away(tmp_path: Path) -> None:
    example = Example("kyc", tmp_path, speed=SPEED)
    lines = example.run()
    assert lines[-4:] == RESULTS
    assert len([line for line in lines if "the provider is busy at attempt 1" in line]) == 1
    assert sorted(line for line in lines if "reviewed" in line) == ["Eve: reviewed by hand", "Grace: reviewed by hand"]
    assert_each_is_screened_and_reviewed_once(example)
    assert example.run() == RESULTS  # run again it has nothing to do
    assert_each_is_screened_and_reviewed_once(example)


@pytest.mark.parametrize(
    "line",
    [
        "the provider is busy at attempt 1",
        "Grace: medium risk",  # the fee is taken, and nobody here knows
        "Grace: reviewed by hand",  # the decision is accepted, and may not have been read
        "Ada: Opened",
    ],
)
def test_a_kill_repeats_no_screening_and_loses_no_decision(line: str, tmp_path: Path) -> None:
    example = Example("kyc", tmp_path, speed=SPEED)
    example.kill_at(line)
    assert example.run()[-4:] == RESULTS
    assert_each_is_screened_and_reviewed_once(example)


def test_ctrl_c_stops_it_until_it_is_run_again(tmp_path: Path) -> None:
    example = Example("kyc", tmp_path, speed=SPEED)
    assert "Stopped. The same command goes on from here." in example.interrupt_at("Eve: medium risk")
    assert example.run()[-4:] == RESULTS
    assert_each_is_screened_and_reviewed_once(example)
