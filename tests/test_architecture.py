"""Imports go one way, and what a layer must not know it does not import."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

import durable_trio

ROOT = Path(__file__).resolve().parent.parent

# Each layer may import those before it, and itself.
LAYERS = (
    ("doors", "unseen", "errors", "limits", "processes", "clock", "looks", "logger", "records", "policies", "options"),
    ("aliases", "code"),
    ("events",),
    ("rows",),
    ("codec", "failures"),
    ("rules", "signatures", "workflows"),
    ("stores",),
    ("starting",),
    ("turns",),
    ("calls",),
    ("context",),
    ("serving",),
    ("engine", "rehearsal"),
    ("platforms",),
    ("asyncio",),
    ("views",),
    ("cli", "web"),
)
# What re-exports from everywhere for users, and what only tests import.
BESIDE = ("__init__", "public_names", "__main__", "testing")
PUBLIC = durable_trio.__all__


def modules() -> list[Path]:
    return sorted((ROOT / "durable_trio").rglob("*.py"))


@functools.cache
def nodes(path: Path) -> list[ast.AST]:
    """Return the syntax tree of a file, flat; each is read once for all tests."""
    return list(ast.walk(ast.parse(path.read_text())))


@pytest.fixture(scope="module", autouse=True)
def trees_are_forgotten() -> Iterator[None]:
    """They are large, and no other tests want them."""
    yield
    nodes.cache_clear()


def imported(path: Path) -> Iterator[str]:
    """Yield the modules that a file imports; what is imported for type checkers only counts too."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            if node.module == "durable_trio":
                yield from (f"durable_trio.{alias.name}" for alias in node.names)
            else:
                yield node.module or ""


def part_of(path: Path) -> str:
    return path.relative_to(ROOT / "durable_trio").parts[0].removesuffix(".py")


def layer_of(part: str) -> int:
    return next(number for number, parts in enumerate(LAYERS) if part in parts)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    part = part_of(path)
    if part in BESIDE:
        return
    for name in imported(path):
        if not name.startswith("durable_trio"):
            continue
        pieces = name.split(".")
        if part in ("cli", "web") and pieces[1] in PUBLIC:
            continue  # as any user
        assert any(pieces[1] in parts for parts in (*LAYERS, BESIDE)), f"{path}: {name}"
        assert pieces[1] not in ("testing", "public_names"), f"{path} imports {name}, which is for tests or for users"
        assert layer_of(pieces[1]) <= layer_of(part), f"{path} imports {name} from a later layer"


def test_the_documentation_tells_the_layers_as_they_are() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    told = page.partition("## The layers")[2].split("```")[1].removeprefix("text")
    groups = [re.findall(r"\w+", group) for group in told.split("←")]
    assert len(groups) == len(LAYERS)
    for group, layer in zip(groups, LAYERS, strict=True):
        assert set(group) <= set(layer)


def users_of(*names: str) -> set[str]:
    return {
        str(path.relative_to(ROOT / "durable_trio"))
        for path in modules()
        if any(name.split(".")[0] in names for name in imported(path))
    }


def test_only_the_codec_knows_cattrs_and_orjson() -> None:
    assert all(user.startswith("codec") for user in users_of("cattrs", "orjson"))


# What only the store in an SQLite file is made of. Above it there is a database, and what a store is asked.
_OF_SQLITE = re.compile(
    r"sqlite|\bthe file\b|\bfile lock|\bflock\b|\bwal\b|\bpragma|\bboot_id\b|database is locked", re.IGNORECASE
)

# Who may say what of it all the same, and why.
_KNOW_SQLITE = {
    "__init__.py": ({"sqlite"}, "says first what this library is, and what it imports"),
    "public_names.py": ({"sqlite"}, "the module that the store uses is public, for tables of users"),
    "engine/engine.py": ({"sqlite"}, "a path is that of such a file, and so is its connection"),
    "context/context.py": ({"sqlite", "pragma"}, "what a transaction must not do with the connection that it is given"),
    "processes.py": ({"boot_id"}, "a process is known by the boot of its machine as well"),
    "stores/step_slots.py": ({"boot_id"}, "so is one that was at a step"),
    "stores/contract.py": ({"sqlite"}, "a path is only of such a file: others open it as one"),
    "stores/kinds.py": ({"sqlite"}, "which store an address means"),
    "stores/moving.py": ({"sqlite"}, "from which kind of store to which other one"),
    "stores/postgres/": ({"sqlite"}, "tables that mean the same are explained once"),
    "cli/": ({"sqlite", "the file", "wal"}, "``--db`` names a file"),
    "testing/": ({"sqlite", "the file", "wal", "pragma", "flock"}, "the checker looks into a file"),
}


def test_only_the_sqlite_store_knows_sqlite() -> None:
    """Neither by imports nor by words."""
    users = users_of("sqlite3", "pysqlite3", "sqlite_utils")
    assert users
    assert all(user.startswith(("stores/sqlite/", "testing/")) for user in users)
    said: dict[str, set[str]] = {}
    for path in modules():
        name = str(path.relative_to(ROOT / "durable_trio"))
        if not name.startswith("stores/sqlite/"):
            place = next((place for place in _KNOW_SQLITE if name.startswith(place)), name)
            said.setdefault(place, set()).update(word.lower() for word in _OF_SQLITE.findall(path.read_text()))
    assert {place: words for place, words in said.items() if words} == {
        place: words for place, (words, _) in _KNOW_SQLITE.items()
    }


def test_rules_and_stores_know_no_trio() -> None:
    allowed = {"stores/writer.py", "stores/reads.py", "stores/threads.py"}  # the async side of every store
    assert {user for user in users_of("trio") if user.startswith(("rules/", "stores/"))} <= allowed


def test_runs_know_no_service() -> None:
    """Services know the runs, which are given what they need of them."""
    for path in sorted((ROOT / "durable_trio" / "engine" / "runs").rglob("*.py")):
        services = [name for name in imported(path) if name.startswith("durable_trio.engine.services")]
        assert not services, f"{path} imports {services}"


def test_supervisors_know_trio_and_attrs_only() -> None:
    for path in sorted((ROOT / "supervisors").rglob("*.py")):
        for name in imported(path):
            assert not name.startswith("durable_trio"), path
            assert name.split(".")[0] not in {"sqlite3", "sqlite_utils", "cattrs", "orjson", "click"}, path


# They may be long: each method is a few lines, with its promise beside it.
MAPS = ("engine/engine.py", "context/context.py")


def test_files_are_short_enough_to_read() -> None:
    """About 400 lines; and functions of at most 70."""
    for package in ("durable_trio", "supervisors"):
        for path in sorted((ROOT / package).rglob("*.py")):
            text = path.read_text()
            is_map = str(path.relative_to(ROOT / package)) in MAPS
            assert text.count("\n") <= (740 if is_map else 520), path
            for node in nodes(path):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                    assert node.end_lineno - node.lineno < 70, f"{path}:{node.lineno} {node.name}"


def test_test_files_have_one_subject_each() -> None:
    """About 600 lines: one that is longer is several."""
    for path in sorted((ROOT / "tests").rglob("*.py")):
        assert path.read_text().count("\n") <= 640, path


# What stands in no package: commands, scripts and whole processes; and what several folders share.
_FOLDERS_OF_THEIR_OWN = {"crash", "examples", "kit", "logstore", "supervisors", "versions"}


def test_tests_stand_where_their_subject_does() -> None:
    """Each folder of tests is of the package of the same name, and each package has one."""
    folders = {path.name for path in (ROOT / "tests").iterdir() if (path / "__init__.py").exists()}
    packages = {path.name for path in (ROOT / "durable_trio").iterdir() if (path / "__init__.py").exists()}
    assert folders - _FOLDERS_OF_THEIR_OWN == packages


def _is_number(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_called_back_is_demanded_by_the_constructor(path: Path) -> None:
    """A slot that is filled from outside, and does nothing until then, is missing without a word if nobody does."""
    for node in nodes(path):
        if not isinstance(node, ast.Assign | ast.AnnAssign):
            continue
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            name = target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")
            if name.lstrip("_").startswith("on_") and not _is_number(node.value):
                assert isinstance(node.value, ast.Name | None), f"{path}:{node.lineno} {name} is no argument"
            if isinstance(node, ast.AnnAssign) and isinstance(target, ast.Attribute):  # a slot, which calls nobody
                assert not isinstance(node.value, ast.Lambda), f"{path}:{node.lineno} {name} has a default"
            elif isinstance(target, ast.Attribute):
                is_own = isinstance(target.value, ast.Name) and target.value.id == "self"
                assert is_own or not name.startswith("on_"), f"{path}:{node.lineno} {name} is filled from outside"


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_between(paths: list[Path]) -> dict[str, set[str]]:
    """Return which module imports which; what is imported for type checkers only, or in a function, counts too."""
    known = {module_of(path) for path in paths}
    found: dict[str, set[str]] = {}
    for path in paths:
        names = found[module_of(path)] = set[str]()
        for node in nodes(path):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                names.update(inner & known or {node.module})
        names &= known - {module_of(path)}
    return found


def test_no_imports_go_in_a_circle() -> None:
    left = imports_between([*modules(), *(ROOT / "supervisors").rglob("*.py")])
    assert len(left) > 200
    while ready := {name for name, needs in left.items() if not needs & left.keys()}:
        left = {name: needs for name, needs in left.items() if name not in ready}
    assert not left, f"these import each other, or what does: {sorted(left)}"


# Bases of which a class *is* one of several, some of which are users' or tests': stores, calls, resident runs, ….
KINDS = {"Store", "Call", "FunctionCall", "ResidentRun", "RunActor", "Port", "Lane", "Clock", "Logger", "StoreContract"}


def test_no_class_has_a_base_only_to_be_spread_over_files() -> None:
    """What is spread over files is composed: a base with one child is no kind of which there are several."""
    classes = {
        node.name: node
        for path in modules()
        if part_of(path) != "testing"
        for node in nodes(path)
        if isinstance(node, ast.ClassDef)
    }
    children: dict[str, set[str]] = {}
    for name, node in classes.items():
        for base in node.bases:
            if isinstance(base, ast.Name) and base.id in classes:
                children.setdefault(base.id, set()).add(name)
    lone = {base: names for base, names in children.items() if len(names) == 1 and base not in KINDS}
    assert not {base: names for base, names in lone.items() if not base.endswith(("Error", "Options", "Failed"))}


@pytest.mark.parametrize("package", ["durable_trio", "supervisors"])
def test_docstrings_have_one_dialect(package: str) -> None:
    """Sections as Google has them, code in two backticks, and what an attribute is in a comment or ``Attributes:``."""
    one_backtick = re.compile(r"(?<!`)`(?!`)")
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in nodes(path):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for child, after in pairwise(node.body):
                is_text = (
                    isinstance(after, ast.Expr)
                    and isinstance(after.value, ast.Constant)
                    and isinstance(after.value.value, str)
                )
                is_attribute = isinstance(child, ast.Assign | ast.AnnAssign)
                assert not (is_attribute and is_text), f"{path}:{after.lineno} an attribute has a docstring"
            text = ast.get_docstring(node) or ""
            where = f"{path}: {getattr(node, 'name', 'module')}"
            assert not one_backtick.search(text), f"{where} has code in one backtick"
            assert not re.search(r"\bRaises\b(?!:)", text), f"{where} tells what it raises outside of a section"


# What commands may know beside public names and ``views``: what a process that serves needs before it has an engine,
# and what knows nothing of runs.
KNOWN_TO_COMMANDS = {
    "cli",
    "views",
    "serving",
    "platforms",
    "unseen",
    "limits",
    "clock",
    "logger",
    "looks",
    "processes",
}
# What else they take from inside, and why there is no public name for it.
TAKEN_BY_COMMANDS = {
    "app.py": {
        "self.engine._client": "what is given as text is read by the types that the application says",
        "engine.os_signals.ended_by_second_ctrl_c": "signals of a process that is the command's own",
    },
    "client.py": {"stores.kinds.make_store": "who only looks makes no tables at a server; a program may"},
    "commands/copy.py": {
        "stores.copying.Copied": "done once, by whoever administers the databases",
        "stores.moving.count_copy": "done once, by whoever administers the databases",
        "stores.moving.move": "done once, by whoever administers the databases",
        "stores.moving.sealed": "done once, by whoever administers the databases",
        "stores.moving.take_back": "done once, by whoever administers the databases",
    },
    "commands/errors.py": {"client._client": "how many failures were read is told beside them"},
    "commands/watch.py": {"engine.watching.Changes": "the type of what engine.watch gives"},
    "examination.py": {
        "client._client": "users have no examination",
        "engine.examining.Examined": "users have no examination",
        "engine.examining.examine": "users have no examination",
        "stores.examination_questions.Examination": "users have no examination",
        "workflows.version_text": "one spelling of a version for all that people read",
    },
    "commands/migrate.py": {
        "stores.kinds.migrate": "whoever opens a database migrates it, if he may",
        "stores.kinds.grants": "whoever opens a database migrates it, if he may",
    },
    "many.py": {"engine.bulk.Bulk": "the type of what engine.cancel_runs and its like give"},
    "rehearsal_view.py": {
        "rehearsal.words.verdict_text": "one spelling of a verdict for all that people read",
        "workflows.version_text": "one spelling of a version for all that people read",
    },
    "rehearsing.py": {
        "rehearsal.judged.Groups": "the parent of a rehearsal, which speaks its language",
        "rehearsal.judged.Judged": "the parent of a rehearsal, which speaks its language",
        "rehearsal.messages.BEAT_SECONDS": "the parent of a rehearsal, which speaks its language",
        "rehearsal.messages.from_line": "the parent of a rehearsal, which speaks its language",
        "rehearsal.messages.judged_from": "the parent of a rehearsal, which speaks its language",
        "rehearsal.messages.to_line": "the parent of a rehearsal, which speaks its language",
        "rehearsal.stage.AT_ONCE": "the parent of a rehearsal, which speaks its language",
        "stores.kinds.readable": "a file of an earlier schema is rehearsed as a copy",
    },
    "reloading.py": {
        "client._client": "users ask for no reload",
        "engine.workers.requests.ReloadRequest": "users ask for no reload",
        "engine.workers.requests.address_of": "users ask for no reload",
        "engine.workers.requests.has_died": "users ask for no reload",
        "engine.workers.requests.put": "users ask for no reload",
        "engine.workers.requests.take_back": "users ask for no reload",
    },
    "run_view.py": {"rules.problems.ProblemKind": "the words of Problem.kind, which is public as a text"},
    "serve_events.py": {
        "engine.workers.parent.ENDS_IN_ORDER": "the exit codes of workers",
        "engine.workers.parent.WORKERS": "the name of the workers in the tree",
    },
    "serving.py": {
        "engine._serving": "signals go to the program, and to the engine through it",
        "self._engine._serving": "signals go to the program, and to the engine through it",
        "engine.os_signals.has_terminal": "signals go to the program, and to the engine through it",
        "engine.os_signals.reset_after_first": "signals go to the program, and to the engine through it",
        "engine.runs.run_log.UNKNOWN_WORKFLOW": "the same event in the log, whoever has noticed it",
        "engine.runs.run_log.unknown_text": "the same event in the log, whoever has noticed it",
    },
}


def _taken_by(path: Path) -> Iterator[str]:
    """Yield what a file of the command line takes from inside: what is not public, and what is somebody's own."""
    for node in nodes(path):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("durable_trio."):
            inside = (node.module or "").removeprefix("durable_trio.")
            if inside.split(".")[0] not in KNOWN_TO_COMMANDS and inside != "stores.address":
                yield from (f"{inside}.{alias.name}" for alias in node.names if alias.name not in PUBLIC)
        elif isinstance(node, ast.Attribute) and re.match(r"_[a-z]", node.attr):
            of = ast.unparse(node.value)
            if of not in ("self", "os"):
                yield f"{of}.{node.attr}"


def test_commands_take_from_inside_only_what_users_do_not_need() -> None:
    """Else what users have is too little for a command, and so for them. What is taken no more leaves the table."""
    folder = ROOT / "durable_trio" / "cli"
    taken = {str(path.relative_to(folder)): set(_taken_by(path)) for path in folder.rglob("*.py")}
    assert {file: names for file, names in taken.items() if names} == {
        file: set(reasons) for file, reasons in TAKEN_BY_COMMANDS.items()
    }


def test_sql_stands_in_stores_only() -> None:
    """And in what reads a file of SQLite's from outside, to find out whether a store has kept its promises."""
    statement = re.compile(r"\s*(SELECT|INSERT INTO|UPDATE|DELETE FROM|PRAGMA|WITH) ")
    for path in modules():
        if part_of(path) in ("testing",) or path.is_relative_to(ROOT / "durable_trio" / "stores"):
            continue
        texts = (node.value for node in nodes(path) if isinstance(node, ast.Constant))
        found = [text for text in texts if isinstance(text, str) and statement.match(text)]
        assert not found, f"{path} has SQL: {found}"
