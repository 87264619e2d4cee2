"""A family serves one code: who of its workers is let in, and what is said to those that are not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from durable_trio import Engine, Workflow, workflow
from durable_trio.engine.codes import FamilyCode
from durable_trio.engine.workers.family import FAILED, IS_NEWS, WHY, Family, code_of, decode, encode
from durable_trio.engine.workers.parent import PROBE
from supervisors.frames import encode_ask

ROOT = Path(__file__).parents[3]


class Line:
    """Workers that come to one family, and go."""

    def __init__(self, remedy: str = "durable-trio reload") -> None:
        self.alive: set[int] = set()
        self.family = Family(remedy, self.alive.__contains__)
        self.family.is_open = True

    def comes(self, pid: int, digest: str, *, name: str = "worker-1", **files: str) -> str | None:
        """Let a worker come that has some code; return why it is not let in."""
        return self.says(pid, encode(code(digest, **files)), name=name)

    def says(self, pid: int, value: object, *, name: str = "worker-1") -> str | None:
        """Let a worker come that says this of its code; return why it is not let in."""
        refusal = self.family.answer(name, pid, value)
        if refusal is None:
            self.alive.add(pid)
            return None
        return str(refusal[WHY])

    def goes(self, *pids: int) -> None:
        """Let workers die."""
        self.alive -= set(pids)


def code(digest: str, **files: str) -> FamilyCode:
    """Return a code; of its files the digests are given by their names, without the ending."""
    return FamilyCode(digest=digest, files={f"{name}.py": text for name, text in files.items()})


def test_the_first_worker_sets_the_code_and_another_one_is_refused_with_the_files_that_have_changed() -> None:
    line = Line()
    assert line.comes(1, "a", app="1", prices="1", rest="1") is None
    assert line.comes(2, "a", name="worker-2") is None
    line.goes(1)
    refusal = line.comes(3, "b", app="2", prices="2", rest="1")
    assert refusal == "the files have changed since this family started (app.py, prices.py): durable-trio reload"
    assert line.family.held_back == {"worker-1": refusal}
    assert line.comes(4, "a") is None, "the files are as they were"


def test_files_that_came_or_went_are_named_too_and_of_many_the_first() -> None:
    line = Line()
    line.comes(1, "a", a="1", b="1", c="1", d="1", same="1")
    refusal = line.comes(2, "b", same="1", e="1")
    assert refusal == (
        "the files have changed since this family started (a.py, b.py, c.py and 2 more): durable-trio reload"
    )


@pytest.mark.parametrize("files", [{}, {"app": "1"}])
def test_where_no_file_is_known_to_have_changed_none_is_named(files: dict[str, str]) -> None:
    """As where the version of Python has changed, or one has read old code and the new file."""
    line = Line()
    line.comes(1, "a", app="1")
    assert line.comes(2, "b", **files) == "the code has changed since this family started: durable-trio reload"


def test_with_builds_their_names_are_told() -> None:
    line = Line(remedy="restart it")
    line.says(1, encode(FamilyCode(digest="3f2a91c", is_build=True)), name="worker-1")
    line.alive.add(1)
    refusal = line.says(2, encode(FamilyCode(digest="next", is_build=True)), name="worker-2")
    assert refusal == "the build has changed since this family started ('3f2a91c', now 'next'): restart it"


def test_before_the_family_serves_there_is_nothing_to_reload() -> None:
    line = Line()
    line.family.is_open = False
    line.comes(1, "a", app="1")
    assert line.comes(2, "b", app="2", name="worker-2") == (
        "the files have changed since this family started (app.py): start it again"
    )


def test_when_nobody_is_left_the_next_one_sets_the_code() -> None:
    line = Line()
    line.comes(1, "a")
    line.comes(2, "a", name="worker-2")
    line.goes(1, 2)
    assert line.comes(3, "b") is None
    assert line.comes(4, "a", name="worker-2") is not None
    assert line.comes(5, "b", name="worker-2") is None


def test_one_that_was_let_in_and_died_before_it_was_ready_sets_nothing() -> None:
    line = Line()
    line.comes(1, "a")
    line.goes(1)
    assert line.comes(2, "b") is None


def test_one_with_the_pid_of_one_that_has_died_is_another_one() -> None:
    line = Line()
    line.comes(1, "a")
    line.comes(2, "a", name="worker-2")
    line.goes(2)
    line.alive.add(2)  # the next one of that number is there, and has not asked yet
    assert line.comes(2, "b", name="worker-2") is not None
    line.goes(1)
    assert line.comes(2, "b", name="worker-2") is None, "it is not one of those that serve the old code"


def test_one_that_tells_its_code_in_another_way_is_of_another_version_of_the_library() -> None:
    """As after an upgrade under a server that runs."""
    line = Line()
    line.comes(1, "a", app="1")
    for told in ({"digest": "a", "fingerprint": "b"}, ["a"], "a"):
        refusal = line.says(2, told, name="worker-2")
        assert refusal == "the code has changed since this family started: durable-trio reload"


def test_an_engine_of_another_kind_that_knows_no_code_is_let_in() -> None:
    family = Family()
    assert family.answer("worker-1", 1, None) is None
    assert family.answer("worker-2", 2, encode(code("a"))) is None


def test_people_are_told_of_one_that_is_not_let_in_again_and_again_ever_more_rarely() -> None:
    """Until it is let in, or is refused for something else."""
    family = Family("durable-trio reload", lambda _: True)
    family.is_open = True
    family.answer("worker-1", 1, encode(code("a")))

    def news(value: object, count: int, name: str = "worker-2") -> list[int]:
        answers = [family.answer(name, pid, value) for pid in range(2, count + 2)]
        return [number for number, answer in enumerate(answers, start=1) if answer and answer[IS_NEWS]]

    assert news(encode(code("b")), 20) == [1, 2, 4, 8, 16]
    assert news(encode(code("c", app="1")), 1) == [], "it is the same to people"
    assert news({FAILED: "no module named prices"}, 5) == [1, 2, 4]
    assert news({FAILED: "no module named prices"}, 2, "worker-3") == [1, 2]
    assert family.why_not("worker-2") == "no module named prices"
    family.is_back("worker-2")
    assert (family.why_not("worker-2"), list(family.held_back)) == ("", [])
    assert news({FAILED: "no module named prices"}, 2) == [1, 2]


# ---- values in closures and defaults -------------------------------------------------------------------------------


def with_values(values: str) -> dict[str, object]:
    return encode(FamilyCode(digest="same files", workflows=values))


def test_other_values_in_a_closure_are_other_code_though_the_files_are_the_same() -> None:
    """As where workflows are made of a file with data."""
    line = Line()
    for pid in (1, 2):
        assert line.says(pid, with_values("a"), name=f"worker-{pid}") is None
        line.alive.add(pid)
    line.goes(1)
    refusal = line.says(3, with_values("b"), name="worker-1")
    assert refusal == "the code has changed since this family started: durable-trio reload"


def test_values_that_differ_between_the_first_workers_tell_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """As a default that is the time: the family must be able to start. Files still tell."""
    line = Line()
    line.family.is_open = False
    for pid, value in enumerate("abc", start=1):
        assert line.says(pid, with_values(value), name=f"worker-{pid}") is None
        line.alive.add(pid)
    line.family.is_open = True
    assert [vars(record)["event"] for record in caplog.records] == ["code_unsteady"]
    line.goes(1)
    assert line.says(4, with_values("d"), name="worker-1") is None
    assert line.comes(5, "other files") is not None


def test_values_of_what_is_expected_are_those_of_the_first_that_comes() -> None:
    line = Line()
    line.says(1, with_values("a"), name="worker-1")
    line.alive.add(1)
    line.family.expect(FamilyCode(digest="new", workflows="of the probe"))
    assert line.says(2, encode(FamilyCode(digest="new", workflows="b")), name="worker-2") is None
    line.alive.add(2)
    assert line.says(3, encode(FamilyCode(digest="new", workflows="c")), name="worker-3") is not None


# ---- on purpose ----------------------------------------------------------------------------------------------------


def test_what_is_expected_is_let_in_beside_those_that_serve() -> None:
    line = Line()
    line.comes(1, "a", app="1")
    line.family.expect(code("b", app="2"))
    assert line.comes(2, "b", app="2", name="worker-2") is None
    assert line.comes(3, "c", app="3", name="worker-3") is not None, "the files have changed again"
    assert line.comes(4, "a", app="1", name="worker-3") is not None, "they are as before"


def test_when_nothing_comes_of_it_the_code_is_the_one_before() -> None:
    line = Line()
    line.comes(1, "a")
    before = line.family.expect(code("b"))
    line.family.expect_again(before)
    assert line.comes(2, "b") is not None
    assert line.comes(3, "a") is None


def test_when_one_has_come_with_it_after_all_it_stays() -> None:
    """A worker has died meanwhile, and has come back with the new code: the next one must not be refused for that."""
    line = Line()
    line.comes(1, "a")
    before = line.family.expect(code("b"))
    line.comes(2, "b", name="worker-2")
    line.family.expect_again(before)
    assert line.comes(3, "b", name="worker-3") is None


# ---- what a worker tells -------------------------------------------------------------------------------------------


def test_of_a_project_with_thousands_of_files_the_names_stay_behind() -> None:
    large = FamilyCode(digest="a", files={f"/srv/shop/parts/module_{number}.py": "12345678" for number in range(5000)})
    told = encode(large)
    encode_ask(told)
    assert told["files"] == {}
    assert decode(told) == FamilyCode(digest="a")
    assert decode(encode(code("a", app="1"))) == code("a", app="1")


def test_a_code_is_told_with_all_its_files_as_people_know_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = {str(tmp_path / "app.py"): "1", str(tmp_path / "shop" / "a\udcff.py"): "2", "/elsewhere/b.py": "3"}
    told = encode(FamilyCode(digest="a", files=files))
    assert told["files"] == {"app.py": "1", "shop/a\udcff.py": "2", "/elsewhere/b.py": "3"}
    encode_ask(told)


def flow(name: str, default: int = 0) -> Workflow[..., Any]:
    @workflow(name=name)
    async def body(ctx: Any, number: int = default) -> None: ...

    return body


def test_the_code_is_of_all_workflows_and_of_the_module_that_has_the_engine(tmp_path: Path) -> None:
    file = tmp_path / "app.py"

    def now(*names: str, text: str = "engine = 1", build: str | None = None) -> FamilyCode:
        file.write_text(text)
        module = {"__name__": "app", "__file__": str(file)}
        return code_of(build, [flow(name) for name in names], module)

    before = now("a", "b")
    assert now("a", "b") == now("b", "a") == before
    assert now("a").digest != before.digest
    assert now("a", "c").digest != before.digest
    other = now("a", "b", text="engine = 2  # with aliases")
    assert (other.digest != before.digest, other.workflows == before.workflows) == (True, True)
    made = code_of(None, [flow("a", default=1), flow("b")], {"__name__": "app", "__file__": str(file)})
    assert (made.digest == other.digest, made.workflows == other.workflows) == (True, False)
    assert before.changed_files(other) == [str(file)]
    built = now("a", build="3f2a91c")
    assert built == now("b", text="engine = 3", build="3f2a91c")
    assert built.is_build
    assert not built.files


def test_an_engine_tells_its_build(file_path: str) -> None:
    client = Engine(file_path, build="3f2a91c", workflows=[flow("a")])._client
    assert code_of(client.settings.build, client.registry, {}).digest == "3f2a91c"


# ---- files that change while they are imported -----------------------------------------------------------------------

_CHANGING = """
import os
import prices
from durable_trio import Engine

with open("imports.txt", "a") as file:
    file.write(f"{os.getpid()} {prices.PRICE} {sorted(name for name in os.environ if name.endswith('_AGAIN'))}\\n")
with open("imports.txt") as file:
    count = len(file.readlines())
if count <= CHANGES:  # a deploy copies the next release meanwhile, with the times that its files have elsewhere
    with open("next.py", "w") as file:
        file.write(f"PRICE = {10 ** count}\\n")
    os.utime("next.py", (1, 1))
    os.rename("next.py", "prices.py")
engine = Engine("app.db")
"""


@pytest.mark.parametrize(("changes", "prices"), [(0, ["1"]), (1, ["1", "10"]), (9, ["1", "10", "100", "1000"])])
def test_a_worker_under_whose_import_files_change_begins_again(tmp_path: Path, changes: int, prices: list[str]) -> None:
    """Else it would serve what it has imported, and be known by what is in the files now."""
    (tmp_path / "prices.py").write_text("PRICE = 1\n")
    (tmp_path / "changing_shop.py").write_text(_CHANGING.replace("CHANGES", str(changes)))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    command = [sys.executable, "-m", "durable_trio.engine.workers", PROBE, "changing_shop:engine"]
    time.sleep(0.05)  # the files are older than the process
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    imports = [line.split(" ", 2) for line in (tmp_path / "imports.txt").read_text().splitlines()]
    assert [price for _, price, _ in imports] == prices
    assert len({pid for pid, _, _ in imports}) == 1, "its parent knows it by its pid"
