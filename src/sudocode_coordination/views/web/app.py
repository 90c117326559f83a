"""The page's server: what is behind each path, and its life.

GET  /, /assets/*     the page itself, which holds nothing of anybody
POST /api/enter       a one-time code for a session
GET  /api/live        what happens, one JSON document a line; needs a session, like all that follows
POST /api/release, /api/say, /api/read, /api/history, /api/leave
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator, Callable
from importlib import resources
from typing import Final

import anyio
import anyio.abc
import msgspec

from sudocode_coordination.errors import CoordinationError, DaemonError, HeldError, UsageError
from sudocode_coordination.model import AgentId
from sudocode_coordination.place import Clone
from sudocode_coordination.views.web import actions
from sudocode_coordination.views.web.door import OPENED_S, SHOWN_S, Door
from sudocode_coordination.views.web.feed import Feed, Mailbox
from sudocode_coordination.views.web.serving import HttpRequest, HttpResponse, HttpServer, listen

TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
"""Of the page's files, by the end of their names; there are no others."""
JSON: Final = ("content-type", "application/json")
POLICY: Final = "; ".join(
    (
        "default-src 'self'",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # Text that became markup would be an error, not a hole.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
SAFE: Final = (
    ("content-security-policy", POLICY),
    ("x-content-type-options", "nosniff"),
    # Not "no-referrer": some browsers then hide the Origin of the page's own requests too.
    ("referrer-policy", "same-origin"),
    ("cache-control", "no-store"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
)
"""Headers of every answer."""
NEW_LINK: Final = "press Enter where `coord ui` runs, for a new link"
MAX_STREAMS: Final = 4
"""Of one browser: it opens six connections to a host, and a page without a free one could do nothing. The oldest is told to
pause."""


class Enter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the page sends for a session."""

    code: str


class App:
    """See the module.

    Args:
        door: who may ask.
        feed: what is told.
        folder: the checkout that the server was started in.
    """

    def __init__(self, door: Door, feed: Feed, folder: str) -> None:
        self._door = door
        self._feed = feed
        self._folder = folder
        self._files = page_files()
        self._streams: dict[int, list[Mailbox]] = {}
        """Session -> its open pages, the oldest first."""

    async def handle(self, asked: HttpRequest) -> HttpResponse:
        """The answer to a request, with the headers that all have."""
        answer = await self._answer(asked)
        return HttpResponse(answer.status, (*answer.headers, *SAFE), answer.body)

    async def _answer(self, asked: HttpRequest) -> HttpResponse:
        refusal = self._door.refusal(asked.method, asked.headers)
        if refusal is not None:
            return _error(403, "refused", refusal, "open the link that `coord ui` shows")
        found = self._files.get(asked.path)
        if found is not None:
            if asked.method not in ("GET", "HEAD"):
                return _error(405, "usage", "this can only be read")
            return HttpResponse(200, (("content-type", found[0]),), found[1])
        if asked.path == "/api/enter" and asked.method == "POST":
            return self._enter(asked.body)
        session = self._door.session_of(asked.headers)
        if session is None:
            return _error(401, "session", "this browser has no session here", NEW_LINK)
        return await self._inside(session, asked)

    async def _inside(self, session: int, asked: HttpRequest) -> HttpResponse:
        name = asked.path.removeprefix("/api/")
        if name == "live" and asked.method == "GET":
            return HttpResponse(200, (("content-type", "application/x-ndjson"),), self._live(session))
        if asked.method == "POST" and name == "leave":
            self._shut_out(session)
            return HttpResponse(204)
        if asked.method != "POST" or name not in actions.NAMES or not asked.path.startswith("/api/"):
            return _error(404, "usage", "there is nothing here")
        if asked.headers.get("content-type", "").partition(";")[0] != "application/json":
            return _error(415, "usage", "JSON is what this takes")
        try:
            answer = await actions.act(await self._feed.client(), name, asked.body, self._folder)
        except CoordinationError as error:
            return _error(_status(error), error.code, error.message, error.hint)
        if name in actions.CHANGING:
            self._feed.changed()
        return HttpResponse(200, (JSON,), answer)

    def _enter(self, body: bytes) -> HttpResponse:
        try:
            code = msgspec.json.decode(body, type=Enter).code
        except (msgspec.DecodeError, ValueError, RecursionError):
            return _error(400, "usage", "no code was sent")
        session = self._door.enter(code, time.monotonic())
        for number in [number for number in self._streams if not self._door.is_open(number)]:
            self._shut_out(number)
        if session is None:
            return _error(401, "link", "this link was used before, or is too old", NEW_LINK)
        key = msgspec.json.encode({"key": session.key})
        return HttpResponse(200, (JSON, ("set-cookie", self._door.set_cookie(session))), key)

    def _shut_out(self, session: int) -> None:
        self._door.leave(session)
        for mailbox in self._streams.pop(session, []):
            mailbox.close()

    async def _live(self, session: int) -> AsyncGenerator[bytes, None]:
        with self._feed.watch() as mailbox:
            pages = self._streams.setdefault(session, [])
            while len(pages) >= MAX_STREAMS:
                pages.pop(0).close()
            pages.append(mailbox)
            try:
                async with contextlib.aclosing(mailbox.lines()) as lines:
                    async for line in lines:
                        yield line
            finally:
                if mailbox in pages:
                    pages.remove(mailbox)
                if not pages:
                    self._streams.pop(session, None)


def page_files() -> dict[str, tuple[str, bytes]]:
    """The page: path -> type and content. What is not in the package does not exist."""
    folder = resources.files("sudocode_coordination.views.web").joinpath("assets")
    found = {}
    for entry in folder.iterdir():
        kind = TYPES.get(entry.name.rpartition(".")[2])
        if kind is not None:
            found["/" if entry.name == "index.html" else f"/assets/{entry.name}"] = (kind, entry.read_bytes())
    return found


def _error(status: int, code: str, message: str, hint: str = "") -> HttpResponse:
    document = {"error": {"code": code, "message": message, "hint": hint}}
    return HttpResponse(status, (JSON,), msgspec.json.encode(document))


def _status(error: CoordinationError) -> int:
    match error:
        case UsageError():
            return 400
        case HeldError():
            return 409
        case DaemonError():
            return 503
        case _:
            return 502


async def serve(
    clone: Clone,
    agent: AgentId | None,
    *,
    port: int,
    folder: str,
    started: Callable[[str, str], None],
    another: Callable[[str], None],
) -> None:
    """Serve the page until SIGINT or SIGTERM.

    Args:
        clone: whose daemon is shown; it need not run.
        agent: who acts; None is the daemon's default agent.
        port: 0 is any that is free.
        folder: the checkout that the server was started in.
        started: gets two links once it listens: one to start a browser with, one to show.
        another: gets a new link when a person has pressed Enter in the terminal.

    Raises:
        NetworkError: the port can't be had.
    """
    listeners, port = await listen(port)
    door, feed = Door(port), Feed(clone, agent)
    app = App(door, feed, folder)

    def link(lifetime_s: float) -> str:
        # Behind the #, which browsers never send: it is in no request and no log.
        return f"http://127.0.0.1:{port}/#{door.new_link(time.monotonic(), lifetime_s)}"

    # First of all: whoever has been shown a link may end it at once.
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with anyio.create_task_group() as group:
            group.start_soon(HttpServer(app.handle).run, listeners)
            group.start_soon(feed.run)
            group.start_soon(_on_enter, lambda: another(link(SHOWN_S)))
            started(link(OPENED_S), link(SHOWN_S))
            async for _ in signals:
                group.cancel_scope.cancel()
                return


async def _on_enter(pressed: Callable[[], None]) -> None:
    """Whenever a line comes from the terminal, if this process is the one that it belongs to."""
    try:
        terminal = sys.stdin.fileno()
        if not os.isatty(terminal):
            return
    except (OSError, ValueError, AttributeError):  # there is no standard input
        return
    while True:
        try:
            await anyio.wait_readable(terminal)
            in_front = os.tcgetpgrp(terminal) == os.getpgrp()
            line = os.read(terminal, 4_096) if in_front else None  # whoever reads in the background is stopped
        except OSError:  # the terminal is gone, or another session's
            return
        if line is None:
            await anyio.sleep(1)
        elif line:
            pressed()
        else:
            return
