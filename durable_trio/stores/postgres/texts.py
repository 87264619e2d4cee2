"""Sets of values as one parameter of a statement: as a document of rows, or as an array."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

__all__ = ["numbers", "rows", "texts"]

_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode


def rows(of: Iterable[dict[str, Any]]) -> str:
    """Return rows for ``json_to_recordset``."""
    return _encode(list(of))


def numbers(of: Iterable[int]) -> str:
    """Return integers for ``$1::bigint[]``, each once."""
    return f"{{{','.join(map(str, dict.fromkeys(of)))}}}"


def texts(of: Iterable[str]) -> str:
    """Return texts for ``$1::text[]``."""
    quoted = ('"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' for text in of)
    return f"{{{','.join(quoted)}}}"
