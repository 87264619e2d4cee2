"""What a URL says: how to reach the server, and in which schema the tables stand.

All of it is libpq's but ``schema``. A URL is shown without its password.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import unquote

import attrs
import psycopg
from psycopg import conninfo

from durable_trio.errors import StoreError
from durable_trio.stores.address import Url, without_password
from durable_trio.stores.postgres.faults import of_connection
from durable_trio.stores.postgres.schema import quoted
from durable_trio.stores.postgres.wire import Wire

__all__ = ["ENGINE", "PEOPLE", "SETTINGS", "Place", "must_be_direct", "parse_url"]

SCHEMES: Final = ("postgresql", "postgres")
_DEFAULT_SCHEMA: Final = "durable_trio"
_NAME_BYTES_MAX: Final = 63  # of an identifier; the server would cut it silently


def _setting(**values: str) -> str:
    """Return a statement that sets all of these for the session: a ``SET`` for each takes several times as long."""
    return "SELECT " + ", ".join(f"pg_catalog.set_config('{name}', '{value}', false)" for name, value in values.items())


#: By statements after connecting, never by startup options, which poolers refuse.
SETTINGS: Final = (
    _setting(
        client_encoding="UTF8",
        # Whatever the role or the database has by default: texts and values mean what they mean by default, also in
        # functions of ours; it is said if a commit was not waited for; a batch waits for others as long as this process
        # wants, and sees what was committed meanwhile; nobody ends what is idle or slow but this process.
        standard_conforming_strings="on",
        bytea_output="hex",
        client_min_messages="notice",
        idle_session_timeout="0",
        statement_timeout="0",
        lock_timeout="0",
        default_transaction_isolation="read committed",
        jit="off",
        idle_in_transaction_session_timeout="5s",  # a process that was stopped lets go of its locks
        tcp_keepalives_idle="2",
        tcp_keepalives_interval="2",
        tcp_keepalives_count="3",
        tcp_user_timeout="8000",
    ),
    "SELECT set_config('transaction_timeout', '0', false) WHERE current_setting('server_version_num')::int >= 170000",
    # Also while it works, or waits for a lock, for somebody who has gone; no server on Windows can do that.
    """
    SELECT set_config('client_connection_check_interval', '2s', false)
    WHERE version() !~* 'windows|mingw|visual c'
    """,
)
#: How statements are planned, by who waits for them. What an engine asks is always done by seeks, planned once: over
#: rows of JSON, or on tables that were small when they were last looked at, the server would scan all runs if it may.
ENGINE: Final = (
    _setting(plan_cache_mode="force_generic_plan", enable_seqscan="off", enable_hashjoin="off", enable_mergejoin="off"),
)
#: What people ask is planned for what they ask for.
PEOPLE: Final = ("SET plan_cache_mode = force_custom_plan",)
# The same from this side, unless the URL says otherwise: a link that was cut is noticed in 8 s.
_CLIENT_SETTINGS: Final = {
    "connect_timeout": "10",
    "keepalives_idle": "2",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "8000",
    "application_name": "durable_trio",
}


@attrs.frozen
class Place:
    """Where a store is. ``name`` is for messages: it has no password. ``said``: what the server has said of itself."""

    name: str
    schema: str
    conninfo: str = attrs.field(repr=False)
    said: dict[str, str] = attrs.field(factory=dict, repr=False, eq=False)

    def connect(self, *, settings: Sequence[str] = ()) -> Wire:
        """Return a new connection with its settings, in which names without a schema are those of ours.

        Args:
            settings: more of them, as how its statements are planned (``ENGINE``, ``PEOPLE``).

        Raises:
            StoreAway: none can be made now.
            StoreError: none can ever be made like this.
        """
        place = f"SET search_path = {quoted(self.schema)}, pg_temp"
        connection = self.connect_for_user(autocommit=True, prepare_threshold=None)
        encoding = (connection.pgconn.parameter_status(b"server_encoding") or b"").decode()
        if encoding != "UTF8":
            connection.close()
            raise StoreError(
                f"{self.name}: the encoding of the database is {encoding}, which has no place for every text: "
                "use one that was made with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
            )
        return Wire(connection, (*SETTINGS, *settings, place))

    def connect_for_user(self, **options: Any) -> psycopg.Connection[Any]:
        """Return a new connection as the URL says, with the server's settings.

        Raises:
            StoreAway: none can be made now.
        """
        try:
            return psycopg.connect(self.conninfo, **options)
        except psycopg.OperationalError as error:
            limit = self.said.get("max_connections")
            raise of_connection(error, self.name, max_connections=limit) from None  # its frames hold the password


def parse_url(url: str, *, session: str = "read-write") -> Place:
    """Return what a URL means.

    Args:
        session: what must be possible there (``target_session_attrs``), unless the URL says it.

    Raises:
        ValueError: it is none, or has an option that nobody knows.
    """
    parts = Url.of(url)
    if parts.scheme not in SCHEMES:
        raise ValueError(f"a URL of a PostgreSQL database begins with postgresql://, not {parts.scheme}://")
    name = without_password(url)
    if "@" in parts.place:  # libpq would look for a host or a database that begins with the rest of the password
        raise ValueError(f"{name} is no URL of a PostgreSQL database: an @ in a name or a password is written %40")
    schemas = [unquote(each.partition("=")[2]) for each in parts.options if _name_of(each) == "schema"]
    schema = schemas[0] if schemas else _DEFAULT_SCHEMA
    if len(schemas) > 1:
        raise ValueError(f"{name} names more than one schema: a store is in one")
    if not schema or "\0" in schema or len(schema.encode()) > _NAME_BYTES_MAX:
        raise ValueError(f"{schema!r} is no name of a schema: 1 to {_NAME_BYTES_MAX} bytes")
    libpq_url = str(parts._replace(options=tuple(each for each in parts.options if _name_of(each) != "schema")))
    try:
        known = conninfo.conninfo_to_dict(libpq_url)
    except psycopg.ProgrammingError as error:
        raise ValueError(f"{name} is no URL of a PostgreSQL database: {_without_quotes(error, parts)}") from None
    if not all(port.isdecimal() for port in str(known.get("port") or 0).split(",") if port):
        raise ValueError(f"{name} is no URL of a PostgreSQL database: a port is a number")
    text = conninfo.make_conninfo(
        libpq_url,
        **{
            option: each
            for option, each in (_CLIENT_SETTINGS | {"target_session_attrs": session}).items()
            if option not in known
        },
    )
    return Place(name, schema, text)


def _name_of(option: str) -> str:
    return unquote(option.partition("=")[0])


def _without_quotes(error: Exception, parts: Url) -> str:
    """Return what libpq says of a URL, which may quote all of it, or the password; names of options are shown."""
    before, quote, rest = str(error).strip().partition('"')
    said = rest.rpartition('"')[0]
    return str(error).strip() if said in map(_name_of, parts.options) or not quote else f"{before.strip()} …"


def must_be_direct(wire: Wire, name: str) -> None:
    """Refuse a pooler that gives each transaction another connection: locks are held by a session.

    Raises:
        StoreError: it is one.
    """
    (key,) = wire.execute("SELECT (random() * 2000000000)::bigint").rows[0]
    own = wire.execute("SELECT pg_try_advisory_lock($1::bigint), pg_backend_pid()", key).rows[0]
    again = wire.execute("SELECT pg_advisory_unlock($1::bigint), pg_backend_pid()", key).rows[0]
    if not (own[0] and again[0]) or own[1] != again[1]:
        raise StoreError(
            f"{name} is reached through a pooler that shares connections between transactions; "
            "use one that pools sessions, or the server's own port"
        )
