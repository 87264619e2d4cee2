"""``cancel``, ``resume``, ``abandon`` and ``delete`` of many runs: what they take, what they ask, what they say."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from durable_trio import Context, RunFailed, open_engine, workflow
from tests.cli.desk import Said, call, call_process, on_terminal
from tests.cli.test_json import validate


def listed(db: str, *words: str) -> list[str]:
    """Return the ids of runs."""
    return [run["id"] for run in call("--db", db, "list", "--json", *words).json["runs"]]


def status_of(db: str, run_id: str) -> Any:
    return call("--db", db, "show", run_id, "--json").json["run"]["status"]


def test_without_a_terminal_what_was_chosen_by_options_is_to_be_confirmed_with_its_number(db: str) -> None:
    said = call("--db", db, "abandon", "--parked")
    assert said.code == 2
    assert "1 run parked: confirm by --yes" in said.error
    assert listed(db, "--parked") == ["payroll-12"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("resume", "--parked"), "resumed 1 run of 1\n"),
        (("resume", "--parked", "--workflow", "payroll"), "resumed 1 run of 1\n"),
        (("abandon", "--parked", "--workflow", "payroll"), "ended 1 run of 1\n"),
        (("cancel", "--parked"), "asked to cancel 1 run of 1\n"),
    ],
)
def test_all_that_are_parked_are_taken(words: tuple[str, ...], told: str, db: str) -> None:
    said = call("--db", db, *words, "--yes")
    assert (said.code, said.err) == (0, told)
    assert listed(db, "--parked") == []


def test_nothing_that_matches_is_said_and_is_no_error(db: str) -> None:
    said = call("--db", db, "resume", "--parked", "--workflow", "nobody's")
    assert said.code == 0
    assert said.error.startswith('no run is parked, of workflow "nobody\'s"; there is no workflow "nobody\'s"')


def test_what_cannot_be_done_to_some_is_told_with_the_reason_and_the_others_are_done(db: str) -> None:
    """A failed run of which something was undone cannot go on; a cancelled one of which nothing was can."""
    assert call("--db", db, "start", "order", "1", "--id", "early").code == 0
    assert call("--db", db, "cancel", "early").code == 0
    said = call("--db", db, "resume", "--status", "failed", "--status", "cancelled", "--workflow", "order", "--yes")
    assert said.code == 1
    left = [line for line in said.err.splitlines() if "was left as it is" in line]
    assert {line.split()[0] for line in left} == {"'order-8'", "'order-9'"}
    assert all("has been compensated" in line for line in left)
    assert said.err.splitlines()[-1] == "resumed 1 run of 3"
    assert status_of(db, "early") == "pending"


def test_json_has_the_numbers_and_the_reasons_and_keeps_to_its_schema(db: str) -> None:
    said = call("--db", db, "resume", "--status", "failed", "--yes", "--json")
    assert (said.code, said.err) == (1, "")
    validate(said.json, "resume")
    assert (said.json["command"], said.json["total"], said.json["done_count"]) == ("resume", 1, 0)
    assert [left["id"] for left in said.json["left"]] == ["order-8"]
    said = call("--db", db, "cancel", "--workflow", "order", "--yes", "--json")
    validate(said.json, "cancel")
    assert (said.code, said.json["total"], said.json["done_count"], said.json["left"]) == (0, 2, 2, [])
    assert said.json["command"] == "cancel"
    said = call("--db", db, "delete", "--workflow", "none", "--yes", "--json")
    validate(said.json, "delete")
    assert (said.code, said.json["total"]) == (0, 0)


def test_delete_removes_runs_by_their_ids_and_says_of_each_what_has_come_of_it(db: str) -> None:
    assert call("--db", db, "delete", "order-7").error == "'order-7' is deleted"
    said = call("--db", db, "delete", "order-8", "order-10", "order-99", "order-9")
    assert said.code == 1
    deleted, other, *left = said.err.splitlines()
    assert (deleted, other) == ("'order-8' is deleted", "'order-9' is deleted")
    assert "'order-10' was left as it is: run 'order-10' is suspended; only runs that have ended" in left[0]
    assert left[1] == "'order-99' was left as it is: there is no run 'order-99'"
    assert {"order-7", "order-8", "order-9"} & set(listed(db)) == set()


def test_delete_of_one_run_that_is_not_there_offers_the_nearest(db: str) -> None:
    said = call("--db", db, "delete", "order-77")
    assert said.code == 1
    assert "did you mean order-7" in said.error


def test_delete_by_options_takes_what_has_ended(db: str) -> None:
    said = call("--db", db, "delete", "--workflow", "order", "--yes")
    assert (said.code, said.error) == (0, "deleted 3 runs of 3")
    assert listed(db, "--workflow", "order") == ["注文-11", "order-10"]


def test_a_named_run_that_had_ended_is_no_error_of_cancel(db: str) -> None:
    said = call("--db", db, "cancel", "order-7", "order-10")
    assert said.code == 0
    assert said.err.splitlines() == [
        "'order-7' had already ended: completed; nothing was changed",
        "asked 'order-10' to cancel",
    ]
    document = call("--db", db, "cancel", "order-7", "--json").json
    assert (document["total"], document["done_count"], document["left"]) == (1, 0, [])


def test_runs_of_a_workflow_that_nobody_knows_are_ended_together(db: str) -> None:
    assert call("--db", db, "abandon", "--workflow", "landing", "--yes").code == 2  # it may only wait for its server
    said = call("--db", db, "abandon", "--unknown", "--workflow", "landing", "--reason", "its code is gone", "--yes")
    assert (said.code, said.error) == (0, "ended 1 run of 1")
    assert status_of(db, "pending-1") == "cancelled"


def test_what_a_command_does_to_many_is_told_once(db: str) -> None:
    """Records of the log, one for each run, are for servers."""
    said = call_process("--db", db, "abandon", "--parked", "--yes", "--json")
    assert (said.code, said.err, said.json["done_count"], said.json["command"]) == (0, "", 1, "abandon")


def usage(said: Said) -> str:
    assert said.code == 2, said
    return said.error


@pytest.mark.parametrize("command", ["cancel", "resume", "abandon", "delete"])
def test_neither_an_id_nor_an_option_is_wrong_usage_and_so_are_both(command: str, db: str) -> None:
    assert "name each RUN, or choose them by" in usage(call("--db", db, command))
    assert "name each RUN, or choose them by" in usage(call("--db", db, command, "--yes"))
    assert "not both" in usage(call("--db", db, command, "order-7", "--workflow", "order"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("resume", "--workflow", "order"), "--parked or --status"),
        (("abandon", "--workflow", "order"), "--parked"),
        (("abandon", "--unknown"), "--unknown goes with --workflow"),
        (("cancel", "--workflow", "order", "--wait"), "--wait is for runs that are named"),
        (("cancel", "--status", "completed"), "'completed' is not one of"),
    ],
)
def test_options_that_would_take_more_than_is_meant_are_wrong_usage(words: tuple[str, ...], told: str, db: str) -> None:
    assert told in usage(call("--db", db, *words, "--yes"))


@pytest.mark.parametrize(("answer", "code", "left"), [("n", 1, 2), ("y", 0, 0)])
def test_on_a_terminal_people_are_asked_with_the_number_of_runs(answer: str, code: int, left: int, db: str) -> None:
    words = ("--status", "failed", "--status", "cancelled")
    ended, _, shown = on_terminal("--db", db, "delete", *words, answer=answer)
    assert "delete 2 runs that are failed or cancelled, for good? [y/N]" in shown
    assert ended == code
    assert len(listed(db, *words)) == left


def test_resume_of_a_child_names_the_parent_that_is_to_be_resumed_as_well(file_path: str) -> None:
    @workflow
    async def child(ctx: Context) -> None:
        raise ValueError("not today")

    @workflow
    async def parent(ctx: Context) -> None:
        await ctx.run_child(child, id="child")

    async def fail() -> None:
        async with open_engine(file_path, workflows=[child, parent]) as engine:
            with pytest.raises(RunFailed):
                await engine.run(parent, id="parent")

    trio.run(fail)
    said = call("--db", file_path, "resume", "child")
    assert said.error == "'child' goes on when an executor takes it; its parent 'parent' is failed: resume that as well"
    assert call("--db", file_path, "resume", "parent").error == "'parent' goes on when an executor takes it"
