"""Addresses as people see them: no password, nor a part of one."""

from __future__ import annotations

from contextlib import chdir
from pathlib import Path

import pytest

from durable_trio.stores.address import Url, is_meant_as_url, without_password
from durable_trio.stores.kinds import make_store

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
        ("postgresql://host/shop?password=a&secret&schema=x", "postgresql://host/shop?schema=x"),
        ("postgresql:/joe:secret@host/shop", "postgresql:/joe@host/shop"),
        ("postgresql:joe:se@cret@host/shop", "postgresql:joe@host/shop"),
        ("host=db password=secret dbname=shop", "host=db password= dbname=shop"),
        ("dbname=shop password = 'a \\'secret'", "dbname=shop password = "),
        ("shop:1@2.db", "shop:1@2.db"),
        (
            "postgresql://host/shop?password=a&PASSWORD=b&%70assfile=c&sslpassword=d&oauth_client_secret=e&schema=x",
            "postgresql://host/shop?schema=x",
        ),
    ],
)
def test_no_password_is_shown(address: str, shown: str) -> None:
    assert without_password(address) == shown


@pytest.mark.parametrize(
    "address", ["postgresql:/joe:secret@host/shop", "Postgres:joe:secret@host", "host=db dbname=x password=secret"]
)
def test_what_was_meant_as_a_url_does_not_become_a_file(address: str, tmp_path: Path) -> None:
    with chdir(tmp_path), pytest.raises(ValueError, match="is no URL; a server is named postgresql://") as refused:
        make_store(address)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("address", ["postgres.db", "password.db", "a/host=b.db", ":memory:"])
def test_the_name_of_a_file_is_one(address: str) -> None:
    assert not is_meant_as_url(address)


def test_what_is_written_stays_as_it_is() -> None:
    text = "postgresql://joe:a%40b@host:1,other:2/shop?options=-c%20a%3Db+c&schema=x%2Fy"
    assert str(Url.of(text)) == text
