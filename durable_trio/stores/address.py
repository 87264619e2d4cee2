"""Addresses of stores, as users give them: a path, ``":memory:"``, or the URL of a server.

A URL is taken apart as libpq does, not as a browser would: user and password end at the first ``@`` before a ``/``,
so any other character may stand in a password; ``#`` and ``+`` mean themselves. What is not ours is passed on as it
was written. Who shows an address shows nothing that may be a part of a password, also where the URL is none.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple, Self
from urllib.parse import unquote

__all__ = ["Url", "is_meant_as_url", "is_url", "without_password"]

_SECRETS: Final = ("pass", "secret", "token")
# Where there is no port that could be one, a password was meant: ``user:password`` without ``@host``, or behind it.
_NO_PORT: Final = re.compile(r"(\[[^\]/]*\])|:(?![0-9]*(?:[,/]|$))[^,/]*")

# What is no URL, and was meant as one: ``postgresql:app`` or ``host=db dbname=app password=…``.
_MEANT: Final = re.compile(r"postgres(ql)?:|(.*\s)?(dbname|password)\s*=", re.IGNORECASE)
_ITS_SECRET: Final = re.compile(r"(\b\w*pass\w*\s*=\s*)('(?:[^'\\]|\\.)*'|\S*)|(:[^:@]*):.*(?=@)", re.IGNORECASE)


class Url(NamedTuple):
    """The parts of a URL, each as it is written: ``scheme://credentials@place?options``."""

    scheme: str
    credentials: str
    place: str
    options: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Self:
        """Take a URL apart."""
        scheme, _, rest = text.strip().partition("://")
        credentials, at, after = rest.partition("@")
        if not at or "/" in credentials:
            credentials, after = "", rest
        place, _, options = after.partition("?")
        return cls(scheme.lower(), credentials, place, tuple(each for each in options.split("&") if each))

    def __str__(self) -> str:
        at, question = "@" if self.credentials else "", "?" if self.options else ""
        return f"{self.scheme}://{self.credentials}{at}{self.place}{question}{'&'.join(self.options)}"


def is_url(address: str) -> bool:
    """Return whether an address is that of a server, and no path."""
    return "://" in address


def is_meant_as_url(address: str) -> bool:
    """Return whether an address is no URL and was meant as one: it shall not become the name of a file."""
    return not is_url(address) and _MEANT.match(address) is not None


def without_password(address: str) -> str:
    """Return an address as people may see it: that of a server without the password, wherever that stands."""
    if not is_url(address):
        return _ITS_SECRET.sub(r"\1\3", address) if is_meant_as_url(address) else address
    url = Url.of(address)
    shown = url._replace(
        credentials=url.credentials.partition(":")[0],
        place=_NO_PORT.sub(r"\1", url.place.rpartition("@")[2]),  # an @ that was not escaped
        options=tuple(each for each in url.options if "=" in each and not _is_secret(each)),
    )
    return str(shown)


def _is_secret(option: str) -> bool:
    name = unquote(option.partition("=")[0]).lower()
    return any(each in name for each in _SECRETS)
