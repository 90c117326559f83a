"""Beats by gossip: a peer out of direct reach is known to be alive, if others can hear it.

A beat is signed, and counts once: those of one peer are in order by (incarnation, count). Presence is apart from the document.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final

from sudocode_coordination.core.io import Gossip
from sudocode_coordination.core.keyring import Keyring
from sudocode_coordination.core.wire import Presence, Signed, decode_message, decode_signed, encode_message, encode_signed
from sudocode_coordination.errors import ProtocolError
from sudocode_coordination.model import PeerId

PRESENCE_TOPIC: Final = "sudocode/presence"
MAX_PRESENCES: Final = 10_000
"""Peers whose gossiped beats are counted."""


class Beats:
    """The latest beat of each peer."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self.latest: dict[PeerId, tuple[int, int]] = {}

    def own(self, incarnation: int, count: int) -> Gossip:
        """A beat of this peer."""
        payload = encode_message(Presence(incarnation=incarnation, count=count))
        signed = Signed(self._keyring.peer_id, payload, self._keyring.sign(_signed_bytes(payload)))
        return Gossip(topic=PRESENCE_TOPIC, data=encode_signed(signed))

    def heard(self, data: bytes, known: Container[PeerId]) -> PeerId | None:
        """Whose beat it is, if it is news of a known peer."""
        try:
            signed = decode_signed(data)
            message = decode_message(signed.payload)
        except ProtocolError:
            return None
        if not isinstance(message, Presence) or signed.peer not in known or signed.peer == self._keyring.peer_id:
            return None
        beat = (message.incarnation, message.count)
        before = self.latest.get(signed.peer)
        if before is not None and beat <= before:
            return None
        if len(self.latest) >= MAX_PRESENCES:
            self.latest = {peer: last for peer, last in self.latest.items() if peer in known}
        if not self._keyring.verify(signed.peer, _signed_bytes(signed.payload), signed.signature):
            return None
        self.latest[signed.peer] = beat
        return signed.peer


def _signed_bytes(payload: bytes) -> bytes:
    return b"sudocode-coordination/presence/1\0" + payload
