"""Asks a server to reload, and follows what comes of it until it has ended."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Final

import trio

from durable_trio.cli.families import reloadable
from durable_trio.cli.faults import Failed
from durable_trio.cli.text import plural
from durable_trio.engine.engine import Engine
from durable_trio.engine.workers.requests import ReloadRequest, address_of, has_died, put, take_back
from durable_trio.processes import describe_process
from durable_trio.records import ProcessReport, Reload
from durable_trio.views.documents import ReloadDocument

__all__ = ["ReloadCommand"]

_LOOK_SECONDS: Final = 0.2
# A server looks once a second whether somebody asks; its loop may be blocked for a while.
_TAKEN_UP_SECONDS: Final = 30.0
# A server that says that it serves reports so a moment later, and after its workers perhaps.
_REPORTED_SECONDS: Final = 2.0
# A server's report may be missing for a moment, as when the task that writes it is started anew.
_REPORT_MISSING_SECONDS: Final = 5.0
_WORDS: Final = {
    "waiting": "another reload goes on; this one follows it",
    "importing": "the new code is imported",
    "rehearsing": "runs are rehearsed with the new code",
}


class ReloadCommand:
    """One call of ``reload``.

    Args:
        pid: of the server, if there are several.
        baseline: the path of an earlier rehearsal, absolute: the server reads it.
        tell: is given what there is to say on the way.
    """

    def __init__(
        self, pid: int | None, *, rehearses: bool, baseline: str | None = None, tell: Callable[[str], None]
    ) -> None:
        self._pid = pid
        self._rehearses = rehearses
        self._baseline = baseline
        self._tell = tell
        self._told = ""
        self._server: ProcessReport | None = None

    def so_far(self) -> str:
        """Return what to say if nobody waits for the end."""
        if self._server is None:
            return "nothing was asked for"
        return f"the reload of process {self._server.pid} goes on without this command; its log tells how it ends"

    async def run(self, client: Engine) -> ReloadDocument:
        """Ask, and return how it has ended.

        Raises:
            Failed: there is no such server, or it does not answer, or has ended.
        """
        services = client._client.services_in_use()
        writer, clock = services.writer, client._client.settings.clock
        server = await self._find_server(client)
        address = await address_of(server, writer)
        if address is None:
            raise Failed(f"process {server.pid} has ended, or serves on another machine")
        request = ReloadRequest(
            id=str(uuid.uuid4()), process=address, rehearses=self._rehearses, baseline=self._baseline
        )
        await put(request, writer, clock)
        self._server = server
        reload = await self._follow(client, request.id, server.pid, address)
        if reload is None:
            self._server = None
            await take_back(writer, clock)
            raise Failed(
                f"{describe_process(server.pid)} has not taken it up for {_TAKEN_UP_SECONDS:g} s; nothing was changed"
            )
        return ReloadDocument(
            process=server.pid,
            is_done=reload.state == "done",
            workers=reload.workers,
            replaced=reload.replaced,
            is_same_code=reload.is_same_code,
            reason=reload.reason or None,
        )

    async def _find_server(self, client: Engine) -> ProcessReport:
        """Return the server that is meant; one that has only just begun has not reported yet."""
        deadline = trio.current_time() + _REPORTED_SECONDS
        while True:
            try:
                return reloadable(await client.processes(), self._pid)
            except Failed:
                if trio.current_time() >= deadline:
                    raise
            await trio.sleep(_LOOK_SECONDS)

    async def _follow(self, client: Engine, id: str, pid: int, address: str) -> Reload | None:
        """Return how a reload has ended; ``None`` if nobody has taken it up."""
        writer = client._client.services_in_use().writer
        began_at = seen_at = trio.current_time()
        is_taken_up = False
        while True:
            report = next((each for each in await client.processes() if each.pid == pid), None)
            now = trio.current_time()
            if report is not None:
                seen_at = now
            elif now - seen_at > _REPORT_MISSING_SECONDS or await has_died(address, writer):
                raise Failed(f"the server (process {pid}) has ended meanwhile")
            reloads = () if report is None or report.family is None else report.family.reloads
            reload = next((each for each in reloads if each.id == id), None)
            if reload is not None:
                is_taken_up = True
                if reload.state != "waiting" or any(each.is_under_way for each in reloads):
                    self._say(reload)
                if reload.has_ended:
                    return reload
            elif not is_taken_up and now - began_at > _TAKEN_UP_SECONDS:
                return None
            await trio.sleep(_LOOK_SECONDS)

    def _say(self, reload: Reload) -> None:
        text = _WORDS.get(reload.state) or reload.now
        if reload.state == "replacing" and text:
            text = f"{text} ({reload.replaced} of {plural(reload.workers, 'worker')} replaced)"
        if text and text != self._told:
            self._told = text
            self._tell(text)
