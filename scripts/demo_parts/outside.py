"""The serving process's clients of the world outside. ``connect`` is called once, before the engine serves."""

from __future__ import annotations

from demo_parts.tiny_http import HttpClient

object_store: HttpClient
shop: HttpClient


def connect(*, store_port: int, shop_port: int) -> None:
    """Say where the services listen; connections are made when they are needed."""
    global object_store, shop
    object_store = HttpClient(store_port)
    shop = HttpClient(shop_port)
