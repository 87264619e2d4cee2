"""The units and lines that the documentation gives: that those who read them understand them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

_PAGE = Path(__file__).parents[2] / "docs" / "without-a-server.md"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    service, timer = re.findall(r"```ini\n(.*?)```", _PAGE.read_text(encoding="utf-8"), re.DOTALL)
    # What is not on this machine, and is no matter of the unit.
    service = service.replace("/srv/shop/.venv/bin/durable-trio", "/bin/true").replace("User=shop", "User=root")
    (tmp_path / "shop.service").write_text(service)
    (tmp_path / "shop.timer").write_text(timer)
    units = [str(tmp_path / "shop.service"), str(tmp_path / "shop.timer")]
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, [line for line in done.stderr.splitlines() if "shop" in line]) == (0, "", [])
    (tmp_path / "shop.timer").write_text(timer.replace("OnCalendar", "OnCalender"))
    said = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False).stderr
    assert "OnCalender" in said
