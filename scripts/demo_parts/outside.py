"""The serving process's clients of the world outside. ``connect`` is called once, before the engine serves."""

from __future__ import annotations

from demo_parts.tiny_http import HttpClient

object_store: HttpClient
shop: HttpClient


def connect(*, store_address: str, shop_address: str) -> None:
    """Say where the services listen, as ``host:port``; connections are made when they are needed."""
    global object_store, shop
    object_store = _client(store_address)
    shop = _client(shop_address)


def _client(address: str) -> HttpClient:
    host, _, port = address.rpartition(":")
    return HttpClient(int(port), host)
