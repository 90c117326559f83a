"""One document and who looks at it: what clients say, what they are told. No sockets here.

A room is read-only: an update of a client is answered with a reason and goes nowhere. What clients tell of themselves (awareness)
is passed on, each connection for one Yjs client of its own; the bridge's own state there says whether the daemon is up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from sudocode_coordination.bridge import protocol
from sudocode_coordination.bridge.protocol import AsksAwareness, AsksDocument, Other, Shows, State, Writes
from sudocode_coordination.core.mirror import Mirror

MAX_STATE_CHARS: Final = 4_096
"""Of one client's awareness state: a name, a colour, a cursor."""
READ_ONLY: Final = (
    "the document is read-only here: only agents of this clone write, through `coord` or the daemon's socket "
    "(coord work set, coord issue update, coord lease)"
)
_NOBODY: Final = "null"
_json = msgspec.json.Decoder()


class Client:
    """One connection. `send` queues a message for it."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self.send = send
        self.follows = False
        """It has asked for the document, and hears of changes."""
        self.state: State | None = None
        """What it tells of itself."""
        self.refused = 0
        """Updates of it that were not taken."""


class Room:
    """See the module.

    Args:
        name: its place in the URL; another one for each document.
    """

    def __init__(self, name: str, mirror: Mirror) -> None:
        self.name = name
        self.mirror = mirror
        self.clients: set[Client] = set()
        self._clock = 0
        self._own = State(mirror.client_id, 0, _NOBODY)

    # --- clients ----------------------------------------------------------------------------------------------------------

    def joined(self, client: Client) -> None:
        """It is connected: it is told who is there."""
        self.clients.add(client)
        client.send(protocol.encode_awareness(self._states()))

    def left(self, client: Client) -> None:
        """It is gone, and with it what it told of itself."""
        self.clients.discard(client)
        if client.state is not None and client.state.json != _NOBODY:
            self._tell(protocol.encode_awareness([client.state._replace(json=_NOBODY)]))

    def heard(self, client: Client, data: bytes) -> None:
        """What it says.

        Raises:
            ProtocolError: it breaks the protocol.
        """
        match protocol.decode(data):
            case AsksDocument(vector=vector):
                client.follows = True
                client.send(protocol.encode_answer(self.mirror.lacking(vector.get(self.mirror.client_id, 0))))
            case Writes(update=update):
                # A client that is asked for what the bridge lacks answers with nothing.
                if update != protocol.EMPTY_UPDATE:
                    client.refused += 1
                    client.send(protocol.encode_denied(READ_ONLY))
            case Shows(states=states):
                self._shown(client, states)
            case AsksAwareness():
                client.send(protocol.encode_awareness(self._states()))
            case Other():
                return

    def _shown(self, client: Client, states: tuple[State, ...]) -> None:
        """Of what it tells only what is of itself: clients also repeat what they have heard."""
        for state in states:
            before = client.state
            if before is None:
                if state.json == _NOBODY or state.client in self._taken():
                    continue
            elif state.client != before.client or (state.clock, state.json == _NOBODY) <= (before.clock, before.json == _NOBODY):
                continue
            if len(state.json) > MAX_STATE_CHARS or not _is_json(state.json):
                continue
            client.state = state
            self._tell(protocol.encode_awareness([state]), but=client)

    def _taken(self) -> set[int]:
        return {self._own.client, *(client.state.client for client in self.clients if client.state is not None)}

    def _states(self) -> list[State]:
        return [self._own, *(client.state for client in self.clients if client.state is not None and client.state.json != _NOBODY)]

    def _tell(self, message: bytes, but: Client | None = None) -> None:
        for client in tuple(self.clients):
            if client is not but:
                client.send(message)

    # --- the bridge -------------------------------------------------------------------------------------------------------

    def changed(self, update: bytes) -> None:
        """The document has changed."""
        message = protocol.encode_news(update)
        for client in tuple(self.clients):
            if client.follows:
                client.send(message)

    def show(self, about: object) -> None:
        """What the bridge tells of itself. To be repeated: clients forget it after 30 s."""
        self._clock += 1
        self._own = State(self.mirror.client_id, self._clock, msgspec.json.encode({"bridge": about}).decode())
        self._tell(protocol.encode_awareness([self._own]))


def _is_json(text: str) -> bool:
    try:
        _json.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return False
    return True
