"""The resumable script: what it has fetched it does not fetch again, and its report is handed in once."""

from __future__ import annotations

from pathlib import Path

from tests.examples.kit import Example

REPORT = ["Achebe     96.48 EUR", "Borges     14.72 EUR", "Calvino    38.34 EUR", "Duras      28.56 EUR"]
END = [*REPORT, "Done."]
# What the shop is asked for, and how often: it does not give page 4 at first.
ASKED = {f"/sales/{number}": 1 for number in (1, 2, 3, 5, 6, 7)} | {"/sales/4": 2, "/reports": 1}
ASKED |= {f"/rates/{currency}": 1 for currency in ("EUR", "GBP", "USD")}
SPEED = 1000


def what_the_shop_was_asked(example: Example) -> dict[str, int]:
    """Each key of a step is one row, however often it was asked."""
    rows = example.rows("shop.db", "SELECT path, times FROM asked")
    asked = {row["path"]: row["times"] for row in rows}
    assert len(rows) == len(asked), "the same step came with two keys"
    return asked


def test_the_report_is_written_and_handed_in(tmp_path: Path) -> None:
    example = Example("resumable_script", tmp_path, speed=SPEED)
    lines = example.run()
    assert lines[-5:] == END
    assert lines[:8] == [
        "/sales/1: 200 OK",
        "/sales/2: 200 OK",
        "/sales/3: 200 OK",
        "/sales/4: 503 Service Unavailable",
        "/sales/4: 200 OK",
        "/sales/5: 200 OK",
        "/sales/6: 200 OK",
        "/sales/7: 200 OK",  # there is nothing on it, so it is the last
    ]
    assert sorted(lines[8:11]) == ["/rates/EUR: 200 OK", "/rates/GBP: 200 OK", "/rates/USD: 200 OK"]
    assert lines[11:-5] == ["/reports: 200 OK"]
    assert what_the_shop_was_asked(example) == ASKED
    [row] = example.rows("shop.db", "SELECT text FROM asked WHERE path = '/reports'")
    assert row["text"].splitlines() == REPORT
    assert example.run() == ["Nothing to do: the report was handed in before.", *END]
    assert what_the_shop_was_asked(example) == ASKED


def test_killed_at_many_places_it_asks_for_little_twice(tmp_path: Path) -> None:
    example = Example("resumable_script", tmp_path, speed=SPEED)
    places = ["/sales/2", "/sales/4: 503", "/sales/5", "/sales/7", "/rates/GBP", "/reports"]
    for place in places:
        example.kill_at(place)
    assert example.run()[-5:] == END
    asked = what_the_shop_was_asked(example)
    assert asked.keys() == ASKED.keys()
    # A kill may come between an answer and its record; of the rates, three are asked for at once.
    assert all(ASKED[path] <= times <= ASKED[path] + 1 for path, times in asked.items())
    assert sum(asked.values()) <= sum(ASKED.values()) + len(places) + 2
    assert example.steps("fetch page") == ["completed"] * 7


def test_in_a_second_terminal_it_says_that_the_first_is_at_it(tmp_path: Path) -> None:
    example = Example("resumable_script", tmp_path, speed=1)  # it pauses for half a minute
    with example.alive_at("/sales/1: 200 OK"):
        [line] = example.run(exit_status=1)
    assert "royalties-2024-05" in line
    assert "alive" in line
    assert what_the_shop_was_asked(example) == {"/sales/1": 1}


def test_ctrl_c_stops_it_until_it_is_run_again(tmp_path: Path) -> None:
    example = Example("resumable_script", tmp_path, speed=SPEED)
    assert "Stopped. The same command goes on from here." in example.interrupt_at("/sales/3")
    lines = example.run()
    assert lines[-5:] == END
    assert "/sales/2: 200 OK" not in lines
