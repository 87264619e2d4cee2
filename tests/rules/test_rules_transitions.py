"""The table of statuses: what may follow what."""

from __future__ import annotations

import pytest

from durable_trio import RunStatus
from durable_trio.rules.hints import check_options
from durable_trio.rules.transitions import AFTER, is_allowed

FINAL = {status for status in RunStatus if status.is_final}


def test_the_table_names_each_status() -> None:
    assert set(AFTER) == set(RunStatus)


@pytest.mark.parametrize("status", RunStatus)
def test_staying_is_allowed(status: RunStatus) -> None:
    assert is_allowed(status, status)


def test_each_status_can_be_reached_and_each_run_can_end() -> None:
    def reached_from(start: RunStatus) -> set[RunStatus]:
        seen, waiting = {start}, [start]
        while waiting:
            waiting.extend(new := AFTER[waiting.pop()] - seen)
            seen |= new
        return seen

    assert reached_from(RunStatus.PENDING) == set(RunStatus)
    for status in set(RunStatus) - FINAL:
        assert reached_from(status) & FINAL


@pytest.mark.parametrize("status", sorted(FINAL))
def test_a_final_status_is_left_by_a_resume_only(status: RunStatus) -> None:
    assert AFTER[status] <= {RunStatus.PENDING}
    assert not AFTER[RunStatus.COMPLETED]


def test_what_compensates_never_completes_or_runs_on() -> None:
    assert not is_allowed(RunStatus.COMPENSATING, RunStatus.COMPLETED)
    assert not is_allowed(RunStatus.COMPENSATING, RunStatus.RUNNING)


def test_an_option_of_another_name_is_refused_with_the_nearest_one() -> None:
    check_options("f", ["timeout"], ["timeout", "retry"])
    with pytest.raises(TypeError, match="f has no option 'timout'; did you mean 'timeout'"):
        check_options("f", ["timout"], ["timeout", "retry"])
    with pytest.raises(TypeError, match=r"f has no option 'zzz'$"):
        check_options("f", ["zzz"], ["timeout", "retry"])
