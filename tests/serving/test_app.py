"""``"module:engine"`` is found, or it is said why not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from durable_trio import Engine, WorkerFailed
from durable_trio.serving.app import check_app, load_engine

APP = """
from durable_trio import Engine, workflow

engine = Engine(":memory:")
number = 7

class Place:
    engine = engine

@workflow
async def flow(ctx):
    pass

def make():
    return Engine(":memory:")

def make_nothing():
    return None

def make_trouble():
    raise KeyError("no")

def make_exit():
    raise SystemExit("no config file")

async def make_later():
    return Engine(":memory:")

many = ("first line\\n", *range(1000))

def make_many():
    return many
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to import from; what was imported from it is forgotten."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    (tmp_path / "some_app.py").write_text(APP)
    (tmp_path / "some_package").mkdir()
    (tmp_path / "some_package" / "__init__.py").write_text("")
    (tmp_path / "some_package" / "inner.py").write_text(APP)
    (tmp_path / "some_broken.py").write_text("import there_is_no_such_module\n")
    (tmp_path / "some_failing.py").write_text("1 / 0\n")
    (tmp_path / "some_exit.py").write_text("import sys\nsys.exit('no config file')\n")
    (tmp_path / "some_quiet_exit.py").write_text("import sys\nsys.exit()\n")
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize(
    "app", ["some_app:engine", "some_app:Place.engine", "some_app:make", "some_package.inner:engine"]
)
def test_an_engine_is_found_by_its_name_or_made_by_a_function(folder: Path, app: str) -> None:
    assert isinstance(load_engine(app), Engine)


@pytest.mark.parametrize(
    ("app", "message"),
    [
        ("no_such_app:engine", "'no_such_app:engine': there is no module 'no_such_app'; looked in .*PYTHONPATH"),
        ("some_package.other:engine", "there is no module 'some_package.other'"),
        ("some_broken:engine", "importing 'some_broken' failed: No module named 'there_is_no_such_module'"),
        ("some_failing:engine", "importing 'some_failing' failed: ZeroDivisionError: division by zero"),
        ("some_app:engin", "module 'some_app' has no 'engin'; did you mean some_app:engine?"),
        ("some_app:Place.motor", "has no 'Place.motor'$"),
        ("some_app:number", "is 7; it must be an Engine, or a function that returns one"),
        ("some_app:Engine", "it must be an Engine, or a function that returns one"),
        ("some_app:flow", "it must be an Engine, or a function that returns one"),
        ("some_app:make_nothing", "it returned None, which is no Engine"),
        ("some_app:make_trouble", "calling it for an engine failed: KeyError: 'no'"),
        ("some_exit:engine", "'some_exit:engine': importing 'some_exit' failed: SystemExit: no config file$"),
        ("some_quiet_exit:engine", "importing 'some_quiet_exit' failed: SystemExit$"),
        ("some_app:make_exit", "calling it for an engine failed: SystemExit: no config file$"),
        ("some_app:make_later", "^'some_app:make_later' is async; it must be an ordinary function"),
        ("some_app:many", r"^'some_app:many' is \('first line.{60,70}…; it must be an Engine"),
        ("some_app:make_many", r"it returned \('first line.{60,70}…, which is no Engine$"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(folder: Path, app: str, message: str) -> None:
    with pytest.raises(WorkerFailed, match=message) as caught:
        load_engine(app)
    assert "\n" not in str(caught.value)


def test_an_interrupt_while_an_app_is_imported_stays_one(folder: Path) -> None:
    (folder / "some_interrupt.py").write_text("raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        load_engine("some_interrupt:engine")


@pytest.mark.parametrize("app", ["", "app", "app:", ":engine", "app:engine()", "a b:c", "app.py:engine", "app:e:f"])
def test_another_form_is_refused(app: str) -> None:
    with pytest.raises(ValueError, match="must look like 'module:engine'"):
        check_app(app)


def test_an_engine_checks_the_form_when_it_is_made() -> None:
    with pytest.raises(ValueError, match="must look like"):
        Engine(":memory:", app="app")
    with pytest.raises(TypeError, match="must be a str"):
        Engine(":memory:", app=load_engine)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="whole number from 0 to 256"):
        Engine(":memory:", workers=-1)
