"""JSON text: written exactly, parsed from anywhere within bounds. The one place that knows orjson."""

from __future__ import annotations

import functools
import json
import re
from typing import Any, Final

import orjson

from durable_trio import limits
from durable_trio.codec.faults import Fault, at
from durable_trio.codec.plain import INTEGER_MAX, INTEGER_MIN

__all__ = ["canonical", "check_depth", "check_strings", "dump", "load", "may_be_deep", "parse_own"]

# orjson would turn these into strings and objects, and nobody could tell afterwards.
_EXACT: Final = orjson.OPT_PASSTHROUGH_SUBCLASS | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME

# Parses what this codec has just written, and needs no second look.
parse_own: Final = orjson.loads
# The text that is the same for plain values that differ only in the order of keys.
canonical: Final = functools.partial(orjson.dumps, option=_EXACT | orjson.OPT_SORT_KEYS)
# The text of what orjson takes for exact JSON. ``TypeError``: it is none, has a string that is no Unicode, or nests
# deeper than 254 levels.
dump: Final = functools.partial(orjson.dumps, option=_EXACT)


def load(text: str) -> Any:
    """Parse a text from anywhere: of bounded depth, without keys that occur twice or integers cut to floats."""
    try:
        raw = text.encode()
        if len(raw) > limits.PAYLOAD_DEPTH_MAX and may_be_deep(raw):
            check_depth(text)
        plain = orjson.loads(raw)
        # What this codec has written is found to be so at once; anything else gets the second look.
        if orjson.dumps(plain) != raw:
            json.loads(text, object_pairs_hook=_unique, parse_int=_bounded)
    except ValueError as error:
        raise Fault(f"no JSON text: {error}") from None
    return plain


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Fault("an object has the same key twice")
    return found


def _bounded(text: str) -> int:
    if len(text) > len(str(INTEGER_MAX)) or not INTEGER_MIN <= int(text) <= INTEGER_MAX:
        raise Fault("an integer is longer than 64 bits and not tagged")
    return int(text)


def may_be_deep(raw: bytes) -> bool:
    """Whether a text may be nested deeper than allowed; a quick look that may err on this side.

    To be asked only of one that has more bytes than there may be levels: nearly none has.
    """
    return raw.count(b"[") + raw.count(b"{") > limits.PAYLOAD_DEPTH_MAX


_STRINGS: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_NO_BRACKETS: Final = re.compile(r"[^][{}]+")


def check_depth(text: str) -> None:
    """Raise ``Fault`` at a text nested deeper than allowed."""
    # Take away the innermost pairs of brackets, layer by layer. No stack, and each pass is one fast scan.
    left = _NO_BRACKETS.sub("", _STRINGS.sub("", text)).replace("{", "[").replace("}", "]")
    for _ in range(limits.PAYLOAD_DEPTH_MAX):
        left = left.replace("[]", "")
    if left.count("[") > limits.PAYLOAD_DEPTH_MAX or "[]" in left:
        raise Fault(f"nested deeper than {limits.PAYLOAD_DEPTH_MAX} levels")


def check_strings(plain: Any) -> None:
    """Find the string that is not Unicode text."""
    if type(plain) is str:
        try:
            plain.encode()
        except UnicodeEncodeError as error:
            raise Fault(f"str with the lone surrogate {plain[error.start]!a} at {error.start}") from None
    elif type(plain) is list:
        for index, item in enumerate(plain):
            at(index, check_strings, item)
    elif type(plain) is dict:
        for key, item in plain.items():
            at(key, check_strings, key)
            at(key, check_strings, item)
