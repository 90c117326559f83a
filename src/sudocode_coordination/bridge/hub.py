"""Follows the daemon's document and keeps the room's equal to it. When the document has grown too old, the room makes way for a
new one."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final, Literal

import trio

from sudocode_coordination import __version__
from sudocode_coordination.api.requests import DocumentChanges, DocumentEntry, FollowDocument, GetStatus
from sudocode_coordination.bridge.room import Room
from sudocode_coordination.client.aio import AsyncClient
from sudocode_coordination.core.mirror import Change, Mirror
from sudocode_coordination.errors import CoordinationError
from sudocode_coordination.place import Clone

COLLECT_S: Final = 0.05
"""Between two questions to the daemon: what changes meanwhile goes out as one update."""
BEAT_S: Final = 15.0
"""Between two awareness states of the bridge: half of what clients keep one for."""
FIRST_PAUSE_S: Final = 0.2
LONGEST_PAUSE_S: Final = 5.0
"""Between two looks for a daemon that is gone."""
_MAX_CLIENT_ID: Final = (1 << 53) - 1


def _change(entry: DocumentEntry) -> Change:
    return Change(entry.root, f"{entry.owner}/{entry.key}", entry.value)


class Hub:
    """The room that is served now.

    Args:
        clone: whose daemon.
        on_new_room: called after the room was replaced, with the old one.
    """

    def __init__(self, clone: Clone, *, on_new_room: Callable[[Room], None]) -> None:
        self._clone = clone
        self._on_new_room = on_new_room
        self.on_daemon: Callable[[str], None] = lambda _gone: None
        """Called when the daemon comes (with nothing) or goes (with why)."""
        self._state: Literal["up", "gone"] = "gone"
        self._problem = ""
        self._peer = ""
        self._at = ""
        self.room = self._new_room()

    @staticmethod
    def _new_room() -> Room:
        client_id = secrets.randbelow(_MAX_CLIENT_ID) + 1
        return Room(f"coord-{client_id:x}", Mirror(client_id))

    async def open(self) -> AsyncClient:
        """The first connection, and the whole document.

        Raises:
            CoordinationError: no daemon runs, or it is too old to be followed.
        """
        client = AsyncClient(self._clone)
        await client.open()
        try:
            await self._look(client)
        except BaseException:
            await client.aclose()
            raise
        return client

    async def follow(self, client: AsyncClient) -> None:
        """Keep the room current, from that connection on and over every later one; until cancelled."""
        pause = FIRST_PAUSE_S
        while True:
            try:
                try:
                    while True:
                        await trio.sleep(COLLECT_S)
                        self._take(await client.call(FollowDocument(since=self._at), timeout_s=None))
                finally:
                    await client.aclose()
            except CoordinationError as error:
                self._daemon("gone", error.message)
            while self._state == "gone":
                await trio.sleep(pause)
                pause = min(LONGEST_PAUSE_S, 2 * pause)
                try:
                    client = await self.open()
                except CoordinationError as error:
                    self._daemon("gone", error.message)
            pause = FIRST_PAUSE_S

    async def beat(self) -> None:
        """Tell again and again how the daemon is; until cancelled."""
        while True:
            await trio.sleep(BEAT_S)
            self._show()

    async def _look(self, client: AsyncClient) -> None:
        status = await client.call(GetStatus())
        self._peer = status.peer_id
        # Another daemon's life, or the same one after a pause: everything, and what is not in it is gone.
        self._take(await client.call(FollowDocument()))
        self._daemon("up", "")

    def _take(self, answer: DocumentChanges) -> None:
        changes = [_change(entry) for entry in answer.entries]
        update = self.room.mirror.become(changes) if answer.whole else self.room.mirror.change(changes)
        self._at = answer.at
        if update is not None:
            self.room.changed(update)
        if self.room.mirror.overgrown:
            self._begin_anew()

    def _begin_anew(self) -> None:
        old, self.room = self.room, self._new_room()
        self.room.mirror.become(Change(root, name, value) for (root, name), value in old.mirror.content().items())
        self._show()
        self._on_new_room(old)

    def _daemon(self, state: Literal["up", "gone"], problem: str) -> None:
        if (state, problem) != (self._state, self._problem):
            self._state, self._problem = state, problem
            self.on_daemon(problem if state == "gone" else "")
        self._show()

    def _show(self) -> None:
        about: dict[str, object] = {"daemon": self._state, "peerId": self._peer, "readOnly": True, "version": __version__}
        self.room.show(about | ({"problem": self._problem} if self._problem else {}))
