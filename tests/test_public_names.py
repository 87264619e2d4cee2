"""The package gives its public names when they are asked for, and is otherwise a module like any other."""

from __future__ import annotations

import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import durable_trio

PACKAGE = Path(durable_trio.__file__).parent


def in_fresh_process(code: str) -> str:
    """Run a program that has imported nothing yet; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_imports_neither_trio_nor_sqlite_until_a_name_is_asked_for() -> None:
    printed = in_fresh_process("""
        import sys
        import durable_trio
        from durable_trio import unseen
        print(sorted({"trio", "sqlite3", "sqlite_utils", "attrs", "cattrs"} & sys.modules.keys()), unseen.__name__)
        durable_trio.Engine
        print("trio" in sys.modules)
    """)
    assert printed == "[] durable_trio.unseen\nTrue\n"


def test_a_part_that_is_imported_first_does_not_take_the_place_of_a_name() -> None:
    """`workflow` stays the decorator, however early its module is imported."""
    printed = in_fresh_process("""
        import durable_trio.engine.engine
        from durable_trio import workflow
        import durable_trio
        print(workflow.__name__, durable_trio.errors.__name__)
    """)
    assert printed == "workflow durable_trio.errors\n"


def test_a_star_import_gives_every_public_name() -> None:
    printed = in_fresh_process("""
        from durable_trio import *
        names = dict(globals())
        import durable_trio
        print(sorted(set(durable_trio.__all__) - names.keys()), Engine is durable_trio.Engine)
    """)
    assert printed == "[] True\n"


def test_no_module_is_called_as_a_public_name() -> None:
    modules = {path.stem for path in PACKAGE.iterdir()}
    assert modules.isdisjoint(durable_trio.__all__)


def test_the_names_are_listed_and_each_is_there() -> None:
    assert set(durable_trio.__all__) <= set(dir(durable_trio))
    for name in durable_trio.__all__:
        assert getattr(durable_trio, name) is not None


def test_what_is_public_can_be_pickled_by_name() -> None:
    assert pickle.loads(pickle.dumps(durable_trio.Engine)) is durable_trio.Engine
    assert pickle.loads(pickle.dumps(durable_trio.Retry.none())) == durable_trio.Retry.none()


def test_a_name_with_a_typing_error_is_an_attribute_error_that_offers_the_right_one() -> None:
    with pytest.raises(AttributeError, match="module 'durable_trio' has no attribute 'Enginee'") as raised:
        durable_trio.Enginee  # type: ignore[attr-defined]  # noqa: B018
    assert (raised.value.name, raised.value.obj) == ("Enginee", durable_trio)  # from which Python makes its offer
    with pytest.raises(ImportError):
        from durable_trio import Enginee  # type: ignore[attr-defined]  # noqa: F401
