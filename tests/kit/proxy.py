"""A proxy before a PostgreSQL server, which cuts connections where a test wants it: also behind a COMMIT."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from durable_trio.stores.postgres.ledger import COUNT
from durable_trio.stores.postgres.locks import FIND_LOCK_CLASS
from durable_trio.stores.postgres.session import NOTIFY
from durable_trio.stores.postgres.url import SETTINGS

__all__ = ["Proxy"]

_QUESTIONS = (b"SELECT", b"WITH", b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
# What a store asks by itself, whatever it is asked for.
_BY_THE_WAY = (FIND_LOCK_CLASS.encode(), NOTIFY.encode(), COUNT.encode(), *(text.encode() for text in SETTINGS))


class Proxy:
    """Passes on what comes to its port, until it is cut."""

    def __init__(self, port: int) -> None:
        self._server = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._lock = threading.Lock()
        self._links: set[_Link] = set()
        self._is_cut = self._loses_reply = False
        self.delay_seconds = 0.0
        #: How many answers to COMMIT were lost.
        self.lost_count = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, url: str) -> str:
        """Return the URL of the server with this port."""
        return url.replace(f":{self._server[1]}/", f":{self.port}/")

    @contextmanager
    def cut(self, *, loses_reply: bool = False) -> Iterator[None]:
        """Let nothing through. ``loses_reply``: only once something was done, whose answer is lost: a COMMIT, or a
        question.
        """
        with self._lock:
            self._is_cut, self._loses_reply = not loses_reply, loses_reply
        if not loses_reply:
            self.drop_all()
        try:
            yield
        finally:
            with self._lock:
                self._is_cut = self._loses_reply = False

    @contextmanager
    def slow(self, seconds: float) -> Iterator[None]:
        """Pass on what comes from either side only so many seconds later."""
        self.delay_seconds = seconds
        try:
            yield
        finally:
            self.delay_seconds = 0.0

    def lead_to(self, port: int) -> None:
        """From now on pass on to another server; cut what is connected to the one before."""
        with self._lock:
            self._server = ("127.0.0.1", port)
        self.drop_all()

    def drop_all(self, *, last: _Link | None = None) -> None:
        """Cut what is connected; who connects anew gets through unless it is cut."""
        with self._lock:
            links = [link for link in self._links if link is not last]
        for link in links:
            link.drop()

    def close(self) -> None:
        """Cut everything, for good."""
        self._is_cut = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # who accepts is woken
        self._listener.close()
        self.drop_all()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(self._server)
                except OSError:
                    client.close()
                    continue
                link = _Link(self, client, server)
                with self._lock:
                    is_cut = self._is_cut
                    if not is_cut:
                        self._links.add(link)
                if is_cut:
                    client.close()
                    server.close()
                else:
                    link.start()

    def is_lost(self, text: bytes, *, is_begun: bool) -> bool:
        """Say whether the answer to a statement is to be lost, which is about to be passed on.

        ``is_begun``: whether it is one of a transaction, which comes to nothing without its COMMIT.
        """
        with self._lock:
            is_question = not is_begun and text.lstrip().startswith(_QUESTIONS) and not text.startswith(_BY_THE_WAY)
            if not self._loses_reply or not (is_question or text == b"COMMIT"):
                return False
            self._loses_reply, self._is_cut = False, True
            self.lost_count += text == b"COMMIT"
        return True

    def forget(self, link: _Link) -> None:
        """A connection has ended."""
        with self._lock:
            self._links.discard(link)


class _Link:
    """One connection through the proxy."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._texts: dict[bytes, bytes] = {}  # of prepared statements, by name
        self._is_begun = False  # a transaction that writes
        self._left = threading.Semaphore(1)  # by one of the two threads: the other one closes
        self._is_mute = False  # what the server says is not passed on, and then the connection is cut

    def start(self) -> None:
        for target in (self._pass_requests, self._pass_answers):
            threading.Thread(target=target, daemon=True).start()

    def drop(self) -> None:
        for each in (self._client, self._server):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._proxy.forget(self)

    def _leave(self) -> None:
        self.drop()
        if not self._left.acquire(blocking=False):
            self._client.close()
            self._server.close()

    def _pass_requests(self) -> None:
        with suppress(OSError, ValueError):
            buffer = bytearray()  # of which more is added in place: a message may have many megabytes
            has_begun = False
            while data := self._client.recv(65536):
                time.sleep(self._proxy.delay_seconds)
                buffer += data
                passed = 0
                while True:
                    head = 0 if not has_begun else 1  # the first message has no letter
                    if len(buffer) - passed < head + 4:
                        break
                    (length,) = struct.unpack_from("!I", buffer, passed + head)
                    end = passed + head + length
                    if len(buffer) < end:
                        break
                    message = bytes(buffer[passed:end])
                    if has_begun:
                        self._note(message)
                    elif message[4:8] not in (b"\x04\xd2\x16\x2f", b"\x04\xd2\x16\x30"):  # neither TLS nor GSS
                        has_begun = True
                    passed = end
                self._server.sendall(buffer[:passed])
                del buffer[:passed]
        self._leave()

    def _note(self, message: bytes) -> None:
        kind, body = message[:1], message[5:]
        if kind == b"P":
            name, text, _ = body.split(b"\0", 2)
            self._texts[name] = text
        elif kind == b"B":
            _, name, _ = body.split(b"\0", 2)
            text = self._texts[name]
            if text.startswith(b"BEGIN") and not text.endswith(b"READ ONLY"):
                self._is_begun = True
            if self._proxy.is_lost(text, is_begun=self._is_begun):
                self._is_mute = True
            if text in (b"COMMIT", b"ROLLBACK"):
                self._is_begun = False

    def _pass_answers(self) -> None:
        with suppress(OSError):
            while data := self._server.recv(65536):
                if self._is_mute:
                    if data[-6:-1] == b"Z\x00\x00\x00\x05":  # it has done all that was asked
                        break
                    continue
                time.sleep(self._proxy.delay_seconds)
                self._client.sendall(data)
        if self._is_mute:
            self._proxy.drop_all(last=self)  # before the client learns of it, and connects anew
        self._leave()
