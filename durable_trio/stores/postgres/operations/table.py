"""Which function applies which operation, of those that are statements of their own."""

from __future__ import annotations

from typing import Final

from durable_trio.stores.postgres.transaction import Handler

__all__ = ["HANDLERS"]

HANDLERS: Final[dict[type, Handler]] = {}
