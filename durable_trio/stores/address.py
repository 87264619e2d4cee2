"""Addresses of stores, as users give them: a path, ``":memory:"``, or the URL of a server."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

__all__ = ["is_url", "without_password"]


def is_url(address: str) -> bool:
    """Return whether an address is that of a server, and no path."""
    return "://" in address


def without_password(address: str) -> str:
    """Return an address as people may see it: a URL without the password, wherever that stands."""
    if not is_url(address):
        return address
    parts = urlsplit(address)
    user, at, hosts = parts.netloc.rpartition("@")
    options = [(name, value) for name, value in parse_qsl(parts.query, keep_blank_values=True) if "pass" not in name]
    shown = parts._replace(netloc=user.partition(":")[0] + at + hosts, query=urlencode(options))
    return urlunsplit(shown)
