"""How many pieces of upkeep go into one transaction."""

from __future__ import annotations

from durable_trio.stores.upkeep import UpkeepPace


class Commits:
    """Transactions of which each piece takes the same time of the processor, the pace deciding how many there are."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pace = UpkeepPace(lambda: self.now)

    def commit(self, piece_seconds: float, *, waiting: int = 1000) -> int:
        """Apply as many as the pace lets through; return how many these were."""
        count = min(waiting, self.pace.count_max)

        def apply() -> None:
            self.now += count * piece_seconds

        self.pace.measured(apply, count)()
        return count


def test_short_ones_become_more_up_to_what_takes_some_milliseconds() -> None:
    commits = Commits()
    assert [commits.commit(0.0001) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 32, 32]


def test_long_ones_stay_alone() -> None:
    commits = Commits()
    assert [commits.commit(0.005) for _ in range(4)] == [1, 1, 1, 1]


def test_when_they_become_longer_they_become_fewer() -> None:
    commits = Commits()
    for _ in range(8):
        commits.commit(0.0001)
    assert [commits.commit(0.001) for _ in range(5)] == [32, 16, 8, 4, 2]


def test_once_none_are_left_what_comes_next_is_tried_alone_again() -> None:
    commits = Commits()
    for _ in range(4):
        commits.commit(0.0001)
    assert commits.commit(0.0001, waiting=3) == 3
    assert commits.commit(0.005) == 1
