"""The data migration: an address book is converted as a whole or restored, wherever the process is killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.examples.kit import Example

RESULTS = [
    "family: converted",
    "club: as it was, because entry 3333 has the name '?????'",
]
SPEED = 20_000_000


def assert_the_books_are_right(example: Example) -> None:
    people = example.rows("family.db", "SELECT * FROM people ORDER BY id")
    assert [row["id"] for row in people] == list(range(1, 6001))
    assert people[0] == {"id": 1, "given": "Given 1", "family": "Family 1", "phone": "0205550001"}
    assert people[-1] == {"id": 6000, "given": "Given 6000", "family": "Family 83", "phone": "0205556000"}
    assert [row["name"] for row in example.rows("family.db", "SELECT name FROM sqlite_schema")] == ["people"]

    entries = example.rows("club.db", "SELECT * FROM entries ORDER BY id")
    assert [row["id"] for row in entries] == list(range(1, 6001))
    assert entries[0] == {"id": 1, "name": "Family 1, Given 1", "phone": "(0)20 555-0001"}
    assert [row["name"] for row in example.rows("club.db", "SELECT name FROM sqlite_schema")] == ["entries"]
    for book, version in {"family": 2, "club": 0}.items():
        assert example.rows(f"{book}.db", "PRAGMA user_version") == [{"user_version": version}]
        assert example.rows(f"{book}.db", "PRAGMA integrity_check") == [{"integrity_check": "ok"}]

    assert {path.name for path in example.folder.iterdir() if not path.name.startswith("app.db")} == {
        "family.db",
        "club.db",
        "club.backup",
    }
    # 12 batches of one book; 6 of the other, and the one that fails.
    assert sorted(example.steps("convert batch")) == ["completed"] * 18 + ["failed"]


def test_one_book_is_converted_and_one_restored(tmp_path: Path) -> None:
    example = Example("data_migration", tmp_path, speed=SPEED)
    lines = example.run()
    assert lines[-2:] == RESULTS
    assert "family: backed up" in lines
    assert "club: restored from its backup" in lines
    assert lines.index("family: switched over") < lines.index("family: backup deleted")
    assert "family  [####################] completed" in lines
    assert "club    [##########..........] failed" in lines
    bars = [line.count("#") for line in lines if line.startswith("family  [")]
    assert bars == sorted(bars), "a progress bar went back"
    assert bars[0] < bars[-1] == 20, "the bar did not move"  # changes may merge when the machine is busy
    assert_the_books_are_right(example)
    assert example.run()[-2:] == RESULTS  # run again it has nothing to do
    assert_the_books_are_right(example)


@pytest.mark.parametrize(
    "places",
    [
        ["club: backed up", "family  [##", "club: restored", "family: switched over"],
        ["family: backed up", "club    [##", "family  [############", "family: backup deleted"],
    ],
    ids=["first", "second"],
)
def test_killed_at_many_places_it_goes_on_with_the_batch(places: list[str], tmp_path: Path) -> None:
    example = Example("data_migration", tmp_path, speed=SPEED)
    for place in places:
        example.kill_at(place)
    assert example.run()[-2:] == RESULTS
    assert_the_books_are_right(example)


def test_ctrl_c_stops_it_until_it_is_run_again(tmp_path: Path) -> None:
    example = Example("data_migration", tmp_path, speed=SPEED)
    assert "Stopped. The same command goes on from here." in example.interrupt_at("family  [##")
    lines = example.run()
    assert lines[-2:] == RESULTS
    assert "family: backed up" not in lines
    assert_the_books_are_right(example)
