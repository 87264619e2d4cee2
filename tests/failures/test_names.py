"""By which names exception classes are stored, and found again where the code has changed."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from durable_trio.codec import Codec
from durable_trio.errors import StepFailed
from durable_trio.failures import CannotRebuild, Failures

# What the release before has stored of exceptions of a file that was run as the program.
RECORDED = [
    r'{"type":"__main__.Declined","message":"no funds","traceback":"Declined: no funds\n","recipe":"new",'
    r'"args":["no funds"],"state":{}}',
    r'{"type":"__main__.Refused","message":"late","traceback":"Refused: late\n","recipe":"fields",'
    r'"fields":{"reason":"late"},"state":{}}',
    r'{"type":"__main__.Bank.Closed","message":"night","traceback":"Bank.Closed: night\n","recipe":"new",'
    r'"args":["night"],"state":{}}',
    r'{"type":"builtins.ExceptionGroup","message":"two (2 sub-exceptions)","traceback":"","recipe":"group",'
    r'"text":"two","errors":[{"type":"__main__.Declined","message":"a","traceback":"Declined: a\n","recipe":"new",'
    r'"args":["a"],"state":{}},{"type":"builtins.ValueError","message":"b","traceback":"ValueError: b\n",'
    r'"recipe":"new","args":["b"],"state":{}}],"state":{}}',
]
SOURCE = """
import attrs
class Declined(Exception): pass
@attrs.frozen
class Refused(Exception):
    reason: str
class Bank:
    class Closed(Exception): pass
"""


def make(name: str, source: str = SOURCE, *, file: str | None = "/srv/app.py", spec: str | None = None) -> ModuleType:
    module = ModuleType(name)
    if file is not None:
        module.__file__ = file
    module.__spec__ = None if spec is None else SimpleNamespace(name=spec)  # type: ignore[assignment]
    exec(source, vars(module))
    return module


@contextmanager
def loaded(*modules: ModuleType) -> Iterator[None]:
    """Have these modules loaded, and no other program."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (ModuleType("__main__"), *modules):
            patch.setitem(sys.modules, module.__name__, module)
        yield


def run_and_imported() -> tuple[ModuleType, ModuleType]:
    """Return the module of ``app.py`` as it is when it is the program, and when it is imported."""
    return make("__main__"), make("app")


def failures_of(module: ModuleType, *classes: Any, aliases: dict[str, type] | None = None) -> Failures:
    return Failures(Codec(), modules=[module.__name__], classes=classes, aliases=aliases or {})


def errors_of(module: Any) -> list[Exception]:
    return [module.Declined("no funds"), module.Refused("late"), module.Bank.Closed("night")]


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (make("__main__"), "app.Declined"),
        (make("__main__", file="app.py"), "app.Declined"),
        (make("__main__", file="/srv/my-app.v2.py"), "my-app.v2.Declined"),
        (make("__main__", file="/srv/shop/app.py", spec="shop.app"), "shop.app.Declined"),
        (make("__main__", file="/srv/shop/__main__.py", spec="shop.__main__"), "shop.__main__.Declined"),
        (make("__main__", file="/srv/app/__main__.py", spec="__main__"), "__main__.Declined"),
        (make("__main__", file=None), "__main__.Declined"),
        (make("app"), "app.Declined"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_class_is_stored_under_the_name_by_which_it_would_be_imported(module: Any, name: str) -> None:
    with loaded(module):
        failures = failures_of(module)
        text, first = failures.encode(module.Declined("no funds"), where="x")

        assert json.loads(text)["type"] == name
        assert type(first) is type(failures.decode(text)) is module.Declined


def test_a_class_of_a_process_that_was_spawned_by_the_program_has_the_same_name() -> None:
    module: Any = make("__mp_main__")
    with loaded(module):
        sys.modules["__main__"] = module
        text, first = failures_of(module).encode(module.Declined("x"), where="x")

    assert json.loads(text)["type"] == "app.Declined"
    assert type(first) is module.Declined


def test_what_a_script_has_stored_its_module_reads_and_the_other_way_round() -> None:
    run, imported = run_and_imported()
    for writer, reader in ((run, imported), (imported, run)):
        with loaded(writer):
            texts = [failures_of(writer).encode(error, where="x")[0] for error in errors_of(writer)]
        with loaded(reader):
            for text, error in zip(texts, errors_of(reader), strict=True):
                found = failures_of(reader).decode(text)
                assert type(found) is type(error)
                assert str(found) == str(error)


def test_where_a_file_is_both_the_program_and_imported_each_workflow_gets_the_classes_of_its_own_module() -> None:
    run, imported = run_and_imported()
    with loaded(run, imported):
        for module, other in ((run, imported), (imported, run)):
            failures = failures_of(module)
            text, first = failures.encode(vars(module)["Declined"]("x"), where="x")
            assert type(first) is vars(module)["Declined"]
            assert type(failures_of(other).decode(text)) is vars(other)["Declined"]
            assert type(failures.encode(vars(other)["Declined"]("x"), where="x")[1]) is StepFailed
            both = failures_of(module, vars(other)["Declined"])
            assert type(both.encode(vars(module)["Declined"]("x"), where="x")[1]) is vars(module)["Declined"]


@pytest.mark.parametrize("text", RECORDED[:3])
def test_what_was_stored_of_the_program_before_is_read_by_the_module_that_was_it(text: str) -> None:
    run, imported = run_and_imported()
    for module in (run, imported):
        with loaded(module):
            found = failures_of(module).decode(text)
            assert type(found).__module__ == module.__name__
            assert str(found) == json.loads(text)["message"]
            given = [type(error) for error in errors_of(module)]
            assert type(failures_of(module, *given).decode(text)) is type(found)


def test_of_a_group_each_member_is_found() -> None:
    imported = make("app")
    with loaded(imported):
        found: Any = failures_of(imported).decode(RECORDED[3])
    assert [type(each) for each in found.exceptions] == [vars(imported)["Declined"], ValueError]


def test_a_class_given_of_the_program_is_found_though_the_workflow_is_elsewhere() -> None:
    run: Any = make("__main__", file="/srv/main.py")
    flows = make("flows", "")
    with loaded(run, flows):
        assert type(failures_of(flows, run.Declined).decode(RECORDED[0])) is run.Declined


@pytest.mark.parametrize("is_given", [True, False])
def test_a_class_whose_module_was_never_the_program_is_not_taken_for_one_of_it(is_given: bool) -> None:
    lib: Any = make("lib")
    flows = make("flows", "")
    vars(flows).update({} if is_given else {"Declined": lib.Declined})  # as an import of it does
    with loaded(lib, flows), pytest.raises(CannotRebuild) as caught:
        failures_of(flows, *([lib.Declined] if is_given else [])).decode(RECORDED[0])
    assert 'Engine(aliases={"__main__.Declined": Declined})' in str(caught.value)


def test_between_two_classes_of_the_name_none_is_chosen() -> None:
    imported, lib = make("app"), make("lib")
    given = vars(lib)["Declined"]
    with loaded(imported, lib):
        with pytest.raises(CannotRebuild):
            failures_of(imported, given).decode(RECORDED[0])
        assert type(failures_of(imported, given, aliases={"__main__.Declined": given}).decode(RECORDED[0])) is given


def test_aliases_come_first_make_no_chain_and_are_allowed_by_it() -> None:
    app, lib = make("app"), make("lib")
    old, new, refused = vars(app)["Declined"], vars(lib)["Declined"], vars(lib)["Refused"]
    with loaded(app, lib):
        text, _ = failures_of(app).encode(old("x"), where="x")
        failures = failures_of(app, aliases={"app.Declined": new, "lib.Declined": refused})
        assert type(failures.decode(text)) is new
        aliased = failures_of(app, aliases={"app.Gone": new})
        assert type(aliased.encode(new("x"), where="x")[1]) is new
        # One that is called as an old one was is not taken for it, live or later.
        assert type(failures.encode(old("x"), where="x")[1]) is StepFailed


def test_an_alias_for_a_class_that_is_no_exception_says_so() -> None:
    app = make("app")
    with loaded(app), pytest.raises(CannotRebuild, match="which is no class of exceptions"):
        failures_of(app, aliases={"__main__.Declined": Codec}).decode(RECORDED[0])


def moved() -> ModuleType:
    return make("shop.errors", "class Declined(Exception): pass")


def renamed() -> ModuleType:
    return make("app", "class NoFunds(Exception): pass")


@pytest.mark.parametrize(
    ("new", "line"),
    [
        (moved, 'aliases={"app.Declined": Declined}) (from shop.errors import Declined)'),
        (renamed, 'aliases={"app.Declined": Declined})'),
        (lambda: make("lib", "class Declined(Exception): pass", file=json.__file__), "Declined})"),
    ],
)
def test_the_message_names_the_line_that_helps(new: Callable[[], ModuleType], line: str) -> None:
    old, module = make("app"), new()
    with loaded(old):
        text, _ = failures_of(old).encode(vars(old)["Declined"]("x"), where="x")
    sys.modules.pop("app", None)
    with loaded(module):
        with pytest.raises(CannotRebuild) as caught:
            failures_of(make("flows", "")).decode(text)
        assert str(caught.value).endswith(line)
        found = re.search(r"Engine\((aliases=.*?\})\)", str(caught.value))
        assert found is not None
        now = next(
            cls for name, cls in vars(module).items() if isinstance(cls, type) and name in ("Declined", "NoFunds")
        )
        options = eval(f"dict({found[1]})", {"Declined": now})
        assert type(failures_of(module, **options).decode(text)) is now


def test_a_class_that_is_loaded_and_not_allowed_is_to_be_named_in_errors() -> None:
    app: Any = make("app")
    with loaded(app):
        text, _ = failures_of(app).encode(app.Bank.Closed("x"), where="x")
        with pytest.raises(CannotRebuild, match=r"is not allowed here: name it in Engine\(errors=\[Closed\]\)"):
            failures_of(make("flows", "")).decode(text)
        assert type(failures_of(make("flows", ""), app.Bank.Closed).decode(text)) is app.Bank.Closed


FIELDS = {
    "a default": "reason: str\n    code: int = 7",
    "no default": "reason: str\n    code: int",
    "none": "pass",
}


@pytest.mark.parametrize("kind", FIELDS)
def test_a_class_that_has_other_fields_now_is_read_or_says_which(kind: str) -> None:
    app: Any = make("app", f"import attrs\n@attrs.frozen\nclass Refused(Exception):\n    {FIELDS[kind]}\n")
    with loaded(app):
        failures = failures_of(app)
        if kind == "a default":
            found: Any = failures.decode(RECORDED[1])
            assert (found.reason, found.code) == ("late", 7)
            return
        with pytest.raises(CannotRebuild) as caught:
            failures.decode(RECORDED[1])
    wrong = "lacks the field 'code'" if kind == "no default" else "has no field 'reason'"
    assert f"(Refused {wrong}); let it take that again, so give an added field a default" in str(caught.value)
