"""Addresses as people see them: no password, nor a part of one."""

from __future__ import annotations

import pytest

from durable_trio.stores.address import Url, without_password

SECRET = "se#c?r&e+t["


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("shop.db", "shop.db"),
        ("postgresql://host/shop", "postgresql://host/shop"),
        ("postgresql://joe@host:5432,other/shop?schema=x", "postgresql://joe@host:5432,other/shop?schema=x"),
        ("postgresql:///shop?host=/run/x", "postgresql:///shop?host=/run/x"),
        ("postgresql://[::1]:5432,[fe80::b]/shop", "postgresql://[::1]:5432,[fe80::b]/shop"),
        (f"postgresql://joe:{SECRET}@host/shop?schema=x", "postgresql://joe@host/shop?schema=x"),
        ("postgresql://joe:p@secret@host/shop", "postgresql://joe@host/shop"),
        ("postgresql://joe:p/secret@host/shop", "postgresql://host/shop"),
        ("postgresql://joe:secret/shop", "postgresql://joe/shop"),
        (
            "postgresql://host/shop?password=a&PASSWORD=b&%70assfile=c&sslpassword=d&oauth_client_secret=e&schema=x",
            "postgresql://host/shop?schema=x",
        ),
    ],
)
def test_no_password_is_shown(address: str, shown: str) -> None:
    assert without_password(address) == shown


def test_what_is_written_stays_as_it_is() -> None:
    text = "postgresql://joe:a%40b@host:1,other:2/shop?options=-c%20a%3Db+c&schema=x%2Fy"
    assert str(Url.of(text)) == text
