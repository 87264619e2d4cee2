"""``start``, ``signal``, ``cancel``, ``abandon``, ``resume``, ``fork``, ``prune``: what they do, and what they say."""

from __future__ import annotations

import json
import re
import signal
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from durable_trio import Engine, StoreAway
from tests.cli.desk import (
    PATIENCE_SECONDS,
    call,
    call_process,
    command_line,
    on_terminal,
    process_of,
    until,
)
from tests.cli.server import serving, start
from tests.cli.test_json import validate


def shown(db: str, run_id: str) -> Any:
    return call("--db", db, "show", run_id, "--json").json["run"]


# ---- start ---------------------------------------------------------------------------------------------------------


def test_start_stores_a_run_with_its_arguments_and_options_and_prints_its_id(db: str) -> None:
    said = call(
        "--db", db, "start", "order", "-5", '{"gift": [1.5, null]}', "--id", "order-99", "--queue", "slow",
        "--priority", "3", "--tag", "customer=b=c", "--delay", "2d",
    )  # fmt: skip
    assert (said.code, said.out) == (0, "order-99\n")
    run = shown(db, "order-99")
    assert run["args"] == [-5, {"gift": [1.5, None]}]
    assert (run["queue"], run["priority"], run["tags"]) == ("slow", 3, {"customer": "b=c"})
    assert run["status"] == "pending"
    assert run["wake_at"][:10] > run["created_at"][:10]


def test_start_without_an_id_gives_one(db: str) -> None:
    uuid.UUID(call("--db", db, "start", "order", "1").out.strip())


def test_start_with_the_same_id_is_the_same_run_and_other_arguments_are_a_conflict(db: str) -> None:
    assert call("--db", db, "start", "order", "1", "--id", "twice").code == 0
    assert call("--db", db, "start", "order", "1", "--id", "twice").code == 0
    said = call("--db", db, "start", "order", "2", "--id", "twice")
    assert said.code == 1
    assert "twice" in said.error


def test_start_says_when_nobody_serves(db: str) -> None:
    assert "nobody serves this database now" in call("--db", db, "start", "order", "1").err


def test_what_is_stored_is_told_also_where_nothing_can_be_asked_any_more(
    db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a server has no connection left for what people ask."""

    async def away(*_: object) -> None:
        raise StoreAway("too many connections")

    monkeypatch.setattr(Engine, "status", away)
    said = call("--db", db, "start", "order", "1", "--id", "stored")
    assert (said.code, said.out) == (0, "stored\n")
    assert said.error == "the run is stored; whether anybody serves this database cannot be told: too many connections"
    monkeypatch.undo()
    assert shown(db, "stored")["status"] == "pending"


def test_start_of_a_name_that_never_ran_works_and_says_so(live: str) -> None:
    said = call("--db", live, "start", "packin", '"x"', "--id", "misspelt")
    assert (said.code, said.out) == (0, "misspelt\n")
    assert "did you mean packing?" in said.err
    assert call("--db", live, "start", "packing", '"x"').err == ""


def test_start_creates_a_database_where_there_is_none_and_says_so(tmp_path: Path) -> None:
    path = str(tmp_path / "new.db")
    said = call("--db", path, "start", "order", "1", "--id", "a")
    assert (said.code, said.out) == (0, "a\n")
    assert said.err.splitlines()[0] == f"created the database {path!r}"
    assert shown(path, "a")["status"] == "pending"
    assert "created" not in call("--db", path, "start", "order", "1", "--id", "b").err


def test_start_creates_no_folder(tmp_path: Path) -> None:
    said = call("--db", str(tmp_path / "none" / "new.db"), "start", "order", "1")
    assert said.code == 1
    assert said.error.startswith("durable-trio: ")
    assert list(tmp_path.iterdir()) == []


# ---- signal, cancel ------------------------------------------------------------------------------------------------


def test_signal_sends_json_and_the_same_id_is_one_signal(live: str) -> None:
    assert call("--db", live, "start", "order", "1", "--id", "signalled").code == 0
    for _ in range(2):
        said = call("--db", live, "signal", "signalled", "approval", '{"by": "anna"}', "--id", "s1")
        assert said.code == 0
    said = call("--db", live, "watch", "signalled", "--json")
    assert said.out.splitlines()[-1].count('"approved":{"by":"anna"}') == 1


def test_signal_to_a_run_that_has_ended_is_an_error(db: str) -> None:
    said = call("--db", db, "signal", "order-8", "approval")
    assert said.code == 1
    assert "takes no more signals" in said.error


def test_cancel_waits_until_the_steps_are_undone(live: str) -> None:
    said = call("--db", live, "cancel", "注文-11", "--reason", "it rains", "--wait")
    assert (said.code, said.error) == (0, "'注文-11' is cancelled")
    run = shown(live, "注文-11")
    assert run["status"] == "cancelled"
    assert "it rains" in call("--db", live, "show", "注文-11").out


def test_cancel_of_a_run_that_has_ended_changes_nothing_and_says_so(db: str) -> None:
    said = call("--db", db, "cancel", "order-7")
    assert said.code == 0
    assert "had already ended: completed" in said.error


def test_cancel_of_a_parked_run_says_what_it_waits_for(db: str) -> None:
    said = call("--db", db, "cancel", "payroll-12")
    assert said.code == 0
    assert said.error.startswith("asked 'payroll-12' to cancel; it was parked, and is cancelled when")
    out = call("--db", db, "show", "payroll-12").out
    assert re.search(r"^  cancel +requested .*, not taken yet$", out, re.MULTILINE)
    listed = call("--db", db, "list", "--workflow", "payroll").out
    assert "asked to cancel" in listed


def test_a_parked_run_that_its_code_does_not_fit_keeps_the_request_and_that_is_seen(live: str) -> None:
    """It comes back as parked; nobody is to think that the request was lost."""
    with process_of(*command_line("--db", live, "cancel", "payroll-12", "--wait", "--reason", "closed")) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("'payroll-12' is parked (divergence), and is cancelled when code that fits it is served")
        until(lambda: "parked" in call("--db", live, "list", "--workflow", "payroll").out)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) == 130
    (row,) = call("--db", live, "list", "--status", "parked", env={"COLUMNS": "160"}).out.splitlines()[1:]
    assert "asked to cancel; divergence: " in row
    out = call("--db", live, "show", "payroll-12").out
    assert re.search(r"^  cancel +requested .*, not taken yet: closed$", out, re.MULTILINE)
    with process_of(*command_line("--db", live, "watch", "payroll-12")) as watching:
        assert watching.stdout is not None
        assert "asked to cancel; divergence" in watching.stdout.readline()


def test_cancel_says_which_step_it_waits_for(tmp_path: Path) -> None:
    """A sync step function cannot be interrupted; who waits is told that it is this one, and since when."""
    with serving(tmp_path) as server:
        server.says("event=started")
        start(server.db, "hang", json.dumps(str(tmp_path / "begun")), id="hang-1")
        server.until((tmp_path / "begun").exists)
        with process_of(*command_line("--db", server.db, "cancel", "hang-1", "--wait")) as process:
            assert process.stderr is not None
            # On a slow machine it may be told first that the request has not been taken yet.
            line = next(line for line in process.stderr if "has not taken the request yet" not in line)
            assert re.match(
                r"'hang-1' is running, and waits for what is in hand to end: block#0, since \d\d:\d\d", line
            )
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE_SECONDS) == 130
            assert process.stderr.read() == ""
        assert "asked to cancel" in call("--db", server.db, "list").out
        out = call("--db", server.db, "show", "hang-1").out
        assert re.search(r"^  cancel +taken ", out, re.MULTILINE)
        assert re.search(r"^  in hand +block#0, since ", out, re.MULTILINE)
        document = call("--db", server.db, "show", "hang-1", "--json").json
        assert [step["key"] for step in document["in_hand"]] == ["block#0"]
        validate(document, "show")


def test_a_compensation_in_hand_is_shown(live: str) -> None:
    until(
        lambda: re.search(r"^  in hand +compensate/reserve#0, since ", call("--db", live, "show", "stuck-1").out, re.M)
    )
    assert "asked to cancel" not in call("--db", live, "list", "--status", "compensating").out


def test_a_signal_that_the_run_does_not_wait_for_is_shown_as_unread(db: str) -> None:
    """So that who sent it under a wrong name sees why the run still waits."""
    for number in range(11):
        assert call("--db", db, "signal", "payroll-12", "paid-out", json.dumps({"number": number})).code == 0
    out = call("--db", db, "show", "payroll-12").out
    right, wrong, *_, tenth, more = (line.strip() for line in out.splitlines() if line.startswith("  unread"))
    assert re.fullmatch(r"unread +signal paid out, .+: null", right)  # it is parked: this one will be taken
    assert re.fullmatch(r'unread +signal paid-out, .+: \{"number": 0\}', wrong)
    assert tenth.endswith('{"number": 8}')
    assert "… and 2 more; --all shows all" in more
    whole = call("--db", db, "show", "payroll-12", "--all").out
    assert sum(line.startswith("  unread") for line in whole.splitlines()) == 12
    unread = call("--db", db, "show", "payroll-12", "--json").json["unread"]
    assert [entry["payload"] for entry in unread] == [None, *({"number": number} for number in range(11))]


def test_ctrl_c_ends_the_wait_of_cancel_and_not_the_request(db: str) -> None:
    with process_of(*command_line("--db", db, "cancel", "order-10", "--wait")) as process:
        assert process.stderr is not None
        assert "nobody serves this database now" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) == 130
        assert process.stderr.read() == ""
    with shop_again(db):
        assert call("--db", db, "watch", "order-10", "--json").out.splitlines()[-1].count('"cancelled"') == 1


def shop_again(db: str) -> Any:
    """Serve a database that a killed process has left."""
    return process_of(sys.executable, str(Path(__file__).with_name("shop.py")), db, "again")


# ---- resume, fork, prune -------------------------------------------------------------------------------------------


def test_resume_lets_a_parked_run_go_on(db: str) -> None:
    assert call("--db", db, "resume", "payroll-12").code == 0
    assert shown(db, "payroll-12")["problem"] is None


def test_resume_of_a_run_that_has_undone_something_is_refused(db: str) -> None:
    said = call("--db", db, "resume", "order-8")
    assert said.code == 1
    assert "order-8" in said.error


def test_abandon_ends_a_run_at_once_and_says_what_is_not_undone(db: str) -> None:
    assert call("--db", db, "abandon", "payroll-12", "--reason", "no code fits it").err == "'payroll-12' is cancelled\n"
    run = shown(db, "payroll-12")
    assert (run["status"], run["problem"]) == ("cancelled", None)
    assert "no code fits it" in run["error"]["message"]
    said = call("--db", db, "abandon", "order-10")
    assert said.err == "'order-10' is cancelled; 2 steps of it are not undone: 'show' names them\n"
    said = call("--db", db, "abandon", "payroll-12")
    assert (said.code, said.error) == (1, "durable-trio: run 'payroll-12' had already ended: cancelled")


def test_abandon_of_a_workflow_that_somebody_serves_is_refused(live: str) -> None:
    said = call("--db", live, "abandon", "--unknown", "--workflow", "order", "--yes")
    assert said.code == 1
    assert re.match(
        r"durable-trio: process \d+, which serves this database, knows 'order': 'cancel' its runs", said.error
    )


def test_fork_copies_the_history_before_a_key(db: str) -> None:
    said = call("--db", db, "fork", "order-8", "--before", "approval#0", "--id", "order-8b", "--yes")
    assert (said.code, said.out) == (0, "order-8b\n")
    steps = call("--db", db, "show", "order-8b", "--json").json["steps"]
    assert [step["key"] for step in steps] == ["pay#0", "reserve#0", "sleep#0"]


def test_fork_before_an_unknown_key_offers_the_nearest(db: str) -> None:
    said = call("--db", db, "fork", "order-8", "--before", "shp#0")
    assert said.code == 1
    assert said.error == "durable-trio: run 'order-8' has no row 'shp#0' in its history; did you mean 'ship#0'?"


def test_fork_before_what_a_run_waits_in_says_that_nothing_of_it_is_recorded(db: str) -> None:
    """``show`` has it as a row, so no other key is offered as if it were a slip."""
    said = call("--db", db, "fork", "order-10", "--before", "approval#0")
    assert said.code == 1
    waits = "durable-trio: run 'order-10' waits in 'approval#0', of which nothing is recorded yet"
    assert said.error == f"{waits}; the last row that is: 'sleep#0'"


def test_prune_removes_what_has_ended_and_a_dry_run_only_counts(db: str) -> None:
    everything = call("--db", db, "list", "--json").json["runs"]
    final = [run for run in everything if run["finished_at"] is not None]
    assert call("--db", db, "prune", "--before", "7d", "--dry-run").out == "would remove 0 runs\n"
    assert call("--db", db, "prune", "--before", "0s", "--dry-run").out == f"would remove {len(final)} runs\n"
    assert len(call("--db", db, "list", "--json").json["runs"]) == len(everything)
    assert call("--db", db, "prune", "--before", "0s", "--yes", "--status", "failed").out == "removed 1 run\n"
    assert call("--db", db, "prune", "--before", "0s", "--yes", "--json").json["count"] == len(final) - 1
    assert len(call("--db", db, "list", "--json").json["runs"]) == len(everything) - len(final)


@pytest.mark.parametrize("cut", ["0s", "30m", "2999-01-01"])
def test_prune_asks_on_a_terminal_and_wants_a_yes_of_a_program_that_removes_all(db: str, cut: str) -> None:
    words = ["--db", db, "prune", "--before", cut, "--json"]
    refused = call(*words)
    assert (refused.code, refused.out) == (2, "")
    assert "confirm by --yes" in refused.error
    final = call(*words, "--dry-run").json["count"]
    assert call(*words, "--yes").json["count"] == final


def test_prune_on_a_terminal_removes_what_was_agreed_to(db: str) -> None:
    final = call("--db", db, "prune", "--before", "0s", "--dry-run", "--json").json["count"]
    code, out, shown = on_terminal("--db", db, "prune", "--before", "0s", answer="n")
    assert (code, out) == (1, "")
    assert f"remove {final} runs that ended before 2" in shown
    assert "nothing was removed" in shown
    code, out, shown = on_terminal("--db", db, "prune", "--before", "0s", "--status", "failed", answer="y")
    assert (code, out) == (0, "removed 1 run\n")
    assert "remove 1 run that ended" in shown
    code, out, shown = on_terminal("--db", db, "prune", "--before", "7d")
    assert (code, out) == (0, "removed 0 runs\n")
    assert "[y/N]" not in shown  # there is nothing to ask about
    code, out, shown = on_terminal("--db", db, "prune", "--before", "0s", "--yes")
    assert (code, out) == (0, f"removed {final - 1} runs\n")
    assert "[y/N]" not in shown


@pytest.mark.parametrize("place", ["before", "after", "environment"])
def test_the_database_is_named_before_or_after_the_command_or_by_the_environment(db: str, place: str) -> None:
    said = {
        "before": lambda: call_process("--db", db, "list", "--limit", "1"),
        "after": lambda: call_process("list", "--limit", "1", "--db", db),
        "environment": lambda: call_process("list", "--limit", "1", DURABLE_TRIO_DB=db),
    }[place]()
    assert said.code == 0
    assert "stuck-1" in said.out


def test_the_option_after_the_command_wins(db: str, tmp_path: Path) -> None:
    missing = str(tmp_path / "none.db")
    assert call("--db", missing, "list", "--db", db, env={"DURABLE_TRIO_DB": missing}).code == 0
    assert call("--db", db, "list", env={"DURABLE_TRIO_DB": missing}).code == 0


def test_start_of_a_run_that_has_ended_says_so(db: str) -> None:
    call("--db", db, "start", "order", "1", "--id", "over")
    call("--db", db, "cancel", "over")
    said = call("--db", db, "start", "order", "1", "--id", "over")
    assert (said.code, said.out, said.err) == (0, "over\n", "'over' is there already, and has ended: cancelled\n")
