"""JSON Schema (2020-12) of the documents, made of their annotations."""

from __future__ import annotations

import enum
import types
import typing
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import attrs

from durable_trio.views import documents, rehearsal, statistics, versions
from durable_trio.views import tree as tree_document

__all__ = ["SCHEMAS", "schema_of"]

# What each command prints with --json; ``watch`` prints many, one a line.
SCHEMAS: Final[dict[str, type[attrs.AttrsInstance]]] = {
    "serve": documents.ServedDocument,
    "list": documents.ListDocument,
    "show": documents.ShowDocument,
    "watch": documents.RunDocument,
    "cancel": documents.ManyDocument,
    "resume": documents.ManyDocument,
    "abandon": documents.ManyDocument,
    "delete": documents.ManyDocument,
    "prune": documents.PruneDocument,
    "copy": documents.CopyDocument,
    "check": documents.CheckDocument,
    "stats": statistics.StatsDocument,
    "errors": statistics.ErrorsDocument,
    "rehearse": rehearsal.RehearseDocument,
    "tree": tree_document.TreesDocument,
    "reload": documents.ReloadDocument,
    "versions": versions.VersionsDocument,
}

_SCALARS: Final[dict[Any, dict[str, Any]]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    datetime: {"type": "string", "format": "date-time"},
    Any: {},
}


def schema_of(command: str) -> dict[str, Any]:
    """Return the schema of what a command prints with ``--json``; ``KeyError`` for one that prints none."""
    cls = SCHEMAS[command]
    parts: dict[str, Any] = {}
    top = _schema(cls, parts)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"durable-trio {command} --json",
        **top,
        "$defs": parts,
    }


def _schema(annotation: Any, parts: dict[str, Any]) -> dict[str, Any]:
    if annotation in _SCALARS:
        return dict(_SCALARS[annotation])
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        return {"anyOf": [_schema(arg, parts) for arg in args]}
    if origin is typing.Literal:
        return {"enum": list(args)}
    if origin is tuple:
        return {"type": "array", "items": _schema(args[0], parts)}
    if origin is Mapping:
        return {"type": "object", "additionalProperties": _schema(args[1], parts)}
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return {"enum": [member.value for member in annotation]}
    if isinstance(annotation, type) and attrs.has(annotation):
        return _reference(annotation, parts)
    raise AssertionError(f"{annotation!r} has no schema")


def _reference(cls: type[attrs.AttrsInstance], parts: dict[str, Any]) -> dict[str, Any]:
    name = cls.__name__.removesuffix("Document")
    if name not in parts:
        parts[name] = {}  # named first: it may hold itself
        fields = attrs.fields(attrs.resolve_types(cls))
        parts[name] = {
            "description": (cls.__doc__ or "").strip().splitlines()[0],
            "type": "object",
            "properties": {field.name: _schema(field.type, parts) for field in fields},
            "required": [field.name for field in fields],
        }
    return {"$ref": f"#/$defs/{name}"}
