"""``serve --until-idle`` as a program: what it prints, how it ends, and whom it asks to start it again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from durable_trio.cli.commands.serve import command
from durable_trio.cli.until_idle import WAKE_UPS
from tests.cli.desk import PATIENCE_SECONDS, Said, call, command_line, until
from tests.cli.server import reach, served_surroundings, start
from tests.cli.test_json import validate
from tests.kit import forks
from tests.kit.forks import Forked
from tests.platforms.tools import tools_in

_HERE = Path(__file__).parent
APP = "served:make"


def go(folder: Path, *options: str, app: str = APP) -> Said:
    """Serve until idle, in a process of its own."""
    done = forks.run(
        command_line("serve", app, "--until-idle", *options),
        cwd=_HERE,
        env=served_surroundings(folder),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    return Said(done.returncode, done.stdout, done.stderr)


def test_it_says_in_one_line_what_it_has_done_and_when_the_next_run_is_due(tmp_path: Path) -> None:
    assert go(tmp_path).out == "idle\n"
    db = str(tmp_path / "app.db")
    start(db, "greet", '"you"', id="greets")
    start(db, "wait", id="waits")
    assert call("--db", db, "start", "greet", '"later"', "--delay", "2h").code == 0
    said = go(tmp_path)
    assert (said.code, said.err) == (0, said.err)
    assert said.out.startswith("idle; next run due ")
    assert said.out.endswith(" (in 2 h)\n")
    reach(db, "greets", "completed")


@pytest.mark.parametrize("workers", ["0", "2"])
def test_json_keeps_to_its_schema(tmp_path: Path, workers: str) -> None:
    assert go(tmp_path).code == 0
    start(str(tmp_path / "app.db"), "greet", '"you"', id="greets")
    said = go(tmp_path, "--json", "--workers", workers)
    assert said.code == 0, said
    validate(said.json, "serve")
    steps = 0 if workers == "0" else None
    assert said.json == {"reason": "idle", "next_due": None, "steps": steps, "unfinished": 0, "too_long": []}
    reach(str(tmp_path / "app.db"), "greets", "completed")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--max-seconds", "5"], "--max-seconds goes with --until-idle"),
        (["--alone"], "--alone goes with --until-idle"),
        (["--json"], "--json goes with --until-idle"),
        (["--wake-up", "cron"], "--wake-up goes with --until-idle"),
        (["--until-idle", "--tree"], "--tree does not go with --until-idle"),
        (["--until-idle", "--wake-up", "sundial"], "'sundial' is not one of"),
        (["--until-idle", "--max-seconds", "soon"], "'soon' is no duration"),
    ],
)
def test_wrong_usage_is_refused(options: list[str], why: str) -> None:
    said = call("serve", APP, *options)
    assert said.code == 2
    assert why in said.error


def test_a_slot_that_is_all_grace_is_refused(tmp_path: Path) -> None:
    said = go(tmp_path, "--max-seconds", "50")
    assert said.code == 1
    assert "of these the last 50 (the engine's grace_seconds) are for steps in hand" in said.error


def test_alone_it_leaves_a_database_to_whoever_serves_it(tmp_path: Path) -> None:
    db = str(tmp_path / "app.db")
    with Forked(
        command_line("serve", APP), cwd=_HERE, env=served_surroundings(tmp_path), stderr=subprocess.PIPE
    ) as server:
        assert server.stderr is not None
        server.stderr.readline()  # it serves
        until(lambda: "executor" in call("--db", db, "check").out)
        assert go(tmp_path, "--alone").out == "another process serves\n"
        server.kill()


def test_sigterm_drains_it_and_it_still_says_what_is_due(tmp_path: Path) -> None:
    db = str(tmp_path / "app.db")
    assert go(tmp_path).code == 0
    start(db, "wait", id="waits")
    start(db, "busy", id="busy")
    with Forked(
        command_line("serve", "busy_app:make", "--until-idle", "--json"),
        cwd=_HERE,
        env=served_surroundings(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        until((tmp_path / "busy").exists)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0
    document = json.loads(out)
    assert (document["reason"], document["unfinished"]) == ("stopped", 1)


def test_a_step_that_does_not_let_itself_be_ended_does_not_keep_it(tmp_path: Path) -> None:
    """Its process ends all the same, in time and with what it knows; to the run it is a crash."""
    assert go(tmp_path).code == 0
    db = str(tmp_path / "app.db")
    start(db, "hang", json.dumps(str(tmp_path / "begun")), id="hangs")
    said = go(tmp_path, "--max-seconds", "2", "--json", app="busy_app:hasty")
    assert (tmp_path / "begun").exists()
    assert said.code == 0
    assert (said.json["reason"], said.json["steps"], said.json["unfinished"]) == ("time", None, 1)
    assert datetime.fromisoformat(said.json["next_due"]) <= datetime.now(UTC)


# ---- wake-ups ----------------------------------------------------------------------------------------------------


def test_the_option_names_all_wake_ups_that_there_are() -> None:
    (option,) = (each for each in command.params if each.name == "wake_up")
    assert list(option.type.choices) == list(WAKE_UPS)  # type: ignore[attr-defined]


def test_it_has_itself_started_again_when_the_next_run_is_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    tools = tools_in(tmp_path / "bin", monkeypatch)
    tools.add("systemd-run", "systemctl", "crontab")
    options = ["--wake-up", "systemd", "--workers", "0"]
    assert go(tmp_path, *options).code == 0
    assert tools.calls("systemd-run") == []  # nothing comes by itself
    db = str(tmp_path / "app.db")
    assert call("--db", db, "start", "greet", '"later"', "--delay", "2h").code == 0
    said = go(tmp_path, *options)
    assert said.code == 0, said
    (asked,) = tools.calls("systemd-run")
    assert asked[asked.index("--") + 1 :] == command_line("serve", APP, "--until-idle", *options)
    assert f"--working-directory={_HERE}" in asked
    (unit,) = (each.removeprefix("--unit=") for each in asked if each.startswith("--unit="))
    (due,) = (each for each in asked if each.startswith("--on-calendar="))
    assert unit.startswith("durable-trio-")
    tools.says("systemctl", f"{unit}.timer loaded active waiting x y\n")
    assert go(tmp_path, *options).code == 0
    assert tools.calls("systemd-run") == []  # it is there already, under the same name
    assert due.endswith(" UTC")
    assert go(tmp_path, "--wake-up", "cron").code == 0
    assert tools.read("crontab").startswith("* * * * * cd ")
    assert sys.executable in tools.read("crontab")


def test_that_it_cannot_be_woken_is_said_after_what_it_has_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    tools = tools_in(tmp_path / "bin", monkeypatch)
    tools.add("systemctl")
    tools.fails("systemctl", "System has not been booted with systemd")
    assert go(tmp_path).code == 0
    assert call("--db", str(tmp_path / "app.db"), "start", "greet", '"later"', "--delay", "2h").code == 0
    said = go(tmp_path, "--wake-up", "systemd")
    assert said.code == 1
    assert said.out.startswith("idle; next run due ")
    assert said.error == "durable-trio: systemctl failed: System has not been booted with systemd"
