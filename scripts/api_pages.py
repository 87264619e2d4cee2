"""Writes the API reference into docs/api*.md from signatures and docstrings, so that it can be read as it is.

python scripts/api_pages.py            writes the pages
python scripts/api_pages.py --check    changes nothing, and fails if one is not as it would be written

A page says by a mark which names it has, in its own order and under its own headings: ``<!-- durable_trio.Engine -->``.
What follows, until the next mark or heading, is written here.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import griffe

ROOT: Final = Path(__file__).parents[1]
PAGES: Final = ("api.md", "api-asyncio.md", "api-platforms.md", "api-testing.md", "api-supervisors.md")
MARK: Final = re.compile(r"^<!-- (durable_trio|supervisors)\.([\w.]+) -->$")
#: Public among the library's own parts only.
LEFT_OUT: Final = frozenset(
    {
        "annotations_for",
        "argument_types",
        "completed",
        "defaults",
        "env",
        "module",
        "required_count",
        "reserve_key",
        "signal_type",
        "takes_any_count",
    }
)
WIDTH: Final = 100  # of signatures


def main() -> int:
    """Write the pages, or say which are not as they would be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    stale = []
    for page in PAGES:
        path = ROOT / "docs" / page
        written = path.read_text(encoding="utf-8")
        right = rewritten(written)
        if written != right:
            stale.append(page)
            if not arguments.check:
                path.write_text(right, encoding="utf-8")
    for page in stale:
        print(f"docs/{page} was not up to date" + ("; run scripts/api_pages.py" if arguments.check else ""))
    return int(arguments.check and bool(stale))


def rewritten(page: str) -> str:
    """Return a page with everything behind its marks written anew."""
    lines: list[str] = []
    is_ours = False
    for line in page.splitlines():
        mark = MARK.match(line)
        if mark is not None or line.startswith(("# ", "## ")):
            is_ours = mark is not None
            if lines and lines[-1]:
                lines.append("")
            lines.append(line)
            if mark is not None:
                lines += ["", *of_name(mark[1], mark[2])]
        elif not is_ours:
            lines.append(line)
    return "\n".join(lines).rstrip("\n") + "\n"


def of_name(module: str, name: str) -> list[str]:
    """Return the lines of one public name."""
    thing = _packages[module][name]
    if thing.is_module:  # it has the name of the function in it
        thing = thing[name]
    return list(of_object(thing, level=3))


def of_object(thing: Any, *, level: int) -> Iterator[str]:
    """Yield the lines of an object: its heading, how it is called, what it says of itself, and its members."""
    yield f"{'#' * level} {thing.name}"
    yield ""
    if thing.is_class:
        yield from fenced(class_head(thing))
    elif thing.is_function:
        is_of_class = bool({"classmethod", "staticmethod"} & thing.labels)
        name = f"{thing.parent.name}.{thing.name}" if is_of_class else thing.name
        ways = [signature(way, name) for way in thing.overloads or [thing]]
        yield from fenced("\n".join(dict.fromkeys(ways)))
    elif thing.annotation is not None:
        yield from fenced(f"{thing.name}: {thing.annotation}")
    yield from described(thing)
    if thing.is_class:
        yield from members(thing, level=level)


def class_head(thing: Any) -> str:
    """Return how a class is called, with its bases where it has some."""
    bases = [str(base) for base in thing.bases]
    head = f"class {thing.name}({', '.join(bases)})" if bases else f"class {thing.name}"
    init = thing.all_members.get("__init__")
    if init is None or not init.is_function or "Enum" in "".join(bases) or init.path.startswith("builtins."):
        return head
    return f"{head}\n{signature(init, thing.name, with_returns=False, with_def=False)}"


def signature(function: Any, name: str, *, with_returns: bool = True, with_def: bool = True) -> str:
    """Return a function's signature, on as many lines as it needs."""
    parts = list(parameters(function.parameters))
    start = "" if not with_def else "async def " if "async" in function.labels else "def "
    if "property" in function.labels:
        return f"{name}: {function.returns}"
    end = f" -> {function.returns}" if with_returns and function.returns is not None else ""
    line = f"{start}{name}({', '.join(parts)}){end}"
    if len(line) <= WIDTH:
        return line
    return f"{start}{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){end}"


def parameters(found: Any) -> Iterator[str]:
    """Yield the parameters of a function as they are written."""
    names = [parameter for parameter in found if parameter.name not in ("self", "cls")]
    has_star = False
    for index, parameter in enumerate(names):
        kind = parameter.kind.value
        if kind == "keyword-only" and not has_star:
            has_star = True
            yield "*"
        prefix = {"variadic positional": "*", "variadic keyword": "**"}.get(kind, "")
        has_star = has_star or prefix == "*"
        annotation = "" if parameter.annotation is None else f": {parameter.annotation}"
        default = ""
        if parameter.default is not None and not prefix:
            default = f" = {parameter.default}" if annotation else f"={parameter.default}"
        yield f"{prefix}{parameter.name}{annotation}{default}"
        following = names[index + 1].kind.value if index + 1 < len(names) else None
        if kind == "positional-only" and following != "positional-only":
            yield "/"


def members(thing: Any, *, level: int) -> Iterator[str]:
    """Yield the public members of a class: first what it has, then what it does."""
    public = [
        member
        for name, member in thing.all_members.items()
        if not name.startswith("_") and name not in LEFT_OUT and member.has_docstring
    ]
    bare = [
        member
        for name, member in thing.members.items()
        if member.is_attribute and not (name.startswith("_") or name in LEFT_OUT or member.has_docstring)
    ]
    attributes = [member for member in public if member.is_attribute]
    for member in sorted([*attributes, *bare], key=lambda member: member.lineno or 0):
        says = f": {inline(member.docstring.value)}" if member.has_docstring else ""
        annotation = f" (`{member.annotation}`)" if member.annotation is not None else ""
        yield f"- `{member.name}`{annotation}{says}"
    if attributes or bare:
        yield ""
    for member in public:
        if member.is_function:
            yield from of_object(member.final_target if member.is_alias else member, level=level + 1)


def described(thing: Any) -> Iterator[str]:
    """Yield what a docstring says, its sections as lists."""
    if not thing.has_docstring:
        return
    for section in thing.docstring.parse("google", warn_unknown_params=False, warn_missing_types=False, warnings=False):
        kind, value = section.kind.value, section.value
        if kind == "text":
            yield from marked(value).splitlines()
            yield ""
        elif kind in ("parameters", "other parameters", "attributes"):
            yield from listed("Arguments" if kind != "attributes" else "Attributes", value)
        elif kind == "raises":
            yield from listed("Raises", value, name="annotation")
        elif kind in ("returns", "yields"):
            yield f"**{kind.capitalize()}**"
            yield ""
            for item in value:
                is_said = thing.is_function and str(item.annotation) != str(thing.returns)  # True: it was there already
                yield (
                    f"- `{item.annotation}`: {inline(item.description)}" if is_said else f"- {inline(item.description)}"
                )
            yield ""
        elif kind == "admonition":
            yield f"**{section.title}**"
            yield ""
            yield from marked(value.description).splitlines()
            yield ""
        else:
            raise ValueError(f"{thing.path}: nobody has said how a section {kind!r} is written")


def listed(title: str, items: Sequence[Any], *, name: str = "name") -> Iterator[str]:
    """Yield a section of named things."""
    yield f"**{title}**"
    yield ""
    for item in items:
        names = str(getattr(item, name)).strip("()").replace(", ", "`, `")
        yield f"- `{names}`: {inline(item.description)}"
    yield ""


def inline(text: str) -> str:
    """Return a description as one paragraph of Markdown, indented as the rest of a list's item."""
    return textwrap.indent(marked(text.strip()), "  ").strip()


def marked(text: str) -> str:
    """Return a docstring's text as Markdown: its literals have two backticks."""
    return text.replace("``", "`")


def fenced(code: str) -> Iterator[str]:
    """Yield code in a fence."""
    yield "```py"
    yield from code.splitlines()
    yield "```"
    yield ""


class _Packages(dict[str, Any]):
    def __missing__(self, module: str) -> Any:
        self[module] = griffe.load(module, search_paths=[str(ROOT)], docstring_parser="google", resolve_aliases=True)
        return self[module]


_packages: Final = _Packages()

if __name__ == "__main__":
    sys.exit(main())
