"""The onboarding: decisions, deadlines and escalation come out the same, wherever the process is killed."""

from __future__ import annotations

from pathlib import Path

from tests.examples.kit import Example, NotReachedError

RESULTS = [
    "Ada: admitted; amoxicillin approved by Dr. Adler, warfarin approved by Dr. Brandt, morphine lapsed",
    "Ben: no consent, nothing is kept",
]
# What the hospital's systems do, each once.
DONE = [
    "Dr. Adler is paged: amoxicillin for Ada?",
    "Dr. Adler is paged: morphine for Ada?",
    "Dr. Adler is paged: warfarin for Ada?",
    "Dr. Brandt is paged: morphine for Ada?",
    "Dr. Brandt is paged: warfarin for Ada?",
    "amoxicillin 500 mg dispensed to Ada",
    "warfarin 5 mg dispensed to Ada",
]
# How much faster than real time. Where a machine is so busy that a deadline goes by before the answer, or before the
# next start, it is tried again with longer ones.
AT_ONCE, WITH_STARTS = (3600, 900, 200), (1200, 300, 100)
REFUSED = "SELECT value FROM published WHERE key = 'refused'"


def assert_each_thing_was_done_once(example: Example) -> None:
    assert [row["what"] for row in example.rows("hospital.db", "SELECT what FROM done ORDER BY what")] == DONE
    assert example.rows("app.db", "SELECT * FROM patients") == [{"name": "Ada", "status": "admitted"}]
    assert example.rows("app.db", REFUSED) == [{"value": '"Nurse Cole"'}]


def example_at(speed: float, tmp_path: Path) -> Example:
    folder = tmp_path / str(speed)
    folder.mkdir()
    return Example("patient_onboarding", folder, speed=speed)


def test_prescriptions_are_approved_escalated_or_lapse(tmp_path: Path) -> None:
    for speed in AT_ONCE:
        example = example_at(speed, tmp_path)
        lines = example.run()
        if lines[-2:] == RESULTS and example.rows("app.db", REFUSED):
            break
    assert lines[-2:] == RESULTS
    assert sorted(lines[:-2]) == DONE
    assert_each_thing_was_done_once(example)
    assert example.run() == RESULTS  # run again it has nothing to do
    assert_each_thing_was_done_once(example)


def test_killed_at_many_places_it_asks_and_dispenses_once(tmp_path: Path) -> None:
    for speed in WITH_STARTS:
        example = example_at(speed, tmp_path)
        try:
            example.kill_at("Dr. Adler is paged")
            example.kill_at("amoxicillin 500 mg dispensed")
            assert "Stopped. The same command goes on from here." in example.interrupt_at("Dr. Brandt is paged")
            example.kill_at("warfarin 5 mg dispensed")
        except NotReachedError:
            if speed == WITH_STARTS[-1]:
                raise
        else:
            if example.rows("app.db", REFUSED):
                break
    assert example.run()[-2:] == RESULTS
    assert_each_thing_was_done_once(example)
    [row] = example.rows("app.db", "SELECT (finished_at - created_at) / 1e6 AS seconds FROM runs WHERE id = 'Ben'")
    assert row["seconds"] >= 2 * 3600 / speed, "a deadline came too early"
