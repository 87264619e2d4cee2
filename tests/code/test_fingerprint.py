"""A fingerprint is another one when the code may do something else, and the same wherever that code is."""

from __future__ import annotations

import functools
import importlib
import json
import os
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from durable_trio.code import Fingerprints, versions
from durable_trio.code.project import Project, _imported

FLOWS = '''
"""Orders."""
import json, sys
from enum import Enum
from functools import cache, partial
from typing import TYPE_CHECKING

import dep
from constants import (
    RATE,
)
from helpers import price

try:
    from extra import *
except ImportError:
    pass
if TYPE_CHECKING:
    import typed

class Color(Enum):
    RED = "red"

def make(limit, *values):
    async def body(ctx, n=1, *, kinds=frozenset({"x", "y", "z"})):
        import late
        if n in {"red", "green", "blue"} or n > limit:
            return [price(n) for _ in values]
        return RATE
    return body

@cache
def cached(n):
    return n

order = make(5, {"p", "q", "r"}, {"a": {"s", "t"}}, object(), Color.RED, cached, len, Color, lambda x: x in {"u", "v"})
part = partial(order, n=3)

async def checked(ctx):
    assert ctx in {"a", "b", "c"}

def show():
    from durable_trio.code import Fingerprints
    found = {each.__name__: Fingerprints(["1"]).of(each) for each in (order, checked)}
    print(json.dumps(found | {"part": Fingerprints(["1"]).of(part), "main": __name__}))

if __name__ == "__main__":
    show()
'''
FILES = {
    "flows.py": FLOWS,
    "constants.py": "RATE = 5\n",
    "helpers.py": "import middle as m\ndef price(n):\n    return m.tax(n)\n",
    "middle.py": "from far import *\nfrom far import rate\ndef tax(n):\n    return rate(n)\n",
    "far.py": "import helpers\ndef rate(n):\n    return n\n",
    "extra.py": "SIZES = [1]\n",
    "late.py": "X = 1\n",
    "typed.py": "X = 1\n",
    "beside.py": "X = 1\n",
    "data.json": "{}",
    "site-packages/dep.py": "X = 1\n",
}


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@contextmanager
def loaded(folder: Path, *names: str) -> Iterator[list[Any]]:
    """Import modules from a folder; leave no trace of them."""
    before = dict(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(folder), str(folder / "site-packages"), *sys.path])
        patch.setattr(sys, "dont_write_bytecode", True)
        importlib.invalidate_caches()
        try:
            yield [importlib.import_module(name) for name in names]
        finally:
            for name in sys.modules.keys() - before.keys():
                del sys.modules[name]


def of(function: Callable[..., Any], *versions: str) -> str:
    return Fingerprints(versions or ["1"]).of(function)


def of_project(folder: Path, *also: str) -> str:
    with loaded(folder, "flows", *also) as (flows, *_):
        return of(flows.order)


@pytest.mark.parametrize(
    ("changes", "is_same"),
    [
        ({}, True),
        ({"flows.py": FLOWS.replace('"""Orders."""', '"""Orders."""\n# a comment')}, False),
        ({"flows.py": FLOWS.replace("n > limit", "n >= limit")}, False),
        ({"helpers.py": FILES["helpers.py"].replace("m.tax(n)", "m.tax(n) + 1")}, False),
        ({"far.py": FILES["far.py"].replace("return n", "return 2 * n")}, False),
        ({"constants.py": "RATE = 6\n"}, False),
        ({"extra.py": "SIZES = [2]\n"}, False),
        ({"late.py": "X = 2\n"}, True),
        ({"typed.py": "X = 2\n"}, True),
        ({"beside.py": "X = 2\n"}, True),
        ({"data.json": "[]"}, True),
        ({"site-packages/dep.py": "X = 2\n"}, True),
    ],
    ids=str,
)
def test_a_change_in_what_the_workflows_module_reaches_makes_it_another(
    tmp_path: Path, changes: dict[str, str], is_same: bool
) -> None:
    """Not what is installed, data, or only imported within functions."""
    before = of_project(write(tmp_path / "before", FILES))
    after = of_project(write(tmp_path / "elsewhere" / "after", FILES | changes), "beside", "late", "typed")

    assert (before == after) is is_same


PACKAGE = {
    "shop/__init__.py": "from .flows import order\n",
    "shop/flows.py": "from . import prices\nfrom .sizes import SIZE\nimport dep\nasync def order(ctx): pass\n",
    "shop/prices.py": "X = 1\n",
    "shop/sizes.py": "SIZE = 1\n",
    "shop/admin.py": "X = 1\n",
    "dep.py": "X = 1\n",
}


@pytest.mark.parametrize("where", ["", "site-packages"])
@pytest.mark.parametrize(
    ("changes", "is_same"),
    [
        ({}, True),
        ({"shop/prices.py": "X = 2\n"}, False),
        ({"shop/sizes.py": "SIZE = 2\n"}, False),
        ({"shop/admin.py": "X = 2\n"}, True),
    ],
    ids=str,
)
def test_a_package_is_the_project_wherever_it_lies(
    tmp_path: Path, where: str, changes: dict[str, str], is_same: bool
) -> None:
    """What else of it some process has loaded does not count."""

    def made(folder: Path, *also: str) -> str:
        with loaded(folder, "shop", *also) as (shop, *_):
            return of(shop.order)

    before = made(write(tmp_path / "a" / where, PACKAGE))
    assert (before == made(write(tmp_path / "b" / where, PACKAGE | changes), "shop.admin")) is is_same


def typed_in(source: str, **names: Any) -> Any:
    """Return what a piece of code makes that has no file."""
    names["__name__"] = "typed"
    exec(source, names)
    return names["order"]


def body(constant: str = "1", default: str = "1") -> str:
    return f"async def order(ctx, n={default}):\n    def inner():\n        return n in {constant}\n    return inner\n"


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        (body(), body(), True),
        (body(), "\n\n# lower\n" + body(), True),
        (body("{'a', 'b', 'c'}"), body("{'c', 'a', 'b'}"), True),
        (body("{'a', 'b'}"), body("{'a', 'c'}"), False),
        (body("{1, 2}"), body("{1, True + 1, 3}"), False),
        (body("(1,)"), body("(True,)"), False),
        (body("(1,)"), body("(1.0,)"), False),
        (body("(0.0,)"), body("(-0.0,)"), False),
        (body("('1',)"), body("(b'1',)"), False),
        (body("(1, 2)"), body("(2, 1)"), False),
        (body("((1,), 2)"), body("(1, (2,))"), False),
        (body("{'a'}", "1"), body("{'a'}", "2"), False),
        (body(default="{1: {2, 3}}"), body(default="{1: {3, 2}}"), True),
        (body(default="[1, [2]]"), body(default="[1, 2]"), False),
        (body(default="object()"), body(default="object()"), True),
        (body(default="object()"), body(default="Exception()"), False),
        (body(default="len"), body(default="max"), False),
        (body(default="int"), body(default="str"), False),
        (body(default="lambda: 1"), body(default="lambda: 2"), False),
        (body(default="lambda x=1: x"), body(default="lambda x=2: x"), False),
        (body(default="[lambda: [lambda: 1]]"), body(default="[lambda: [lambda: 2]]"), False),
    ],
)
def test_the_body_its_constants_and_defaults_count_by_kind(one: str, other: str, is_same: bool) -> None:
    assert (of(typed_in(one)) == of(typed_in(other))) is is_same


CLOSURE = """
def make(value, helper):
    async def order(ctx):
        return helper(value)
    return order
order = make({value}, {helper})
"""


@pytest.mark.parametrize(
    ("value", "helper", "is_same"),
    [
        ("5", "lambda x: x", True),
        ("6", "lambda x: x", False),
        ("5", "lambda x: x + 1", False),
        ("{5}", "lambda x: x", False),
    ],
)
def test_what_is_in_a_closure_counts(value: str, helper: str, is_same: bool) -> None:
    before = of(typed_in(CLOSURE.format(value="5", helper="lambda x: x")))
    assert (of(typed_in(CLOSURE.format(value=value, helper=helper))) == before) is is_same


def test_functions_in_a_closure_are_followed_through_each_other_in_bounded_time() -> None:
    """Thirty that call each other in all ways have no end of paths; a list that holds itself twice has none either."""
    source = """
def make(last):
    me = [last]
    me += [me, me]
    """ + "\n    ".join(f"def f{n}(): return {', '.join(f'f{m}' for m in range(30))}, {n}" for n in range(29))
    source += f"\n    def f29(): return {', '.join(f'f{m}' for m in range(30))}, last"
    source += "\n    async def order(ctx): return f0(), me\n    return order\norder = make({last})\n"

    found = [of(typed_in(source.replace("{last}", last))) for last in ("1", "1", "2")]
    assert found[0] == found[1] != found[2]


def test_what_is_wrapped_around_a_function_counts_and_the_function_within() -> None:
    def logged(fn: Any, level: int) -> Any:
        @functools.wraps(fn)
        async def wrapper(*args: Any) -> Any:
            return await fn(*args), level

        return wrapper

    one, other = typed_in(body("{'a'}")), typed_in(body("{'b'}"))
    made = [
        *(one, other, logged(one, 1), logged(one, 2), logged(other, 1)),
        *(functools.partial(one), functools.partial(one, n=1), functools.partial(one, n=2), functools.partial(other)),
        *(types.MethodType(one, 1), types.MethodType(one, ""), types.MethodType(other, 1)),
    ]
    assert len({of(each) for each in made}) == len(made)
    assert [of(each) for each in made] == [of(each) for each in made]


def test_another_version_of_what_executes_it_is_another_code() -> None:
    order = typed_in(body())

    assert of(order, "1", "3.11") == of(order, "1", "3.11") != of(order, "1", "3.12")
    assert versions()[1] == f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert len(of(order)) == 16


def test_workflows_of_one_engine_read_each_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    plain = Path.read_bytes

    def noted(path: Path) -> bytes:
        read.append(path.name)
        return plain(path)

    monkeypatch.setattr(Path, "read_bytes", noted)
    with loaded(write(tmp_path, FILES), "flows") as (flows,):
        fingerprints = Fingerprints(versions())
        assert fingerprints.of(flows.order) != fingerprints.of(flows.checked)

    assert sorted(read) == sorted({"constants.py", "extra.py", "far.py", "flows.py", "helpers.py", "middle.py"})


def test_imports_are_found_as_the_module_makes_them() -> None:
    source = b"""
from a import b as c, d  # e
from .f import (
    g as h,
    i,
)
import j, k.l as m
from . import n
from ....... import o
try:
    import p
except ImportError:
    from q import *
def function():
    import r
class Class:
    import s
if x:
    import t
if typing.TYPE_CHECKING:
    import u
"""
    found = set(_imported({"__package__": "shop.parts"}, source))
    modules = {"a", "shop.parts.f", "j", "k.l", "shop.parts", "p", "q", "t"}
    assert found == modules | {"a.b", "a.d", "shop.parts.f.g", "shop.parts.f.i", "shop.parts.n"}


def test_globals_that_cannot_be_looked_at_and_files_that_are_gone_cost_nothing(tmp_path: Path) -> None:
    class Meta(type):
        def __getattribute__(cls, name: str) -> Any:
            raise RuntimeError

    class Odd(metaclass=Meta):
        def __getattribute__(self, name: str) -> Any:
            raise RuntimeError

    names = {
        "__name__": "odd",
        "__file__": str(tmp_path / "gone.py"),
        "odd": Odd(),
        "Odd": Odd,
        "part": functools.partial(len),
    }
    assert len(Project().digests(names, [])) == 1


def test_ten_processes_find_the_same_whatever_their_seed_folder_and_way_to_start(tmp_path: Path) -> None:
    """As the program and imported, and without assertions, which is another code only where there are some."""
    ways = [["flows.py"], ["-c", "import flows; flows.show()"], ["-O", "flows.py"]]
    processes = []
    for number in range(10):
        folder = write(tmp_path / f"copy-{number}", FILES)
        path = os.pathsep.join([str(folder), str(folder / "site-packages"), *filter(None, sys.path)])
        variables = os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": str(number), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, *ways[number % 3]]
        processes.append(subprocess.Popen(command, cwd=folder, env=variables, stdout=subprocess.PIPE))
    found = [json.loads(process.communicate()[0]) for process in processes]

    assert {each["main"] for each in found} == {"__main__", "flows"}
    assert len({each["body"] for each in found}) == 1
    assert len({each["part"] for each in found}) == 1
    assert [each["checked"] == found[0]["checked"] for each in found] == [number % 3 != 2 for number in range(10)]
