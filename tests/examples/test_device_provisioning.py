"""Device provisioning: meters that confirm are taken into service, one that does not is undone, through any kill."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

from tests.examples.kit import Example

RESULTS = [
    "meter-1: in service, firmware 2.4.1, battery at 97 %",
    "meter-2: in service, firmware 2.4.1, battery at 97 %",
    "meter-3: not provisioned, no confirmation within 30 minutes",
]
PROVISIONED = ["activate", "certify", "configure", "register"]
UNDONE = ["certify", "configure", "register", "revoke-certificate", "strike-off"]


def assert_each_is_done_once(example: Example) -> None:
    rows = example.rows("fleet.db", "SELECT meter, action FROM done ORDER BY meter, action")
    done = {meter: [row["action"] for row in rows if row["meter"] == meter] for meter in ("meter-1", "meter-2")}
    assert done == {"meter-1": PROVISIONED, "meter-2": PROVISIONED}
    assert [row["action"] for row in rows if row["meter"] == "meter-3"] == UNDONE


def waited(example: Example, meter: str) -> tuple[float, float]:
    """When the recorded wait for a meter's confirmation has begun and ended, in seconds of the epoch."""
    query = (
        "SELECT history.started_at, history.finished_at FROM history JOIN runs USING (run) "
        f"WHERE runs.id = '{meter}' AND history.name = 'confirmed'"
    )
    (row,) = example.rows("app.db", query)
    return row["started_at"] / 1_000_000, row["finished_at"] / 1_000_000


def thirty_minutes(speed: float) -> float:
    return timedelta(minutes=30).total_seconds() / speed


def test_meters_are_provisioned_or_undone(tmp_path: Path) -> None:
    example = Example("device_provisioning", tmp_path, speed=1200)
    lines = example.run()
    assert lines[-3:] == RESULTS
    assert_each_is_done_once(example)
    assert lines.index("meter-3: revoke certificate is done") < lines.index("meter-3: strike off is done")
    asleep = [line for line in lines if "asleep" in line]
    assert asleep == ["meter-2: asleep at attempt 1", "meter-2: asleep at attempt 2"]
    began, ended = waited(example, "meter-3")
    assert ended - began >= thirty_minutes(1200)
    assert example.run()[-3:] == RESULTS  # run again it has nothing to do
    assert_each_is_done_once(example)


def test_a_meter_comes_through_a_kill_in_each_of_its_phases(tmp_path: Path) -> None:
    """Killed between its certificate and its settings, while it sleeps, and when it has confirmed."""
    speed = 250  # slow enough for three restarts within 30 minutes
    example = Example("device_provisioning", tmp_path, speed=speed)
    example.kill_at("meter-2: certify is done")
    example.kill_at("meter-2: asleep at attempt")
    example.kill_at("meter-2: has confirmed")
    started_again = time.time()
    assert example.run()[-3:] == RESULTS
    assert_each_is_done_once(example)
    began, ended = waited(example, "meter-3")
    assert began + thirty_minutes(speed) <= ended
    assert ended < started_again + thirty_minutes(speed), "its first due time was not kept"


def test_a_kill_while_a_meter_is_undone_repeats_nothing(tmp_path: Path) -> None:
    example = Example("device_provisioning", tmp_path, speed=1200)
    example.kill_at("meter-3: revoke certificate is done")
    assert example.run()[-3:] == RESULTS
    assert_each_is_done_once(example)
