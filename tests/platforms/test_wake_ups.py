"""Wake-ups: what platforms are asked for. The platforms are not here; what they are asked with is recorded."""

from __future__ import annotations

import plistlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from durable_trio import platforms
from durable_trio.clock import Clock, from_datetime
from durable_trio.platforms import (
    CronWakeUp,
    LaunchdWakeUp,
    NoWakeUp,
    Program,
    SystemdWakeUp,
    WakeUp,
    WakeUpFailed,
)
from tests.platforms.tools import Tools, tools_in

NOW = datetime(2026, 3, 1, 10, 0, 30, tzinfo=UTC)
AT = datetime(2026, 3, 1, 12, 30, 20, 750_000, tzinfo=UTC)
CLOCK = Clock(wall=lambda: from_datetime(NOW) * 1000, monotonic=lambda: 0)


def program(**options: Any) -> Program:
    given: dict[str, Any] = {"argv": ["/usr/bin/python", "-m", "shop"], "name": "shop-1a", "folder": "/srv/a b"}
    return Program(**(given | options))


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    return tools_in(tmp_path, monkeypatch)


@pytest.fixture
def vienna(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Europe/Vienna")
        time.tzset()
        yield
    time.tzset()


def test_the_names_of_the_package_come_when_they_are_asked_for() -> None:
    for name in platforms.__all__:
        assert getattr(platforms, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        platforms.Nothing  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"argv": []}, "names no program"),
        ({"name": "a b"}, "a name of letters"),
        ({"name": ""}, "a name of letters"),
        ({"argv": ["/bin/true", "a\nb"]}, "control character"),
        ({"environment": {"A": "b\0"}}, "control character"),
        ({"folder": "/a\n* * * * * evil"}, "control character"),
    ],
)
def test_a_program_that_no_platform_could_be_told_of_is_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        program(**options)


# ---- systemd -----------------------------------------------------------------------------------------------------


def systemd(tools: Tools, **options: Any) -> SystemdWakeUp:
    tools.add("systemd-run", "systemctl")
    given: dict[str, Any] = {"program": program(), "clock": CLOCK, "is_system": False}
    return SystemdWakeUp(**(given | options))


async def test_systemd_is_asked_for_a_timer_in_the_second_of_the_instant(tools: Tools) -> None:
    await systemd(tools).schedule(AT)
    (asked,) = tools.calls("systemd-run")
    assert asked == [
        "--user",
        "--quiet",
        "--collect",
        "--unit=shop-1a-20260301T123020Z",
        "--description=durable-trio: /usr/bin/python -m shop",
        "--on-calendar=2026-03-01 12:30:20 UTC",
        "--timer-property=AccuracySec=1s",
        "--working-directory=/srv/a b",
        "--",
        "/usr/bin/python",
        "-m",
        "shop",
    ]
    assert tools.calls("systemctl") == [
        ["--user", "list-units", "--all", "--plain", "--no-legend", "--no-pager", "shop-1a-*.timer"]
    ]


async def test_roots_timers_are_the_systems_and_an_environment_is_passed_on(tools: Tools) -> None:
    await systemd(tools, is_system=True, program=program(environment={"PYTHONPATH": "/x y"})).schedule(AT)
    (asked,) = tools.calls("systemd-run")
    assert "--user" not in asked
    assert "--setenv=PYTHONPATH=/x y" in asked
    assert not any(argument == "--user" for call in tools.calls("systemctl") for argument in call)


async def test_another_zone_means_the_same_instant(tools: Tools, vienna: None) -> None:
    await systemd(tools).schedule(AT.astimezone())
    assert "--on-calendar=2026-03-01 12:30:20 UTC" in tools.calls("systemd-run")[0]


async def test_an_instant_that_is_past_means_a_moment_from_now(tools: Tools) -> None:
    """A calendar event in the past never comes."""
    await systemd(tools).schedule(NOW - timedelta(days=1))
    assert "--on-calendar=2026-03-01 10:00:33 UTC" in tools.calls("systemd-run")[0]


@pytest.mark.parametrize(("minutes", "is_asked"), [(-60, True), (-20, False), (0, False), (20, True)])
async def test_an_earlier_timer_that_is_to_come_does_as_well(tools: Tools, minutes: int, is_asked: bool) -> None:
    """The same twice is nothing; and nobody takes back what another has asked for that comes before."""
    wake_up = systemd(tools, clock=Clock(wall=lambda: from_datetime(AT - timedelta(minutes=30)) * 1000))
    there = AT + timedelta(minutes=minutes)
    units = f"shop-1a-{there:%Y%m%dT%H%M%S}Z.timer loaded active waiting d e\nshop-1a-else.timer loaded\n"
    tools.says("systemctl", units)
    await wake_up.schedule(AT)
    assert bool(tools.calls("systemd-run")) is is_asked
    stopped = [call for call in tools.calls("systemctl") if "stop" in call]
    assert stopped == ([["--user", "stop", f"shop-1a-{there:%Y%m%dT%H%M%S}Z.timer"]] if minutes > 0 else [])


async def test_cancelling_stops_the_programs_timers_and_no_others(tools: Tools) -> None:
    wake_up = systemd(tools)
    await wake_up.cancel()
    assert len(tools.calls("systemctl")) == 1
    tools.says("systemctl", "shop-1a-20260301T123020Z.timer loaded\nshop-1a-2-20260301T123020Z.timer loaded\n")
    await wake_up.cancel()
    assert tools.calls("systemctl")[1] == ["--user", "stop", "shop-1a-20260301T123020Z.timer"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_systemd_understands_the_instant() -> None:
    command = SystemdWakeUp(program=program()).command(AT.replace(microsecond=0))
    (calendar,) = (each.partition("=")[2] for each in command if each.startswith("--on-calendar="))
    said = subprocess.run(
        ["systemd-analyze", "calendar", "--base-time=2026-03-01 10:00:00 UTC", calendar],
        capture_output=True,
        text=True,
        check=True,
        env={"LC_ALL": "C", "TZ": "UTC", "PATH": "/usr/bin:/bin"},
    ).stdout
    assert "Next elapse: Sun 2026-03-01 12:30:20 UTC" in said


# ---- launchd -----------------------------------------------------------------------------------------------------


def launchd(tools: Tools, **options: Any) -> LaunchdWakeUp:
    tools.add("launchctl")
    given: dict[str, Any] = {
        "program": program(),
        "clock": CLOCK,
        "agents": tools.folder / "agents",
        "domain": "gui/501",
    }
    return LaunchdWakeUp(**(given | options))


def lists(wake_up: LaunchdWakeUp) -> dict[str, Any]:
    return {path.stem: plistlib.loads(path.read_bytes()) for path in sorted(wake_up.agents.glob("*"))}


async def test_launchd_gets_a_list_with_the_next_whole_minute_of_local_time(tools: Tools, vienna: None) -> None:
    wake_up = launchd(tools, program=program(environment={"PYTHONPATH": "/x"}))
    await wake_up.schedule(AT)
    assert lists(wake_up) == {
        "shop-1a-20260301T123100Z": {
            "Label": "shop-1a-20260301T123100Z",
            "ProgramArguments": ["/usr/bin/python", "-m", "shop"],
            "WorkingDirectory": "/srv/a b",
            "EnvironmentVariables": {"PYTHONPATH": "/x"},
            "StartCalendarInterval": {"Month": 3, "Day": 1, "Hour": 13, "Minute": 31},
            "ProcessType": "Background",
        }
    }
    path = wake_up.agents / "shop-1a-20260301T123100Z.plist"
    assert tools.calls("launchctl") == [["bootstrap", "gui/501", str(path)]]


@pytest.mark.parametrize(
    ("at", "minute"),
    [(AT.replace(second=0, microsecond=0), "12:30"), (NOW, "10:01"), (NOW - timedelta(days=9), "10:01")],
)
def test_launchd_is_told_no_minute_that_has_begun(tools: Tools, at: datetime, minute: str) -> None:
    assert f"{launchd(tools).minute(at):%H:%M}" == minute


async def test_the_next_wake_up_takes_the_place_of_later_and_of_past_ones(
    tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the job that this process is: unloading it would end the process."""
    wake_up = launchd(tools)
    wake_up.agents.mkdir()
    own, later, other = "shop-1a-20260301T100000Z", "shop-1a-20260302T100000Z", "another-20260302T100000Z"
    for label in (own, later, other):
        (wake_up.agents / f"{label}.plist").write_bytes(plistlib.dumps({"Label": label}))
    monkeypatch.setenv("XPC_SERVICE_NAME", own)
    await wake_up.schedule(AT)
    assert set(lists(wake_up)) == {"shop-1a-20260301T123100Z", other}
    assert tools.calls("launchctl")[1:] == [["bootout", f"gui/501/{later}"]]
    await wake_up.schedule(AT + timedelta(hours=1))
    assert tools.calls("launchctl") == []
    tools.fails("launchctl", "not loaded")
    await wake_up.cancel()
    assert set(lists(wake_up)) == {other}


# ---- cron --------------------------------------------------------------------------------------------------------


async def test_cron_gets_one_line_each_minute_and_keeps_the_others(tools: Tools) -> None:
    tools.add("crontab")
    tools.says("crontab", "# mine\n0 3 * * * backup # shop-1a\n")
    wake_up = CronWakeUp(program=program(argv=["/bin/a", "50%"], environment={"A": "b c"}))
    line = "* * * * * cd '/srv/a b' && env 'A=b c' /bin/a 50\\% >/dev/null # shop-1a"
    assert wake_up.line() == line
    assert line in wake_up.describe()
    await wake_up.schedule(AT)
    assert tools.calls("crontab") == [["-l"], ["-"]]
    table = tools.read("crontab")
    assert table == f"# mine\n0 3 * * * backup # shop-1a\n{line}\n"
    tools.says("crontab", table)
    await wake_up.schedule(AT)
    assert tools.calls("crontab") == [["-l"]]
    await wake_up.cancel()
    assert tools.read("crontab") == "# mine\n0 3 * * * backup # shop-1a\n"
    tools.calls("crontab")
    tools.says("crontab", "")
    await wake_up.cancel()
    assert tools.calls("crontab") == [["-l"]]


async def test_a_table_that_cannot_be_read_is_not_written_over(tools: Tools) -> None:
    tools.add("crontab")
    tools.fails("crontab", "crontab: you are not allowed to use this program")
    wake_up = CronWakeUp(program=program())
    with pytest.raises(WakeUpFailed, match="you are not allowed"):
        await wake_up.schedule(AT)
    assert tools.calls("crontab") == [["-l"]]
    tools.fails("crontab", "no crontab for me")
    with pytest.raises(WakeUpFailed):
        await wake_up.schedule(AT)
    assert tools.calls("crontab") == [["-l"], ["-"]]


def test_what_the_line_of_cron_does_is_what_the_program_is(tmp_path: Path) -> None:
    """As cron passes it to the shell: without the times, and a percent sign without its backslash."""
    folder = tmp_path / "it's a folder"
    folder.mkdir()
    argv = ["/bin/sh", "-c", 'pwd > "$1"; printf "%s" "$A" >> "$1"; echo no', "x", str(tmp_path / "50% said")]
    line = CronWakeUp(program=program(argv=argv, folder=str(folder), environment={"A": "$HOME 'x'"})).line()
    command = line.removeprefix("* * * * * ").replace("\\%", "%")
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, check=True)
    assert done.stdout == done.stderr == b""
    assert (tmp_path / "50% said").read_text() == f"{folder}\n$HOME 'x'"


# ---- all of them -------------------------------------------------------------------------------------------------


def all_kinds(tools: Tools) -> list[WakeUp]:
    tools.add("crontab")
    return [systemd(tools), launchd(tools), CronWakeUp(program=program()), NoWakeUp()]


async def test_each_describes_itself_and_takes_aware_instants_only(tools: Tools) -> None:
    for wake_up in all_kinds(tools):
        assert "start" in wake_up.describe()
        with pytest.raises(ValueError, match="no time zone"):
            await wake_up.schedule(AT.replace(tzinfo=None))
        await wake_up.schedule(AT)
        await wake_up.cancel()


async def test_where_there_is_no_such_platform_it_is_said(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = all_kinds(tools)[:-1]
    monkeypatch.setenv("PATH", str(tools.folder / "nothing"))
    for wake_up in kinds:
        with pytest.raises(WakeUpFailed, match="cannot be started: No such file or directory; is this such a platform"):
            await wake_up.schedule(AT)


async def test_what_a_tool_says_of_its_failure_is_told(tools: Tools) -> None:
    wake_up = systemd(tools)
    tools.fails("systemctl", "Failed to connect to bus:\n No medium found\n")
    with pytest.raises(WakeUpFailed, match="systemctl failed: Failed to connect to bus: No medium found"):
        await wake_up.schedule(AT)


async def test_a_list_that_cannot_be_written_is_told(tools: Tools) -> None:
    (tools.folder / "file").touch()
    with pytest.raises(WakeUpFailed, match="cannot be written"):
        await launchd(tools, agents=tools.folder / "file" / "agents").schedule(AT)
