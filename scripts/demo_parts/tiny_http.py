"""Just enough HTTP/1.1 for the demonstration: bodies with a length, connections that are kept.

A real program would use a library; this one must run with nothing but trio.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

import attrs
import trio

_HEAD_BYTES_MAX: Final = 16 * 1024
_BODY_BYTES_MAX: Final = 4 * 1024 * 1024
_CONNECTIONS_MAX: Final = 16
_LOOPBACK: Final = "127.0.0.1"
_REASONS: Final = {200: "OK", 201: "Created", 400: "Bad Request", 404: "Not Found", 409: "Conflict"}


@attrs.frozen(kw_only=True)
class Request:
    """What a server was asked. Names of headers are in lower case; the path is decoded."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


@attrs.frozen
class Response:
    """What it answered."""

    status: int
    body: bytes = b""


# ``None`` hangs up without an answer: the caller cannot know what was done.
Handler = Callable[[Request], Awaitable[Response | None]]


class HttpError(OSError):
    """The other side does not speak HTTP as it is known here, or hung up in the middle."""


class _Connection:
    """A stream that is read up to a mark, or by count."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self.stream = stream
        self._buffer = bytearray()

    async def read_head(self) -> tuple[str, dict[str, str]] | None:
        """Return the first line and the headers; ``None`` if the other side has ended the connection before."""
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > _HEAD_BYTES_MAX:
                raise HttpError("the head is too long")
            if not await self._fill():
                if self._buffer:
                    raise HttpError("the connection ended within a head")
                return None
        first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        return first, headers

    async def read_body(self, headers: Mapping[str, str]) -> bytes:
        """Return the whole body.

        Raises:
            HttpError: it is shorter than its length says, or too long.
        """
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > _BODY_BYTES_MAX:
            raise HttpError(f"a body of {length!r} bytes is not taken")
        while len(self._buffer) < int(length):
            if not await self._fill():
                raise HttpError("the body is shorter than its length says")
        body = bytes(self._buffer[: int(length)])
        del self._buffer[: int(length)]
        return body

    async def _fill(self) -> bool:
        data = await self.stream.receive_some()
        self._buffer += data
        return bool(data)


# ---- server ------------------------------------------------------------------------------------------------------


async def serve_http(
    handler: Handler, host: str = _LOOPBACK, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve on a free port of an interface, which is given to ``started``, until cancelled."""
    listeners = await trio.open_tcp_listeners(0, host=host)
    port: int = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, partial(_serve_connection, handler), listeners)
        task_status.started(port)


async def _serve_connection(handler: Handler, stream: trio.SocketStream) -> None:
    connection = _Connection(stream)
    try:
        while (head := await connection.read_head()) is not None:
            response = await handler(await _read_request(connection, *head))
            if response is None:
                return
            await stream.send_all(_response_bytes(response))
    except (trio.BrokenResourceError, HttpError, ValueError):
        pass  # the caller died in the middle of a request: what is not complete was not asked
    finally:
        await trio.aclose_forcefully(stream)


async def _read_request(connection: _Connection, first: str, headers: Mapping[str, str]) -> Request:
    method, target, _ = first.split(" ")
    parts = urlsplit(target)
    return Request(
        method=method,
        path=unquote(parts.path),
        query=dict(parse_qsl(parts.query)),
        headers=headers,
        body=await connection.read_body(headers),
    )


def _response_bytes(response: Response) -> bytes:
    reason = _REASONS.get(response.status, "Service Unavailable")
    head = f"HTTP/1.1 {response.status} {reason}\r\ncontent-length: {len(response.body)}\r\n\r\n"
    return head.encode() + response.body


# ---- client ------------------------------------------------------------------------------------------------------


class HttpClient:
    """Asks one server; keeps some connections open for the next request."""

    def __init__(self, port: int, host: str = _LOOPBACK) -> None:
        self._port = port
        self._host = host
        self._limiter = trio.CapacityLimiter(_CONNECTIONS_MAX)
        self._idle: list[_Connection] = []

    async def request(
        self, method: str, target: str, *, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Response:
        """Return the answer, whatever its status.

        *Cancellation:* the request may have been carried out.

        Raises:
            OSError: no connection, or it broke; the request may have been carried out.
        """
        async with self._limiter:
            connection = self._idle.pop() if self._idle else await self._connect()
            try:
                response = await _ask(connection, method, target, headers or {}, body)
            except trio.BrokenResourceError as error:
                await trio.aclose_forcefully(connection.stream)
                raise HttpError(f"the connection broke: {error}") from error
            except BaseException:
                await trio.aclose_forcefully(connection.stream)
                raise
            self._idle.append(connection)
            return response

    async def aclose(self) -> None:
        """Close the connections that are kept."""
        while self._idle:
            await trio.aclose_forcefully(self._idle.pop().stream)
        await trio.lowlevel.checkpoint()

    async def _connect(self) -> _Connection:
        return _Connection(await trio.open_tcp_stream(self._host, self._port))


async def _ask(connection: _Connection, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Response:
    lines = [f"{method} {target} HTTP/1.1", "host: 127.0.0.1", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    await connection.stream.send_all("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
    head = await connection.read_head()
    if head is None:
        raise HttpError("the server hung up without an answer")
    status = head[0].split(" ")[1]
    return Response(int(status), await connection.read_body(head[1]))
