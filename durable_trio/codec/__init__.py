"""Values to JSON text and back, by annotation: the one place that knows cattrs and orjson.

An annotation is compiled once to a *coder*, a pair of functions. The stored text is for people too: classes are
objects with their fields, instants are ISO 8601. What JSON cannot say has a tag, an object with a key that begins
with ``$``.
"""

from durable_trio.codec.annotations import ANY_SCALARS, UNANNOTATED, own_annotation
from durable_trio.codec.codec import Codec, Encoded, parse
from durable_trio.codec.hooks import TypeHook, hooks_by_class

__all__ = ["ANY_SCALARS", "UNANNOTATED", "Codec", "Encoded", "TypeHook", "hooks_by_class", "own_annotation", "parse"]
